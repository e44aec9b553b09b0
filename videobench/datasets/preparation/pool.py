"""Work on many files in processes that may crash or hang: the file is named and the rest goes on."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

# Work on one item; it calls its second argument now and then to say that it goes on.
Work = Callable[[Any, Callable[[], None]], Any]
_BEAT_SECONDS = 1.0
# A new process imports libraries, on a busy machine for long.
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Lost:
    """What comes instead of a result when a process did not survive an item."""

    cause: str


def run_jobs(
    work: Work, items: Sequence[Any], *, workers: int, patience: float, start: int = 0
) -> Iterator[tuple[int, Any]]:
    """(number of the item, result) as the results come, in any order; `Lost` where there is none.

    Args:
        work: a function of a module, so that other processes find it.
        items: what to work on; can be pickled.
        workers: processes.
        patience: seconds without a sign of life after which a process is ended.
        start: number of the first item.

    Raises:
        RuntimeError: with the traceback, for an exception of ``work``: faults of a file are results.
    """
    context = multiprocessing.get_context("forkserver")
    # Processes begin as copies of one that has imported what they need.
    context.set_forkserver_preload(["videobench.datasets.decoding", work.__module__])
    numbers = iter(range(start, start + len(items)))
    busy: list[_Worker] = []

    def hand_out(worker: _Worker | None = None) -> None:
        number = next(numbers, None)
        if number is None:
            if worker:
                worker.end()
            return
        worker = worker or _Worker(context, work, patience)
        worker.take(number, items[number - start])
        busy.append(worker)

    try:
        for _ in range(min(workers, len(items))):
            hand_out()
        while busy:
            due = min(worker.due for worker in busy)
            wait([worker.pipe for worker in busy], max(0.0, due - time.monotonic()))
            for worker in list(busy):
                reply = worker.reply()
                if reply is None:
                    continue
                busy.remove(worker)
                yield worker.number, reply
                hand_out(None if isinstance(reply, Lost) else worker)
    finally:
        for worker in busy:
            worker.end()


@dataclass(eq=False)
class _Worker:
    """A process, the item it works on, and when the next sign of life is due."""

    context: Any
    work: Work
    patience: float
    process: BaseProcess = field(init=False)
    pipe: Connection = field(init=False)
    number: int = -1
    due: float = 0.0

    def __post_init__(self) -> None:
        self.pipe, other = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(self.work, other), daemon=True)
        self.process.start()
        other.close()
        self.due = time.monotonic() + _START_SECONDS

    def take(self, number: int, item: Any) -> None:
        self.number, self.due = number, max(self.due, time.monotonic() + self.patience)
        try:
            self.pipe.send(item)
        except BrokenPipeError:
            pass  # reply() finds out what became of the process

    def reply(self) -> Any:
        """The result, `Lost`, or None while the process works."""
        try:
            while self.pipe.poll():
                self.due = time.monotonic() + self.patience
                kind, content = self.pipe.recv()
                if kind == "result":
                    return content
                if kind == "error":
                    raise RuntimeError(content)
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Lost(_how_it_ended(self.process.exitcode))
        if time.monotonic() < self.due:
            return None
        self.end()
        return Lost(f"no progress in {self.patience:g} seconds")

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        # A process that waits for a dead disk cannot be ended; it must not hold up the others.
        self.process.join(timeout=5)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"the process reading it was killed ({name})" + ("; out of memory?" if name == "SIGKILL" else "")
    return f"the process reading it ended with status {code}"


def _serve(work: Work, pipe: Connection) -> None:
    """Work on items until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > _BEAT_SECONDS:
            last = time.monotonic()
            pipe.send(("beat", None))

    try:
        pipe.send(("ready", None))
        while True:
            item = pipe.recv()
            try:
                reply = "result", work(item, beat)
            except BrokenPipeError:
                raise
            except Exception:
                reply = "error", traceback.format_exc()
            pipe.send(reply)
    except (EOFError, OSError):
        os._exit(0)
