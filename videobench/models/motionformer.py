"""Motionformer: a video transformer with attention along motion paths (Patrick et al., NeurIPS 2021).

A ViT whose patches span two frames, with trajectory, joint or divided attention. EPIC-Kitchens networks have a verb
and a noun classifier. Parameter names are those of the published checkpoints.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from videobench.config import CfgNode
from videobench.models.convolutions import product_of_patches
from videobench.models.layers import (
    DropPath,
    VideoModel,
    check_clip,
    checkpoint_counts,
    checkpointed_blocks,
    group_parameters,
    run_block,
)
from videobench.models.motionformer_attention import DividedAttention, JointAttention, TrajectoryAttention
from videobench.models.motionformer_image_weights import inflate_image_weights, resize_grid
from videobench.models.registry import register_model

# The position table is the image network's, whatever the crop; other grids resize it in the forward pass.
TABLE_CROP = 224
EPIC_CLASSES = {"verb": 97, "noun": 300}
ATTENTION = ("trajectory", "joint", "divided")
HEAD_ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU}


class ImagePatches(nn.Module):
    """Patches of single frames: a 2D convolution whose stride is its kernel, as one matrix product."""

    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, clip: Tensor) -> Tensor:
        """Clip [N, C, T, H, W] to tokens [N, T * rows * columns, dim]."""
        return product_of_patches(clip, self.proj.weight.unsqueeze(2), self.proj.bias).flatten(1, 3)


class TubePatches(nn.Module):
    """Patches of several frames: a 3D convolution whose stride is its kernel, as one matrix product."""

    def __init__(self, channels: int, dim: int, tube: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, (tube, patch_size, patch_size), stride=(tube, patch_size, patch_size))

    def forward(self, clip: Tensor) -> Tensor:
        """Clip [N, C, T, H, W] to tokens [N, T / tube * rows * columns, dim]."""
        return product_of_patches(clip, self.proj.weight, self.proj.bias).flatten(1, 3)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm transformer block: attention over space and time, then an MLP."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DividedBlock(Block):
    """A block with attention over time (never dropped) in front of the attention over space."""

    def __init__(self, dim: int, timeattn: nn.Module, attn: nn.Module, mlp: nn.Module, drop_path: float) -> None:
        super().__init__(dim, attn, mlp, drop_path)
        self.timeattn = timeattn
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.timeattn(self.norm3(x)))


class Motionformer(VideoModel):
    """The network; the defaults are ViT-B/16 on 16 frames with trajectory attention, as published for Kinetics.

    A clip has exactly ``temporal_resolution * tube`` frames and sides that are multiples of ``patch_size``. Sizes other
    than 224 px resize the 14 x 14 position table bicubically (except with ``pos_embed="joint"``, which has none).

    The published code starts ``patch_embed_3d`` at zero, because image weights always replace it; here it starts like
    any convolution, so that a network without image weights sees its input.

    Args:
        num_classes: classifier outputs, or several named ones: ``{"verb": 97, "noun": 300}``.
        in_channels: channels of the clip.
        patch_size: side of a patch in pixels.
        tube: frames per patch; 1 takes the image network's 2D patch embedding.
        temporal_resolution: time positions (F), frames of the clip over ``tube``.
        dim: channels of the tokens.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden size of the MLPs over ``dim``.
        qkv_bias: biases in the query, key and value projections.
        attention: ``"trajectory"``, ``"joint"`` or ``"divided"``.
        project_values: trajectory attention with projected values, as in the paper; the published weights want False.
        pos_embed: ``"separate"`` (space + time) or ``"joint"`` (one vector per token).
        head_act: activation of an extra linear layer before the classifier, ``"tanh"`` or ``"gelu"``; None leaves the
            layer out.
        drop: dropout in attention results and MLPs.
        pos_drop: dropout after the position embedding.
        attn_drop: dropout of attention weights (trajectory: of the first step; in the published code divided attention
            takes no notice of it).
        head_drop: dropout before the classifier.
        drop_path: largest stochastic-depth rate, linear over the blocks.
        checkpoint_blocks: leading blocks that recompute their activations in the backward pass; -1 means all.

    Raises:
        ValueError: for an unknown ``attention``, ``pos_embed`` or ``head_act``, or heads that do not divide ``dim``.
    """

    def __init__(
        self,
        num_classes: int | dict[str, int] = 400,
        *,
        in_channels: int = 3,
        patch_size: int = 16,
        tube: int = 2,
        temporal_resolution: int = 8,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attention: str = "trajectory",
        project_values: bool = False,
        pos_embed: str = "separate",
        head_act: str | None = "tanh",
        drop: float = 0.0,
        pos_drop: float = 0.0,
        attn_drop: float = 0.0,
        head_drop: float = 0.0,
        drop_path: float = 0.2,
        checkpoint_blocks: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        _check_choice("VIT.ATTN_LAYER", attention, ATTENTION)
        _check_choice("VIT.POS_EMBED", pos_embed, ("separate", "joint"))
        if dim % num_heads:
            raise ValueError(f"VIT.EMBED_DIM {dim} is no multiple of VIT.NUM_HEADS {num_heads}")
        self.num_features = dim
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.tube = tube
        self.temporal_resolution = temporal_resolution
        self.recomputed = checkpointed_blocks(checkpoint_blocks, [depth])[0]

        table_side = TABLE_CROP // patch_size
        self.patch_embed = ImagePatches(in_channels, dim, patch_size)
        self.patch_embed_3d = TubePatches(in_channels, dim, tube, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + table_side**2, dim))
        if pos_embed == "joint":
            self.st_embed = nn.Parameter(torch.zeros(1, 1 + temporal_resolution * table_side**2, dim))
        else:
            self.temp_embed = nn.Parameter(torch.zeros(1, temporal_resolution, dim))
        self.joint_positions = pos_embed == "joint"
        self.pos_drop = nn.Dropout(pos_drop)

        attention_layer = partial(
            {"trajectory": TrajectoryAttention, "joint": JointAttention, "divided": DividedAttention}[attention],
            dim,
            num_heads,
            temporal_resolution,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=drop,
        )
        self.blocks = nn.ModuleList()
        for index in range(depth):
            mlp = Mlp(dim, int(dim * mlp_ratio), drop)
            rate = drop_path * index / max(depth - 1, 1)
            if attention == "divided":
                space, time = attention_layer(axis="space"), attention_layer(axis="time")
                self.blocks.append(DividedBlock(dim, time, space, mlp, rate))
            elif attention == "trajectory":
                self.blocks.append(Block(dim, attention_layer(project_values=project_values), mlp, rate))
            else:
                self.blocks.append(Block(dim, attention_layer(), mlp, rate))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

        self.pre_logits: nn.Module = nn.Identity()
        if head_act is not None:
            _check_choice("VIT.HEAD_ACT", head_act, HEAD_ACTIVATIONS)
            layers = OrderedDict(fc=nn.Linear(dim, dim), act=HEAD_ACTIVATIONS[head_act]())
            self.pre_logits = nn.Sequential(layers)
        self.head_drop = nn.Dropout(head_drop)
        self._init_weights()
        self._build_heads(num_classes)
        self._freeze_unused()

    def _init_weights(self) -> None:
        for table in (self.cls_token, self.pos_embed, *([self.st_embed] if self.joint_positions else [])):
            nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _build_heads(self, num_classes: int | dict[str, int]) -> None:
        several = isinstance(num_classes, dict)
        self.outputs = list(num_classes) if several else None
        for index, size in enumerate(num_classes.values() if several else [num_classes]):
            head = nn.Linear(self.num_features, size, device=self.norm.weight.device, dtype=self.norm.weight.dtype)
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
            setattr(self, f"head{index}" if several else "head", head)

    def _freeze_unused(self) -> None:
        # Checkpoints hold these but no forward pass reads them; distributed training wants to know.
        (self.patch_embed if self.tube > 1 else self.patch_embed_3d).requires_grad_(False)
        self.pos_embed.requires_grad_(not self.joint_positions)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Features of the class token [N, dim], after the extra linear layer where there is one."""
        rows, columns = self._grid(clip)
        patches = (self.patch_embed_3d if self.tube > 1 else self.patch_embed)(clip)
        x = torch.cat((self.cls_token.expand(clip.shape[0], -1, -1), patches), dim=1)
        x = self.pos_drop(x + self._positions(rows, columns))
        for index, block in enumerate(self.blocks):
            x = run_block(block, x, recompute=index < self.recomputed)
        return self.pre_logits(self.norm(x).select(1, 0))

    def forward_head(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits [N, num_classes], or a dict of them for several classifiers."""
        features = self.head_drop(features)
        if self.outputs is None:
            return self.head(features)
        return {output: getattr(self, f"head{index}")(features) for index, output in enumerate(self.outputs)}

    def _grid(self, clip: Tensor) -> tuple[int, int]:
        check_clip(clip, self.in_channels, min_size=self.patch_size)
        frames, height, width = clip.shape[2:]
        if frames != self.temporal_resolution * self.tube:
            raise ValueError(
                f"the network takes exactly {self.temporal_resolution * self.tube} frames (VIT.TEMPORAL_RESOLUTION "
                f"{self.temporal_resolution} x VIT.PATCH_SIZE_TEMP {self.tube}), got {frames}"
            )
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"the network takes frames whose sides are multiples of {self.patch_size}, got {height}x{width}"
            )
        if self.joint_positions and not height == width == TABLE_CROP:
            raise ValueError(
                f"VIT.POS_EMBED joint takes frames of {TABLE_CROP}x{TABLE_CROP} only, got {height}x{width}"
            )
        return height // self.patch_size, width // self.patch_size

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding of all tokens, [1, 1 + F * rows * columns, dim]."""
        if self.joint_positions:
            return self.st_embed
        class_token, grid = self.pos_embed.split([1, self.pos_embed.shape[1] - 1], dim=1)
        grid = resize_grid(grid, rows, columns)
        return torch.cat((class_token, (grid.unsqueeze(1) + self.temp_embed.unsqueeze(2)).flatten(1, 2)), dim=1)

    def reset_head(self, num_classes: int | dict[str, int]) -> None:
        """New classifiers in place of the present ones; their number may change."""
        for name in ["head"] if self.outputs is None else [f"head{index}" for index in range(len(self.outputs))]:
            delattr(self, name)
        self._build_heads(num_classes)

    def is_head(self, name: str) -> bool:
        """Whether a parameter belongs to a classifier: ``head``, or ``head0``, ``head1``, ... of several."""
        return name.startswith("head")

    def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of an image ViT in the shapes of this network, or a Motionformer's for its number of frames."""
        if "patch_embed.proj.weight" in state and "patch_embed_3d.proj.weight" not in state:
            return state | inflate_image_weights(state, self)
        table = state.get("temp_embed")
        if self.joint_positions or table is None or table.dim() != 3 or table.shape == self.temp_embed.shape:
            return state
        # The published loader leaves the table at zero instead.
        return state | {"temp_embed": interpolate(table.mT, size=self.temporal_resolution, mode="linear").mT}

    def no_weight_decay(self) -> set[str]:
        """Position embeddings and class token (the published training decayed them all the same)."""
        return {"cls_token", "pos_embed", "st_embed" if self.joint_positions else "temp_embed"}

    def layer_groups(self) -> list[list[str]]:
        """Embeddings, the blocks one by one, then everything behind them."""

        def layer_of(name: str) -> int:
            if name.startswith("blocks."):
                return 1 + int(name.split(".")[1])
            behind_blocks = name.startswith(("norm.", "pre_logits.")) or self.is_head(name)
            return len(self.blocks) + 1 if behind_blocks else 0

        return group_parameters(self, layer_of)


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} is {' or '.join(choices)}, got {value!r}")


def motionformer_arguments(cfg: CfgNode) -> dict:
    """Arguments of :class:`Motionformer`; EPIC-Kitchens always has its 97 verbs and 300 nouns."""
    vit = cfg.VIT
    epic = cfg.TRAIN.DATASET.lower() == "epickitchens"
    return {
        "num_classes": EPIC_CLASSES if epic else cfg.MODEL.NUM_CLASSES,
        "in_channels": vit.CHANNELS,
        "patch_size": vit.PATCH_SIZE,
        "tube": vit.PATCH_SIZE_TEMP,
        "temporal_resolution": vit.TEMPORAL_RESOLUTION,
        "dim": vit.EMBED_DIM,
        "depth": vit.DEPTH,
        "num_heads": vit.NUM_HEADS,
        "mlp_ratio": vit.MLP_RATIO,
        "qkv_bias": vit.QKV_BIAS,
        "attention": vit.ATTN_LAYER,
        "project_values": not vit.USE_ORIGINAL_TRAJ_ATTN_CODE,
        "pos_embed": vit.POS_EMBED,
        "head_act": vit.HEAD_ACT if vit.USE_MLP else None,
        "drop": vit.DROP,
        "pos_drop": vit.POS_DROPOUT,
        "attn_drop": vit.ATTN_DROPOUT,
        "head_drop": vit.HEAD_DROPOUT,
        "drop_path": vit.DROP_PATH,
        "checkpoint_blocks": checkpoint_counts(cfg),
    }


register_model("VisionTransformer", Motionformer, motionformer_arguments)
