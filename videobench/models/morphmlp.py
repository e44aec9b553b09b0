"""MorphMLP: an efficient MLP-like backbone for spatial-temporal representation learning (Zhang et al., ECCV 2022).

Tokens stay channels-last, [B, T, H, W, C], from the stem to the classifier: the convolutions read and write them as
channels-last frames, every other layer is a matrix product over the last axis.
"""

from collections.abc import Sequence
from typing import Any

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
from videobench.models.linear import Mlp
from videobench.models.morphmlp_mixing import GlobalMixing, SpatialMixing, TemporalMixing
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
            {
                "MORPH.LAYERS": depths,
                "MORPH.EMBED_DIMS": dims,
                "MORPH.SEGMENT_DIM": chunk_lengths,
                "MORPH.MLP_RATIOS": mlp_ratios,
                "MORPH.TRANSITIONS": transitions,
                "temporal_groups": groups,
            }
        )
        _check_divides(dims, "MORPH.SEGMENT_DIM", chunk_lengths)
        if not image:
            _check_divides(dims, "the temporal groups", groups)

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
            blocks = getattr(self, f"blocks{stage + 1}")
            if len(blocks) > 0:
                _check_map(clip, x, self.chunk_lengths[stage], stage)
            for index, block in enumerate(blocks):
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


def _check_stages(values: dict[str, Sequence]) -> None:
    for name, value in values.items():
        if len(value) != STAGES:
            raise ValueError(f"{name} wants one entry for each of the {STAGES} stages, got {list(value)}")


def _check_divides(dims: Sequence[int], by: str, parts: Sequence[int]) -> None:
    if any(dim % part for dim, part in zip(dims, parts, strict=True)):
        raise ValueError(f"MORPH.EMBED_DIMS {list(dims)} must be multiples of {by} {list(parts)}, stage by stage")


def _check_map(clip: Tensor, x: Tensor, length: int, stage: int) -> None:
    height, width = x.shape[2:4]
    if height * width % length:
        raise ValueError(
            f"frames of {clip.shape[3]}x{clip.shape[4]} give stage {stage + 1} a map of {height}x{width} tokens, which "
            f"do not divide into chunks of {length} (MORPH.SEGMENT_DIM); published networks take 224x224 and multiples "
            "of it"
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
