"""Seconds and memory of steps on a device, and the most that it does: the rates that bounds are made of."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def usable_device(name: str) -> torch.device:
    """``cpu`` or ``cuda``, as an argument of a script.

    Raises:
        argparse.ArgumentTypeError: for any other, and where torch finds no GPU.
    """
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"cpu or cuda, not {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no GPU here")
    return torch.device(name)


def finish_queued(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cpu_seconds(step: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads together."""
    started = time.process_time()
    step()
    return time.process_time() - started


class Clock:
    """Seconds and peak memory of steps on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, step: Callable[[], object]) -> float:
        """CPU seconds on a CPU, else those between two events on the GPU."""
        if self.device.type == "cpu":
            return cpu_seconds(step)
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        started.record()
        step()
        ended.record()
        ended.synchronize()
        return started.elapsed_time(ended) / 1000

    def peak_bytes(self, step: Callable[[], object]) -> int:
        """Most bytes that a step held at a time, beyond what was there before."""
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            return torch.cuda.max_memory_allocated(self.device) - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(changes, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak


def matrix_rate(clock: Clock, dtype: torch.dtype) -> float:
    """Operations a second in large matrix products: the most the device does in this precision."""
    size = 8192 if clock.device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=clock.device).to(dtype)
    torch.mm(a, b)
    return 2 * size**3 / statistics.median(clock.seconds(partial(torch.mm, a, b)) for _ in range(9))


def copy_rate(clock: Clock) -> float:
    """Bytes a second, read and written, in a copy of a tensor larger than caches."""
    source = torch.randn((256 if clock.device.type == "cuda" else 32) * MIB, device=clock.device)
    target = torch.empty_like(source)
    target.copy_(source)
    nbytes = 2 * source.numel() * source.element_size()
    return nbytes / statistics.median(clock.seconds(partial(target.copy_, source)) for _ in range(9))
