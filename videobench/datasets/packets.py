"""What the packets of a video file tell without being decoded: which one holds frame i, where decoding can start."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import av
import numpy as np

KEY, SHOWN, MARKED = 1, 2, 4


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are; worth keeping while size and modification time of the file stay the same.

    Attributes:
        frames: number of frames.
        key_frames: numbers of those that decoding can start from, int64.
        damage: what is missing from a file that breaks off, empty for a sound one.
        pts: time stamp of every packet in file order, int64; empty where frames have to be counted by decoding.
        pos: its byte position in the file, int64; -1 where unknown.
        kind: its kind, uint8: 1 where decoding can start, plus 2 for a frame that is shown, plus 4 where the file says
            that decoding can start.
        span: ticks of the stream's clock from the first frame to the last; 0 where nothing tells.
    """

    frames: int
    key_frames: np.ndarray
    damage: str
    pts: np.ndarray
    pos: np.ndarray
    kind: np.ndarray
    span: int = 0

    @property
    def timed(self) -> bool:
        """Whether the packets tell where the frames are."""
        return len(self.pts) > 0

    @cached_property
    def order(self) -> np.ndarray:
        """The packet that holds frame i, for every i."""
        shown = np.flatnonzero(self.kind & SHOWN)
        return shown[np.argsort(self.pts[shown])][: self.frames]

    def stretches(self, wanted: Sequence[int]) -> list[list[int]]:
        """First and last packet of what to decode for the wanted frames, from key frames on.

        The key frame to start from comes before the wanted frame in the file and on the screen: pictures that follow a
        key frame in the file but precede it on the screen refer to what was before it.
        """
        keys = np.flatnonzero(self.kind & KEY)
        packets = self.order[wanted]
        earlier = np.minimum(
            np.searchsorted(keys, packets, "right"), np.searchsorted(self.pts[keys], self.pts[packets], "right")
        )
        stretches: list[list[int]] = []
        for first, last in sorted(zip(keys[earlier - 1].tolist(), packets.tolist(), strict=True)):
            if stretches and first <= stretches[-1][1]:
                stretches[-1][1] = max(stretches[-1][1], last)
            else:
                stretches.append([first, last])
        return stretches


def counted_index(frames: int, key_frames: Sequence[int], damage: str, times: Sequence[int | None] = ()) -> VideoIndex:
    """The index of a file whose frames were counted; ``times`` are their time stamps, None where unknown."""
    none = np.empty(0, np.int64)
    # Some containers have no times, and in others they jump.
    rising = len(times) > 0 and None not in times and all(earlier < later for earlier, later in pairwise(times))
    span = _span(times[0], times[-1]) if rising else 0
    return VideoIndex(frames, np.array(key_frames, np.int64), damage, none, none, none, span)


def timed_index(
    pts: Sequence[int], pos: Sequence[int], kind: Sequence[int], damage: str = "", end: int | None = None
) -> VideoIndex | None:
    """The index that packets give, in file order; None when they are out of the ordinary.

    Args:
        pts: time stamps.
        pos: byte positions.
        kind: kinds, see `VideoIndex`.
        damage: what is missing from the file.
        end: only frames shown before this time are sure to have all earlier ones in the file.
    """
    times, kinds = np.array(pts, np.int64), np.array(kind, np.uint8)
    shown, keys = np.sort(times[kinds & SHOWN > 0]), times[kinds & KEY > 0]
    regular = (
        len(shown) > 0
        and bool(kinds[0] & KEY)
        # Pictures that the first key frame follows on the screen come out of some decoders only.
        and shown[0] >= times[0]
        and bool((np.diff(shown) > 0).all())
        and bool((np.diff(keys) > 0).all())
    )
    if not regular:
        return None
    if end is not None:
        shown = shown[shown < end]
    key_frames = np.searchsorted(shown, keys[np.isin(keys, shown)])
    span = _span(shown[0], shown[-1]) if len(shown) else 0
    return VideoIndex(len(shown), key_frames, damage, times, np.array(pos, np.int64), kinds, span)


def _span(first: int, last: int) -> int:
    """Ticks between two times of 64 bits, which damage can drive further apart than 64 bits hold."""
    return min(int(last) - int(first), 2**63 - 1)


def shows_picture(packet: av.Packet, codec: str) -> bool:
    """Whether a frame comes out for a packet: hidden ones are for others to refer to, or outside the edit list."""
    # RFC 6386, section 9.1: the show_frame bit.
    return not packet.is_discard and (codec != "vp8" or bool(memoryview(packet)[0] & 0x10))


def starts_afresh(packet: av.Packet, codec: str, extradata: bytes | None) -> bool:
    """Whether decoding can start at a packet that its file marks as a key frame.

    Files mark the beginning of a gradual refresh, too, from which frames become right only one by one, and intra
    pictures that later ones refer past.
    """
    if codec not in ("h264", "hevc"):
        return True
    place = 4 if codec == "h264" else 21
    # Without a configuration record the units are not told apart by lengths.
    if not extradata or extradata[0] != 1 or len(extradata) <= place:
        return False
    for unit in _nal_units(memoryview(packet), (extradata[place] & 3) + 1):
        if codec == "hevc":
            kind = unit[0] >> 1 & 0x3F
            if kind < 32:
                return 16 <= kind <= 21
        else:
            kind = unit[0] & 0x1F
            if kind in (1, 5):
                return kind == 5
            if kind == 6 and _recovers_at_once(unit[1:]):
                return True
    return False


def announced_bytes(head: bytes) -> int:
    """Size of an AVI or Matroska file as its first 64 bytes announce it; 0 when they do not."""
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return 0
    size, start = _ebml_size(head, 4)
    segment = start + size
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":
        return 0
    size, start = _ebml_size(head, segment + 4)
    return start + size if size else 0


def _ebml_size(head: bytes, place: int) -> tuple[int, int]:
    """A variable-length size (RFC 8794, section 4), 0 for "unknown", and the place after it."""
    length = 9 - head[place].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[place : place + length], "big") & unknown
    return 0 if size == unknown else size, place + length


def _nal_units(content: memoryview, length_size: int) -> Iterator[memoryview]:
    """The units of a packet that states their lengths."""
    place = 0
    while place + length_size < len(content):
        start = place + length_size
        place = start + int.from_bytes(content[place:start], "big")
        if place > start:
            yield content[start:place]


def _recovers_at_once(messages: memoryview) -> bool:
    """Whether supplemental information holds a recovery point with no frames to wait (H.264, D.1.8)."""
    place = 0
    while place + 2 < len(messages):
        values = []
        for _ in range(2):
            value = 0
            while place < len(messages) and messages[place] == 0xFF:
                value += 0xFF
                place += 1
            if place == len(messages):
                return False
            values.append(value + messages[place])
            place += 1
        kind, size = values
        # recovery_frame_cnt is an Exp-Golomb number: 0 is a single one bit.
        if kind == 6:
            return place < len(messages) and bool(messages[place] & 0x80)
        place += size
    return False
