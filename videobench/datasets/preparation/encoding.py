"""One video encoded anew for training, so that few packets must be decoded for a clip.

A group of pictures has a key frame, references every eighth frame and seven disposable B-frames between two of them:
decoding drops whatever no wanted frame refers to (`decoding.Video`).
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from videobench.datasets.containers import VideoError, cause_of, open_video
from videobench.datasets.decoding import Video
from videobench.datasets.pictures import upright
from videobench.datasets.preparation.files import printable, put_in_place
from videobench.datasets.preparation.verify import sound_frames

#: Errors after which nothing else can be written either.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: Of x264.
# fmt: off
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)
# fmt: on
_FASTEST_CLOCK = 10_000_000


@dataclass(frozen=True)
class Encoding:
    """How to encode.

    Attributes:
        short_side: of the frames, in pixels; smaller ones stay as they are.
        gop: frames from one key frame to the next.
        crf: x264's constant rate factor; smaller is better and larger.
        preset: of x264.
        fast_decode: x264's tuning of this name: no CABAC, no deblocking, no weighted prediction.
    """

    short_side: int = 256
    gop: int = 32
    crf: float = 20.0
    preset: str = "medium"
    fast_decode: bool = False

    def options(self) -> dict[str, str]:
        """What the encoder is told."""
        parameters = {
            "keyint": self.gop,
            "min-keyint": self.gop,
            "scenecut": 0,
            "open-gop": 0,
            "bframes": min(7, self.gop - 1),
            "b-adapt": 0,
            "b-pyramid": "none",
        }
        options = {
            "preset": self.preset,
            "crf": f"{self.crf:g}",
            "threads": "1",
            "x264-params": ":".join(f"{key}={value}" for key, value in parameters.items()),
        }
        return options | ({"tune": "fastdecode"} if self.fast_decode else {})


class Job(NamedTuple):
    """A file to encode."""

    source: str
    target: str
    encoding: Encoding


class Encoded(NamedTuple):
    """What became of a job.

    Attributes:
        cause: why it failed; empty when it did not.
        bytes_in: size of the source.
        bytes_out: size of the target.
        fatal: whether the other jobs would fail as well.
    """

    cause: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    fatal: bool = False


def encode(job: Job, beat: Callable[[], None]) -> Encoded:
    """Encode one video: the same frames at exactly the same times, upright, without sound.

    The target is there whole or not at all. The sides of the frames become even, pixels 8-bit 4:2:0; colours keep their
    matrix and range. Time stamps that do not rise (MPEG-4 with B-frames in AVI) become the number of the frame at the
    frame rate that the file states.
    """
    target = Path(job.target)
    part = target.with_name(f".{target.name}.part")
    try:
        origin = os.stat(job.source)
    except OSError as error:
        return Encoded("no such file" if isinstance(error, FileNotFoundError) else cause_of(error))
    try:
        description = json.dumps(
            {"videobench": asdict(job.encoding), "size": origin.st_size, "mtime_ns": origin.st_mtime_ns}
        )
        if target.exists():
            if _description(target) != description:
                return Encoded("its target exists already and is not of this file and these settings")
            return Encoded(bytes_in=origin.st_size, bytes_out=target.stat().st_size)
        target.parent.mkdir(parents=True, exist_ok=True)
        _encode(job, part, description, beat)
        size = part.stat().st_size
        put_in_place(part, target)
        return Encoded(bytes_in=origin.st_size, bytes_out=size)
    except VideoError as error:
        return Encoded(error.cause)
    except (av.FFmpegError, OSError) as error:
        cause = f"cannot write {printable(job.target)}: {cause_of(error)}"
        return Encoded(cause, fatal=error.errno in FULL)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _encode(job: Job, part: Path, description: str, beat: Callable[[], None]) -> None:
    with Video(job.source) as video:
        damage, fps, timed = video.index.damage, video.fps, video.index.timed
    if damage:
        raise VideoError(job.source, damage)
    try:
        times = _encode_frames(job, part, description, beat, fps)
    except _Disorder:
        if timed:
            raise VideoError(job.source, "time stamps do not rise") from None
        times = _encode_frames(job, part, description, beat, fps, count=True)
    container, stream = open_video(part)
    with container:
        got = sorted(packet.pts * stream.time_base for packet in container.demux(stream) if packet.size)
    if got != times:
        raise VideoError(job.source, f"of {len(times)} frames at their times, {len(got)} came out at others")


def _encode_frames(
    job: Job, part: Path, description: str, beat: Callable[[], None], fps: Fraction, count: bool = False
) -> list[Fraction]:
    """Encode all frames; their times in seconds."""
    source, stream = open_video(job.source)
    base = 1 / fps if count else stream.time_base
    times: list[Fraction] = []
    writer = None
    clock = _clock(base, fps)
    # In this clock, and not in milliseconds, the file says when its first frame is shown.
    options = {"movie_timescale": str(clock)}
    with source, av.open(os.fspath(part), "w", format="mp4", container_options=options) as target:
        target.metadata["comment"] = description
        for number, frame in enumerate(sound_frames(job.source, source, stream)):
            tick = number if count else frame.pts
            if tick is None or (times and tick * base <= times[-1]):
                raise _Disorder
            if writer is None:
                writer = _Writer(target, frame, clock, fps, job.encoding)
            times.append(tick * base)
            writer.put(frame, int(times[-1] * clock))
            beat()
        if writer is None:
            raise VideoError(job.source, "no frames")
        writer.finish(len(times))
    return times


class _Disorder(Exception):
    """Frames without a time, or shown before the one in front of them."""


class _Writer:
    """The video stream of a new file."""

    def __init__(
        self, container: OutputContainer, frame: av.VideoFrame, clock: int, fps: Fraction, encoding: Encoding
    ) -> None:
        self._container, self._base, self._fps = container, Fraction(1, clock), fps
        self._size = even_size(frame.width, frame.height, encoding.short_side)
        turned = upright(np.empty(self._size[::-1], np.uint8), frame)[0].shape
        self._stream: VideoStream = container.add_stream("libx264", options=encoding.options())
        self._stream.height, self._stream.width = turned
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        self._stream.time_base = context.time_base = self._base
        context.framerate = fps
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(context, tag, getattr(frame, tag))
        self._held: av.Packet | None = None
        self._begin: int | None = None

    def put(self, frame: av.VideoFrame, tick: int) -> None:
        scaled = frame.reformat(*self._size, format="yuv420p", interpolation=Interpolation.BICUBIC, threads=1)
        if frame.side_data.get("DISPLAYMATRIX") is not None:
            scaled = _turned(scaled, frame)
        scaled.pts, scaled.time_base = tick, self._base
        scaled.pict_type = 0  # the encoder's choice, not the original's
        self._mux(self._stream.encode(scaled))

    def finish(self, frames: int) -> None:
        """Write what is left, and make the file last as long as gives the original's frame rate."""
        self._mux(self._stream.encode(None))
        last = self._held
        wanted = round(frames / self._fps / last.time_base) - (last.dts - self._begin)
        last.duration = max(1, wanted)
        self._container.mux(last)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self._held is not None:
                self._container.mux(self._held)
            else:
                self._begin = packet.dts
            self._held = packet


def _clock(base: Fraction, fps: Fraction) -> int:
    """Ticks per second that every time stamp is a whole number of, and if possible the distance of two frames, too.

    An mp4 file has no clock slower than 10,000 Hz in FFmpeg's hands.
    """
    ticks = math.lcm(base.denominator, fps.numerator)
    ticks = base.denominator if ticks > _FASTEST_CLOCK else ticks
    while ticks < 10_000:
        ticks *= 2
    return ticks


def even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the short side no longer than ``short_side``, both rounded to even numbers."""
    scale = min(1.0, short_side / min(width, height))
    return 2 * max(1, round(width * scale / 2)), 2 * max(1, round(height * scale / 2))


def _turned(frame: av.VideoFrame, original: av.VideoFrame) -> av.VideoFrame:
    """A 4:2:0 frame as its display matrix says."""
    planes = []
    for plane in frame.planes:
        stored = np.ndarray((plane.height, plane.width), np.uint8, plane, strides=(plane.line_size, 1))
        planes.append(upright(stored, original)[0])
    turned = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], "yuv420p")
    for plane, pixels in zip(turned.planes, planes, strict=True):
        np.ndarray(pixels.shape, np.uint8, plane, strides=(plane.line_size, 1))[:] = pixels
    return turned


def _description(path: Path) -> str:
    try:
        with av.open(f"file:{path}") as container:
            return container.metadata.get("comment", "")
    except av.FFmpegError:
        return ""
