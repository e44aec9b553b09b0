"""Pictures as they come, from sources that may be slow, fast, stall or break."""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from videobench.datasets.containers import VideoError, cause_of
from videobench.inference.captures import is_remote, open_capture

logger = logging.getLogger(__name__)

# Waits before another attempt, in seconds: the first, and the longest after doubling.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
# Seconds that time stamps may go back within one recording; more is another one, joined to it.
_JITTER = 0.5


@dataclass(frozen=True)
class Picture:
    """One picture of a stream.

    Attributes:
        pixels: uint8 RGB [H, W, 3], upright.
        time: seconds on the source's clock.
        arrived: when it was decoded, on the clock of `time.perf_counter`.
        first: whether it has nothing to do with the picture before it: the beginning, after an interruption, or where
            the clock goes back.
    """

    pixels: np.ndarray
    time: float
    arrived: float
    first: bool


class PictureSource:
    """Iterates over the pictures of a source; a thread reads ahead.

    A live source (camera, stream) does not wait: when ``room`` pictures are waiting, the oldest of them is dropped for
    the newest. When it breaks off or stalls it is opened again, after 1, 2, 4, ... and at most 30 seconds, and that is
    said. A file or standard input waits, loses nothing, and ends.

    Args:
        name: path, ``-`` for standard input, URL, camera number, or a device of FFmpeg as ``FORMAT:NAME``.
        room: pictures that may wait.
        patience: seconds without a picture after which a network source counts as stalled.
        retries: attempts in a row to open a live source again; None never gives up. A source that never gave a picture
            is given up at once.
        live: whether it is live; found out unless given.
        first_wait: seconds before the first attempt.
        say: what interruptions are told to.
    """

    def __init__(
        self,
        name: str,
        *,
        room: int = 2,
        patience: float = 10.0,
        retries: int | None = None,
        live: bool | None = None,
        first_wait: float = _FIRST_WAIT,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        self.name, self.patience, self.retries, self.say = name, patience, retries, say
        self.live, self.first_wait = live, first_wait
        #: Pictures that came too fast for whoever takes them, and times the source was opened again.
        self.dropped = self.reopened = 0
        #: Pictures per second, as the source says, once it is open.
        self.fps: Fraction | None = None
        self._room = room
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        """The pictures, once.

        Raises:
            VideoError: for a source that cannot be opened, a broken file, and a live source that is given up.
        """
        waiting: queue.Queue[Picture | VideoError | None] = queue.Queue(self._room)
        threading.Thread(target=self._fill, args=(waiting,), daemon=True, name="pictures").start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, VideoError):
                    raise item
                yield item
        finally:
            self._closed.set()

    def close(self) -> None:
        """Let the reading thread end, and with it the pictures."""
        self._closed.set()

    def _fill(self, waiting: queue.Queue) -> None:
        end: VideoError | None = None
        try:
            for picture in self._pictures():
                self._put(waiting, picture, wait=not self.live)
                if self._closed.is_set():
                    break
        except VideoError as error:
            end = error
        except Exception as error:  # a thread's error would be lost: it belongs to whoever iterates
            end = VideoError(self.name, f"{type(error).__name__}: {error}")
        if end is not None:
            self._put(waiting, end)
        self._put(waiting, None)

    def _put(self, waiting: queue.Queue, item: Any, wait: bool = True) -> None:
        """Without waiting, the oldest makes room; nobody waits for a reader that is gone."""
        while True:
            patient = wait and not self._closed.is_set()
            try:
                return waiting.put(item, timeout=0.2 if patient else 0)
            except queue.Full:
                if not patient:
                    try:
                        waiting.get_nowait()
                        self.dropped += 1
                    except queue.Empty:
                        pass  # taken meanwhile, so there is room

    def _pictures(self) -> Iterator[Picture]:
        last, fails = -math.inf, 0
        while not self._closed.is_set():
            try:
                with open_capture(self.name, self.patience) as capture:
                    if self.live is None:
                        self.live = capture.live
                    self.fps = capture.fps
                    # A file that is read again goes on where it broke off.
                    seen = -math.inf if self.live else last
                    first = seen == -math.inf
                    for at, pixels in capture:
                        if at <= seen:
                            continue
                        yield Picture(pixels, at, time.perf_counter(), first or at < last - _JITTER)
                        first, fails, seen, last = False, 0, -math.inf, at
                cause = "it ended"
                if not self.live:
                    return
            except (av.FFmpegError, OSError, VideoError) as error:
                cause = error.cause if isinstance(error, VideoError) else cause_of(error)
                if last == -math.inf or not (self.live or is_remote(self.name)):
                    raise VideoError(self.name, cause) from error
            fails += 1
            if self.retries is not None and fails > self.retries:
                raise VideoError(self.name, f"{cause}; given up after {self.retries} attempts to open it again")
            wait = min(self.first_wait * 2 ** (fails - 1), _LONGEST_WAIT)
            self.say(f"{self.name}: {cause}; opening it again in {wait:g} s")
            self._closed.wait(wait)
            self.reopened += 1
