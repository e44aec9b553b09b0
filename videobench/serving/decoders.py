"""Uploaded files to views, in processes that a hostile file may bring down, fill or hang: they are replaced.

The loader processes of training (`datasets.workers`) do not serve here: they read a list that is known beforehand, hand
items over in its order, and are forked from a process that has no threads yet. These are forked from a server process
of multiprocessing, which has the imports behind it and nothing else, so that a fresh one takes milliseconds.
"""

import asyncio
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from typing import Any

import torch
from anyio import to_thread

from videobench.config import CfgNode
from videobench.datasets.records import Frames
from videobench.datasets.transport import pack, unpack
from videobench.datasets.views import Grid, VideoViews, Views
from videobench.inference.given import GivenVideos
from videobench.serving.limits import MIB, Limits, Refusal

#: What decoders do with a path, in their process.
Reader = Callable[[str], Views]

#: Code of the refusal of a file that takes too much memory.
OUT_OF_MEMORY = "out_of_memory"

_CONTEXT = multiprocessing.get_context("forkserver")
# The exit status of a process can be read once, and starting one looks at those of all others.
_CHILDREN = threading.Lock()
# Seconds that a process has to start, which is no fault of the file, and a killed one to end.
_STARTING = 60.0
_MOURNING = 10.0
# Tensors travel inside the message: a killed process leaves no shared memory behind.
_NO_MEMORY = memoryview(b"")


@dataclass(frozen=True)
class UploadedVideos(GivenVideos):
    """Files of strangers: refused when they play for too long."""

    max_seconds: float = field(default=float("inf"), kw_only=True)

    def open(self, index: int) -> Frames:
        """As `GivenVideos.open`.

        Raises:
            VideoError: for a file that is no video.
            Refusal: for one that plays for too long.
        """
        video = super().open(index)
        if video.fps and (seconds := float(video.frames / video.fps)) > self.max_seconds:
            raise Refusal(
                422, "too_long", f"the video plays for {seconds:.1f} s; at most {self.max_seconds:g} s may be"
            )
        return video


@dataclass(frozen=True)
class ViewReader:
    """The views of an uploaded file, as a test of the network has them."""

    cfg: CfgNode
    grid: Grid
    max_seconds: float

    def __call__(self, path: str) -> Views:
        """Read a file.

        Raises:
            Refusal: when it cannot be read or plays for too long.
        """
        videos = replace(UploadedVideos.of(self.cfg, [path]), max_seconds=self.max_seconds)
        views = VideoViews(self.cfg, videos, (self.grid,))[0]
        if views.failure is not None:
            raise Refusal(422, "unreadable", f"the file cannot be read: {views.failure.cause}")
        return views


class Decoder:
    """A process that reads one file at a time; it starts with the first, and is not used again once it failed."""

    def __init__(self, read: Reader, limits: Limits) -> None:
        self._read, self._limits = read, limits
        self._process: multiprocessing.Process | None = None
        self._lock = threading.Lock()
        self._ready = False
        self.ended = False

    def start(self) -> None:
        """Start the process if it does not run; not after `kill`."""
        with self._lock:
            if self._process is not None or self.ended:
                return
            self._channel, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(
                target=_decode_for_owner, args=(theirs, self._read, self._limits.decode_bytes), daemon=True
            )
            with _CHILDREN:
                process.start()
            theirs.close()
            self._process = process

    def decode(self, path: str) -> Views:
        """The views of a file; blocks.

        Raises:
            Refusal: when they cannot be had.
        """
        self.start()
        if self._process is None:
            raise Refusal(503, "stopping", "the server is stopping")
        limit, cause = self._limits.decode_seconds, "no process to decode with could be started"
        try:
            if not self._ready:
                self._ready = self._reply(_STARTING, Refusal(503, "not_started", cause))
            cause = "decoding the file brought its process down"
            self._channel.send(path)
            late = Refusal(422, "decode_timeout", f"decoding the file did not end within {limit:g} s")
            views, refusal = unpack(self._reply(limit, late), _NO_MEMORY)
        except (EOFError, OSError) as error:
            self.join()
            self.kill()
            cause = f"{cause} ({_end(self._process.exitcode)})"
            raise Refusal(*((422, "decoder_ended") if self._ready else (503, "not_started")), cause) from error
        if refusal is None:
            return views
        # What a file took from the heap stays there.
        if refusal.code == OUT_OF_MEMORY:
            self.kill()
        raise refusal

    def _reply(self, seconds: float, late: Refusal) -> Any:
        if not self._channel.poll(seconds):
            self.kill()
            raise late
        return self._channel.recv()

    def kill(self) -> None:
        """End the process, whatever it does; `decode` in another thread ends with it."""
        with self._lock:
            self.ended = True
            if self._process is not None:
                self._process.kill()

    def join(self) -> None:
        """Wait for the end of a process that is dying."""
        if self._process is not None:
            with _CHILDREN:
                self._process.join(_MOURNING)


class DecoderPool:
    """Decoders for an event loop; use as a context manager, from one thread.

    Args:
        read: what they do with a path; can be pickled.
        count: number of processes.
        limits: what a file may take.
        failed: called with the code of the refusal whenever a process had to be replaced.
    """

    def __init__(self, read: Reader, count: int, limits: Limits, failed: Callable[[str], None]) -> None:
        self._read, self._limits, self._failed = read, limits, failed
        self._decoders = [Decoder(read, limits) for _ in range(count)]
        self._free: asyncio.LifoQueue[int] = asyncio.LifoQueue()

    def __enter__(self) -> "DecoderPool":
        for slot, decoder in enumerate(self._decoders):
            decoder.start()
            self._free.put_nowait(slot)
        return self

    def __exit__(self, *_: object) -> None:
        for decoder in self._decoders:
            decoder.kill()
        for decoder in self._decoders:
            decoder.join()

    async def decode(self, path: str) -> Views:
        """The views of a file, once a process is free; cancelling it frees the process again.

        Raises:
            Refusal: when they cannot be had.
        """
        slot = await self._free.get()
        decoder, code = self._decoders[slot], "abandoned"
        try:
            return await to_thread.run_sync(decoder.decode, path, abandon_on_cancel=True)
        except Refusal as refusal:
            code = refusal.code
            raise
        except asyncio.CancelledError:
            decoder.kill()
            raise
        finally:
            if decoder.ended:
                self._failed(code)
                self._decoders[slot] = Decoder(self._read, self._limits)
            self._free.put_nowait(slot)


def _end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    return signal.Signals(-code).name


# In the process of a decoder.


def _decode_for_owner(channel: connection.Connection, read: Reader, memory: int) -> None:
    # Sent to all processes of the server, these are for the one that ends the others when they are done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    torch.set_num_threads(1)
    # No core dumps, no files, no more memory than allowed.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    most = _address_space() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    channel.send(True)
    while True:
        try:
            path = channel.recv()
        except EOFError:
            return
        views = refusal = None
        try:
            views = read(path)
        except Refusal as error:
            refusal = error
        except (MemoryError, RuntimeError) as error:
            # torch has no exception of its own for memory.
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                raise
            message = f"decoding the file takes more than {memory / MIB:g} MiB of memory"
            refusal = Refusal(422, OUT_OF_MEMORY, message)
        channel.send(pack((views, refusal), _NO_MEMORY))


def _end_with_owner() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _address_space() -> int:
    """Bytes of address space in use, as RLIMIT_AS counts them."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
