"""3D convolutions in bfloat16 and float16 that can be trusted.

Some cuDNN releases compute them wrong, and some torch releases avoid cuDNN for them at many times the time and memory
(https://github.com/pytorch/pytorch/issues/163539 and 166643). Single precision is right and fast in all of them.
"""

import logging
from collections.abc import Callable
from functools import cache, partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.engine.arithmetic import LOWER
from videobench.models.convolutions import product_of_patches

logger = logging.getLogger(__name__)

#: Largest difference to single precision, in units of the largest result, and how much slower is too slow.
TOLERANCE, TIMES_SLOWER = 0.05, 2.0
#: Frames, height and width of the trial, in outputs of the convolution.
TRIAL = (4, 28, 28)
Convolve = Callable[..., Tensor]


class ProductConv3d(nn.Conv3d):
    """A convolution whose stride is its kernel, as one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        whole = [size // step * step for size, step in zip(x.shape[2:], self.stride, strict=True)]
        x = x[:, :, : whole[0], : whole[1], : whole[2]]
        return product_of_patches(x, self.weight, self.bias).permute(0, 4, 1, 2, 3)


class SinglePrecisionConv3d(nn.Conv3d):
    """A convolution in float32 whatever the precision around it; the result has that precision."""

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(device, enabled=False):
            return self._conv_forward(x.float(), self.weight.float(), bias).to(dtype)


def avoid_unsound_convolutions(model: nn.Module, device: torch.device, precision: str) -> None:
    """Let a network on a GPU do without the 3D convolutions that its libraries get wrong or do very slowly.

    Every form of stock 3D convolution in the network is tried once per process on made-up numbers, a few milliseconds
    each. A convolution that fails becomes a matrix product where its stride is its kernel, otherwise it works in
    float32. Parameters stay the same objects.

    Args:
        precision: ``TRAIN.PRECISION`` or ``TEST.PRECISION``; nothing is done for ``fp32``, nor on CPUs.
    """
    if device.type != "cuda" or precision not in LOWER:
        return
    faults: dict[str, int] = {}
    for module in model.modules():
        # Subclasses choose their own way of computing.
        if type(module) is nn.Conv3d and (fault := _fault_on(device, LOWER[precision], *_form_of(module))):
            replace(module)
            faults[fault] = faults.get(fault, 0) + 1
    if faults:
        logger.warning(
            "3D convolutions in %s are unsound here (torch %s, cuDNN %s): %s; they become matrix products or float32",
            precision,
            torch.__version__,
            torch.backends.cudnn.version(),
            ", ".join(f"{count} {fault}" for fault, count in faults.items()),
        )


def replace(convolution: nn.Conv3d) -> None:
    """Make a stock convolution do without the library's lower precision, in place."""
    patches = (
        convolution.stride == convolution.kernel_size
        and convolution.padding == (0, 0, 0)
        and convolution.dilation == (1, 1, 1)
        and convolution.groups == 1
    )
    convolution.__class__ = ProductConv3d if patches else SinglePrecisionConv3d


def fault_of(
    convolve: Convolve, x: Tensor, weight: Tensor, dtype: torch.dtype, seconds: Callable[[Callable[[], object]], float]
) -> str | None:
    """What is wrong with a convolution in a lower precision, compared with itself in float32; None if nothing is.

    Args:
        convolve: the convolution of an input and filters.
        x: input, float32.
        weight: filters, float32.
        dtype: the lower precision.
        seconds: times a computation.
    """

    def forward_and_backward(dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
        out = convolve(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, out.detach())]

    for what, expected, found in zip(
        ("results", "gradients", "gradients"),
        forward_and_backward(torch.float32),
        forward_and_backward(dtype),
        strict=True,
    ):
        difference = ((found.float() - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE:
            return f"with wrong {what} (by {difference:.0%})"
    slower = seconds(partial(forward_and_backward, dtype)) / seconds(partial(forward_and_backward, torch.float32))
    return f"{slower:.0f} times slower than in float32" if slower > TIMES_SLOWER else None


def _form_of(convolution: nn.Conv3d) -> tuple:
    return (
        tuple(convolution.weight.shape),
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
        convolution.weight.is_contiguous(memory_format=torch.channels_last_3d),
    )


@cache
def _fault_on(
    device: torch.device, dtype: torch.dtype, shape, stride, padding, dilation, groups, innermost: bool
) -> str | None:
    generator = torch.Generator(device).manual_seed(0)
    sides = [
        (out - 1) * step + space * (taps - 1) + 1 - 2 * around
        for out, step, taps, around, space in zip(TRIAL, stride, shape[2:], padding, dilation, strict=True)
    ]
    x = torch.randn((2, shape[1] * groups, *sides), generator=generator, device=device)
    weight = torch.randn(shape, generator=generator, device=device) / torch.Size(shape[1:]).numel() ** 0.5
    if innermost:
        x, weight = (tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in (x, weight))
    convolve = partial(F.conv3d, stride=stride, padding=padding, dilation=dilation, groups=groups)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return fault_of(convolve, x, weight, dtype, partial(_seconds, device))


def _seconds(device: torch.device, computation: Callable[[], object]) -> float:
    computation()
    times = []
    for _ in range(5):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        started.record()
        computation()
        ended.record()
        ended.synchronize()
        times.append(started.elapsed_time(ended))
    return median(times)
