"""MorphMLP with every regrouping as a reshape and a copy, and stock convolutions (Zhang et al., ECCV 2022)."""

from collections import OrderedDict

from torch import Tensor, nn

from videobench.models import morphmlp


def _mlp(ours: morphmlp.Mlp) -> nn.Sequential:
    dim, hidden, out_dim = ours.fc1.in_features, ours.fc1.out_features, ours.fc2.out_features
    return nn.Sequential(OrderedDict(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, out_dim)))


class PlainStem(nn.Module):
    def __init__(self, ours: morphmlp.Stem) -> None:
        super().__init__()
        in_channels, half, width = ours.proj1.in_channels, ours.proj1.out_channels, ours.proj2.out_channels
        self.proj1 = nn.Conv3d(in_channels, half, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm3d(half)
        self.act = nn.GELU()
        self.proj2 = nn.Conv3d(half, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.norm2 = nn.BatchNorm3d(width)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.act(self.norm1(self.proj1(clip)))
        return self.norm2(self.proj2(x)).permute(0, 2, 3, 4, 1)


class PlainDownsample(nn.Module):
    def __init__(self, ours: morphmlp.Downsample) -> None:
        super().__init__()
        dim, out_dim = ours.proj.in_channels, ours.proj.out_channels
        self.proj = nn.Conv3d(dim, out_dim, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1))


def _chunked(x: Tensor, length: int, layer: nn.Linear) -> Tensor:
    """A layer over chunks of ``length`` neighbours in [B, T, tokens, C], channels in ``length`` groups."""
    clips, time, tokens, dim = x.shape
    x = x.reshape(clips, time, tokens // length, length, length, dim // length)
    x = layer(x.permute(0, 1, 2, 4, 3, 5).reshape(clips, time, tokens // length, length, dim))
    x = x.reshape(clips, time, tokens // length, length, length, dim // length)
    return x.permute(0, 1, 2, 4, 3, 5).reshape(clips, time, tokens, dim)


def _weighted_sum(branches: list[Tensor], reweight: nn.Module) -> Tensor:
    mean = sum(branches).mean((1, 2, 3))
    shares = reweight(mean).reshape(len(mean), -1, len(branches)).softmax(-1)
    return sum(branch * shares[:, None, None, None, :, i] for i, branch in enumerate(branches))


class PlainSpatialMixing(nn.Module):
    def __init__(self, ours: morphmlp.SpatialMixing) -> None:
        super().__init__()
        dim, bias = ours.proj.in_features, ours.mlp_c.bias is not None
        self.length = ours.length
        self.mlp_h = nn.Linear(dim, dim, bias=bias)
        self.mlp_w = nn.Linear(dim, dim, bias=bias)
        self.mlp_c = nn.Linear(dim, dim, bias=bias)
        self.reweight = _mlp(ours.reweight)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        exchanged = x.transpose(2, 3)
        h = _chunked(exchanged.reshape(*x.shape[:2], -1, x.shape[-1]), self.length, self.mlp_h)
        h = h.reshape(exchanged.shape).transpose(2, 3)
        w = _chunked(x.reshape(*x.shape[:2], -1, x.shape[-1]), self.length, self.mlp_w).reshape(x.shape)
        return self.proj(_weighted_sum([h, w, self.mlp_c(x)], self.reweight))


class PlainGlobalMixing(nn.Module):
    def __init__(self, ours: morphmlp.GlobalMixing) -> None:
        super().__init__()
        dim, bias = ours.proj.in_features, ours.mlp_c.bias is not None
        self.length = ours.length
        self.mlp_c = nn.Linear(dim, dim, bias=bias)
        self.mlp_h = nn.Linear(dim, dim, bias=bias)
        self.reweight = _mlp(ours.reweight)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        clips, time, height, width, dim = x.shape
        strided = x.reshape(clips, time, self.length, -1, dim).transpose(2, 3)
        h = _chunked(strided.reshape(clips, time, height * width, dim), self.length, self.mlp_h)
        h = h.reshape(strided.shape).transpose(2, 3).reshape(x.shape)
        return self.proj(_weighted_sum([h, self.mlp_c(x)], self.reweight))


class PlainTemporalMixing(nn.Module):
    def __init__(self, ours: morphmlp.TemporalMixing) -> None:
        super().__init__()
        width, dim = ours.mlp_t.in_features, ours.proj.in_features
        self.groups = ours.groups
        self.mlp_t = nn.Linear(width, width, bias=ours.mlp_t.bias is not None)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        clips, time, height, width, _ = x.shape
        lines = x.reshape(clips, time, height * width, self.groups, -1).permute(0, 2, 3, 1, 4)
        lines = self.mlp_t(lines.reshape(clips, height * width, self.groups, -1))
        lines = lines.reshape(clips, height * width, self.groups, time, -1).permute(0, 3, 1, 2, 4)
        return self.proj(lines.reshape(x.shape))


class PlainBlock(nn.Module):
    def __init__(self, ours: morphmlp.Block) -> None:
        super().__init__()
        dim = ours.norm1.normalized_shape[0]
        self.norm1 = nn.LayerNorm(dim)
        self.t_norm1 = nn.LayerNorm(dim)
        self.t_fc = PlainTemporalMixing(ours.t_fc)
        spatial = isinstance(ours.fc, morphmlp.SpatialMixing)
        self.fc = PlainSpatialMixing(ours.fc) if spatial else PlainGlobalMixing(ours.fc)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _mlp(ours.mlp)

    def forward(self, x: Tensor) -> Tensor:
        mixed = x + self.t_fc(self.t_norm1(x))
        x = x + self.fc(self.norm1(mixed))
        return x + self.mlp(self.norm2(x))


class PlainMorphMLP(nn.Module):
    """The video forms."""

    def __init__(self, ours: morphmlp.MorphMLP) -> None:
        super().__init__()
        if ours.num_frames == 1:
            raise ValueError("the plain MorphMLP takes videos")
        self.patch_embed1 = PlainStem(ours.patch_embed1)
        for stage in range(1, 5):
            if stage > 1 and hasattr(ours, f"patch_embed{stage}"):
                self.add_module(f"patch_embed{stage}", PlainDownsample(getattr(ours, f"patch_embed{stage}")))
            blocks = nn.ModuleList(PlainBlock(block) for block in getattr(ours, f"blocks{stage}"))
            self.add_module(f"blocks{stage}", blocks)
        self.norm = nn.LayerNorm(ours.num_features)
        self.head = nn.Linear(ours.num_features, ours.head.out_features)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.patch_embed1(clip)
        for stage in range(1, 5):
            if stage > 1 and hasattr(self, f"patch_embed{stage}"):
                x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"blocks{stage}"):
                x = block(x)
        return self.head(self.norm(x).mean((1, 2, 3)))
