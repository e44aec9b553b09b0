"""MViTv2 and MViT for clips and images.

Sources: Fan et al., "Multiscale Vision Transformers" (2021); Li et al., "MViTv2: Improved Multiscale Vision
Transformers for Classification and Detection" (2022). Parameters have the names of the published checkpoints.

There are two published forms. SlowFast's pools in three dimensions, for clips and (with one frame) images; the image
repository's pools in two, stores its filters so, and starts linear layers and norms with zero biases.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videobench.config import CfgNode, ConfigError
from videobench.models.layers import (
    VideoModel,
    check_clip,
    checkpoint_counts,
    checkpointed_blocks,
    group_parameters,
    run_block,
)
from videobench.models.mvit_attention import (
    LAYER_NORM_EPS,
    POOL_MODES,
    AttentionOptions,
    Grid,
    TokenPool,
)
from videobench.models.mvit_blocks import BlockPlan, MultiScaleBlock, plan_blocks
from videobench.models.registry import register_model

_POSITIONS_AND_CLASS = re.compile(r"(^|\.)(cls_token|pos_embed\w*|rel_pos_[thw])$")
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, TokenPool)


class PatchEmbed(nn.Module):
    """Cuts a clip or an image into overlapping patches: [N, C, (T,) H, W] -> tokens [N, L, width]."""

    def __init__(
        self, in_channels: int, width: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
        self.proj = convolution(in_channels, width, tuple(kernel), tuple(stride), tuple(padding))

    def forward(self, clip: Tensor) -> Tensor:
        return self.proj(clip).flatten(2).transpose(1, 2)


class Head(nn.Module):
    """Dropout and the classifier, under the published name ``head.projection``."""

    def __init__(self, dim: int, num_classes: int, dropout_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.projection = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.dropout(features))


class MViT(VideoModel):
    """Multiscale vision transformer of clips [N, C, T, H, W], or of images [N, C, H, W].

    Args:
        in_channels: channels of the clip.
        num_classes: classifier outputs.
        num_frames, input_size: frames and side of the square crop; the network takes exactly these.
        patch_kernel, patch_stride, patch_padding: patch convolution; two entries make an image network.
        embed_dim, num_heads: width and heads of the first block.
        depth: number of blocks.
        mlp_ratio: hidden size of the MLPs over the width of their attention.
        qkv_bias: bias in the q/k/v projections.
        dim_mul, head_mul: pairs (block, factor) where width and heads grow.
        dim_mul_in_att: widen in the attention of the listed block instead of in the MLP of the block before it.
        pool_q_stride, pool_kv_stride: rows (block, strides...) of query pooling, and of key and value pooling.
        pool_kv_stride_adaptive: key/value stride of the first block, divided by the query stride from block to block;
            takes the place of ``pool_kv_stride``.
        pool_kernel: pooling kernel; None means stride + 1 where the stride is above 1. Pooling strides and kernels of
            two entries make the image repository's form.
        mode: pooling operator: ``conv`` (filters shared by the heads), ``conv_unshared``, ``max`` or ``avg``.
        pool_first: pool before the q/k/v projections.
        separate_qkv: three projections instead of one.
        cls_token: classify from a class token, else from the mean of the tokens.
        use_mean_pooling: mean of the patch tokens, normed afterwards, in any case.
        abs_pos, sep_pos_embed: absolute position embedding; in parts for space, time and class token.
        rel_pos_spatial, rel_pos_temporal, rel_pos_zero_init: relative position tables, and their start at zero.
        residual_pooling: add the pooled query to the attention output of patch tokens.
        norm_stem: layer norm before the first block.
        dropout_rate, head_dropout_rate: dropout after positions and inside blocks, and before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from zero.
        head_init_scale: factor on the classifier's initial weight and bias.
        zero_decay_pos_cls: exempt positions and class token from weight decay.
        checkpoint_blocks: leading blocks of each stage whose activations are recomputed in the backward pass (-1: all);
            a stage begins with a strided query.

    Raises:
        ValueError: for settings that do not fit each other or the crop.
    """

    heeds_no_weight_decay = True

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 400,
        num_frames: int = 16,
        input_size: int = 224,
        patch_kernel: Sequence[int] = (3, 7, 7),
        patch_stride: Sequence[int] = (2, 4, 4),
        patch_padding: Sequence[int] = (1, 3, 3),
        embed_dim: int = 96,
        num_heads: int = 1,
        depth: int = 16,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dim_mul: Sequence[Sequence[float]] = (),
        head_mul: Sequence[Sequence[float]] = (),
        dim_mul_in_att: bool = False,
        pool_q_stride: Sequence[Sequence[int]] = (),
        pool_kv_stride: Sequence[Sequence[int]] = (),
        pool_kv_stride_adaptive: Sequence[int] | None = None,
        pool_kernel: Sequence[int] | None = None,
        mode: str = "conv",
        pool_first: bool = False,
        separate_qkv: bool = False,
        cls_token: bool = True,
        use_mean_pooling: bool = False,
        abs_pos: bool = True,
        sep_pos_embed: bool = False,
        rel_pos_spatial: bool = False,
        rel_pos_temporal: bool = False,
        rel_pos_zero_init: bool = False,
        residual_pooling: bool = False,
        norm_stem: bool = False,
        dropout_rate: float = 0.0,
        head_dropout_rate: float = 0.5,
        drop_path_rate: float = 0.1,
        head_init_scale: float = 1.0,
        zero_decay_pos_cls: bool = True,
        checkpoint_blocks: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        if mode not in POOL_MODES:
            raise ValueError(f"MVIT.MODE is one of {', '.join(POOL_MODES)}, got {mode!r}")
        self.in_channels = in_channels
        self.input_shape = (num_frames, input_size, input_size)[-len(patch_kernel) :]
        self.use_mean_pooling = use_mean_pooling
        self.zero_decay_pos_cls = zero_decay_pos_cls
        self.head_init_scale = head_init_scale

        grid = _patch_grid(self.input_shape, patch_kernel, patch_stride, patch_padding)
        rank = _pooling_rank(pool_q_stride, pool_kv_stride, pool_kv_stride_adaptive, pool_kernel, len(grid))
        if rank not in (2, 3) or rank < len(grid) or (rank == 2 and rel_pos_temporal):
            raise ValueError(
                "strides and kernels in MVIT.POOL_Q_STRIDE, MVIT.POOL_KV_STRIDE and MVIT.POOL_KVQ_KERNEL have three "
                f"entries for clips and for positions in time (MVIT.REL_POS_TEMPORAL), two or three for "
                f"images; got {rank}"
            )
        grid = (1,) * (rank - len(grid)) + grid
        self.image_form = rank == 2

        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_kernel, patch_stride, patch_padding)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if cls_token else None
        self._make_absolute_positions(abs_pos, sep_pos_embed, grid, embed_dim)
        self.pos_drop = nn.Dropout(dropout_rate)
        self.norm_stem = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS) if norm_stem else None

        plans = plan_blocks(
            depth, embed_dim, num_heads, dim_mul, head_mul, dim_mul_in_att,
            pool_q_stride, pool_kv_stride, pool_kv_stride_adaptive, pool_kernel, rank,
        )  # fmt: skip
        options = AttentionOptions(
            cls_token, mode, pool_first, separate_qkv, qkv_bias,
            rel_pos_spatial, rel_pos_temporal, rel_pos_zero_init, residual_pooling, dropout_rate,
        )  # fmt: skip
        drop_path_rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList()
        table_grid = grid
        for plan, rate in zip(plans, drop_path_rates, strict=True):
            block = MultiScaleBlock(plan, grid, table_grid, mlp_ratio, rate, options)
            self.blocks.append(block)
            grid = block.attn.out_grid
            table_grid = tuple(n // s for n, s in zip(table_grid, plan.pool_q.stride, strict=True))

        self.num_features = plans[-1].out_dim
        self.norm = nn.LayerNorm(self.num_features, eps=LAYER_NORM_EPS)
        self.head = Head(self.num_features, num_classes, head_dropout_rate)
        self._recompute = _recomputed(plans, checkpoint_blocks)
        self.apply(self._init_weights)
        self._scale_head()

    def _make_absolute_positions(self, on: bool, separate: bool, grid: Grid, width: int) -> None:
        spatial, frames = grid[-1] * grid[-2], math.prod(grid[:-2])
        first = int(self.cls_token is not None)
        self.pos_embed = self.pos_embed_spatial = self.pos_embed_temporal = self.pos_embed_class = None
        if on and separate:
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, spatial, width))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, frames, width))
            self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, width)) if first else None
        elif on:
            self.pos_embed = nn.Parameter(torch.zeros(1, first + frames * spatial, width))
        for name, parameter in self.named_parameters(recurse=False):
            if _POSITIONS_AND_CLASS.search(name):
                nn.init.trunc_normal_(parameter, std=0.02)

    def _init_weights(self, module: nn.Module) -> None:
        # SlowFast starts the biases of linear layers and norms at 0.02, the image repository at 0.
        bias = 0.0 if self.image_form else 0.02
        if isinstance(module, nn.Linear) or (isinstance(module, _CONVOLUTIONS) and not self.image_form):
            for weight in module.parameters(recurse=False):
                if weight.dim() > 1:
                    nn.init.trunc_normal_(weight, std=0.02)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.constant_(module.bias, bias)

    @torch.no_grad()
    def _scale_head(self) -> None:
        self.head.projection.weight.mul_(self.head_init_scale)
        self.head.projection.bias.mul_(self.head_init_scale)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Pooled features [N, num_features] of a clip [N, C, T, H, W], or of an image [N, C, H, W]."""
        if len(self.input_shape) == 2 and clip.dim() == 5 and clip.shape[2] == 1:
            clip = clip.squeeze(2)
        check_clip(clip, self.in_channels, dims=2 + len(self.input_shape))
        if tuple(clip.shape[2:]) != self.input_shape:
            wanted, got = ("x".join(map(str, shape)) for shape in (self.input_shape, clip.shape[2:]))
            axes = "TxHxW" if len(self.input_shape) == 3 else "HxW"
            raise ValueError(f"the network was built for inputs of {wanted} ({axes}), got {got}")
        x = self._embed(clip)
        for block, recompute in zip(self.blocks, self._recompute, strict=True):
            x = run_block(block, x, recompute=recompute)
        if self.use_mean_pooling:
            return self.norm(x[:, int(self.cls_token is not None) :].mean(dim=1))
        x = self.norm(x)
        return x[:, 0] if self.cls_token is not None else x.mean(dim=1)

    def _embed(self, clip: Tensor) -> Tensor:
        # Under autocast the sum over all blocks keeps the precision of the weights.
        x = self.patch_embed(clip).type_as(self.norm.weight)
        if self.pos_embed_spatial is not None:
            x = x + (self.pos_embed_spatial[:, None] + self.pos_embed_temporal[:, :, None]).flatten(1, 2)
        if self.cls_token is not None:
            cls_token = self.cls_token if self.pos_embed_class is None else self.cls_token + self.pos_embed_class
            x = torch.cat([cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        x = self.pos_drop(x)
        return x if self.norm_stem is None else self.norm_stem(x)

    def reset_head(self, num_classes: int) -> None:
        """Put a new, freshly initialised classifier with ``num_classes`` outputs in place of the present one."""
        weight = self.head.projection.weight
        self.head.projection = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
        self._init_weights(self.head.projection)
        self._scale_head()

    def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of timm's models under the published names, and position tables in the sizes of this network."""
        if any(name.startswith("stages.") for name in state):
            state = from_timm(state)
        wanted = {name: tensor.shape for name, tensor in self.state_dict().items() if _POSITIONS_AND_CLASS.search(name)}
        fitting = {name: resize_positions(name, state[name], shape) for name, shape in wanted.items() if name in state}
        return state | fitting

    def no_weight_decay(self) -> set[str]:
        """Positions and class token, when the configuration exempts them from weight decay."""
        if not self.zero_decay_pos_cls:
            return set()
        return {name for name, _ in self.named_parameters() if _POSITIONS_AND_CLASS.search(name)}

    def layer_groups(self) -> list[list[str]]:
        """Stem, blocks, then final norm and classifier."""

        def layer_of(name: str) -> int:
            first, _, rest = name.partition(".")
            if first == "blocks":
                return 1 + int(rest.partition(".")[0])
            return 1 + len(self.blocks) if first in ("norm", "head") else 0

        return group_parameters(self, layer_of)


def _patch_grid(shape: Grid, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Grid:
    if len(kernel) not in (2, 3) or not len(kernel) == len(stride) == len(padding):
        raise ValueError(
            "MVIT.PATCH_KERNEL, PATCH_STRIDE and PATCH_PADDING have two entries for images, three for clips; got "
            f"{list(kernel)}, {list(stride)}, {list(padding)}"
        )
    counted = tuple(n // s for n, s in zip(shape, stride, strict=True))
    cut = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape, kernel, stride, padding, strict=True))
    if cut != counted:
        raise ValueError(
            f"MVIT.PATCH_KERNEL {list(kernel)}, PATCH_STRIDE {list(stride)} and PATCH_PADDING {list(padding)} cut an "
            f"input of {shape} into {cut} patches instead of {counted}: use a padding of half the kernel and a size "
            "that the stride divides"
        )
    return counted


def _pooling_rank(q_rows, kv_rows, kv_adaptive, kernel, default: int) -> int:
    """Axes that the pooling settings have entries for."""
    for value in (kernel, kv_adaptive):
        if value is not None:
            return len(value)
    for row in (*q_rows, *kv_rows):
        return len(row) - 1
    return default


def _recomputed(plans: Sequence[BlockPlan], counts: int | Sequence[int]) -> list[bool]:
    """For each block, whether its activations are recomputed."""
    starts = [i for i, plan in enumerate(plans) if i == 0 or math.prod(plan.pool_q.stride) > 1]
    depths = [end - start for start, end in zip(starts, [*starts[1:], len(plans)], strict=True)]
    leading = checkpointed_blocks(counts, depths)
    return [i < count for depth, count in zip(depths, leading, strict=True) for i in range(depth)]


def from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's mvitv2 models under the published names, which are also ours.

    timm numbers blocks within stages; its class-token variants agree in weights, though they add the pooled query to
    the class token as well, which the published code does not.
    """
    block_name = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)")
    depths: dict[int, int] = {}
    for match in filter(None, map(block_name.fullmatch, state)):
        stage, block = int(match[1]), int(match[2])
        depths[stage] = max(depths.get(stage, 0), block + 1)
    renamed = {}
    for name, tensor in state.items():
        if match := block_name.fullmatch(name):
            before = sum(depth for stage, depth in depths.items() if stage < int(match[1]))
            rest = re.sub(r"^shortcut_proj_(attn|mlp)\.", "proj.", match[3])
            name = f"blocks.{before + int(match[2])}.{rest}"
        renamed[re.sub(r"^head\.fc\.", "head.projection.", name)] = tensor
    return renamed


def resize_positions(name: str, table: Tensor, shape: torch.Size) -> Tensor:
    """A position table in another shape, as SlowFast resizes them; as it is where that is impossible.

    Relative tables [rows, C] and temporal ones [1, T, C] are interpolated linearly, spatial ones [1, H * W, C] with
    bicubic weights.
    """
    side, new_side = math.isqrt(table.shape[-2]), math.isqrt(shape[-2])
    spatial = name.endswith("pos_embed_spatial")
    if table.shape == shape or table.dim() != len(shape) or table.shape[-1] != shape[-1]:
        return table
    if not (spatial and side**2 == table.shape[-2]) and not re.search(r"rel_pos_[thw]$|pos_embed_temporal$", name):
        return table
    line = table.reshape(1, -1, shape[-1]).transpose(1, 2)
    line = line.to(torch.promote_types(line.dtype, torch.float32))
    if spatial:
        line = F.interpolate(line.unflatten(2, (side, side)), size=(new_side, new_side), mode="bicubic").flatten(2)
    else:
        line = F.interpolate(line, size=shape[-2], mode="linear")
    return line.transpose(1, 2).reshape(shape)


def mvit_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of :class:`MViT` from the MVIT, MODEL and DATA sections."""
    mvit = cfg.MVIT
    if mvit.PATCH_2D and len(mvit.PATCH_KERNEL) != 2:
        raise ConfigError(f"MVIT.PATCH_2D wants two entries in MVIT.PATCH_KERNEL, got {mvit.PATCH_KERNEL}")
    return {
        "in_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "input_size": cfg.DATA.TRAIN_CROP_SIZE,
        "patch_kernel": mvit.PATCH_KERNEL,
        "patch_stride": mvit.PATCH_STRIDE,
        "patch_padding": mvit.PATCH_PADDING,
        "embed_dim": mvit.EMBED_DIM,
        "num_heads": mvit.NUM_HEADS,
        "depth": mvit.DEPTH,
        "mlp_ratio": mvit.MLP_RATIO,
        "qkv_bias": mvit.QKV_BIAS,
        "dim_mul": mvit.DIM_MUL,
        "head_mul": mvit.HEAD_MUL,
        "dim_mul_in_att": mvit.DIM_MUL_IN_ATT,
        "pool_q_stride": mvit.POOL_Q_STRIDE,
        "pool_kv_stride": mvit.POOL_KV_STRIDE or (),
        "pool_kv_stride_adaptive": mvit.POOL_KV_STRIDE_ADAPTIVE,
        "pool_kernel": mvit.POOL_KVQ_KERNEL,
        "mode": mvit.MODE,
        "pool_first": mvit.POOL_FIRST,
        "separate_qkv": mvit.SEPARATE_QKV,
        "cls_token": mvit.CLS_EMBED_ON,
        "use_mean_pooling": mvit.USE_MEAN_POOLING,
        "abs_pos": mvit.USE_ABS_POS,
        "sep_pos_embed": mvit.SEP_POS_EMBED,
        "rel_pos_spatial": mvit.REL_POS_SPATIAL,
        "rel_pos_temporal": mvit.REL_POS_TEMPORAL,
        "rel_pos_zero_init": mvit.REL_POS_ZERO_INIT,
        "residual_pooling": mvit.RESIDUAL_POOLING,
        "norm_stem": mvit.NORM_STEM,
        "dropout_rate": mvit.DROPOUT_RATE,
        "head_dropout_rate": cfg.MODEL.DROPOUT_RATE,
        "drop_path_rate": mvit.DROPPATH_RATE,
        "head_init_scale": mvit.HEAD_INIT_SCALE,
        "zero_decay_pos_cls": mvit.ZERO_DECAY_POS_CLS,
        "checkpoint_blocks": checkpoint_counts(cfg),
    }


register_model("MViT", MViT, mvit_arguments)
