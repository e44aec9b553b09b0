"""MorphMLP: an efficient MLP-like backbone for spatial-temporal representation learning (Zhang et al., ECCV 2022).

Tokens stay channels-last, [B, T, H, W, C], from the stem to the classifier: the convolutions read and write them as
channels-last frames, every other layer is a matrix product over the last axis.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.config import CfgNode
from videobench.models.layers import (
    DropPath,
    VideoModel,
    check_clip,
    checkpoint_counts,
    checkpointed_blocks,
    group_parameters,
    run_block,
)
from videobench.models.registry import register_model

STAGES = 4


def _conv_frames(frames: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """3x3 convolution with stride 2 of frames [B*T, C, H, W]; a temporal kernel's taps are further input channels."""
    return F.conv2d(frames, conv.weight.flatten(1, -3), conv.bias, stride=2, padding=1)


class Stem(nn.Module):
    """Two convolutions that quarter the height and width, and halve the frames of a video.

    Takes [B, C, T, H, W], returns [B, width, ceil(T / 2), ceil(H / 4), ceil(W / 4)] with channels last in memory; an
    ``image`` stem has 2D convolutions and keeps T.
    """

    def __init__(self, in_channels: int, width: int, image: bool) -> None:
        super().__init__()
        conv, kernels = (nn.Conv2d, (3, 3)) if image else (nn.Conv3d, ((3, 3, 3), (1, 3, 3)))
        self.image = image
        self.proj1 = conv(in_channels, width // 2, kernels[0])
        self.norm1 = nn.BatchNorm2d(width // 2)
        self.proj2 = conv(width // 2, width, kernels[1])
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, clip: Tensor) -> Tensor:
        # Three neighbouring frames as the channels of one turn the 3D convolution into a 2D one, which runs faster.
        taps = clip.unsqueeze(-1) if self.image else F.pad(clip, (0, 0, 0, 0, 1, 1)).unfold(2, 3, 2)
        batch, _, time = taps.shape[:3]
        frames = taps.permute(0, 2, 3, 4, 1, 5).flatten(4).flatten(0, 1).contiguous().permute(0, 3, 1, 2)
        x = F.gelu(self.norm1(_conv_frames(frames, self.proj1)))
        x = self.norm2(_conv_frames(x, self.proj2))
        return x.unflatten(0, (batch, time)).transpose(1, 2)


class Downsample(nn.Module):
    """Strided convolution of every frame and layer norm: [B, T, H, W, C] to [B, T, ceil(H / 2), ceil(W / 2), C']."""

    def __init__(self, in_dim: int, dim: int, image: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, (3, 3)) if image else nn.Conv3d(in_dim, dim, (1, 3, 3))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        frames = _conv_frames(x.flatten(0, 1).permute(0, 3, 1, 2), self.proj)
        return self.norm(frames.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]))


class Mlp(nn.Module):
    """Linear, GELU, linear over the last axis."""

    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _tile(height: int, width: int, length: int) -> tuple[int, int] | None:
    """Rows and columns of the rectangle that ``length`` tokens in reading order fill, None when they fill none."""
    if width % length == 0:
        return 1, length
    if length % width == 0 and height % (length // width) == 0:
        return length // width, width
    return None


def _to_chunks(x: Tensor, length: int) -> Tensor:
    """Cut maps [B, T, H, W, C] in reading order into chunks of ``length`` tokens, and channels into ``length`` groups.

    Returns [B, T, H * W / length, length, C]: chunk, group, and in the last axis the group's C / length channels of
    the chunk's tokens one after another.
    """
    batch, time, height, width, dim = x.shape
    tile = _tile(height, width, length)
    if tile is None:  # a chunk that ends within a row after beginning in another: read the map as one long row
        return _to_chunks(x.reshape(batch, time, 1, height * width, dim), length)
    rows, columns = tile
    x = x.unflatten(4, (length, -1)).unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return x.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(batch, time, -1, length, dim)


def _from_chunks(chunks: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`_to_chunks`: maps [B, T, height, width, C]."""
    batch, time, _, length, dim = chunks.shape
    tile = _tile(height, width, length)
    if tile is None:
        return _from_chunks(chunks, 1, height * width).view(batch, time, height, width, dim)
    rows, columns = tile
    tokens = chunks.view(batch, time, height // rows, width // columns, length, rows, columns, dim // length)
    return tokens.permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(batch, time, height, width, dim)


def _chunk_mean(chunks: Tensor) -> Tensor:
    """Mean over all tokens [B, C] of maps in the layout of :func:`_to_chunks`."""
    length = chunks.shape[3]
    return chunks.mean((1, 2)).unflatten(2, (length, -1)).mean(2).flatten(1)


def _branch_shares(scores: Tensor, branches: int) -> tuple[Tensor, ...]:
    """Softmax over the branches of scores [B, C * branches], branch index fastest: one [B, 1, 1, 1, C] per branch."""
    shares = scores[:, None, None, None].unflatten(4, (-1, branches)).softmax(-1)
    return shares.to(scores.dtype).unbind(-1)  # autocast's float32 softmax would widen every token it multiplies


class SpatialMixing(nn.Module):
    """MorphFC_s of stages 1 to 3: chunks along columns, chunks along rows, and channels.

    Args:
        dim: channels, a multiple of ``length``.
        length: tokens per chunk.
        bias: bias of the mixing layers.
    """

    def __init__(self, dim: int, length: int, bias: bool = True) -> None:
        super().__init__()
        self.length = length
        self.mlp_h = nn.Linear(dim, dim, bias=bias)
        self.mlp_w = nn.Linear(dim, dim, bias=bias)
        self.mlp_c = nn.Linear(dim, dim, bias=bias)
        self.reweight = Mlp(dim, dim // 4, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:4]
        columns = self.mlp_h(_to_chunks(x.transpose(2, 3), self.length))
        rows = self.mlp_w(_to_chunks(x, self.length))
        channels = self.mlp_c(x)
        mean = _chunk_mean(columns) + _chunk_mean(rows) + channels.mean((1, 2, 3))
        share_h, share_w, share_c = _branch_shares(self.reweight(mean), 3)
        mixed = torch.addcmul(channels * share_c, _from_chunks(rows, height, width), share_w)
        mixed = torch.addcmul(mixed, _from_chunks(columns, width, height).transpose(2, 3), share_h)
        return self.proj(mixed)


class GlobalMixing(nn.Module):
    """MorphFC_s of stage 4: chunks of tokens H * W / length apart (all tokens, at the published size), and channels.

    Arguments as for :class:`SpatialMixing`.
    """

    def __init__(self, dim: int, length: int, bias: bool = True) -> None:
        super().__init__()
        self.length = length
        self.mlp_c = nn.Linear(dim, dim, bias=bias)
        self.mlp_h = nn.Linear(dim, dim, bias=bias)
        self.reweight = Mlp(dim, dim // 4, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        strided = x.flatten(2, 3).unflatten(2, (self.length, -1)).transpose(2, 3)
        tokens = self.mlp_h(_to_chunks(strided, self.length))
        channels = self.mlp_c(x)
        share_h, share_c = _branch_shares(self.reweight(_chunk_mean(tokens) + channels.mean((1, 2, 3))), 2)
        mixed = _from_chunks(tokens, *strided.shape[2:4]).transpose(2, 3).reshape(x.shape)
        return self.proj(torch.addcmul(channels * share_c, mixed, share_h))


class TemporalMixing(nn.Module):
    """MorphFC_t: a linear layer over all frames of each location and channel group.

    Args:
        dim: channels, a multiple of ``groups``.
        time: frames of the tokens, fixed by the layer's width ``time * dim / groups``.
        groups: groups of neighbouring channels that share the layer.
        bias: bias of the mixing layer.
    """

    def __init__(self, dim: int, time: int, groups: int, bias: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.mlp_t = nn.Linear(time * dim // groups, time * dim // groups, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        lines = x.unflatten(4, (self.groups, -1)).permute(0, 2, 3, 4, 1, 5).flatten(4)
        lines = self.mlp_t(lines).unflatten(4, (time, -1))
        return self.proj(lines.permute(0, 4, 1, 2, 3, 5).flatten(4))


class Block(nn.Module):
    """Temporal mixing (videos only), spatial mixing and MLP.

    The spatial mixing sees the temporal mixing's result, but its residual is the block's own input, as published.
    """

    def __init__(
        self, dim: int, mixing: nn.Module, temporal: TemporalMixing | None, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        if temporal is not None:
            self.t_norm1 = nn.LayerNorm(dim)
        self.t_fc = temporal
        self.fc = mixing
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        mixed = x if self.t_fc is None else x + self.t_fc(self.t_norm1(x))
        x = x + self.drop_path(self.fc(self.norm1(mixed)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MorphMLP(VideoModel):
    """MorphMLP for videos of a fixed number of frames, and its image form.

    Args:
        num_classes: outputs of the classifier.
        in_channels: channels of a clip.
        num_frames: frames T of a clip; the token frames are half of them (rounded up), so an odd T may be one less.
            1 builds the image form: 2D convolutions and no temporal mixing.
        temporal_groups: channel groups of the temporal mixing, one number or one per stage.
        depths: blocks per stage.
        dims: channels per stage.
        chunk_lengths: tokens per chunk of the spatial mixing, per stage.
        mlp_ratios: hidden size of the MLPs over their width, per stage.
        transitions: whether a downsampling follows each stage even if the channels stay; the last entry has no effect.
        mixing_bias: bias of the mixing layers.
        drop_path_rate: largest stochastic-depth rate, reached linearly over the blocks.
        checkpoint_blocks: leading blocks per stage whose activations are recomputed, -1 for all.

    Raises:
        ValueError: when a list does not have one entry per stage, or channels do not divide into chunks or groups.
    """

    def __init__(
        self,
        num_classes: int = 400,
        in_channels: int = 3,
        num_frames: int = 16,
        temporal_groups: int | Sequence[int] = 8,
        depths: Sequence[int] = (3, 4, 9, 3),
        dims: Sequence[int] = (112, 224, 392, 784),
        chunk_lengths: Sequence[int] = (14, 28, 28, 49),
        mlp_ratios: Sequence[float] = (3, 3, 3, 3),
        transitions: Sequence[bool] = (True, True, True, True),
        mixing_bias: bool = True,
        drop_path_rate: float = 0.1,
        checkpoint_blocks: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        groups = [temporal_groups] * STAGES if isinstance(temporal_groups, int) else list(temporal_groups)
        image = num_frames == 1
        _check_stages(
            depths=depths,
            dims=dims,
            chunk_lengths=chunk_lengths,
            mlp_ratios=mlp_ratios,
            transitions=transitions,
            temporal_groups=groups,
        )
        _check_divides("dims", dims, "chunk_lengths", chunk_lengths)
        if not image:
            _check_divides("dims", dims, "temporal_groups", groups)

        self.in_channels = in_channels
        self.num_frames = num_frames
        self.chunk_lengths = list(chunk_lengths)
        self.num_features = dims[-1]
        self.recomputed = checkpointed_blocks(checkpoint_blocks, depths)
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * block / last for block in range(sum(depths))])

        self.patch_embed1 = Stem(in_channels, dims[0], image)
        for stage, dim in enumerate(dims):
            if stage > 0 and (transitions[stage - 1] or dims[stage - 1] != dim):
                self.add_module(f"patch_embed{stage + 1}", Downsample(dims[stage - 1], dim, image))
            mixing = GlobalMixing if stage == STAGES - 1 else SpatialMixing
            blocks = [
                Block(
                    dim,
                    mixing(dim, chunk_lengths[stage], mixing_bias),
                    None if image else TemporalMixing(dim, (num_frames + 1) // 2, groups[stage], mixing_bias),
                    mlp_ratios[stage],
                    next(rates),
                )
                for _ in range(depths[stage])
            ]
            self.add_module(f"blocks{stage + 1}", nn.ModuleList(blocks))
        self.norm = nn.LayerNorm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # The temporal branch starts as exactly zero, with a gradient: image weights are not disturbed.
        for module in self.modules():
            if isinstance(module, TemporalMixing):
                nn.init.zeros_(module.mlp_t.weight)
                nn.init.ones_(module.proj.weight)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Mean [N, num_features] of the normalised tokens of a clip [N, C, T, H, W] (an image may lack T)."""
        clip = self._checked(clip)
        x = self.patch_embed1(clip).permute(0, 2, 3, 4, 1)
        for stage in range(STAGES):
            downsample = getattr(self, f"patch_embed{stage + 1}", None) if stage > 0 else None
            if downsample is not None:
                x = downsample(x)
            _check_map(clip, x, self.chunk_lengths[stage], stage)
            for index, block in enumerate(getattr(self, f"blocks{stage + 1}")):
                x = run_block(block, x, recompute=index < self.recomputed[stage])
        return self.norm(x.flatten(1, 3)).mean(1)

    def _checked(self, clip: Tensor) -> Tensor:
        """The clip with five dimensions, or a ValueError."""
        if self.num_frames == 1 and clip.dim() == 4:
            clip = clip.unsqueeze(2)
        check_clip(clip, self.in_channels)
        frames = clip.shape[2]
        fits = frames == 1 if self.num_frames == 1 else (frames + 1) // 2 == (self.num_frames + 1) // 2
        if not fits:
            raise ValueError(
                f"the network takes clips of T={self.num_frames} frames, got T={frames}: {list(clip.shape)}"
            )
        return clip

    def layer_groups(self) -> list[list[str]]:
        """The stem, every block (a stage's first one with the downsampling before it), last norm and classifier."""
        first, total = [], 1
        for stage in range(STAGES):
            first.append(total)
            total += len(getattr(self, f"blocks{stage + 1}"))

        def layer_of(name: str) -> int:
            part, inner = name.split(".")[:2]
            if part == "patch_embed1":
                return 0
            if part.startswith("patch_embed"):
                return first[int(part[-1]) - 1]
            return first[int(part[-1]) - 1] + int(inner) if part.startswith("blocks") else total

        return group_parameters(self, layer_of)


def _check_stages(**values: Sequence) -> None:
    for name, value in values.items():
        if len(value) != STAGES:
            raise ValueError(f"{name} wants one entry for each of the {STAGES} stages, got {list(value)}")


def _check_divides(name: str, dims: Sequence[int], by: str, parts: Sequence[int]) -> None:
    if any(dim % part for dim, part in zip(dims, parts, strict=True)):
        raise ValueError(f"{name} {list(dims)} must be multiples of {by} {list(parts)}, stage by stage")


def _check_map(clip: Tensor, x: Tensor, length: int, stage: int) -> None:
    height, width = x.shape[2:4]
    if height * width % length:
        raise ValueError(
            f"frames of {clip.shape[3]}x{clip.shape[4]} give stage {stage + 1} a map of {height}x{width} tokens, which "
            f"do not divide into chunks of {length}; published networks take 224x224 and multiples of it"
        )


def _image_arguments(cfg: CfgNode) -> dict[str, Any]:
    return {
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "in_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "num_frames": 1,
        "depths": cfg.MORPH.LAYERS,
        "dims": cfg.MORPH.EMBED_DIMS,
        "chunk_lengths": cfg.MORPH.SEGMENT_DIM,
        "mlp_ratios": cfg.MORPH.MLP_RATIOS,
        "transitions": cfg.MORPH.TRANSITIONS,
        "mixing_bias": cfg.MORPH.QKV_BIAS,
        "drop_path_rate": cfg.MORPH.DROP_DEPTH_RATE,
        "checkpoint_blocks": checkpoint_counts(cfg),
    }


# The name fixes the frames, as published: they set the width of the temporal layers, and so the weights that fit.
def _arguments_16(cfg: CfgNode) -> dict[str, Any]:
    return {**_image_arguments(cfg), "num_frames": 16, "temporal_groups": 8}


def _arguments_32(cfg: CfgNode) -> dict[str, Any]:
    groups = [14 if dim == 392 else 16 for dim in cfg.MORPH.EMBED_DIMS]  # 16 does not divide stage 3's 392 channels
    return {**_image_arguments(cfg), "num_frames": 32, "temporal_groups": groups}


register_model("MorphMLP", MorphMLP, _arguments_16)
register_model("MorphMLP_32", MorphMLP, _arguments_32)
register_model("MorphMLP_image", MorphMLP, _image_arguments)
