"""What pictures come out of: files, pipes, streams and devices by FFmpeg, cameras by OpenCV."""

import re
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.stream import VideoStream

from videobench.datasets.containers import ANY_METADATA, VideoError, open_video
from videobench.datasets.pictures import upright

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://")
# Protocols that hand over files: what comes from them has an end.
_FILE_PROTOCOLS = ("file", "ftp", "http", "https", "sftp")
# FFmpeg's input devices; builds differ in which of them they have.
_DEVICE = re.compile(r"(?P<form>v4l2|avfoundation|dshow|x11grab|xcbgrab|gdigrab|kmsgrab|lavfi):(?P<place>.+)")


class Capture:
    """An opened source; use as a context manager.

    Attributes:
        live: whether its pictures come when they come, and are lost when nobody takes them.
        fps: pictures per second, as it says.
    """

    live: bool
    fps: Fraction

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Seconds on the source's clock and a picture, uint8 RGB [H, W, 3], upright."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the source go."""
        raise NotImplementedError


class FFmpegCapture(Capture):
    """A path, ``-`` for standard input, a URL, or a device as ``FORMAT:NAME``.

    Args:
        name: what to open.
        patience: seconds without anything after which a URL counts as stalled.

    Raises:
        VideoError: for what is no video.
        av.FFmpegError: for what cannot be opened.
    """

    def __init__(self, name: str, patience: float) -> None:
        self.live, url, device = False, _URL.match(name), _DEVICE.match(name)
        stream: VideoStream | None = None
        if name == "-":
            # Without a seek method, so that nothing tries to.
            self._container = av.open(_Pipe(), **ANY_METADATA)
        elif device:
            if device["form"] not in av.formats_available:
                raise VideoError(name, f"this build of FFmpeg has no {device['form']} devices; a number takes OpenCV")
            self.live = True
            self._container = av.open(device["place"], format=device["form"])
        elif url:
            options = {"rtsp_transport": "tcp"} if url["protocol"].startswith("rtsp") else {}
            self._container = av.open(name, timeout=patience, container_options=options, **ANY_METADATA)
            self.live = url["protocol"] not in _FILE_PROTOCOLS or not self._container.duration
        else:
            self._container, stream = open_video(name)
        stream = stream or next(iter(self._container.streams.video), None)
        if stream is None:
            self._container.close()
            raise VideoError(name, "no video stream")
        self._stream = stream
        self._stream.codec_context.thread_count = 1
        self.fps = self._stream.average_rate or self._stream.guessed_rate or Fraction(30)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        for count, frame in enumerate(self._container.decode(self._stream)):
            at = float(count / self.fps) if frame.time is None else frame.time
            yield at, upright(frame.to_ndarray(format="rgb24"), frame)[0]

    def close(self) -> None:
        self._container.close()


class CameraCapture(Capture):
    """A camera by its number.

    Args:
        number: 0 is the first one.

    Raises:
        VideoError: when there is no such camera, or OpenCV is not installed.
    """

    live = True

    def __init__(self, number: int) -> None:
        try:
            import cv2
        except ImportError as error:
            raise VideoError(str(number), "cameras need OpenCV: pip install 'videobench[camera]'") from error
        self._camera = cv2.VideoCapture(number)
        if not self._camera.isOpened():
            raise VideoError(str(number), "there is no such camera, or another program has it")
        fps = self._camera.get(cv2.CAP_PROP_FPS)
        # Drivers that do not know say 0, -1 or no number.
        self.fps = Fraction(fps if fps > 0 else 30).limit_denominator(1001)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        began = time.perf_counter()
        while (read := self._camera.read())[0]:
            yield time.perf_counter() - began, np.ascontiguousarray(read[1][..., ::-1])

    def close(self) -> None:
        self._camera.release()


def open_capture(name: str, patience: float) -> Capture:
    """A path, ``-``, a URL, a camera's number or a device as ``FORMAT:NAME``, opened.

    Args:
        name: what to open.
        patience: see `FFmpegCapture`.

    Raises:
        VideoError: for what is no video.
        av.FFmpegError: for what cannot be opened.
    """
    return CameraCapture(int(name)) if name.isdecimal() else FFmpegCapture(name, patience)


def is_remote(name: str) -> bool:
    """Whether a source is at the other end of a network, which may break."""
    return (url := _URL.match(name)) is not None and url["protocol"] != "file"


class _Pipe:
    """Standard input for FFmpeg."""

    name = "-"

    def read(self, size: int) -> bytes:
        return sys.stdin.buffer.read1(size)
