"""Processes that read videos and cannot lose one: who dies or hangs is named with what it was reading, and replaced.

The owner hands every worker its tasks and knows which of them are unfinished, and workers write down which video they
are about to read, so whatever happens to a worker, no task is lost and one video is to blame. That video is refused
from then on (`reading.note_reading`), the task runs again in a fresh worker, and the refusal takes the way of every
other unreadable video.

PyTorch's DataLoader does not serve: it raises in the owner, wherever that is, as soon as a worker dies, and all that
was being prepared is lost with it.
"""

import gc
import itertools
import logging
import mmap
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, util
from typing import Any

import numpy as np
import torch

from videobench.config import CfgNode
from videobench.config.checks import local_ranks
from videobench.datasets.reading import HUNG, IDLE, Reading, begin_work, end_of
from videobench.datasets.transport import pack, shared_memory, unpack

logger = logging.getLogger(__name__)

# Seconds between looks at the clock while waiting for workers.
_PULSE = 1.0
# Seconds that a killed process has to end.
_MOURNING = 10.0
# Deaths without a video to blame, with nothing loaded in between, before giving up.
_UNEXPLAINED = 3


class WorkerError(RuntimeError):
    """Processes that cannot do their work."""


def worker_count(cfg: CfgNode) -> int:
    """DATA_LOADER.NUM_WORKERS; -1 shares this machine's cores among its ranks."""
    workers = cfg.DATA_LOADER.NUM_WORKERS
    if workers == -1:
        workers = min(16, max(1, usable_cores() // local_ranks(cfg)))
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        logger.warning("this system cannot fork processes: DATA_LOADER.NUM_WORKERS 0 is used, nothing loads ahead")
        return 0
    return workers


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def printable(path: str) -> str:
    """A path in a form that can be printed whatever the bytes of its name."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass
class _Task:
    number: int
    key: Any
    slot: int


@dataclass
class _Worker:
    process: multiprocessing.Process
    channel: connection.Connection
    tasks: dict[int, _Task] = field(default_factory=dict)
    # What it was doing at the last look, and for how long its owner has waited since.
    doing: tuple[int, ...] = (IDLE, IDLE, 0)
    waited: float = 0.0
    hung: bool = False


class WorkerPool:
    """Processes that load items by key.

    Args:
        load: the item of a key; runs in the workers, and calls `note_reading` before it opens a video. Items can be
            pickled; tensors in them travel through shared memory.
        workers: number of processes; 0 loads in this one. They start with the first item asked for.
        videos: length of the list that `note_reading` counts in.
        path: the path of a video of that list, for messages.
        timeout: seconds that reading one video may take, or may take without `note_progress`; 0 means any time.
        limit: the key or option that sets ``timeout``, for messages.
        ahead: items loaded or being loaded ahead of the one asked for.
        item_bytes: memory for the tensors of one item; larger items go a slower way.
    """

    def __init__(
        self,
        load: Callable[[Any], Any],
        *,
        workers: int,
        videos: int,
        path: Callable[[int], str],
        timeout: float = 0,
        limit: str = "DATA_LOADER.TIMEOUT",
        ahead: int = 2,
        item_bytes: int = 256 << 20,
    ) -> None:
        self.size, self._load, self._path, self._timeout, self._limit = workers, load, path, timeout, limit
        self._slot_bytes = -(-max(item_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._ahead, self._videos = max(ahead, 2 * workers), videos
        self._workers: list[_Worker] = []
        self._processes: list[multiprocessing.Process] = []
        self._slots = 0
        self._free: list[int] = []
        self._numbers = itertools.count()
        self._started = False
        self._killed: set[int] = set()
        self._unexplained = 0

    def groups(self, keys: Iterable[Any], size: int = 1, *, copy: bool = True) -> Iterator[list[Any]]:
        """The items of the keys, ``size`` at a time; the last group may be smaller.

        Keys are read ahead. What an earlier call left unfinished is dropped. Without ``copy``, tensors are valid until
        the next group is asked for.

        Raises:
            WorkerError: when loading an item raises, or workers die over and over.
        """
        keys = iter(keys)
        if not self.size:
            while group := [self._load(key) for key in itertools.islice(keys, size)]:
                yield group
            return
        run = self._begin(size)
        wanted: list[_Task] = []
        done: dict[int, Any] = {}
        while True:
            for key in itertools.islice(keys, len(self._free)):
                wanted.append(self._hand_out(key))
            group = wanted[:size]
            if all(task.number in done for task in group) and (len(group) == size or len(wanted) < size):
                if not group:
                    return
                yield [unpack(done.pop(task.number), self._memory(task.slot), copy=copy) for task in group]
                self._check(run)
                del wanted[:size]
                self._free += [task.slot for task in group]
                continue
            for task, packed in self._receive():
                if wanted and wanted[0].number <= task.number:
                    done[task.number] = packed
                else:
                    self._free.append(task.slot)

    def as_finished(self, keys: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(key, item) of the keys in the order in which the items are finished; no key waits for a certain worker.

        What an earlier call left unfinished is dropped.

        Raises:
            WorkerError: when loading an item raises, or workers die over and over.
        """
        keys = iter(keys)
        if not self.size:
            yield from ((key, self._load(key)) for key in keys)
            return
        run, at_work = self._begin(1), set()
        while True:
            at_work |= {self._hand_out(key).number for key in itertools.islice(keys, self.size - len(at_work))}
            if not at_work:
                return
            for task, packed in self._receive():
                item = unpack(packed, self._memory(task.slot))
                self._free.append(task.slot)
                if task.number in at_work:
                    at_work.remove(task.number)
                    yield task.key, item
                    self._check(run)

    def close(self) -> None:
        """End the workers."""
        if self._started:
            self._finalizer()
            self._workers.clear()
            self._started = False

    # Workers and their tasks.

    def _begin(self, size: int) -> int:
        """The number of a new stream of items, which takes the memory that no unfinished task has."""
        self._start(size)
        self._run[0] += 1
        busy = {task.slot for worker in self._workers for task in worker.tasks.values()}
        self._free = [slot for slot in range(self._slots) if slot not in busy]
        return int(self._run[0])

    def _check(self, run: int) -> None:
        if self._run[0] != run:
            raise WorkerError("a loader gives one stream of items at a time; another one was begun meanwhile")

    def _start(self, size: int) -> None:
        if self._started:
            return
        self._slots = self._ahead + size
        self._pixels = shared_memory(self._slots * self._slot_bytes)
        self._run = np.frombuffer(shared_memory(8), np.int64)
        self._reading = Reading(self.size, self._videos, self._timeout, self._limit)
        # At exit and when the pool is forgotten; before multiprocessing itself waits for the processes.
        self._finalizer = util.Finalize(self, _end_processes, (self._processes, os.getpid()), exitpriority=20)
        self._started = True
        for place in range(self.size):
            self._workers.append(self._fork(place))

    def _fork(self, place: int) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        self._reading.at_hand[place] = IDLE
        # Forked workers share the list of videos, however long, and start at once.
        process = multiprocessing.get_context("fork").Process(
            target=self._work, args=(place, theirs, ours), name=f"loader-{place}", daemon=True
        )
        process.start()
        theirs.close()
        self._processes.append(process)
        return _Worker(process, ours)

    def _memory(self, slot: int) -> memoryview:
        return memoryview(self._pixels)[slot * self._slot_bytes : (slot + 1) * self._slot_bytes]

    def _hand_out(self, key: Any) -> _Task:
        task = _Task(next(self._numbers), key, self._free.pop())
        self._give(task)
        return task

    def _give(self, task: _Task) -> None:
        worker = min(self._workers, key=lambda worker: len(worker.tasks))
        worker.tasks[task.number] = task
        # A dead worker is found, and its tasks handed out again, by `_receive`.
        try:
            worker.channel.send((int(self._run[0]), task.number, task.slot, task.key))
        except OSError:
            logger.debug("%s is gone", worker.process.name)

    def _receive(self) -> list[tuple[_Task, Any]]:
        """Wait for something to happen; finished tasks with their packed items."""
        sources = {worker.channel: worker for worker in self._workers}
        sources |= {worker.process.sentinel: worker for worker in self._workers}
        started = time.monotonic()
        ready = connection.wait(list(sources), timeout=_PULSE)
        # Time in which this process did not run, as when a job is suspended, is not the workers' fault.
        elapsed = min(time.monotonic() - started, 2 * _PULSE)
        finished = []
        for worker in {id(sources[source]): sources[source] for source in ready}.values():
            finished += self._results(worker)
        for place, worker in enumerate(self._workers):
            if worker.process.sentinel in ready:
                self._bury(place, worker)
            else:
                self._watch(place, worker, elapsed)
        return finished

    def _results(self, worker: _Worker) -> list[tuple[_Task, Any]]:
        results = []
        try:
            while worker.channel.poll():
                number, packed, error = worker.channel.recv()
                task = worker.tasks.pop(number)
                if error:
                    raise WorkerError(f"a loader process failed on {task.key}:\n{error}")
                results.append((task, packed))
                self._unexplained = 0
        except (EOFError, OSError):
            # It died in the middle of a message: the task stays unfinished.
            logger.debug("%s broke off", worker.process.name)
        return results

    def _watch(self, place: int, worker: _Worker, elapsed: float) -> None:
        doing = tuple(self._reading.at_hand[place].tolist())
        same = doing == worker.doing and doing[0] != IDLE
        worker.doing, worker.waited = doing, worker.waited + elapsed if same else 0.0
        if self._timeout and worker.waited > self._timeout and not worker.hung:
            worker.hung = True
            worker.process.kill()
        elif worker.hung and worker.waited > self._timeout + _MOURNING:
            # It waits for a dead file server, say, and cannot even be killed.
            self._bury(place, worker)

    def _bury(self, place: int, worker: _Worker) -> None:
        """Blame a dead worker's video and give its tasks to a fresh worker."""
        worker.process.join(_PULSE)
        self._processes.remove(worker.process)
        worker.channel.close()
        code = HUNG if worker.hung else worker.process.exitcode
        number, video, _ = self._reading.at_hand[place].tolist()
        if number not in worker.tasks or video == IDLE:
            self._unexplained += 1
            logger.warning("loader process %d ended (%s); a fresh one takes over", worker.process.pid, end_of(code))
            if self._unexplained == _UNEXPLAINED:
                self.close()
                raise WorkerError(
                    f"{_UNEXPLAINED} loader processes in a row ended ({end_of(code)}) before they read a video; "
                    "DATA_LOADER.NUM_WORKERS 0 loads in the main process and shows why"
                )
        else:
            self._unexplained = 0
            again = code == -signal.SIGKILL and video not in self._killed
            if again:
                # Whoever sends SIGKILL, the system short of memory above all, has not looked at the video.
                self._killed.add(video)
            else:
                self._reading.refused[video] = code
            more = ", and reads it once more" if again else ""
            path = printable(self._path(video))
            logger.warning("%s: %s; a fresh process takes over%s", path, self._reading.cause(code), more)
        self._workers[place] = self._fork(place)
        for task in worker.tasks.values():
            self._give(task)

    # In the worker.

    def _work(self, place: int, channel: connection.Connection, owners: connection.Connection) -> None:
        # Interrupts and preemption are for the owner, which ends its workers; a handler of its own must not run here.
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        owners.close()
        # Objects of the owner stay untouched, and so the memory they lie in shared.
        gc.freeze()
        threading.Thread(target=_end_with_owner, daemon=True).start()
        torch.set_num_threads(1)
        at_hand = begin_work(self._reading, place)
        while True:
            try:
                run, number, slot, key = channel.recv()
            except (EOFError, OSError):  # the owner is gone
                return
            packed, error = None, ""
            # Nobody waits for tasks of an earlier run any more.
            if run == self._run[0]:
                at_hand[:] = number, IDLE, 0
                try:
                    packed = pack(self._load(key), self._memory(slot))
                except Exception:  # Told to the owner, who raises it.
                    error = traceback.format_exc()
                at_hand[:] = IDLE
            channel.send((number, packed, error))


def _end_with_owner() -> None:
    """End this process when its owner is gone, whatever it is doing."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _end_processes(processes: list[multiprocessing.Process], owner: int) -> None:
    if os.getpid() != owner:
        return
    for process in processes:
        process.kill()
    for process in processes:
        process.join(_MOURNING)
    processes.clear()
