"""Operations and bytes of a computation, counted from its tensors: the same numbers on every machine."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten
# They only make room, or a view that the dispatcher does not call one.
_MOVE_NOTHING = {
    _aten._unsafe_view,
    _aten._reshape_alias,
    _aten.alias,
    _aten.detach,
    _aten.empty,
    _aten.empty_like,
    _aten.empty_strided,
    _aten.lift_fresh,
    _aten.new_empty,
    _aten.new_empty_strided,
}


def _convolution_backward(
    gradient, x, weight, _bias, _stride, _padding, _dilation, _transposed, _extra, _groups, mask, **_
):
    # torch's own formula forgets that a group sees its own channels only. No network here has transposed convolutions.
    return 2 * prod(gradient) * prod(weight[1:]) * (mask[0] + mask[1])


@dataclass(frozen=True)
class Cost:
    """What a computation costs.

    Attributes:
        operations: multiplications and additions of matrix products, convolutions and attention.
        bytes_moved: sizes of the tensors that every kernel reads and writes, each once per kernel.
        kernels: calls of the tensor library that are no views.
    """

    operations: int
    bytes_moved: int
    kernels: int


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes_moved = 0
        self.kernels = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in _MOVE_NOTHING:
            self.kernels += 1
            self.bytes_moved += sum(map(_bytes_of, _tensors((args, kwargs, out))))
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return list({id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}.values())


def _bytes_of(tensor: Tensor) -> int:
    # What is expanded lies in memory once.
    nbytes = tensor.numel() * tensor.element_size()
    return nbytes if tensor.is_mkldnn else min(nbytes, tensor.untyped_storage().nbytes())


def cost_of(computation: Callable[[], object]) -> Cost:
    """Run a computation and count it."""
    operations = FlopCounterMode(display=False, custom_mapping={_aten.convolution_backward: _convolution_backward})
    with operations, _Traffic() as traffic:
        computation()
    return Cost(operations.get_total_flops(), traffic.bytes_moved, traffic.kernels)
