"""The arithmetic of forward passes: lower precision, TF32, and how tensors lie in memory."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

#: Types below single precision by the names of TRAIN.PRECISION and TEST.PRECISION.
LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CHANNELS_INNERMOST = {4: torch.channels_last, 5: torch.channels_last_3d}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context for forward passes in a precision (TRAIN.PRECISION, TEST.PRECISION); fp32 leaves all as it is."""
    return torch.autocast(device.type, dtype=LOWER.get(precision), enabled=precision in LOWER)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let float32 arithmetic on GPUs use TF32, or not; as before afterwards."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def channels_innermost(model: nn.Module) -> None:
    """Lay out the convolution weights of a network with the channels innermost."""
    for parameter in model.parameters():
        parameter.data = channels_last(parameter.data)


def channels_last(tensor: Tensor) -> Tensor:
    """A tensor of pictures, clips or convolution weights with the channels innermost; any other as it is."""
    layout = _CHANNELS_INNERMOST.get(tensor.dim())
    return tensor if layout is None else tensor.contiguous(memory_format=layout)
