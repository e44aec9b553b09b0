"""Multiscale attention: queries, keys and values pooled on the token grid, with decomposed relative positions.

Sources: Fan et al., "Multiscale Vision Transformers" (2021), section 3, and Li et al., "MViTv2: Improved Multiscale
Vision Transformers for Classification and Detection" (2022), section 4.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Grid = tuple[int, ...]  # tokens along (T, H, W), or along (H, W) in the two-dimensional form

LAYER_NORM_EPS = 1e-6
POOL_MODES = ("conv", "conv_unshared", "max", "avg")
_AXES = "thw"


@dataclass(frozen=True)
class Pooling:
    """Kernel and stride of a pooling, one entry per axis of the grid; padding is half the kernel."""

    kernel: Grid
    stride: Grid

    @property
    def keeps_tokens(self) -> bool:
        """Whether there is nothing to pool, so that neither operator nor norm is built."""
        return math.prod(self.kernel) == 1 and math.prod(self.stride) == 1


@dataclass(frozen=True)
class AttentionOptions:
    """What the attentions of all blocks have in common; :class:`videobench.models.mvit.MViT` says what each means."""

    cls_token: bool = True
    mode: str = "conv"
    pool_first: bool = False
    separate_qkv: bool = False
    qkv_bias: bool = True
    rel_pos_spatial: bool = False
    rel_pos_temporal: bool = False
    rel_pos_zero_init: bool = False
    residual_pooling: bool = False
    dropout_rate: float = 0.0


class TokenPool(nn.Module):
    """Pools patch tokens on their grid; a class token in front passes by.

    Args:
        mode: ``conv`` (depthwise, without bias), ``max`` or ``avg`` (padding counts as zeros).
        grid: patch tokens that come in, per axis.
        pooling: kernel and stride.
        cls_token: whether the first token is a class token.
        channels: filters of the convolution; the width of the tokens is a multiple of it, and every group of
            ``channels`` features (a head) is pooled with the same filters.
    """

    def __init__(self, mode: str, grid: Grid, pooling: Pooling, *, cls_token: bool, channels: int = 0) -> None:
        super().__init__()
        self.mode = mode
        self.grid = grid
        self.cls_token = cls_token
        self.kernel, self.stride = pooling.kernel, pooling.stride
        self.padding = tuple(k // 2 for k in self.kernel)
        self.out_grid = tuple(
            (n + 2 * p - k) // s + 1 for n, k, s, p in zip(grid, self.kernel, self.stride, self.padding, strict=True)
        )
        # Frames that do not mix are pooled as images, which every library does faster.
        self.per_frame = len(grid) == 3 and self.kernel[0] == self.stride[0] == 1
        if mode == "conv":
            self.weight = nn.Parameter(torch.empty(channels, 1, *self.kernel))
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, L, width] -> [N, L', width]."""
        first = int(self.cls_token)
        patches = tokens[:, first:].unflatten(1, self.grid)
        if self.per_frame:
            patches = patches.flatten(0, 1)
        pooled = self._pool(patches.movedim(-1, 1)).movedim(1, -1)
        if self.per_frame:
            pooled = pooled.unflatten(0, (tokens.shape[0], self.out_grid[0]))
        pooled = pooled.flatten(1, -2)
        return torch.cat([tokens[:, :1], pooled], dim=1) if self.cls_token else pooled

    def _pool(self, x: Tensor) -> Tensor:
        """Pools [N, width, (T,) H, W] in channels-last memory order."""
        planar = x.dim() == 4
        kernel, stride, padding = (v[1:] if self.per_frame else v for v in (self.kernel, self.stride, self.padding))
        if self.mode == "max":
            return (F.max_pool2d if planar else F.max_pool3d)(x, kernel, stride, padding)
        if self.mode == "avg":
            return (F.avg_pool2d if planar else F.avg_pool3d)(x, kernel, stride, padding)
        weight = self.weight.squeeze(2) if self.per_frame else self.weight
        weight = weight.repeat(x.shape[1] // weight.shape[0], *[1] * (weight.dim() - 1))
        if x.is_cuda:
            x = x.contiguous()  # CUDA's depthwise kernels want channels first, the CPU's want them last
        return (F.conv2d if planar else F.conv3d)(x, weight, None, stride, padding, groups=x.shape[1])


def table_rows(queries: int, keys: int) -> Tensor:
    """Row of a relative position table for every pair of positions along one axis: int64 [queries, keys].

    The positions of the smaller grid are spread over the larger one. The published code does this in float32, whose
    rounding moves some rows by one (between grids of 78 and 10, say); published weights were trained with those rows.
    """
    query_scale, key_scale = max(keys / queries, 1.0), max(queries / keys, 1.0)
    query_positions = torch.arange(queries, dtype=torch.float32)[:, None] * query_scale
    key_positions = torch.arange(keys, dtype=torch.float32)[None, :] * key_scale
    return (query_positions - key_positions + (keys - 1) * key_scale).long()


def position_codes(grid: Grid, axes: Sequence[int], width: int, *, cls_token: bool) -> Tensor:
    """One-hot coordinates of each patch along ``axes``, side by side and zero-padded: float [L, width].

    A class token has no position: its row is zero.
    """
    coordinates = torch.meshgrid(*[torch.arange(n) for n in grid], indexing="ij")
    codes = torch.cat([F.one_hot(coordinates[a].flatten(), grid[a]) for a in axes], dim=1)
    return F.pad(codes, (0, width - codes.shape[1], int(cls_token), 0)).to(torch.get_default_dtype())


class MultiScaleAttention(nn.Module):
    """Attention whose queries, keys and values are pooled on the grid of patch tokens.

    Scores are q k^T / sqrt(head dim), plus (patch queries and patch keys only) the products of the query with the
    table rows for the distance along each axis (MViTv2, equation 3). With residual pooling the pooled query is added
    to the output of patch tokens (MViTv2, equation 5).

    Args:
        dim: width of the incoming tokens.
        out_dim: width of queries, keys, values and of the result.
        num_heads: attention heads.
        grid: patch tokens that come in, per axis.
        table_grid: the grid that the relative position tables are made for: the configured one, divided by the
            query strides and rounded *down* from block to block, while convolutions round up.
        pool_q, pool_kv: pooling of the query, and of keys and values.
        options: what all blocks have in common.

    Raises:
        ValueError: when the two-dimensional form, whose tables are never resized, meets a grid of another size.
    """

    #: Write attention out as matrix products, as tracers get it: fused kernels are handed longer, padded vectors.
    plain = False

    def __init__(
        self,
        dim: int,
        out_dim: int,
        num_heads: int,
        grid: Grid,
        table_grid: Grid,
        pool_q: Pooling,
        pool_kv: Pooling,
        options: AttentionOptions,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = out_dim // num_heads
        self.cls_token = options.cls_token
        self.pool_first = options.pool_first
        self.residual_pooling = options.residual_pooling
        self.fused_qkv = not (options.pool_first or options.separate_qkv)
        if self.fused_qkv:
            self.qkv = nn.Linear(dim, 3 * out_dim, bias=options.qkv_bias)
        else:
            self.q = nn.Linear(dim, out_dim, bias=options.qkv_bias)
            self.k = nn.Linear(dim, out_dim, bias=options.qkv_bias)
            self.v = nn.Linear(dim, out_dim, bias=options.qkv_bias)
        self.proj = nn.Linear(out_dim, out_dim)
        self.proj_drop = nn.Dropout(options.dropout_rate)

        pooled_dim = dim if options.pool_first else out_dim
        channels = pooled_dim if options.mode == "conv_unshared" else pooled_dim // num_heads
        convolve = options.mode.startswith("conv")
        for name, pooling in (("q", pool_q), ("k", pool_kv), ("v", pool_kv)):
            pool, norm = None, None
            if not pooling.keeps_tokens:
                mode = "conv" if convolve else options.mode
                pool = TokenPool(mode, grid, pooling, cls_token=options.cls_token, channels=channels)
                norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS) if convolve else None
            self.add_module(f"pool_{name}", pool)
            self.add_module(f"norm_{name}", norm)
        self.out_grid = grid if self.pool_q is None else self.pool_q.out_grid
        self.key_grid = grid if self.pool_k is None else self.pool_k.out_grid

        names = _AXES[-len(grid) :]
        wanted = ("t" if options.rel_pos_temporal else "") + ("hw" if options.rel_pos_spatial else "")
        self.axes = [i for i, name in enumerate(names) if name in wanted]
        for axis in self.axes:
            # The time table is made for the unpooled length; both others take the second stride, as published.
            q_stride, kv_stride = (1, 1) if names[axis] == "t" else (pool_q.stride[1], pool_kv.stride[1])
            rows = 2 * max(table_grid[axis] // q_stride, table_grid[axis] // kv_stride) - 1
            needed = 2 * max(self.out_grid[axis], self.key_grid[axis]) - 1
            if rows != needed and len(grid) == 2:
                raise ValueError(
                    f"relative positions of {self.out_grid} queries and {self.key_grid} keys need {needed} rows per "
                    f"axis, the image network stores {rows}: use a crop size that all strides divide "
                    "(DATA.TRAIN_CROP_SIZE)"
                )
            table = nn.Parameter(torch.zeros(rows, self.head_dim))
            if not options.rel_pos_zero_init:
                nn.init.trunc_normal_(table, std=0.02)
            self.register_parameter(f"rel_pos_{names[axis]}", table)
            index = table_rows(self.out_grid[axis], self.key_grid[axis])
            self.register_buffer(f"rows_{names[axis]}", index, persistent=False)
        if self.axes:
            # Fused kernels want a head dimension that eight divides.
            self.padding = -(self.head_dim + sum(self.key_grid[a] for a in self.axes)) % 8
            width = sum(self.key_grid[a] for a in self.axes) + self.padding
            codes = position_codes(self.key_grid, self.axes, width, cls_token=self.cls_token)
            self.register_buffer("key_codes", codes, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, dim] -> [N, L', out_dim]; tokens are in (T,) H, W order, after a class token if there is one."""
        if self.pool_first:
            q = self.q(self._pooled(x, self.pool_q, self.norm_q))
            k = self.k(self._pooled(x, self.pool_k, self.norm_k))
            v = self.v(self._pooled(x, self.pool_v, self.norm_v))
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1) if self.fused_qkv else (self.q(x), self.k(x), self.v(x))
            q = self._pooled(q, self.pool_q, self.norm_q)
            k = self._pooled(k, self.pool_k, self.norm_k)
            v = self._pooled(v, self.pool_v, self.norm_v)
        q, k, v = (tokens.unflatten(-1, (self.num_heads, self.head_dim)) for tokens in (q, k, v))
        y = self._attend(q, k, v)
        if self.residual_pooling:
            residual = y + q
            if self.cls_token:
                residual[:, 0] = y[:, 0]
            y = residual
        return self.proj_drop(self.proj(y.flatten(2)))

    @staticmethod
    def _pooled(tokens: Tensor, pool: TokenPool | None, norm: nn.LayerNorm | None) -> Tensor:
        if pool is None:
            return tokens
        pooled = pool(tokens)
        if norm is None:
            return pooled
        groups = pooled.unflatten(-1, (-1, norm.normalized_shape[0]))
        # Under autocast the norm may answer in float32; attention goes on in the type of the projection.
        return norm(groups).flatten(2).type_as(tokens)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention of [N, L, heads, head dim] tensors with relative positions."""
        scale = self.head_dim**-0.5
        products = self._position_products(q)
        if self.plain or torch.jit.is_tracing():
            return self._attend_plainly(q, k, v, products, scale)
        if not products:
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            return y.transpose(1, 2)
        # A score is then one product of longer vectors: [q, products] with [k, one-hot position of the key], so
        # that fused kernels need no bias matrix; most of them want values as long as keys.
        extension = F.pad(torch.cat(products, dim=-1), (0, self.padding, 0, 0, int(self.cls_token), 0))
        codes = self.key_codes.to(k.dtype)[None, :, None, :].expand(*k.shape[:3], -1)
        q = torch.cat([q, extension], dim=-1).transpose(1, 2)
        k = torch.cat([k, codes], dim=-1).transpose(1, 2)
        v = F.pad(v, (0, codes.shape[-1])).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return y[..., : self.head_dim].transpose(1, 2)

    def _position_products(self, q: Tensor) -> list[Tensor]:
        """Products of patch queries with the rows of each table, times sqrt(head dim): [N, L', heads, keys on axis].

        The factor is there because all scores are divided by it, and the published code scales q k^T alone.
        """
        if not self.axes:
            return []
        letters = _AXES[-len(self.out_grid) :]
        patches = q[:, int(self.cls_token) :].unflatten(1, self.out_grid)
        products = []
        for axis in self.axes:
            letter = letters[axis]
            rows = self._distance_vectors(letter, axis) * self.head_dim**0.5
            product = torch.einsum(f"b{letters}nc,{letter}kc->b{letters}nk", patches, rows)
            products.append(product.flatten(1, len(letters)))
        return products

    def _distance_vectors(self, letter: str, axis: int) -> Tensor:
        """Table row for every query and key position along an axis: [queries, keys, head dim]."""
        table = getattr(self, f"rel_pos_{letter}")
        needed = 2 * max(self.out_grid[axis], self.key_grid[axis]) - 1
        if table.shape[0] != needed:
            table = F.interpolate(table.t()[None], size=needed, mode="linear", align_corners=False)[0].t()
        return table[getattr(self, f"rows_{letter}")]

    def _attend_plainly(self, q: Tensor, k: Tensor, v: Tensor, products: list[Tensor], scale: float) -> Tensor:
        """The same attention in basic operators, for traced graphs: exporters and operation counters know them all."""
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
        first = int(self.cls_token)
        patch_scores = scores[:, :, first:, first:].unflatten(-1, self.key_grid)
        for axis, product in zip(self.axes, products, strict=True):
            shape = [1] * len(self.key_grid)
            shape[axis] = -1
            patch_scores += product.transpose(1, 2).unflatten(-1, shape)
        return ((scores * scale).softmax(dim=-1) @ v.transpose(1, 2)).transpose(1, 2)
