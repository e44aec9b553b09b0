"""UniFormer: local convolutions in the first two stages, global attention in the last two.

Li et al., "UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning", ICLR 2022
(arXiv:2201.04676), section 3; the code base publishes two sizes, S and B.

Activations keep the shape [N, C, T, H, W] and the memory order of ``torch.channels_last_3d`` from the first convolution
to the last block: 1x1x1 convolutions, norms and tokens then need no copy, and depthwise convolutions are several times
faster on CPUs.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.config import CfgNode
from videobench.models.convolutions import DepthwiseConv3d, PointwiseConv3d
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

#: Smallest frame side that leaves one position in stage 4, for both kinds of stem.
MIN_SIZE = 32


class Mlp(nn.Module):
    """Two pointwise layers with a GELU between them, on tokens [..., C] or, with ``conv=True``, on [N, C, T, H, W]."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, *, conv: bool = False) -> None:
        super().__init__()
        self.fc1 = PointwiseConv3d(dim, hidden) if conv else nn.Linear(dim, hidden)
        self.fc2 = PointwiseConv3d(hidden, dim) if conv else nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: [N, L, C] -> [N, L, C]."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qkv_scale: float | None = None,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"a width of {dim} does not divide into {num_heads} attention heads")
        self.num_heads = num_heads
        self.scale = qkv_scale or (dim // num_heads) ** -0.5
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(*self.queries_keys_values(x))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections of tokens, each [N, heads, L, C / heads]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Projected weighted sum of the values, [N, L, C]."""
        dropout = self.attention_dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class PatchEmbed(nn.Module):
    """A convolution that shortens the clip, and a layer norm over channels: [N, C, T, H, W] -> [N, C', T', H', W']."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        kernel: tuple[int, int, int] = (1, 2, 2),
        stride: tuple[int, int, int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Conv3d(in_channels, dim, kernel, stride, padding=(kernel[0] // 2, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(x).permute(0, 2, 3, 4, 1))
        return x.permute(0, 4, 1, 2, 3)


class ConvBlock(nn.Module):
    """Local block of stages 1 and 2: a learned weighting of the 5x5x5 neighbourhood in the place of attention.

    Args:
        layer_scale: start value of the factors on both branches; None builds none.
    """

    def __init__(
        self, dim: int, mlp_ratio: float, dropout: float = 0.0, drop_path: float = 0.0, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        self.layer_scale = layer_scale is not None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((1, dim, 1, 1, 1), float(layer_scale)))
            self.gamma_2 = nn.Parameter(torch.full((1, dim, 1, 1, 1), float(layer_scale)))
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = PointwiseConv3d(dim, dim)
        self.conv2 = PointwiseConv3d(dim, dim)
        self.attn = DepthwiseConv3d(dim, 5)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout, conv=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        local = self.conv2(self.attn(self.conv1(self.norm1(x))))
        x = x + self.drop_path(self.gamma_1 * local if self.layer_scale else local)
        hidden = self.mlp(self.norm2(x))
        return x + self.drop_path(self.gamma_2 * hidden if self.layer_scale else hidden)


class AttentionBlock(nn.Module):
    """Global block of stages 3 and 4: attention over all positions of the clip at once.

    Args:
        attention: keyword arguments of :class:`Attention` besides the width.
    """

    def __init__(
        self, dim: int, mlp_ratio: float, attention: dict, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, **attention)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class DividedAttentionBlock(nn.Module):
    """Block of stages 3 and 4 with attention over time, then over space (``UNIFORMER.SPLIT``, in no published row).

    The skip around the spatial attention starts before the temporal one, as in the published code: what time adds
    reaches the output only through the spatial attention's input.
    """

    def __init__(
        self, dim: int, mlp_ratio: float, attention: dict, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.t_norm = nn.LayerNorm(dim, eps=1e-6)
        self.t_attn = Attention(dim, **attention)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, **attention)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        clips, _, frames, height, width = x.shape
        tokens = x.flatten(3).permute(0, 2, 3, 1)  # [N, T, S, C]
        over_time = self.t_attn(self.t_norm(tokens).transpose(1, 2).flatten(0, 1))
        over_time = over_time.unflatten(0, (clips, height * width)).transpose(1, 2)
        timed = tokens + self.drop_path(over_time)
        over_space = self.attn(self.norm1(timed).flatten(0, 1)).unflatten(0, (clips, frames))
        tokens = tokens + self.drop_path(over_space)
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)


class Uniformer(VideoModel):
    """UniFormer for clips [N, C, T, H, W] of any length, with frames of at least 32x32; longer sides are best multiples
    of 32, for what does not divide is cut off.

    As published there is no dropout before the classifier, and no parameter besides norms and biases is exempt from
    weight decay.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        head_dim: channels per attention head; the number of heads is width // head_dim.
        mlp_ratio: hidden size of the MLPs over their width, one number or one per stage.
        qkv_bias: bias in the query/key/value projection.
        qkv_scale: factor on query-key products; None or 0 means ``(width / heads) ** -0.5``.
        dropout: dropout in MLPs, attention projections and after the first patch embedding.
        attention_dropout: dropout on attention weights.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first.
        divided: attention over time, then space, in stages 3 and 4.
        temporal_embed: temporal kernel 3 in the patch embeddings of stages 2 to 4.
        checkpoint_blocks: leading blocks to recompute in the backward pass, for all stages or per stage; -1 means all.

    Raises:
        ValueError: when per-stage values do not count four, or a width does not divide into its heads.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        mlp_ratio: float | Sequence[float] = 4.0,
        *,
        num_classes: int = 400,
        in_channels: int = 3,
        qkv_bias: bool = True,
        qkv_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        divided: bool = False,
        temporal_embed: bool = False,
        checkpoint_blocks: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        ratios = per_stage_ratios(embed_dims, depths, mlp_ratio)
        self.in_channels = in_channels
        self.depths = list(depths)
        self.num_features = embed_dims[-1]
        self.recomputed = checkpointed_blocks(checkpoint_blocks, depths)

        self.patch_embed1 = PatchEmbed(in_channels, embed_dims[0], (3, 4, 4), (2, 4, 4))
        kernel = (3, 2, 2) if temporal_embed else (1, 2, 2)
        self.patch_embed2, self.patch_embed3, self.patch_embed4 = (
            PatchEmbed(before, after, kernel) for before, after in pairwise(embed_dims)
        )
        self.pos_drop = nn.Dropout(dropout)

        block_class = DividedAttentionBlock if divided else AttentionBlock
        for stage, rates in enumerate(stochastic_depth_rates(drop_path, depths)):
            dim, ratio = embed_dims[stage], ratios[stage]
            attention = {
                "num_heads": dim // head_dim,
                "qkv_bias": qkv_bias,
                "qkv_scale": qkv_scale,
                "attention_dropout": attention_dropout,
                "dropout": dropout,
            }
            blocks = [
                ConvBlock(dim, ratio, dropout, rate) if stage < 2 else block_class(dim, ratio, attention, dropout, rate)
                for rate in rates
            ]
            self.add_module(f"blocks{stage + 1}", nn.ModuleList(blocks))

        self.norm = nn.BatchNorm3d(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes)
        initialise(self)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Mean over time and space of the normalised last stage, [N, num_features]."""
        check_clip(clip, self.in_channels, min_size=MIN_SIZE)
        x = clip.contiguous(memory_format=torch.channels_last_3d)
        for stage in range(4):
            x = self.get_submodule(f"patch_embed{stage + 1}")(x)
            if stage == 0:
                x = self.pos_drop(x)
            for index, block in enumerate(self.get_submodule(f"blocks{stage + 1}")):
                x = run_block(block, x, recompute=index < self.recomputed[stage])
        return self.norm(x).mean((2, 3, 4))

    def layer_groups(self) -> list[list[str]]:
        return group_parameters(self, lambda name: layer_number(name, self.depths))


def per_stage_ratios(
    embed_dims: Sequence[int], depths: Sequence[int], mlp_ratio: float | Sequence[float]
) -> list[float]:
    """The MLP ratio of each of the four stages.

    Raises:
        ValueError: when widths, depths or ratios do not count four.
    """
    ratios = [mlp_ratio] * 4 if isinstance(mlp_ratio, int | float) else list(mlp_ratio)
    for name, values in (("EMBED_DIM", embed_dims), ("DEPTH", depths), ("MLP_RATIO", ratios)):
        if len(values) != 4:
            raise ValueError(f"UNIFORMER.{name} wants one number for each of the 4 stages, got {list(values)}")
    return ratios


def stochastic_depth_rates(largest: float, depths: Sequence[int]) -> list[list[float]]:
    """Drop rate of every block, per stage: 0 at the first block of the network, ``largest`` at the last."""
    return [part.tolist() for part in torch.linspace(0, largest, sum(depths), device="cpu").split(list(depths))]


def initialise(model: nn.Module) -> None:
    """Fresh weights: linear layers normal with deviation 0.02 and no bias, temporal branches of divided blocks zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, DividedAttentionBlock):
            nn.init.zeros_(module.t_attn.qkv.weight)
            nn.init.ones_(module.t_attn.proj.weight)


def layer_number(name: str, depths: Sequence[int]) -> int:
    """Depth of a parameter in the network: 0 is the stem, each block is one layer, the last is norm and classifier.

    A patch embedding counts with the block that follows it.
    """
    module, *rest = name.split(".")
    if module == "patch_embed1":
        return 0
    if module.startswith(("patch_embed", "blocks")):
        stage = int(module[-1]) - 1
        return 1 + sum(depths[:stage]) + (int(rest[0]) if module.startswith("blocks") else 0)
    return 1 + sum(depths)


def uniformer_arguments(cfg: CfgNode) -> dict:
    """Constructor arguments of :class:`Uniformer` from a configuration."""
    return {
        **shared_arguments(cfg),
        "divided": cfg.UNIFORMER.SPLIT,
    }


def shared_arguments(cfg: CfgNode) -> dict:
    """The constructor arguments that S, B and the light models have in common."""
    return {
        "embed_dims": cfg.UNIFORMER.EMBED_DIM,
        "depths": cfg.UNIFORMER.DEPTH,
        "head_dim": cfg.UNIFORMER.HEAD_DIM,
        "mlp_ratio": cfg.UNIFORMER.MLP_RATIO,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "in_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "qkv_bias": cfg.UNIFORMER.QKV_BIAS,
        "qkv_scale": cfg.UNIFORMER.QKV_SCALE,
        "dropout": cfg.UNIFORMER.DROPOUT_RATE,
        "attention_dropout": cfg.UNIFORMER.ATTENTION_DROPOUT_RATE,
        "drop_path": cfg.UNIFORMER.DROP_DEPTH_RATE,
        "temporal_embed": cfg.UNIFORMER.STD,
        "checkpoint_blocks": checkpoint_counts(cfg),
    }


register_model("Uniformer", Uniformer, uniformer_arguments)
