"""Counts and running values of training, validation and test."""

import os
import time
from collections import deque
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor


def topk_correct(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> list[int]:
    """How many rows of ``scores`` [N, classes] have their label [N] among the k largest, for each k.

    A k above the class count counts as the class count.
    """
    classes = scores.shape[1]
    largest = scores.topk(min(max(ks), classes), dim=1).indices
    hits = largest == labels[:, None]
    return [int(hits[:, : min(k, classes)].sum()) for k in ks]


def ensemble_scores(scores: Tensor, method: str) -> Tensor:
    """Scores [views, classes] of one video as [classes]: their ``sum`` or their ``max``."""
    return scores.sum(0) if method == "sum" else scores.max(0).values


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
        self._start = now


def gpu_memory() -> str:
    """Peak memory this process took on its GPU, as ``5.12G``."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return f"{peak / 2**30:.2f}G"


def main_memory() -> str:
    """Used and total memory of this machine, as ``5.12/31.30G``."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{total - free:.2f}/{total:.2f}G"
