"""Blocks of MViT and MViTv2, and the plan that turns a configuration's lists into widths, heads and strides.

Sources: Fan et al., "Multiscale Vision Transformers" (2021), section 3.2; Li et al., "MViTv2" (2022), section 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videobench.models.layers import DropPath
from videobench.models.mvit_attention import (
    LAYER_NORM_EPS,
    AttentionOptions,
    Grid,
    MultiScaleAttention,
    Pooling,
    TokenPool,
)


@dataclass(frozen=True)
class BlockPlan:
    """Widths, heads and pooling of one block."""

    dim: int
    attention_dim: int
    out_dim: int
    num_heads: int
    pool_q: Pooling
    pool_kv: Pooling


def _round_width(width: int, factor: float, divisor: int = 1) -> int:
    """``width * factor`` as the nearest multiple of ``divisor``, never more than a tenth too small."""
    wanted = width * torch.tensor(factor, dtype=torch.float32, device="cpu")  # rounded as published
    rounded = max(1, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def plan_blocks(
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Sequence[Sequence[float]],
    head_mul: Sequence[Sequence[float]],
    dim_mul_in_att: bool,
    pool_q_stride: Sequence[Sequence[int]],
    pool_kv_stride: Sequence[Sequence[int]],
    pool_kv_stride_adaptive: Sequence[int] | None,
    pool_kernel: Sequence[int] | None,
    rank: int,
) -> list[BlockPlan]:
    """Turn the lists of a configuration into one plan per block; see :class:`MViT` for the arguments.

    Raises:
        ValueError: for a block that does not exist, or strides and kernels without one entry per axis.
    """
    q_strides = _by_block("MVIT.POOL_Q_STRIDE", pool_q_stride, depth, rank)
    kv_strides = _by_block("MVIT.POOL_KV_STRIDE", pool_kv_stride, depth, rank)
    if pool_kernel is not None and len(pool_kernel) != rank:
        raise ValueError(f"MVIT.POOL_KVQ_KERNEL wants {rank} entries, got {list(pool_kernel)}")
    if pool_kv_stride_adaptive is not None:
        stride = tuple(pool_kv_stride_adaptive)
        if len(stride) != rank:
            raise ValueError(f"MVIT.POOL_KV_STRIDE_ADAPTIVE wants {rank} entries, got {list(stride)}")
        for block in range(depth):
            query_stride = q_strides.get(block, (1,) * rank)
            stride = tuple(max(s // q, 1) for s, q in zip(stride, query_stride, strict=True))
            kv_strides[block] = stride

    def pooling(strides: dict[int, Grid], block: int) -> Pooling:
        if block not in strides:
            return Pooling((1,) * rank, (1,) * rank)
        stride = strides[block]
        kernel = tuple(pool_kernel) if pool_kernel is not None else tuple(s + 1 if s > 1 else s for s in stride)
        return Pooling(kernel, stride)

    widen, more_heads = _factors("MVIT.DIM_MUL", dim_mul, depth), _factors("MVIT.HEAD_MUL", head_mul, depth)
    plans = []
    dim = embed_dim
    for block in range(depth):
        num_heads = _round_width(num_heads, more_heads.get(block, 1.0))
        # Widened by the MLP, the width has to be there one block earlier.
        listed = block if dim_mul_in_att else block + 1
        divisor = _round_width(num_heads, more_heads.get(listed, 1.0))
        out_dim = _round_width(dim, widen.get(listed, 1.0), divisor)
        attention_dim = out_dim if dim_mul_in_att else dim
        if attention_dim % num_heads:
            raise ValueError(
                f"block {block}: {num_heads} heads do not divide the width {attention_dim} (MVIT.HEAD_MUL, DIM_MUL)"
            )
        plans.append(
            BlockPlan(dim, attention_dim, out_dim, num_heads, pooling(q_strides, block), pooling(kv_strides, block))
        )
        dim = out_dim
    return plans


def _by_block(name: str, rows: Sequence[Sequence[int]], depth: int, rank: int) -> dict[int, Grid]:
    for row in rows:
        if len(row) != rank + 1 or not 0 <= row[0] < depth:
            raise ValueError(f"{name} wants rows of a block (0 to {depth - 1}) and {rank} strides, got {list(row)}")
    return {row[0]: tuple(row[1:]) for row in rows}


def _factors(name: str, pairs: Sequence[Sequence[float]], depth: int) -> dict[int, float]:
    for pair in pairs:
        if len(pair) != 2 or not 0 <= pair[0] <= depth:
            raise ValueError(f"{name} wants pairs of a block (0 to {depth}) and a factor, got {list(pair)}")
    return {int(block): factor for block, factor in pairs}


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, out_dim)
        self.drop = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class MultiScaleBlock(nn.Module):
    """Pooling attention and MLP; where the width grows or the query is strided, the shortcut is projected and pooled.

    Args:
        plan: widths, heads and pooling.
        grid, table_grid: see :class:`MultiScaleAttention`.
        mlp_ratio: hidden size of the MLP over the width of the attention.
        drop_path_rate: stochastic depth of both branches.
        options: of the attention.
    """

    def __init__(
        self,
        plan: BlockPlan,
        grid: Grid,
        table_grid: Grid,
        mlp_ratio: float,
        drop_path_rate: float,
        options: AttentionOptions,
    ) -> None:
        super().__init__()
        width = plan.attention_dim
        self.norm1 = nn.LayerNorm(plan.dim, eps=LAYER_NORM_EPS)
        self.attn = MultiScaleAttention(
            plan.dim, width, plan.num_heads, grid, table_grid, plan.pool_q, plan.pool_kv, options
        )
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio), plan.out_dim, options.dropout_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.widens_in_attention = plan.dim != width
        self.widens_in_mlp = width != plan.out_dim
        if self.widens_in_attention or self.widens_in_mlp:
            self.proj = nn.Linear(plan.dim, plan.out_dim)
        self.pool_skip = None
        if math.prod(plan.pool_q.stride) > 1:
            kernel = tuple(s + 1 if s > 1 else s for s in plan.pool_q.stride)
            skip = Pooling(kernel, plan.pool_q.stride)
            self.pool_skip = TokenPool("max", grid, skip, cls_token=options.cls_token)
            if self.pool_skip.out_grid != self.attn.out_grid:
                raise ValueError(
                    f"MVIT.POOL_KVQ_KERNEL {plan.pool_q.kernel} with stride {plan.pool_q.stride} gives the query the "
                    f"grid {self.attn.out_grid}, but the shortcut has {self.pool_skip.out_grid}"
                )

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        shortcut = self.proj(normed) if self.widens_in_attention else x
        if self.pool_skip is not None:
            shortcut = self.pool_skip(shortcut)
        x = shortcut + self.drop_path(self.attn(normed))
        normed = self.norm2(x)
        shortcut = self.proj(normed) if self.widens_in_mlp else x
        return shortcut + self.drop_path(self.mlp(normed))
