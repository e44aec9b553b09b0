"""UniFormer from stock layers, channels first throughout (Li et al., ICLR 2022, section 3)."""

from collections import OrderedDict

from torch import Tensor, nn

from videobench.models import uniformer


class PlainEmbed(nn.Module):
    def __init__(self, ours: uniformer.PatchEmbed) -> None:
        super().__init__()
        conv = ours.proj
        self.norm = nn.LayerNorm(conv.out_channels)
        self.proj = nn.Conv3d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        clips, _, *grid = x.shape
        x = self.norm(x.flatten(2).transpose(1, 2))
        return x.reshape(clips, *grid, -1).permute(0, 4, 1, 2, 3).contiguous()


class PlainConvBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = nn.Conv3d(dim, dim, 1)
        self.conv2 = nn.Conv3d(dim, dim, 1)
        self.attn = nn.Conv3d(dim, dim, 5, padding=2, groups=dim)
        self.norm2 = nn.BatchNorm3d(dim)
        layers = OrderedDict(fc1=nn.Conv3d(dim, hidden, 1), act=nn.GELU(), fc2=nn.Conv3d(hidden, dim, 1))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class PlainAttention(nn.Module):
    def __init__(self, dim: int, heads: int, scale: float, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        clips, count, dim = x.shape
        q, k, v = self.qkv(x).reshape(clips, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(clips, count, dim))


class PlainAttentionBlock(nn.Module):
    def __init__(self, ours: uniformer.AttentionBlock) -> None:
        super().__init__()
        dim, hidden, attention = ours.attn.proj.in_features, ours.mlp.fc1.out_features, ours.attn
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, attention.num_heads, attention.scale, attention.qkv.bias is not None)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        layers = OrderedDict(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dim))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        shape = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).reshape(shape)


class PlainUniformer(nn.Module):
    """The sizes S and B, with joint attention."""

    def __init__(self, ours: uniformer.Uniformer) -> None:
        super().__init__()
        for stage in range(1, 5):
            self.add_module(f"patch_embed{stage}", PlainEmbed(getattr(ours, f"patch_embed{stage}")))
            blocks = nn.ModuleList()
            for block in getattr(ours, f"blocks{stage}"):
                if isinstance(block, uniformer.ConvBlock) and not block.layer_scale:
                    blocks.append(PlainConvBlock(block.conv1.in_channels, block.mlp.fc1.out_channels))
                elif isinstance(block, uniformer.AttentionBlock):
                    blocks.append(PlainAttentionBlock(block))
                else:
                    raise ValueError("the plain UniFormer has convolution blocks and joint attention, no layer scale")
            self.add_module(f"blocks{stage}", blocks)
        self.norm = nn.BatchNorm3d(ours.num_features)
        self.head = nn.Linear(ours.num_features, ours.head.out_features)

    def forward(self, clip: Tensor) -> Tensor:
        x = clip
        for stage in range(1, 5):
            x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"blocks{stage}"):
                x = block(x)
        return self.head(self.norm(x).flatten(2).mean(-1))
