"""How far each stage of a network is from what its operations and bytes allow on a device (its roofline)."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from counting import cost_of
from torch import Tensor, nn

MEASURED = 3


@dataclass
class Call:
    """One part of a network as a forward pass called it."""

    name: str
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    out: tuple[int, ...]


@torch.no_grad()
def stages(
    model: nn.Module,
    run: Callable[[], object],
    seconds: Callable[[Callable[[], object]], float],
    in_precision: Callable[[], AbstractContextManager],
) -> list[dict[str, Any]]:
    """Operations, bytes and seconds of the stages of a forward pass, in their order.

    A stage is a child of the network, or as many members of a list of blocks as give outputs of one size. Each part is
    called again by itself with the inputs that it had.

    Args:
        run: a forward pass of ``model`` without gradients.
        seconds: times a computation.
        in_precision: the context that ``run`` calls the model in. Every part gets one of its own: autocast keeps the
            weights that it lowered until its end, and would lower them once for all repetitions.
    """

    def call_again(call: Call) -> None:
        with in_precision():
            call.module(*call.args, **call.kwargs)

    found = []
    for (name, out), calls in groupby(_calls(model, run), key=lambda call: (call.name, call.out)):
        replays = [partial(call_again, call) for call in calls]
        costs = [cost_of(replay) for replay in replays]
        if not any(cost.kernels for cost in costs):
            continue  # dropout, here without effect
        found.append(
            {
                "stage": name,
                "parts": len(replays),
                "output": "x".join(map(str, out)),
                "operations": sum(cost.operations for cost in costs),
                "bytes_moved": sum(cost.bytes_moved for cost in costs),
                "seconds": sum(statistics.median(seconds(replay) for _ in range(MEASURED)) for replay in replays),
            }
        )
    return found


def bound(stage: dict[str, Any], matrix_rate: float, copy_rate: float) -> tuple[float, str]:
    """The fewest seconds of a stage, and what sets them: ``arithmetic`` or ``memory``.

    Bytes are counted as if every kernel read and wrote main memory; what stays in caches can beat this bound.
    """
    arithmetic, memory = stage["operations"] / matrix_rate, stage["bytes_moved"] / copy_rate
    return (arithmetic, "arithmetic") if arithmetic >= memory else (memory, "memory")


def _calls(model: nn.Module, run: Callable[[], object]) -> list[Call]:
    calls: list[Call] = []

    def remember(name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], out: object) -> None:
        first = out if isinstance(out, Tensor) else next(value for value in out if isinstance(value, Tensor))
        calls.append(Call(name, module, args, kwargs, tuple(first.shape)))

    hooks = [
        part.register_forward_hook(partial(remember, name), with_kwargs=True)
        for name, child in model.named_children()
        for part in _parts(child)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _parts(child: nn.Module) -> Iterator[nn.Module]:
    if not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
        yield child
        return
    for member in child.children():
        yield from _parts(member)
