"""Video files to uint8 RGB frames: exactly the frames asked for, and only the decoding they need.

Frame i is the i-th frame that a plain decode from the first packet to the last hands out (presentation order, edit
lists applied). Where the time stamps of the packets can be trusted (`_TIMED_CONTAINERS` and `_TIMED_CODECS`) one pass
over the packets, without decoding, tells which packet holds frame i and where the key frames are; decoding then runs
from a key frame through the last wanted frame. Everywhere else, and whenever the frames that come out are not the ones
that were announced, frames are counted from the beginning.
"""

import io
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from videobench.datasets.containers import VideoError, cause_of, name_of, open_video
from videobench.datasets.h264 import may_hold_fields
from videobench.datasets.packets import (
    KEY,
    MARKED,
    SHOWN,
    VideoIndex,
    announced_bytes,
    counted_index,
    shows_picture,
    starts_afresh,
    timed_index,
)

# Verified to be exact frame by frame; others are counted.
_TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_TIMED_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
# Packets up to this size together stay in memory between the pass that finds the frames and the decoding.
_KEEP_PACKETS = 32 << 20
# Decoded frames up to this size together stay in memory when finding the frames took decoding them.
_KEEP_FRAMES = 64 << 20
# Up to this many bytes ahead, reading on beats seeking.
_SEEK_OVER = 4 << 20
_CUT_SHORT = "the file ends too early"


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds.

    Attributes:
        frames: number of frames that can be asked for.
        fps: frames per second, on average where the distances vary.
        width: of the frames as shown, in pixels (after the rotation).
        height: likewise.
        rotation: degrees that the stored picture is turned clockwise to be shown: 0, 90, 180 or 270. (A display
            matrix may also mirror it, left to right, afterwards.)
        duration: seconds.
        codec: FFmpeg's name of it.
        key_frames: numbers of the frames that decoding can start from.
        damage: what is missing from a file that ends too early or breaks off, empty for a sound one. Found without
            decoding where that is possible, so an empty text is no proof.
    """

    frames: int
    fps: Fraction
    width: int
    height: int
    rotation: int
    duration: float
    codec: str
    key_frames: tuple[int, ...]
    damage: str


def probe(source: str | Path | bytes) -> VideoInfo:
    """What a video holds.

    Raises:
        VideoError: when it is no video or gives no frame.
    """
    with Video(source) as video:
        return video.info


def decode(source: str | Path | bytes, indices: Sequence[int], index: VideoIndex | None = None) -> Tensor:
    """The frames with the given numbers, as uint8 RGB [T, H, W, 3], turned upright.

    Args:
        source: path of a regular file, or the file's content.
        indices: frame numbers from 0, in any order, repeated or not.
        index: of this very file (`Video.index`), to save finding the frames again.

    Raises:
        VideoError: when not all of these frames can be had.
    """
    with Video(source, index) as video:
        return video.decode(indices)


#: Frames handed over at a time by `Video.decode_parts`, and what takes them.
PART = 16
Take = Callable[[list[int], Tensor], None]


class Video:
    """An open video file: its facts and its frames, found once. Use as a context manager.

    Of several video streams the first that is not a cover picture is taken.

    Args:
        source: path of a regular file, or the file's content.
        index: of this very file (`index`), to save finding the frames again.
        keep: called when the video is closed, with the index, if another one than that was found.

    Raises:
        VideoError: here and in every method, for whatever is wrong with the file.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        index: VideoIndex | None = None,
        keep: Callable[[VideoIndex], None] | None = None,
    ) -> None:
        self.path = name_of(source)
        self._known, self._keep = index, keep
        self._source = source
        self._container, self._stream = open_video(self._source)
        self._decoder = self._stream.codec_context
        self._codec = self._decoder.codec.canonical_name
        self._reformatter = VideoReformatter()
        self._geometry: tuple[int, int, int] | None = None
        # What finding the frames left in memory: packets, or decoded frames.
        self._packets: list[av.Packet] | None = None
        self._decoded: list[av.VideoFrame] | None = None
        # The packet that reading would go on with; None where only a seek helps.
        self._next: int | None = 0
        # Who takes frames as they come, a few at a time.
        self._take: Take | None = None
        if index is not None:
            self.index = index

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be asked of the video any more."""
        self._container.close()
        self._packets = self._decoded = None
        found = self.__dict__.get("index")
        if self._keep is not None and found is not None and found is not self._known:
            self._keep(found)

    @cached_property
    def index(self) -> VideoIndex:
        """Where the frames are, found by reading through the file once."""
        with self._errors():
            index = self._scan() or self._count()
        if not index.frames:
            raise VideoError(self.path, f"no frames: {index.damage or 'the video stream is empty'}")
        return index

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.index.frames

    @cached_property
    def fps(self) -> Fraction:
        """Frames per second, on average where the distances vary."""
        index = self.index
        stated = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        if not index.timed or index.frames == 1:
            return stated
        measured = (index.frames - 1) / (index.span * self._stream.time_base)
        # What a container states counts frames that an edit list hides, and may be its clock instead.
        hidden = not (index.kind & SHOWN).all() and self._codec != "vp8"
        if not hidden and abs(stated / measured - 1) < 0.05:
            return stated
        return measured.limit_denominator(1001) or measured

    @cached_property
    def info(self) -> VideoInfo:
        """All facts. Size and rotation of the picture take decoding one frame; `frames` and `fps` do not."""
        if self._geometry is None:
            self.decode([0])
        index, (width, height, rotation) = self.index, self._geometry
        duration = index.span * self._stream.time_base + 1 / self.fps if index.timed else index.frames / self.fps
        return VideoInfo(
            frames=index.frames,
            fps=self.fps,
            width=width,
            height=height,
            rotation=rotation,
            duration=float(duration),
            codec=self._codec,
            key_frames=tuple(index.key_frames.tolist()),
            damage=index.damage,
        )

    def decode(self, indices: Sequence[int]) -> Tensor:
        """The frames with the given numbers, as uint8 RGB [T, H, W, 3], turned upright.

        Args:
            indices: frame numbers from 0, in any order, repeated or not; each is decoded and converted once.

        Raises:
            ValueError: for no numbers at all.
            VideoError: when not all of these frames can be had.
        """
        asked = [operator.index(i) for i in indices]
        if not asked:
            raise ValueError("no frame numbers given")
        wanted = sorted(set(asked))
        self._check_range(wanted, self.index)
        with self._errors():
            pictures = self._decode_from_key_frames(wanted) if self.index.timed else self._decode_from_start(wanted)
            if pictures is None:
                counted = self._count()
                self._check_range(wanted, counted)
                if not counted.damage:
                    # The packets announced other frames than there are.
                    self.index = counted
                pictures = self._decode_from_start(wanted)
        self._geometry = pictures.geometry
        place = {frame: row for row, frame in enumerate(wanted)}
        pixels = torch.from_numpy(pictures.pixels)
        return pixels if asked == wanted else pixels[[place[i] for i in asked]]

    def decode_parts(self, indices: Sequence[int], take: Take) -> None:
        """Decode as :meth:`decode` does, in one pass too, with no more than ``PART`` frames in memory at a time.

        Args:
            indices: different frame numbers, rising.
            take: called with rows (places in ``indices``) and their frames, uint8 RGB [rows, H, W, 3], which are
                overwritten later. Where decoding has to begin anew, rows come again, and the later frames count.
        """
        self._take = take
        try:
            self.decode(indices)
        finally:
            self._take = None

    def _check_range(self, wanted: list[int], index: VideoIndex) -> None:
        outside = wanted[0] if wanted[0] < 0 else wanted[-1]
        if not 0 <= outside < index.frames:
            there = f"frames 0 to {index.frames - 1} are there" if index.frames else "none is there"
            damage = f" ({index.damage})" if index.damage else ""
            raise VideoError(self.path, f"frame {outside} asked for, {there}{damage}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError, _Damage) as error:
            raise VideoError(self.path, cause_of(error)) from error

    # Finding the frames.

    def _scan(self) -> VideoIndex | None:
        """The index from the packets alone; None when they cannot be trusted to tell."""
        name, extradata = self._container.format.name, self._decoder.extradata
        if name not in _TIMED_CONTAINERS or self._codec not in _TIMED_CODECS:
            return None
        if self._codec == "h264" and may_hold_fields(extradata):
            return None
        pts, pos, kind, packets = [], [], [], []
        size, end, damage = 0, 0, ""
        self._next = None
        try:
            for packet in _packets(self._container, self._stream):
                if packet.is_corrupt:
                    damage = _CUT_SHORT
                    break
                # Frames without a time, and new parameters in the middle, are for the decoder to sort out.
                time = packet.pts
                if time is None:
                    return None
                for side in packet.iter_sidedata():
                    if pts and side.data_type == "new_extradata":
                        return None
                # The first packet is where a plain decode begins, too.
                marked = packet.is_keyframe
                key = marked and (not pts or starts_afresh(packet, self._codec, extradata))
                pts.append(time)
                pos.append(-1 if packet.pos is None else packet.pos)
                kind.append(KEY * key + SHOWN * shows_picture(packet, self._codec) + MARKED * marked)
                end = (time if packet.dts is None else packet.dts) + (packet.duration or 1)
                size += packet.size
                if size <= _KEEP_PACKETS:
                    packets.append(packet)
        except av.FFmpegError as error:
            damage = cause_of(error)
        entries = self._stream.index_entries if name.startswith("mov") else ()
        if len(entries) > len(pts) and (expected := sum(entry.size > 0 for entry in entries)) > len(pts):
            damage = f"{expected - len(pts)} of {expected} packets are missing"
        damage = damage or self._cut_short()
        if damage and not pts:
            raise _Damage(f"no frames: {damage}")
        self._packets = packets if len(packets) == len(pts) else None
        # What is missing comes later in decoding order, so it is shown after `end`; frames before are all there.
        return timed_index(pts, pos, kind, damage, end if damage else None)

    def _count(self) -> VideoIndex:
        """The index from decoding everything."""
        kept, size, keys, count, damage = [], 0, [], 0, ""
        try:
            for frame in self._in_order():
                if frame.key_frame:
                    keys.append(count)
                count += 1
                size += sum(plane.buffer_size for plane in frame.planes)
                if size <= _KEEP_FRAMES:
                    kept.append(frame)
        except _Damage as error:
            damage = str(error)
        self._decoded = kept if len(kept) == count else None
        return counted_index(count, keys, damage or self._cut_short())

    def _cut_short(self) -> str:
        """What is wrong when the container announces more bytes than the file has, else nothing."""
        with io.BytesIO(self._source) if isinstance(self._source, bytes) else open(self._source, "rb") as file:
            head = file.read(64)
            return _CUT_SHORT if announced_bytes(head) > file.seek(0, io.SEEK_END) else ""

    # Decoding.

    def _decode_from_key_frames(self, wanted: list[int]) -> "_Pictures | None":
        """The pictures; None when what comes out is not what the index announced."""
        index, decoder = self.index, self._decoder
        pictures = _Pictures(len(wanted), self._reformatter, self._take)
        rows = {int(index.pts[index.order[i]]): row for row, i in enumerate(wanted)}
        decoder.flush_buffers()
        try:
            for first, last in index.stretches(wanted):
                # x264 says in its first packet how its 4:4:4 pictures are to be read.
                if first and self._codec == "h264" and "444" in (decoder.pix_fmt or ""):
                    for packet in self._read(0, 0):
                        decoder.decode(packet)
                    decoder.flush_buffers()
                part = slice(first, last + 1)
                announced = set(index.pts[part][index.kind[part] & SHOWN > 0].tolist())
                shown = index.pts[first] - 1
                for packet in itertools.chain(self._read(first, last), [None]):
                    # Nothing refers to a frame that is skipped here, so no other changes. Not so for AV1.
                    if self._codec == "h264" and packet is not None:
                        decoder.skip_frame = "DEFAULT" if packet.pts in rows else "NONREF"
                    for frame in decoder.decode(packet):
                        # Pictures shown before the key frame lack what they refer to; nobody asked for them here.
                        if frame.pts is None or frame.pts < index.pts[first]:
                            continue
                        begins = frame.pts == index.pts[first]
                        if frame.is_corrupt or frame.pts <= shown or (begins and not frame.key_frame):
                            return None
                        shown = frame.pts
                        announced.discard(frame.pts)
                        if frame.pts in rows:
                            pictures.put(rows[frame.pts], frame)
                decoder.flush_buffers()
                if self._codec != "h264" and any(pts >= index.pts[first] for pts in announced):
                    return None
        except av.FFmpegError:
            return None
        return pictures if pictures.complete else None

    def _decode_from_start(self, wanted: list[int]) -> "_Pictures":
        pictures = _Pictures(len(wanted), self._reformatter, self._take)
        rows = {i: row for row, i in enumerate(wanted)}
        for i, frame in enumerate(self._in_order() if self._decoded is None else self._decoded):
            if i in rows:
                pictures.put(rows[i], frame)
            if i == wanted[-1]:
                return pictures
        raise _Damage(f"frame {wanted[-1]} does not come out")

    def _in_order(self) -> Iterator[av.VideoFrame]:
        """All frames of the file from the first one on; `_Damage` where they stop being trustworthy."""
        container, stream = open_video(self._source)
        with container:
            packets = itertools.chain(_packets(container, stream), [None])
            for count in itertools.count():
                try:
                    packet = next(packets)
                    frames = stream.codec_context.decode(packet)
                except av.FFmpegError as error:
                    raise _Damage(f"packet {count}: {cause_of(error)}") from error
                if packet is not None and packet.is_corrupt:
                    raise _Damage(_CUT_SHORT)
                for frame in frames:
                    if frame.is_corrupt:
                        raise _Damage("a frame is damaged")
                    yield frame
                if packet is None:
                    return

    def _read(self, first: int, last: int) -> Iterator[av.Packet]:
        """Packets ``first`` to ``last`` of the video stream, by number in file order."""
        if self._packets is not None:
            yield from self._packets[first : last + 1]
            return
        for place, packet in enumerate(self._read_on(first), first):
            self._next = place + 1
            yield packet
            if place == last:
                return

    def _read_on(self, first: int) -> Iterator[av.Packet]:
        """Packets from ``first`` to the end, from disk."""
        pts, pos = self.index.pts, self.index.pos
        if self._next is None or self._next > first or pos[first] - pos[self._next] > _SEEK_OVER:
            self._container.seek(int(pts[first]), stream=self._stream)
            packets = _packets(self._container, self._stream)
            for packet in packets:
                if packet.pts == pts[first]:
                    yield packet
                    yield from packets
                    return
                if packet.pos is not None and packet.pos > pos[first]:
                    break
            # The seek went too far: begin again.
            self._container.close()
            self._container, self._stream = open_video(self._source)
            self._next = 0
        yield from itertools.islice(_packets(self._container, self._stream), first - self._next, None)


class _Damage(Exception):
    """What is wrong with the file from here on."""


class _Pictures:
    """Rows of RGB pictures [T, H, W, 3], filled one by one, or handed over a part at a time."""

    def __init__(self, count: int, reformatter: VideoReformatter, take: Take | None) -> None:
        self._count, self._reformatter, self._take = count, reformatter, take
        self._waiting: list[int] = []
        self._filled: set[int] = set()
        self.pixels: np.ndarray | None = None
        self.geometry: tuple[int, int, int] | None = None

    @property
    def complete(self) -> bool:
        return len(self._filled) == self._count

    def put(self, row: int, frame: av.VideoFrame) -> None:
        """Convert a frame into a row, upright."""
        # By default the conversion starts a thread on every core of the host.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane, shape = rgb.planes[0], (rgb.height, rgb.width, 3)
        picture, turn = upright(np.ndarray(shape, np.uint8, plane, strides=(plane.line_size, 3, 1)), frame)
        height, width = picture.shape[:2]
        if self.pixels is None:
            rows = self._count if self._take is None else min(PART, self._count)
            self.pixels = np.empty((rows, height, width, 3), np.uint8)
            self.geometry = width, height, turn
        elif self.pixels.shape[1:] != picture.shape:
            before = f"{self.pixels.shape[2]} x {self.pixels.shape[1]}"
            raise _Damage(f"the size of the frames changes from {before} to {width} x {height}")
        self._filled.add(row)
        if self._take is None:
            self.pixels[row] = picture
            return
        self.pixels[len(self._waiting)] = picture
        self._waiting.append(row)
        if len(self._waiting) == len(self.pixels) or self.complete:
            self._take(self._waiting, torch.from_numpy(self.pixels[: len(self._waiting)]))
            self._waiting = []


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets of a stream without the empty one that marks the end."""
    return (packet for packet in container.demux(stream) if packet.size)


def upright(picture: np.ndarray, frame: av.VideoFrame) -> tuple[np.ndarray, int]:
    """The picture [H, W, 3] turned by quarter turns, and mirrored, as its display matrix says; degrees clockwise."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture, 0
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    upended = min(abs(b), abs(c)) > max(abs(a), abs(d))
    right, down = (c, b) if upended else (a, d)
    if upended:
        picture = picture.swapaxes(0, 1)
    turn = (90 if upended else 0) + (180 if down < 0 else 0)
    return picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1], turn
