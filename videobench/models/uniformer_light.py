"""Light UniFormer (XXS and XS): global attention over the tokens that a class token looks at.

Hourglass blocks of Li et al., "UniFormer: Unifying Convolution and Self-attention for Visual Recognition"
(arXiv:2201.09450): a block merges the tokens of low score into one, runs on the shorter sequence, and gives what the
merged token gained back to all of them. The running token score is that of Xu et al., "Evo-ViT" (arXiv:2108.01390).

The score travels from block to block as a value. Attention may run in reduced precision; what the score is computed
from the projections is at least float32, because the order of close scores decides which tokens are kept. (The
published files switch autocast off in the whole attention; in full precision the numbers are the same.)
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.config import CfgNode, ConfigError
from videobench.models.convolutions import DepthwiseConv3d
from videobench.models.layers import DropPath, VideoModel, check_clip, checkpointed_blocks, group_parameters, run_block
from videobench.models.registry import register_model
from videobench.models.uniformer import (
    MIN_SIZE,
    Attention,
    ConvBlock,
    Mlp,
    PatchEmbed,
    initialise,
    layer_number,
    per_stage_ratios,
    shared_arguments,
    stochastic_depth_rates,
)


class ConvStem(nn.Module):
    """Two 3x3x3 convolutions: [N, C, T, H, W] -> [N, dim, T / 2, H / 4, W / 4], odd sizes rounded up."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv3d(in_channels, dim // 2, 3, stride=(1, 2, 2), padding=1),
            nn.BatchNorm3d(dim // 2),
            nn.GELU(),
            nn.Conv3d(dim // 2, dim, 3, stride=2, padding=1),
            nn.BatchNorm3d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class ScoringAttention(Attention):
    """Self-attention that also tells how much the first token, the class token, attends to each token."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N, L, C] -> attended tokens [N, L, C], and the first token's attention, mean of the heads, [N, L]."""
        q, k, v = self.queries_keys_values(x)
        first = q[:, :, :1].to(torch.promote_types(q.dtype, torch.float32))
        attention = (first * k).sum(-1).mul(self.scale).softmax(-1).mean(1)
        return self.attend(q, k, v), attention


class HourglassBlock(nn.Module):
    """Block of stages 3 and 4: attention and MLP on the class token, the kept tokens and one for all the others.

    Args:
        attention: keyword arguments of :class:`Attention` besides the width.
        layer_scale: start value of the factors on both branches; None builds none.
        keep_ratio: share of the patch tokens that stay themselves, rounded down; 1 runs on all and merges none.
        trade_off: weight of this block's attention in the running score.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        attention: dict,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        keep_ratio: float = 1.0,
        trade_off: float = 1.0,
    ) -> None:
        super().__init__()
        self.keep_ratio = keep_ratio
        self.trade_off = trade_off
        self.layer_scale = layer_scale is not None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.gamma_2 = nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ScoringAttention(dim, **attention)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)

    def forward(self, class_token: Tensor, x: Tensor, score: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Class token [N, 1, C], patch tokens [N, C, T, H, W] and their score [N, T * H * W], each as after this block.

        The score is None before the first block, which therefore cannot merge tokens.
        """
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        if self.keep_ratio < 1:
            class_token, tokens, score = self._run_merged(class_token, tokens, score)
        else:
            sequence, _, attention = self._run(torch.cat((class_token, tokens), 1))
            class_token, tokens = sequence[:, :1], sequence[:, 1:]
            score = attention[:, 1:] if score is None else torch.lerp(score, attention[:, 1:], self.trade_off)
        return class_token, tokens.transpose(1, 2).unflatten(2, x.shape[2:]), score

    def _run_merged(self, class_token: Tensor, tokens: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = score.argsort(1, descending=True)
        kept = order[:, : int(tokens.shape[1] * self.keep_ratio)]
        kept_rows = kept.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        others = score.scatter(1, kept, 0.0)
        others = others / others.sum(1, keepdim=True).clamp_min(torch.finfo(others.dtype).tiny)
        merged = others.to(tokens.dtype).unsqueeze(1) @ tokens

        sequence, gain, attention = self._run(torch.cat((class_token, tokens.gather(1, kept_rows), merged), 1))

        # Every token takes the merged token's gain, then the kept ones are put in their places.
        tokens = tokens + gain[:, -1:]
        tokens = tokens.scatter(1, kept_rows, sequence[:, 1:-1].to(tokens.dtype))
        # As published, a merged token that is made of one token alone scores that one too.
        scored = order if kept.shape[1] == tokens.shape[1] - 1 else kept
        attention = attention[:, 1 : 1 + scored.shape[1]]
        new_score = torch.lerp(score.gather(1, scored), attention, self.trade_off)
        return sequence[:, :1], tokens, score.scatter(1, scored, new_score)

    def _run(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens after both branches, what these add when stochastic depth drops neither, and the attention row."""
        attended, attention = self.attn(self.norm1(tokens))
        if self.layer_scale:
            attended = self.gamma_1 * attended
        tokens = tokens + self.drop_path(attended)
        hidden = self.mlp(self.norm2(tokens))
        if self.layer_scale:
            hidden = self.gamma_2 * hidden
        return tokens + self.drop_path(hidden), attended + hidden, attention


def pool_score(score: Tensor, grid: Sequence[int]) -> Tensor:
    """Token score [N, T * H * W] on a grid of half the height and width, with its sum per clip kept."""
    pooled = F.avg_pool2d(score.unflatten(1, tuple(grid)), 2).flatten(1)
    return pooled * (score.sum(1, keepdim=True) / pooled.sum(1, keepdim=True))


class LightUniformer(VideoModel):
    """Light UniFormer for clips [N, C, T, H, W] of any length, with frames of at least 32x32.

    In training, :meth:`forward` returns the logits of two classifiers, ``{"tokens": ..., "class_token": ...}``; their
    losses count half each. In eval mode it returns those of the patch tokens alone: the class token only scores tokens.

    Args:
        keep_ratios: share of the tokens that each block keeps, one list per stage; entries past the depth and the
            lists of stages 1 and 2 are not used.
        trade_offs: weight of each block's own attention in the running token score, as ``keep_ratios``.
        layer_scale: start value of the factors on residual branches; None builds none.

    The other arguments are those of :class:`~videobench.models.uniformer.Uniformer`. The published code takes the MLP
    ratio of stage 3 from the fourth entry; here each stage has its own (no published row has unequal ones).

    Raises:
        ValueError: when per-stage or per-block values are too few or out of range, the first block of stage 3 prunes,
            or a width does not divide into its heads.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (56, 112, 224, 448),
        depths: Sequence[int] = (2, 5, 8, 2),
        head_dim: int = 28,
        mlp_ratio: float | Sequence[float] = 3.0,
        *,
        keep_ratios: Sequence[Sequence[float]],
        trade_offs: Sequence[Sequence[float]],
        num_classes: int = 400,
        in_channels: int = 3,
        qkv_bias: bool = True,
        qkv_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        temporal_embed: bool = False,
        layer_scale: float | None = None,
        checkpoint_blocks: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        ratios = per_stage_ratios(embed_dims, depths, mlp_ratio)
        check_block_lists(keep_ratios, trade_offs, depths)
        self.in_channels = in_channels
        self.depths = list(depths)
        self.num_features = embed_dims[-1]
        self.recomputed = checkpointed_blocks(checkpoint_blocks, depths)

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims[2]))
        self.patch_embed1 = ConvStem(in_channels, embed_dims[0])
        kernel = (3, 2, 2) if temporal_embed else (1, 2, 2)
        self.patch_embed2, self.patch_embed3, self.patch_embed4 = (
            PatchEmbed(before, after, kernel) for before, after in pairwise(embed_dims)
        )
        self.cls_upsample = nn.Linear(embed_dims[2], embed_dims[3])
        self.pos_drop = nn.Dropout(dropout)

        for stage, rates in enumerate(stochastic_depth_rates(drop_path, depths)):
            dim, ratio = embed_dims[stage], ratios[stage]
            if stage < 2:
                blocks = [ConvBlock(dim, ratio, dropout, rate, layer_scale) for rate in rates]
            else:
                attention = {
                    "num_heads": dim // head_dim,
                    "qkv_bias": qkv_bias,
                    "qkv_scale": qkv_scale,
                    "attention_dropout": attention_dropout,
                    "dropout": dropout,
                }
                per_block = zip(rates, keep_ratios[stage], trade_offs[stage], strict=False)
                blocks = [
                    HourglassBlock(dim, ratio, attention, dropout, rate, layer_scale, keep_ratio, trade_off)
                    for rate, keep_ratio, trade_off in per_block
                ]
            self.add_module(f"blocks{stage + 1}", nn.ModuleList(blocks))

        self.norm = nn.BatchNorm3d(self.num_features)
        self.norm_cls = nn.LayerNorm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes)
        self.head_cls = nn.Linear(self.num_features, num_classes)
        initialise(self)

    def forward(self, clip: Tensor) -> Tensor | dict[str, Tensor]:
        class_token, features = self._encode(clip)
        logits = self.head(features)
        if not self.training:
            return logits
        return {"tokens": logits, "class_token": self.head_cls(self.norm_cls(class_token))}

    def forward_features(self, clip: Tensor) -> Tensor:
        """Mean over time and space of the normalised patch tokens, [N, num_features]; the class token is left out."""
        return self._encode(clip)[1]

    def _encode(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        check_clip(clip, self.in_channels, min_size=MIN_SIZE)
        x = self.pos_drop(self.patch_embed1(clip.contiguous(memory_format=torch.channels_last_3d)))
        x = self._run_convolutions(x, stage=0)
        x = self._run_convolutions(self.patch_embed2(x), stage=1)

        x = self.patch_embed3(x)
        class_token, x, score = self._run_hourglass(self.cls_token.expand(len(x), -1, -1), x, None, stage=2)
        score = pool_score(score, x.shape[2:])
        x = self.patch_embed4(x)
        class_token, x, _ = self._run_hourglass(self.cls_upsample(class_token), x, score, stage=3)
        return class_token.squeeze(1), self.norm(x).mean((2, 3, 4))

    def _run_convolutions(self, x: Tensor, stage: int) -> Tensor:
        for index, block in enumerate(self.get_submodule(f"blocks{stage + 1}")):
            x = run_block(block, x, recompute=index < self.recomputed[stage])
        return x

    def _run_hourglass(
        self, class_token: Tensor, x: Tensor, score: Tensor | None, stage: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        for index, block in enumerate(self.get_submodule(f"blocks{stage + 1}")):
            recompute = index < self.recomputed[stage]
            class_token, x, score = run_block(block, class_token, x, score, recompute=recompute)
        return class_token, x, score

    def reset_head(self, num_classes: int) -> None:
        super().reset_head(num_classes)
        self.head_cls = nn.Linear(self.num_features, num_classes).to(self.head.weight)
        initialise(self.head_cls)

    def is_head(self, name: str) -> bool:
        return name.startswith(("head.", "head_cls."))

    def layer_groups(self) -> list[list[str]]:
        # The class token counts with the block that sees it first, its upsampling with the first block of stage 4.
        entry = {"cls_token": "blocks3.0", "cls_upsample": "blocks4.0"}
        return group_parameters(self, lambda name: layer_number(entry.get(name.split(".")[0], name), self.depths))


def check_block_lists(
    keep_ratios: Sequence[Sequence[float]], trade_offs: Sequence[Sequence[float]], depths: Sequence[int]
) -> None:
    """Raise a ValueError when the per-block lists of stages 3 and 4 are too short or hold what cannot be."""
    for name, lists in (("PRUNE_RATIO", keep_ratios), ("TRADE_OFF", trade_offs)):
        if len(lists) != 4 or any(len(lists[stage]) < depths[stage] for stage in (2, 3)):
            raise ValueError(
                f"UNIFORMER.{name} wants a list per stage, with an entry for each of the {depths[2]} and {depths[3]} "
                f"blocks of stages 3 and 4, got {lists}"
            )
    if any(not 0 < ratio <= 1 for stage in (2, 3) for ratio in keep_ratios[stage][: depths[stage]]):
        raise ValueError(f"UNIFORMER.PRUNE_RATIO wants shares in (0, 1], got {keep_ratios}")
    if depths[2] < 1 or keep_ratios[2][0] < 1:
        raise ValueError("the first block of stage 3 scores the tokens: it must exist and UNIFORMER.PRUNE_RATIO be 1")


def light_arguments(cfg: CfgNode) -> dict:
    """Constructor arguments of :class:`LightUniformer` from a configuration."""
    if cfg.UNIFORMER.SPLIT:
        raise ConfigError(f"{cfg.MODEL.MODEL_NAME} has no divided attention: set UNIFORMER.SPLIT False")
    return {
        **shared_arguments(cfg),
        "keep_ratios": cfg.UNIFORMER.PRUNE_RATIO,
        "trade_offs": cfg.UNIFORMER.TRADE_OFF,
    }


def scaled_light_arguments(cfg: CfgNode) -> dict:
    """The same with layer scale."""
    return {**light_arguments(cfg), "layer_scale": cfg.UNIFORMER.INIT_VALUE}


register_model("Uniformer_light_fp32", LightUniformer, light_arguments)
register_model("Uniformer_light_ls_fp32", LightUniformer, scaled_light_arguments)
