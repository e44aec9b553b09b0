"""Stopping on request: SIGTERM and SIGUSR1 end a run after the step at hand, on all ranks at the same one."""

import os
import signal
import time
from types import FrameType

import torch
import torch.distributed as dist

from videobench.distributed.group import world_size
from videobench.distributed.launch import STOP_SIGNALS

#: Seconds in which further signals count as the first one: schedulers and launchers each send it to every process.
SAME_REQUEST = 5.0


class StopRequest:
    """Remembers a signal until the ranks agree to stop; a second signal ends the process at once.

    Use it as a context: signals are caught inside only. :meth:`agreed` is called by every rank equally often. A signal
    that nothing inside stopped for is sent again at the end, for it concerns what comes next.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since, self._heeded = 0.0, False
        self._before: dict[signal.Signals, object] = {}
        # Votes are numbers in main memory: asking the other ranks never waits for a GPU.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self._vote: tuple[dist.Work, torch.Tensor] | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._catch) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._vote is not None:
            self._vote[0].wait()
        if self.signal is not None and kind is None and not self._heeded:
            os.kill(os.getpid(), self.signal)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def name(self) -> str:
        """The signal this process got, or that another rank got one."""
        return self.signal.name if self.signal else "a signal to another rank"

    def agreed(self) -> bool:
        """Whether any rank had been asked to stop when it last called this: the same answer on every rank.

        Alone, a process agrees at once; among several the answer is one call old, so that no rank waits for another.
        """
        if self._group is None:
            self._heeded = self.signal is not None
            return self._heeded
        asked = torch.tensor([float(self.signal is not None)])
        before, self._vote = self._vote, (dist.all_reduce(asked, group=self._group, async_op=True), asked)
        if before is None:
            return False
        before[0].wait()
        self._heeded = bool(before[1] > 0)
        return self._heeded
