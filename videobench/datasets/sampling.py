"""Which frames a clip takes: pure arithmetic, no video is touched.

Every rule is a function of the number of frames, the frame rate and the shape of the clip. The published code bases
disagree with each other; their rules are kept, number for number, so that published weights are fed what they were
trained on. ``time`` is the plain rule for new models.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

Draw = float | np.random.Generator


@dataclass(frozen=True)
class _Request:
    """The arguments of `clip_indices`, checked."""

    frames: int
    fps: Fraction
    num_frames: int
    stride: int
    target_fps: Fraction
    use_offset: bool
    view: int
    views: int
    draw: Draw | None

    def start(self, room: float, *, use_offset: bool | None = None) -> float:
        """Where the published code starts a clip that can move by ``room`` frames."""
        if self.draw is not None:
            return _uniform(self.draw) * room
        if not (self.use_offset if use_offset is None else use_offset):
            return room * self.view / self.views
        return math.floor(room / 2) if self.views == 1 else self.view * math.floor(room / (self.views - 1))


def clip_indices(
    rule: str,
    *,
    frames: int,
    fps: float | Fraction | None,
    num_frames: int,
    stride: int,
    target_fps: float = 30,
    use_offset: bool = True,
    view: int | None = None,
    views: int = 1,
    draw: Draw | None = None,
) -> list[int]:
    """The frame numbers of one clip, counted from 0.

    Args:
        rule: a name of `RULES`.
        frames: frames of the video (of the action segment for ``epic``).
        fps: its frame rate; None where nothing tells, for the rules of `TIMELESS` alone.
        num_frames: frames of the clip, T.
        stride: distance between them, in frames at ``target_fps`` (``native``: in frames of the video; the segment
            rules ignore it).
        target_fps: the frame rate that ``stride`` is counted in.
        use_offset: published rules only: spread the views from the first to the last possible clip and take the middle
            for a single one; off, view k of V starts at k / V of the room, which never reaches the end.
        view: which test view, from 0. Exactly one of ``view`` and ``draw`` is given.
        views: number of test views.
        draw: for a training clip, a number in [0, 1) that places it, or a generator to draw from. The segment rules
            use a number for all segments alike and draw anew for every segment from a generator, as published.

    Returns:
        T numbers in [0, frames), rising; videos shorter than the clip repeat frames.

    Raises:
        ValueError: for arguments that make no clip.
    """
    if rule not in RULES:
        raise ValueError(f"no sampling rule {rule!r}; there are {', '.join(RULES)}")
    if fps is None and rule not in TIMELESS:
        raise ValueError(f"the sampling rule {rule!r} counts time, and the frame rate is unknown")
    fps = Fraction(1) if fps is None else fps
    if frames < 1 or fps <= 0 or num_frames < 1 or stride < 1 or target_fps <= 0:
        raise ValueError(
            f"frames={frames}, fps={fps}, num_frames={num_frames}, stride={stride}, target_fps={target_fps}: "
            "every one must be positive"
        )
    if (view is None) == (draw is None):
        raise ValueError("a clip is either a test view (view) or a training clip (draw)")
    if view is not None and not 0 <= view < views:
        raise ValueError(f"view {view} is not one of the {views} views 0..{views - 1}")
    if isinstance(draw, float) and not 0 <= draw < 1:
        raise ValueError(f"draw={draw} must lie in [0, 1)")
    request = _Request(
        frames, _rational(fps), num_frames, stride, _rational(target_fps), use_offset, view or 0, views, draw
    )
    return RULES[rule](request)


def _time(request: _Request) -> list[int]:
    """Frame i is on screen i * stride / target_fps seconds after the first; views spread evenly over the video.

    The first view begins with the first frame, the last view ends with the last one, a single view is the middle; a
    training clip starts anywhere with equal probability. Assumes a constant frame rate.
    """
    step = request.stride * request.fps / request.target_fps
    places = max(request.frames - (request.num_frames - 1) * step, Fraction(1))
    if request.draw is not None:
        start = Fraction(_uniform(request.draw)) * places
    else:
        start = (places - 1) * (Fraction(request.view, request.views - 1) if request.views > 1 else Fraction(1, 2))
    return [min(math.floor(start + i * step), request.frames - 1) for i in range(request.num_frames)]


def _native(request: _Request) -> list[int]:
    """Stride counted in frames of the video (UniFormer with decord)."""
    length = request.num_frames * request.stride
    start = request.start(max(request.frames - length, 0))
    return _positions(start, start + length - 1, request.num_frames, request.frames)


def _slowfast_torchvision(request: _Request) -> list[int]:
    """Decodes the clip alone when the video has more than T * stride frames (at any frame rate), else all of it."""
    fps, frames = _torchvision_facts(request)
    length = max(1.0, request.num_frames * request.stride / float(request.target_fps) * fps)
    if frames > request.num_frames * request.stride:
        return _inside_window(request, request.start(max(frames - length, 0)), length, fps)
    start = request.start(max(request.frames - length, 0))
    return _positions(start, start + length - 1, request.num_frames, request.frames)


def _morphmlp_torchvision(request: _Request) -> list[int]:
    """Always decodes the clip alone."""
    fps, frames = _torchvision_facts(request)
    length = request.num_frames * request.stride / float(request.target_fps) * fps
    return _inside_window(request, request.start(max(frames - length, 0)), length, fps)


def _uniformer_pyav(request: _Request) -> list[int]:
    """Decodes the clip and one frame more."""
    fps = float(request.fps)
    length = request.num_frames * request.stride / float(request.target_fps) * fps
    return _inside_window(request, request.start(max(request.frames - length, 0)), length, fps, more=1)


def _motionformer_pyav(request: _Request) -> list[int]:
    """As `_uniformer_pyav`; knows no offset sampling."""
    fps = float(request.fps)
    length = request.num_frames * request.stride / float(request.target_fps) * fps
    start = request.start(max(request.frames - length, 0), use_offset=False)
    return _inside_window(request, start, length, fps, more=1)


def _epic(request: _Request) -> list[int]:
    """Motionformer on EPIC-Kitchens: everything one frame late."""
    length = request.num_frames * request.stride * float(request.fps) / float(request.target_fps)
    start = request.start(max(request.frames - length, 0), use_offset=False)
    return _positions(start + 1, start + length, request.num_frames, request.frames)


def _segments_sth(request: _Request) -> list[int]:
    """T equal segments; a view takes the same offset in each (UniFormer and MorphMLP, Something-Something)."""
    segment = (request.frames - 1) / request.num_frames
    if request.draw is not None:
        return _draw_in_segments(request)
    offset = int(segment / (request.views + 1) * (request.view + 1))
    return [round(segment * i) + offset for i in range(request.num_frames)]


def _segments_ssv2(request: _Request) -> list[int]:
    """T equal segments, the middle of each; all views are the same (SlowFast and Motionformer, SSv2)."""
    segment = (request.frames - 1) / request.num_frames
    if request.draw is not None:
        return _draw_in_segments(request)
    return [(round(segment * i) + round(segment * (i + 1))) // 2 for i in range(request.num_frames)]


RULES: dict[str, Callable[[_Request], list[int]]] = {
    "time": _time,
    "native": _native,
    "uniformer_decord": _native,
    "slowfast_torchvision": _slowfast_torchvision,
    "morphmlp_torchvision": _morphmlp_torchvision,
    "motionformer_pyav": _motionformer_pyav,
    "uniformer_pyav": _uniformer_pyav,
    "segments_sth": _segments_sth,
    "segments_ssv2": _segments_ssv2,
    "epic": _epic,
}


#: The rules that do not ask for the frame rate.
TIMELESS = ("native", "uniformer_decord", "segments_sth", "segments_ssv2")


def epic_segment(video_id: str, start_timestamp: str, stop_timestamp: str) -> tuple[int, int, int]:
    """First frame number, end frame number (exclusive) and frame rate of an EPIC-Kitchens-100 action.

    A frame of the action is ``first + clip_indices("epic", frames=end - first, ...)[i]``, the number in the file name
    ``frame_%010d.jpg``, which counts from 1. The recordings of 2020 have three digits after the underscore of
    ``video_id`` and 50 frames a second, the older ones 60.

    Raises:
        ValueError: for a time stamp that is not ``HH:MM:SS.hh``.
    """
    fps = 50 if len(video_id.partition("_")[2]) == 3 else 60
    return round(timestamp_seconds(start_timestamp) * fps), round(timestamp_seconds(stop_timestamp) * fps), fps


def timestamp_seconds(timestamp: str) -> float:
    """Seconds of a time stamp ``HH:MM:SS.hh``.

    Raises:
        ValueError: for another form.
    """
    match = re.fullmatch(r"(\d+):(\d+):(\d+)\.(\d+)", timestamp.strip())
    if not match:
        raise ValueError(f"time stamp {timestamp!r} is not of the form HH:MM:SS.hh")
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction) / 100


def _rational(fps: float | Fraction) -> Fraction:
    # 1001 is the largest denominator of a broadcast frame rate (30000/1001).
    return fps if isinstance(fps, Fraction) else Fraction(fps).limit_denominator(1001)


def _uniform(draw: Draw) -> float:
    return float(draw.random()) if isinstance(draw, np.random.Generator) else float(draw)


def _positions(start: float, end: float, count: int, available: int) -> list[int]:
    """Whole numbers at ``count`` places evenly from ``start`` to ``end``, both included.

    Repeats the rounding of PyTorch's 32-bit linspace, which works inwards from both ends with fused multiply-adds:
    where a place should be a whole number, the frame depends on it.
    """
    first, last = np.float32(start), np.float32(end)
    if count == 1:
        return [int(np.clip(first, 0, available - 1))]
    step = float((last - first) / np.float32(count - 1))
    steps = np.arange(count)
    places = np.where(steps < count // 2, float(first) + step * steps, float(last) - step * steps[::-1])
    return [int(place) for place in np.clip(places.astype(np.float32), 0, available - 1)]


def _torchvision_facts(request: _Request) -> tuple[float, float]:
    """Frame rate, a 32-bit number in torchvision, and its product with the duration, taken for the number of frames.

    The product of 247 frames at 30 is a little less than 247, and starts that are rounded down depend on it.
    """
    fps = float(np.float32(float(request.fps)))
    return fps, fps * float(request.frames / request.fps)


def _inside_window(request: _Request, start: float, length: float, fps: float, more: int = 0) -> list[int]:
    """Positions 0..length-1 inside the frames whose time stamps lie between those of the clip's two ends.

    The ends are whole ticks of the container's clock, as FFmpeg sets it for mp4, cut off; ``more`` frames after the
    window are there too.
    """
    clock = request.fps.numerator
    while clock < 10_000:
        clock *= 2
    ticks = Fraction(clock) / request.fps
    first = math.ceil(int(start * clock / fps) / ticks)
    last_tick = int((start + length - 1) * clock / fps)
    # A window that ends at tick 0 is taken for one without an end.
    last = math.floor(last_tick / ticks) + more if last_tick > 0 or more else request.frames - 1
    kept = min(last, request.frames - 1) - first + 1
    return [first + i for i in _positions(0.0, length - 1, request.num_frames, kept)]


def _draw_in_segments(request: _Request) -> list[int]:
    """One frame from each of T segments; both ends belong to a segment, so neighbours share a frame."""
    segment = (request.frames - 1) / request.num_frames
    bounds = [round(segment * i) for i in range(request.num_frames + 1)]
    return [low + int(_uniform(request.draw) * (high - low + 1)) for low, high in pairwise(bounds)]
