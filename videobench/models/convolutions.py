"""Special 3D convolutions with the names and shapes of ``nn.Conv3d``, each done the way that runs fast.

They work on clips [N, C, T, H, W] in the memory order of ``torch.channels_last_3d``; other orders give the same numbers
at the price of copies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def product_of_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3D convolution whose stride is its kernel, without padding, as one matrix product.

    Args:
        x: clip [N, C, T, H, W], whose sides are multiples of the kernel's.
        weight: filters [C', C, t, h, w].
        bias: [C'], or None.

    Returns:
        [N, T / t, H / h, W / w, C'].
    """
    tubes = (
        x.unflatten(4, (-1, weight.shape[4])).unflatten(3, (-1, weight.shape[3])).unflatten(2, (-1, weight.shape[2]))
    )
    return F.linear(tubes.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4), weight.flatten(1), bias)


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution, which is one matrix product with channels last: [N, C, T, H, W] -> [N, C', T, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)


class DepthwiseConv3d(nn.Conv3d):
    """One odd cubic filter per channel, stride 1, size kept: [N, C, T, H, W] -> [N, C, T, H, W].

    CUDA's own depthwise kernels want channels first (channels last goes to cuDNN's grouped convolutions). On CPUs the
    forward pass is many times faster with channels last, and the backward pass of the stock library is its slow part:
    :class:`_DepthwiseGradient` takes its place in single precision and bfloat16.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__(dim, dim, size, padding=size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last_3d)
        if x.device.type == "cpu" and torch.is_grad_enabled() and x.dtype in (torch.float32, torch.bfloat16):
            return _DepthwiseGradient.apply(x, self.weight, self.bias)
        return super().forward(x)


class _DepthwiseGradient(torch.autograd.Function):
    """The convolution of :class:`DepthwiseConv3d` with a backward pass made of fast forward and 2D kernels."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            # With stride 1 and the size kept, this is the same convolution with the filter turned round.
            turned = weight.to(gradient.dtype).flip(2, 3, 4)
            for_x = F.conv3d(gradient, turned, padding=weight.shape[-1] // 2, groups=len(weight)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            for_weight = _weight_gradient(x.to(gradient.dtype), gradient, weight.shape[-1]).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((0, 2, 3, 4), dtype=weight.dtype)
        return for_x, for_weight, for_bias


def _weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Gradient [C, 1, size, size, size] for input and output gradient [N, C, T, H, W].

    Each temporal tap is a 2D problem on the frames that it pairs, and each 2D problem is cut into 3x3 windows, the
    filter size that CPU libraries have a fast weight gradient for.
    """
    _, channels, frames, height, width = x.shape
    radius = size // 2
    # Frames first, so that every range of frames is one dense batch of images with channels last.
    x = x.permute(2, 0, 3, 4, 1)
    gradient = gradient.permute(2, 0, 3, 4, 1).contiguous().permute(0, 1, 4, 2, 3)
    x = F.pad(x, (0, 0, radius, radius, radius, radius))
    window_weight = x.new_empty(channels, 1, 3, 3)
    result = x.new_zeros(channels, 1, size, size, size)
    for top in range(0, size - 2, 2):
        for left in range(0, size - 2, 2):
            window = x[:, :, top : top + height + 2, left : left + width + 2].contiguous().permute(0, 1, 4, 2, 3)
            for shift in range(-min(radius, frames - 1), min(radius, frames - 1) + 1):
                first, last = max(0, -shift), min(frames, frames - shift)
                result[:, :, shift + radius, top : top + 3, left : left + 3] = torch.ops.aten.convolution_backward(
                    gradient[first:last].flatten(0, 1),
                    window[first + shift : last + shift].flatten(0, 1),
                    window_weight,
                    None,
                    [1, 1],
                    [0, 0],
                    [1, 1],
                    False,
                    [0, 0],
                    channels,
                    [False, True, False],
                )[1]
    return result
