"""What a worker process says while it reads videos, and which of them it is to keep away from."""

import signal

import numpy as np

from videobench.datasets.containers import VideoError
from videobench.datasets.transport import shared_memory

IDLE = -1
#: Stands among exit statuses and (negative) signals for reading that made no progress.
HUNG = 1000


class Reading:
    """Memory about the videos at hand that the processes of a pool share.

    Args:
        workers: number of processes.
        videos: length of the list that they read.
        timeout: seconds without progress after which a process counts as hanging.
        limit: the key or option that sets ``timeout``.

    Attributes:
        at_hand: task, video and signs of life of every process, int64 [workers, 3]; `IDLE` where there is none.
        refused: what became of a process that read a video which is not to be read again, int16 [videos], else 0.
    """

    def __init__(self, workers: int, videos: int, timeout: float, limit: str) -> None:
        self.at_hand = np.frombuffer(shared_memory(24 * workers), np.int64).reshape(workers, 3)
        self.refused = np.frombuffer(shared_memory(2 * max(videos, 1)), np.int16)
        self._timeout, self._limit = timeout, limit

    def cause(self, code: int) -> str:
        """Why a video is refused."""
        if code == HUNG:
            return f"reading it made no progress in {self._timeout:g} s ({self._limit})"
        return f"reading it brought its process down ({end_of(code)})"


# In a worker: what it shares with its owner, and its own row of `Reading.at_hand`.
_reading: Reading | None = None
_own: np.ndarray | None = None


def begin_work(reading: Reading, place: int) -> np.ndarray:
    """Make this process worker number ``place``; returns its row of `Reading.at_hand`."""
    global _reading, _own
    _reading, _own = reading, reading.at_hand[place]
    return _own


def note_reading(index: int) -> None:
    """Say which video of the list this process is about to read; without effect outside of workers.

    Raises:
        VideoError: when reading this video brought a worker down, or made no progress.
    """
    if _reading is None:
        return
    if code := int(_reading.refused[index]):
        raise VideoError("", _reading.cause(code))
    _own[1] = index


def note_progress() -> None:
    """Say that reading goes on; without effect outside of workers."""
    if _own is not None:
        _own[2] += 1


def end_of(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, out of memory?" if code == -signal.SIGKILL else name
