"""Motionformer with trajectory attention as equations 3 to 6 of the paper say it (Patrick et al., NeurIPS 2021)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from videobench.models.motionformer import Motionformer
from videobench.models.motionformer_attention import TrajectoryAttention


class PlainTrajectoryAttention(nn.Module):
    """All scores of the first step at once, [N, heads, S, F, P], and keys and values of every trajectory token."""

    def __init__(self, ours: TrajectoryAttention) -> None:
        super().__init__()
        dim, bias = ours.proj.in_features, ours.qkv.bias is not None
        self.heads, self.frames, self.project_values = ours.num_heads, ours.frames, ours.project_values
        self.scale = (dim // self.heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_q = nn.Linear(dim, dim, bias=bias)
        self.proj_kv = nn.Linear(dim, 2 * dim, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        clips, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(clips, count, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        class_scores = (q[:, :, :1] * self.scale) @ k.transpose(-2, -1)
        class_token = (class_scores.softmax(-1) @ v).transpose(1, 2).reshape(clips, 1, dim)

        q, k, v = q[:, :, 1:], k[:, :, 1:], v[:, :, 1:]
        patches = count - 1
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights = scores.reshape(clips, self.heads, patches, self.frames, -1).softmax(-1)
        y = torch.einsum("nhsfp,nhfpd->nhsfd", weights, v.reshape(clips, self.heads, self.frames, -1, v.shape[-1]))
        y = y.permute(0, 2, 3, 1, 4).reshape(clips, patches, self.frames, dim)

        frame_of_patch = torch.arange(self.frames, device=y.device).repeat_interleave(patches // self.frames)
        own = y[:, torch.arange(patches, device=y.device), frame_of_patch]
        query = self.proj_q(own).reshape(clips, patches, self.heads, -1).transpose(1, 2) * self.scale
        keys, values = self.proj_kv(y).chunk(2, dim=-1)
        if not self.project_values:
            values = y
        keys, values = (
            x.reshape(clips, patches, self.frames, self.heads, -1).permute(0, 3, 1, 2, 4) for x in (keys, values)
        )
        weights = torch.einsum("nhsd,nhsfd->nhsf", query, keys).softmax(-1)
        out = torch.einsum("nhsf,nhsfd->nhsd", weights, values).transpose(1, 2).reshape(clips, patches, dim)
        return self.proj(torch.cat((class_token, out), dim=1))


class PlainBlock(nn.Module):
    def __init__(self, attention: TrajectoryAttention, hidden: int) -> None:
        super().__init__()
        dim = attention.proj.in_features
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainTrajectoryAttention(attention)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        layers = OrderedDict(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dim))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchConvolution(nn.Module):
    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.proj = convolution


class PlainMotionformer(nn.Module):
    """Trajectory attention with one classifier, separate positions and tubes of several frames, 224 pixels."""

    def __init__(self, ours: Motionformer) -> None:
        super().__init__()
        attention = ours.blocks[0].attn
        if not isinstance(attention, TrajectoryAttention) or ours.outputs or ours.joint_positions or ours.tube == 1:
            raise ValueError(
                "the plain Motionformer has trajectory attention, separate positions, tubes of several frames and one "
                "classifier"
            )
        dim, side, tube = ours.num_features, ours.patch_size, ours.tube
        self.cls_token = nn.Parameter(torch.zeros_like(ours.cls_token))
        self.pos_embed = nn.Parameter(torch.zeros_like(ours.pos_embed))
        self.temp_embed = nn.Parameter(torch.zeros_like(ours.temp_embed))
        # Part of every checkpoint, read by no forward pass.
        self.patch_embed = PatchConvolution(nn.Conv2d(ours.in_channels, dim, side, stride=side))
        tubes = (tube, side, side)
        self.patch_embed_3d = PatchConvolution(nn.Conv3d(ours.in_channels, dim, tubes, stride=tubes))
        self.blocks = nn.ModuleList(PlainBlock(block.attn, block.mlp.fc1.out_features) for block in ours.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        if isinstance(ours.pre_logits, nn.Identity):
            self.pre_logits = nn.Identity()
        else:
            self.pre_logits = nn.Sequential(OrderedDict(fc=nn.Linear(dim, dim), act=type(ours.pre_logits.act)()))
        self.head = nn.Linear(dim, ours.head.out_features)

    def forward(self, clip: Tensor) -> Tensor:
        patches = self.patch_embed_3d.proj(clip)
        frames, rows, columns = patches.shape[2:]
        grid = self.pos_embed[:, 1:]
        if grid.shape[1] != rows * columns:
            side = int(grid.shape[1] ** 0.5)
            grid = grid.transpose(1, 2).reshape(1, -1, side, side)
            grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
            grid = grid.flatten(2).transpose(1, 2)
        positions = grid.repeat(1, frames, 1) + self.temp_embed.repeat_interleave(rows * columns, dim=1)
        tokens = patches.flatten(2).transpose(1, 2) + positions
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(clip), -1, -1)
        x = torch.cat((class_token, tokens), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pre_logits(self.norm(x)[:, 0]))
