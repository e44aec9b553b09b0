"""Convolutions of MoViNet in the order in memory that suits the device."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def memory_order(device: torch.device) -> torch.memory_format:
    """The order in which clips are worked on.

    On CPUs channels lie innermost: pointwise convolutions are matrix products, depthwise ones several times faster.
    CUDA's own depthwise kernels want channels first (channels last goes to cuDNN's grouped convolutions).
    """
    return torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format


def layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if channels_last else torch.contiguous_format


# With channels last, clips [N, C, T, H, W] and their frames [N T, C, H, W] are views of each other. Passing through
# [N, T, H, W, C] keeps the strides canonical where an axis has extent 1, as kernels want them to see channels last.


def as_images(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, 1).movedim(-1, 1)


def as_clips(images: Tensor, frames: int) -> Tensor:
    return images.movedim(1, -1).unflatten(0, (-1, frames)).movedim(-1, 1)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros that TensorFlow's "same" puts before and after an axis."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


class Convolution(nn.Module):
    """A convolution on [N, C, T, H, W], strided over space only, whose weight keeps its published shape.

    Args:
        kernel: extent in time, height, width.
        padding: zeros on each spatial side; None means TensorFlow's "same".
        time_padding: zeros before and after the clip.
        flat: the weight is stored as that of a 2-D convolution, over space or (``kernel`` longer than 1) over time.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        *,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = 0,
        time_padding: int = 0,
        flat: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.padding, self.time_padding = padding, time_padding
        self.full_shape = (out_channels, in_channels // groups, *kernel)
        stored = kernel if not flat else kernel[1:] if kernel[0] == 1 else kernel[:2]
        self.weight = nn.Parameter(torch.empty(*self.full_shape[:2], *stored))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with another weight and bias of the same shapes."""
        weight = weight.view(self.full_shape)
        channels_last = layout(x) == torch.channels_last_3d
        if self.kernel == (1, 1, 1) and channels_last:
            return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
        if self.kernel[1:] == (1, 1) and self.stride == 1 and channels_last:
            # Over time alone: an image of time and place, for which CPUs have far better kernels.
            places = x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)
            y = F.conv2d(places, weight[..., 0], bias, padding=(self.time_padding, 0), groups=self.groups)
            return y.movedim(1, -1).unflatten(2, x.shape[3:]).movedim(-1, 1)
        if self.kernel[0] == 1 and channels_last:
            return as_clips(self.convolve_images(as_images(x), weight, bias), x.shape[2])
        (pad_h, skip_h), (pad_w, skip_w) = (self.padding_of(size) for size in x.shape[-2:])
        stride, padding = (1, self.stride, self.stride), (self.time_padding, pad_h, pad_w)
        y = F.conv3d(x, weight, bias, stride, padding, groups=self.groups)
        y = y.contiguous(memory_format=layout(x))
        return y[..., skip_h:, skip_w:] if skip_h or skip_w else y

    def convolve_images(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Over space alone, on images [N, C, H, W]."""
        (pad_h, skip_h), (pad_w, skip_w) = (self.padding_of(size) for size in x.shape[-2:])
        weight = weight.view(*self.full_shape[:2], *self.kernel[1:])
        y = F.conv2d(x, weight, bias, self.stride, (pad_h, pad_w), groups=self.groups)
        return y[..., skip_h:, skip_w:] if skip_h or skip_w else y

    def padding_of(self, size: int) -> tuple[int, int]:
        """Zeros on both sides of an axis, and how many outputs to drop at its start."""
        if self.padding is not None:
            return self.padding, 0
        before, after = _same_padding(size, self.kernel[1], self.stride)
        # One stride more on both sides shifts the windows by one output: cheaper than a padded copy of the input.
        return (before, 0) if before == after else (before + self.stride, 1)

    def output_size(self, size: int) -> int:
        if self.padding is None:
            return -(-size // self.stride)
        return (size + 2 * self.padding - self.kernel[1]) // self.stride + 1

    def extra_repr(self) -> str:
        padding = "same" if self.padding is None else self.padding
        return f"{list(self.weight.shape)}, stride={self.stride}, padding={padding}, groups={self.groups}"
