"""Video files to uint8 RGB frames: exactly the frames asked for, and only the decoding they need.

Frame i is the i-th frame that a plain decode from the first packet to the last hands out (presentation order, edit
lists applied). Where the time stamps of the packets can be trusted one pass over them (`scanning.scan`), without
decoding, tells which packet holds frame i and where the key frames are; decoding then runs from a key frame through the
last wanted frame. Everywhere else, and whenever the frames that come out are not the ones that were announced, frames
are counted from the beginning.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from videobench.datasets.containers import VideoError, cause_of, name_of, open_video
from videobench.datasets.packets import SHOWN, VideoIndex, counted_index
from videobench.datasets.pictures import Damage, Pictures, Take
from videobench.datasets.scanning import CUT_SHORT, cut_short, packets_of, scan

# Packets up to this size together stay in memory between the pass that finds the frames and the decoding.
_KEEP_PACKETS = 32 << 20
# Decoded frames up to this size together stay in memory when finding the frames took decoding them.
_KEEP_FRAMES = 64 << 20
# Up to this many bytes ahead, reading on beats seeking.
_SEEK_OVER = 4 << 20


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
        if not index.span:
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
        duration = index.span * self._stream.time_base + 1 / self.fps if index.span else index.frames / self.fps
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
        """Decode as :meth:`decode` does, in one pass too, with no more than `PART` frames in memory at a time.

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
        except (av.FFmpegError, OSError, Damage) as error:
            raise VideoError(self.path, cause_of(error)) from error

    # Finding the frames.

    def _scan(self) -> VideoIndex | None:
        """The index from the packets alone; None when they cannot be trusted to tell."""
        self._next = None
        index, self._packets = scan(self._container, self._stream, self._source, _KEEP_PACKETS)
        return index

    def _count(self) -> VideoIndex:
        """The index from decoding everything."""
        kept, size, keys, times, count, damage = [], 0, [], [], 0, ""
        try:
            for frame in self._in_order():
                if frame.key_frame:
                    keys.append(count)
                count += 1
                times.append(frame.pts)
                size += sum(plane.buffer_size for plane in frame.planes)
                if size <= _KEEP_FRAMES:
                    kept.append(frame)
        except Damage as error:
            damage = str(error)
        self._decoded = kept if len(kept) == count else None
        return counted_index(count, keys, damage or cut_short(self._source), times)

    # Decoding.

    def _decode_from_key_frames(self, wanted: list[int]) -> Pictures | None:
        """The pictures; None when what comes out is not what the index announced."""
        index, decoder = self.index, self._decoder
        pictures = Pictures(len(wanted), self._reformatter, self._take)
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

    def _decode_from_start(self, wanted: list[int]) -> Pictures:
        pictures = Pictures(len(wanted), self._reformatter, self._take)
        rows = {i: row for row, i in enumerate(wanted)}
        for i, frame in enumerate(self._in_order() if self._decoded is None else self._decoded):
            if i in rows:
                pictures.put(rows[i], frame)
            if i == wanted[-1]:
                return pictures
        raise Damage(f"frame {wanted[-1]} does not come out")

    def _in_order(self) -> Iterator[av.VideoFrame]:
        """All frames of the file from the first one on; `Damage` where they stop being trustworthy."""
        container, stream = open_video(self._source)
        with container:
            packets = itertools.chain(packets_of(container, stream), [None])
            for count in itertools.count():
                try:
                    packet = next(packets)
                    frames = stream.codec_context.decode(packet)
                except av.FFmpegError as error:
                    raise Damage(f"packet {count}: {cause_of(error)}") from error
                if packet is not None and packet.is_corrupt:
                    raise Damage(CUT_SHORT)
                for frame in frames:
                    if frame.is_corrupt:
                        raise Damage("a frame is damaged")
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
            packets = packets_of(self._container, self._stream)
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
        yield from itertools.islice(packets_of(self._container, self._stream), first - self._next, None)
