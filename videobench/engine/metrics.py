"""Counts and running values of training, validation and test."""

import os
import resource
import time
from collections import deque
from statistics import median

import torch
from torch import Tensor


def training_errors(logits: Tensor | dict[str, Tensor], targets: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """Errors of a batch in percent, ``top1_err`` and ``top5_err``, without leaving the device.

    A clip counts as right when one of its k highest classes is the one with the largest share in its target (soft
    targets: mixed clips), or one of its labels (several labels: float targets of zeros and ones). With several heads a
    clip counts as right when all of them are (actions: verb and noun); ``verb_top1_err`` and so on follow per head.
    A clip whose logits are no finite numbers is wrong.
    """
    if not isinstance(logits, dict):
        return {f"top{k}_err": _error(_hits(logits, targets, k)) for k in (1, 5)}
    heads = {
        (name, k): _hits(head, targets[name] if isinstance(targets, dict) else targets, k)
        for name, head in logits.items()
        for k in (1, 5)
    }
    errors = {
        f"top{k}_err": _error(torch.stack([hits for (_, of), hits in heads.items() if of == k]).all(0)) for k in (1, 5)
    }
    return errors | {f"{name}_top{k}_err": _error(hits) for (name, k), hits in heads.items()}


def _hits(logits: Tensor, targets: Tensor, k: int) -> Tensor:
    logits = logits.detach()
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    right = top == targets[:, None] if targets.dim() == 1 else targets.gather(1, top) == targets.amax(1, keepdim=True)
    return right.any(1) & logits.isfinite().all(1)


def _error(hits: Tensor) -> Tensor:
    return 100.0 - 100.0 * hits.float().mean()


class Window:
    """The last values of something, for medians that one slow step does not move."""

    def __init__(self, size: int) -> None:
        self.values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return median(self.values)


class StepClock:
    """Splits each step's time into waiting for data and computing."""

    def __init__(self, window: int) -> None:
        self.data, self.net, self.step = Window(window), Window(window), Window(window)
        self._start = self._loaded = time.perf_counter()
        self.data_total = self.total = 0.0
        self.steps = 0

    def rate(self, amount: float) -> float:
        """How much a second, with ``amount`` in every step."""
        return amount * self.steps / self.total

    def start(self) -> None:
        """Begin to wait for the first batch."""
        self._start = time.perf_counter()

    def data_ready(self) -> None:
        """The batch is here."""
        self._loaded = time.perf_counter()

    def step_done(self) -> None:
        """The step is over; the wait for the next batch begins."""
        now = time.perf_counter()
        self.data.add(self._loaded - self._start)
        self.net.add(now - self._loaded)
        self.step.add(now - self._start)
        self.data_total += self._loaded - self._start
        self.total += now - self._start
        self.steps += 1
        self._start = now


def gpu_memory() -> str:
    """Peak memory this process took on its GPU, as ``5.12G``."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return f"{peak / 2**30:.2f}G"


def memory_in_use() -> float:
    """Peak memory of this process in GiB: on its GPU, or in main memory when it uses none."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main_memory() -> str:
    """Used and total memory of this machine, as ``5.12/31.30G``."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{total - free:.2f}/{total:.2f}G"
