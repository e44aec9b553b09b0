"""MViTv2 with every pooling, norm and table product where the paper has it (Li et al., 2022, section 4.1)."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.models.mvit import MViT
from videobench.models.mvit_attention import MultiScaleAttention, TokenPool, table_rows
from videobench.models.mvit_blocks import MultiScaleBlock

EPS = 1e-6
AXES = "thw"


def _pool_on_grid(x: Tensor, pool: nn.Module, grid: tuple[int, ...], cls_token: bool) -> tuple[Tensor, tuple[int, ...]]:
    """Pool [N, heads, L, D] with the heads as further clips, channels first; the class token is put back in front."""
    clips, heads, _, dim = x.shape
    class_token, x = (x[:, :, :1], x[:, :, 1:]) if cls_token else (None, x)
    x = x.reshape(clips * heads, *grid, dim).movedim(-1, 1).contiguous()
    x = pool(x)
    grid = tuple(x.shape[2:])
    x = x.reshape(clips, heads, dim, -1).transpose(2, 3)
    return (x if class_token is None else torch.cat((class_token, x), dim=2)), grid


class PlainAttention(nn.Module):
    def __init__(self, ours: MultiScaleAttention, grid: tuple[int, ...]) -> None:
        super().__init__()
        pools = {name: getattr(ours, f"pool_{name}") for name in "qkv"}
        if not ours.fused_qkv or any(pool is not None and pool.mode != "conv" for pool in pools.values()):
            raise ValueError("the plain MViT pools with convolutions, after one projection")
        self.heads, self.head_dim, self.grid = ours.num_heads, ours.head_dim, grid
        self.cls_token, self.residual_pooling = ours.cls_token, ours.residual_pooling
        width = self.heads * self.head_dim
        self.qkv = nn.Linear(ours.qkv.in_features, 3 * width, bias=ours.qkv.bias is not None)
        self.proj = nn.Linear(width, width)
        convolution = nn.Conv2d if len(grid) == 2 else nn.Conv3d
        for name, pool in pools.items():
            if pool is not None:
                if pool.weight.shape[0] != self.head_dim:
                    raise ValueError("the plain MViT shares its pooling filters between heads")
                conv = convolution(
                    self.head_dim,
                    self.head_dim,
                    pool.kernel,
                    pool.stride,
                    pool.padding,
                    groups=self.head_dim,
                    bias=False,
                )
                self.add_module(f"pool_{name}", conv)
                self.add_module(f"norm_{name}", nn.LayerNorm(self.head_dim, eps=EPS))
        names = AXES[-len(grid) :]
        self.tables = [(names[axis], axis) for axis in ours.axes]
        for name, _ in self.tables:
            self.register_parameter(f"rel_pos_{name}", nn.Parameter(torch.zeros_like(getattr(ours, f"rel_pos_{name}"))))

    def _pooled(self, name: str, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        if not hasattr(self, f"pool_{name}"):
            return x, self.grid
        x, grid = _pool_on_grid(x, getattr(self, f"pool_{name}"), self.grid, self.cls_token)
        return getattr(self, f"norm_{name}")(x), grid

    def forward(self, x: Tensor) -> Tensor:
        clips, count, _ = x.shape
        qkv = self.qkv(x).reshape(clips, count, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        (q, q_grid), (k, k_grid), (v, _) = (self._pooled(name, part) for name, part in zip("qkv", qkv, strict=True))
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        first = int(self.cls_token)
        for name, axis in self.tables:
            bias = self._position_scores(name, axis, q[:, :, first:], q_grid, k_grid)
            scores = scores + F.pad(bias, (first, 0, first, 0))
        y = scores.softmax(-1) @ v
        if self.residual_pooling:
            y = torch.cat((y[:, :, :first], y[:, :, first:] + q[:, :, first:]), dim=2)
        return self.proj(y.transpose(1, 2).reshape(clips, -1, self.heads * self.head_dim))

    def _position_scores(self, name: str, axis: int, q: Tensor, q_grid, k_grid) -> Tensor:
        """Products with one axis' table for every pair of patches, [N, heads, queries, keys]."""
        table = getattr(self, f"rel_pos_{name}")
        rows = 2 * max(q_grid[axis], k_grid[axis]) - 1
        if len(table) != rows:
            table = F.interpolate(table.t()[None], size=rows, mode="linear")[0].t()
        vectors = table[table_rows(q_grid[axis], k_grid[axis]).to(table.device)]
        letters = AXES[-len(q_grid) :]
        patches = q.reshape(-1, *q_grid, q.shape[-1])  # clips and heads
        products = torch.einsum(f"n{letters}c,{name}kc->n{letters}k", patches, vectors)
        shape = [1] * len(k_grid)
        shape[axis] = -1
        products = products.reshape(*q.shape[:3], *shape).expand(*q.shape[:3], *k_grid)
        return products.reshape(*q.shape[:3], -1)


class PlainBlock(nn.Module):
    def __init__(self, ours: MultiScaleBlock, grid: tuple[int, ...]) -> None:
        super().__init__()
        dim, width, out_dim = ours.norm1.normalized_shape[0], ours.norm2.normalized_shape[0], ours.mlp.fc2.out_features
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = PlainAttention(ours.attn, grid)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        hidden = ours.mlp.fc1.out_features
        layers = OrderedDict(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, out_dim))
        self.mlp = nn.Sequential(layers)
        self.in_attention, self.in_mlp = ours.widens_in_attention, ours.widens_in_mlp
        if self.in_attention or self.in_mlp:
            self.proj = nn.Linear(dim, out_dim)
        self.grid, self.cls_token = grid, ours.attn.cls_token
        self.pool_skip = None
        if (skip := ours.pool_skip) is not None:
            pooling = nn.MaxPool2d if len(grid) == 2 else nn.MaxPool3d
            self.pool_skip = pooling(skip.kernel, skip.stride, skip.padding)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        shortcut = self.proj(normed) if self.in_attention else x
        if self.pool_skip is not None:
            shortcut = _pool_on_grid(shortcut[:, None], self.pool_skip, self.grid, self.cls_token)[0][:, 0]
        x = shortcut + self.attn(normed)
        normed = self.norm2(x)
        shortcut = self.proj(normed) if self.in_mlp else x
        return shortcut + self.mlp(normed)


class PatchConvolution(nn.Module):
    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.proj = type(ours)(ours.in_channels, ours.out_channels, ours.kernel_size, ours.stride, ours.padding)


class PlainHead(nn.Module):
    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


class PlainMViT(nn.Module):
    """MViTv2 for clips or images, without absolute positions and stem norm."""

    def __init__(self, ours: MViT) -> None:
        super().__init__()
        positions = (ours.pos_embed, ours.pos_embed_spatial, ours.norm_stem)
        if any(part is not None for part in positions) or ours.use_mean_pooling:
            raise ValueError("the plain MViT is the second version: no absolute positions, stem norm or mean pooling")
        self.patch_embed = PatchConvolution(ours.patch_embed.proj)
        self.cls_token = None if ours.cls_token is None else nn.Parameter(torch.zeros_like(ours.cls_token))
        self.blocks = nn.ModuleList()
        pools = (ours.blocks[0].attn.pool_q, ours.blocks[0].attn.pool_k)
        grid = next((pool.grid for pool in pools if isinstance(pool, TokenPool)), ours.blocks[0].attn.out_grid)
        for block in ours.blocks:
            self.blocks.append(PlainBlock(block, tuple(grid)))
            grid = block.attn.out_grid
        self.norm = nn.LayerNorm(ours.num_features, eps=EPS)
        self.head = PlainHead(ours.num_features, ours.head.projection.out_features)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.patch_embed.proj(clip).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.cls_token is None else x[:, 0])
