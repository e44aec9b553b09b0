"""One network on several ranks: a copy on each of them, or each of them keeping a part of every tensor.

Both compute the same steps: ranks add up their gradients once a step and take the mean over ranks.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from videobench.config import ConfigError
from videobench.distributed.group import world_size


def replicate(model: nn.Module, device: torch.device, *, static_graph: bool) -> DistributedDataParallel:
    """A network whose copies on all ranks take the same steps; gradients lie in the buckets that are sent.

    Args:
        model: the network, with the same weights on every rank.
        device: where it is.
        static_graph: promise that every step is one forward and one backward pass through the same parameters, so
            that PyTorch need not look which were used. It cannot hold back gradients then (``no_sync``), nor can
            torch.compile cut the network into pieces that send theirs early.
    """
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, static_graph=static_graph)


def shard(model: nn.Module, optimizer: torch.optim.Optimizer | None, device: torch.device) -> None:
    """Let every rank keep its part of every parameter, gradient and moment (FSDP2, or ZeRO stage 3), in place.

    A block (an entry of the network's module lists) is put together for its forward and its backward pass only. Names
    stay, and parameters are gathered and gradients added up in their own precision, so that a step computes what it
    computes with whole copies, lower precision of the arithmetic (autocast) included. Buffers are each rank's own, see
    :func:`share_buffers`. Call this on every rank, with everything loaded whole.

    Args:
        model: the network, with the same weights on every rank; parameters have one axis at least.
        optimizer: over its parameters, or None; groups and moments follow the parameters.
        device: where the network is.

    Raises:
        ConfigError: on the CPU, with a PyTorch that shards on GPUs only.
    """
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise ConfigError(f"TRAIN.SHARD needs GPUs with PyTorch {torch.__version__}; a newer one splits on CPUs, too")
    # Takes seconds to import.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {parameter: name for name, parameter in model.named_parameters()}
    # No network changes what a block returned in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world_size(),))
    lists = [child for child in model.children() if isinstance(child, (nn.ModuleList, nn.ModuleDict))]
    for part in [*(block for blocks in lists for block in blocks.children()), model]:
        fully_shard(part, mesh=mesh)
    if optimizer is None:
        return
    parts = dict(model.named_parameters())
    whole_state = {names[parameter]: state for parameter, state in optimizer.state.items()}
    for group in optimizer.param_groups:
        group["params"] = [parts[names[parameter]] for parameter in group["params"]]
    optimizer.state.clear()
    for name, state in whole_state.items():
        optimizer.state[parts[name]] = {key: _part_like(parts[name], value) for key, value in state.items()}


def _part_like(parameter: Tensor, value: Any) -> Any:
    """This rank's part of a moment of a sharded parameter; counts of steps stay as they are."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def is_sharded(module: nn.Module | Callable) -> bool:
    """Whether :func:`shard` was called on this network."""
    return hasattr(module, "set_requires_gradient_sync")


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which ranks may have a part each, put together on every rank; a collective call then."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextlib.contextmanager
def gradients_exchanged(forward: Callable, now: bool) -> Iterator[None]:
    """A forward and backward pass after which ranks add up all gradients since they did so last, or do not yet.

    Args:
        forward: the network: alone, of :func:`replicate` or :func:`shard`, and compiled or not.
        now: with the last pass of a step.
    """
    forward = getattr(forward, "_orig_mod", forward)
    if is_sharded(forward):
        forward.set_requires_gradient_sync(now)
    waits = isinstance(forward, DistributedDataParallel) and not now
    with forward.no_sync() if waits else contextlib.nullcontext():
        yield


def share_buffers(model: nn.Module) -> None:
    """Give every rank the first one's buffers, which are those that are saved."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
