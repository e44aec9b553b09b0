"""MoViNet with padded copies, a norm behind every convolution, and 2D convolutions between copies of the clip.

Kondratyuk et al., CVPR 2021; 2D convolutions take [N T, C, H, W] (over time [N, C, T, H W]), so that every one of them
stands between two copies where a clip has several frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.models import movinet, movinet_layers


class PlainUnit(nn.Module):
    """Padding, convolution, batch norm, activation."""

    def __init__(self, ours: movinet_layers.Unit, two_plus_one: bool, activation: bool) -> None:
        super().__init__()
        conv = ours.conv
        self.kernel, self.stride, self.padding, self.time_padding = (
            conv.kernel, conv.stride, conv.padding, conv.time_padding
        )  # fmt: skip
        self.flat = conv.weight.dim() == 4
        out_channels, per_group = conv.full_shape[:2]
        options = {"groups": conv.groups, "bias": conv.bias is not None}
        over_time = self.kernel[0] > 1
        if self.flat:
            kernel, stride = (self.kernel[:2], 1) if over_time else (self.kernel[1:], self.stride)
            self.conv2d = nn.Conv2d(per_group * conv.groups, out_channels, kernel, stride, **options)
        else:
            stride = (1, self.stride, self.stride)
            self.conv3d = nn.Conv3d(per_group * conv.groups, out_channels, self.kernel, stride, **options)
        self.norm = None if ours.norm is None else nn.BatchNorm3d(out_channels, eps=1e-3)
        self.activation = (nn.Hardswish() if two_plus_one else nn.SiLU()) if activation else None

    def forward(self, x: Tensor) -> Tensor:
        clips, _, _, height, width = x.shape
        x = F.pad(x, (*self._around(width), *self._around(height), self.time_padding, self.time_padding))
        frames, height, width = x.shape[2:]
        if not self.flat:
            x = self.conv3d(x)
        elif self.kernel[0] > 1:
            x = self.conv2d(x.reshape(clips, -1, frames, height * width))
            x = x.reshape(clips, -1, x.shape[2], height, width)
        else:
            x = self.conv2d(x.permute(0, 2, 1, 3, 4).reshape(clips * frames, -1, height, width))
            x = x.reshape(clips, frames, *x.shape[1:]).permute(0, 2, 1, 3, 4).contiguous()
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def _around(self, size: int) -> tuple[int, int]:
        if self.padding is not None:
            return self.padding, self.padding
        total = max(self.kernel[1] - (size % self.stride or self.stride), 0)
        return total // 2, total - total // 2


class PlainLayer(nn.Module):
    """One convolution or a spatial and a temporal one; a causal one keeps the frames before the next piece."""

    def __init__(self, ours: movinet_layers.ConvLayer, style: movinet_layers.Style) -> None:
        super().__init__()
        active = ours.conv_1.activation is not None
        self.conv_1 = PlainUnit(ours.conv_1, style.two_plus_one, active)
        self.conv_2 = None if ours.conv_2 is None else PlainUnit(ours.conv_2, style.two_plus_one, active)
        self.earlier_frames = ours.earlier_frames
        self.buffer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_2 is None:
            return self.conv_1(self._continued(x))
        return self.conv_2(self._continued(self.conv_1(x)))

    def _continued(self, x: Tensor) -> Tensor:
        if not self.earlier_frames:
            return x
        if self.buffer is None:
            self.buffer = x.new_zeros(*x.shape[:2], self.earlier_frames, *x.shape[3:])
        x = torch.cat((self.buffer, x), dim=2)
        self.buffer = x[:, :, -self.earlier_frames :].detach().clone()
        return x


class RunningMean(nn.Module):
    """Mean over space and over all frames up to each one."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor | float = 0.0
        self.frames = 0

    def forward(self, x: Tensor) -> Tensor:
        sums = self.total + x.mean((3, 4), keepdim=True).cumsum(2)
        count = torch.arange(1, x.shape[2] + 1, device=x.device, dtype=x.dtype) + self.frames
        self.total, self.frames = sums[:, :, -1:].detach(), self.frames + x.shape[2]
        return sums / count.reshape(1, 1, -1, 1, 1)


class PlainSqueezeExcitation(nn.Module):
    def __init__(self, ours: movinet_layers.SqueezeExcitation, style: movinet_layers.Style) -> None:
        super().__init__()
        if ours.position_scale is not None:
            raise ValueError("the plain MoViNet has no positional encoding")
        self.fc1 = PlainLayer(ours.fc1, style)
        self.fc2 = PlainLayer(ours.fc2, style)
        self.style = style
        self.running = RunningMean() if style.causal else None

    def forward(self, x: Tensor) -> Tensor:
        if self.running is None:
            squeezed = F.adaptive_avg_pool3d(x, 1)
        else:
            squeezed = torch.cat((self.running(x), x.mean((3, 4), keepdim=True)), dim=1)
        scores = self.fc2(self.fc1(squeezed))
        return x * ((0.2 * scores + 0.5).clamp(0, 1) if self.style.two_plus_one else scores.sigmoid())


class PlainShortcutPool(nn.Module):
    def __init__(self, ours: movinet_layers.ShortcutPool) -> None:
        super().__init__()
        self.padding = ours.padding

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = (1, 3, 3), (1, 2, 2)
        if self.padding is not None:
            return F.avg_pool3d(x, kernel, stride, (0, self.padding, self.padding))
        odd = (0, x.shape[3] % 2, x.shape[4] % 2)
        return F.avg_pool3d(x, kernel, stride, odd, ceil_mode=True, count_include_pad=False)


class PlainBlock(nn.Module):
    def __init__(self, ours: movinet_layers.Block, style: movinet_layers.Style) -> None:
        super().__init__()
        self.expand = PlainLayer(ours.expand, style)
        self.deep = PlainLayer(ours.deep, style)
        self.se = PlainSqueezeExcitation(ours.se, style)
        self.project = PlainLayer(ours.project, style)
        self.res = None
        if ours.res is not None:
            layers = [
                PlainShortcutPool(layer) if isinstance(layer, movinet_layers.ShortcutPool) else PlainLayer(layer, style)
                for layer in ours.res
            ]
            self.res = nn.Sequential(*layers)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.project(self.se(self.deep(self.expand(x))))
        return (x if self.res is None else self.res(x)) + self.alpha * branch


class PlainMoViNet(nn.Module):
    """Base and stream; a causal network goes on where its last call ended, until :meth:`clean_activation_buffers`."""

    def __init__(self, ours: movinet.MoViNet) -> None:
        super().__init__()
        style = ours.style
        self.conv1 = PlainLayer(ours.conv1, style)
        self.blocks = nn.ModuleDict({name: PlainBlock(block, style) for name, block in ours.blocks.items()})
        self.conv7 = PlainLayer(ours.conv7, style)
        self.cgap = RunningMean() if style.causal else None
        hidden, last = (PlainLayer(ours.classifier[i], style) for i in (0, 3))
        self.classifier = nn.Sequential(hidden, nn.SiLU(), nn.Identity(), last)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.conv1(clip)
        for block in self.blocks.values():
            x = block(x)
        x = self.conv7(x)
        x = F.adaptive_avg_pool3d(x, 1) if self.cgap is None else self.cgap(x)[:, :, -1:]
        return self.classifier(x).flatten(1)

    def clean_activation_buffers(self) -> None:
        for module in self.modules():
            if isinstance(module, PlainLayer):
                module.buffer = None
            elif isinstance(module, RunningMean):
                module.total, module.frames = 0.0, 0
