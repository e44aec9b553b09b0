"""What a rank asks of the others; everything works unchanged in a single process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that logs and writes files."""
    return rank() == 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on every rank."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gather(value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks, on every rank; for small objects now and then, not in a step."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        if torch.cuda.is_available() and dist.get_backend() == "nccl":
            dist.barrier(device_ids=[torch.cuda.current_device()])
        else:
            dist.barrier()


_progress = (0, "starting")


def report_progress(text: str) -> None:
    """Note how far this rank is, as in "at epoch 3, step 17"; costs nothing and waits for nobody."""
    global _progress
    _progress = _progress[0] + 1, text


def progress() -> tuple[int, str]:
    """How often this rank reported progress, and what it said last."""
    return _progress
