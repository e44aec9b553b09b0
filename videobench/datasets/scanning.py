"""The index of a file from one pass over its packets, which are not decoded."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from videobench.datasets.containers import cause_of
from videobench.datasets.h264 import may_hold_fields
from videobench.datasets.packets import (
    KEY,
    MARKED,
    SHOWN,
    VideoIndex,
    announced_bytes,
    shows_picture,
    starts_afresh,
    timed_index,
)
from videobench.datasets.pictures import Damage

# Verified to be exact frame by frame; others are counted.
_TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_TIMED_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
CUT_SHORT = "the file ends too early"


def scan(
    container: InputContainer, stream: VideoStream, source: str | Path | bytes, keep: int
) -> tuple[VideoIndex | None, list[av.Packet] | None]:
    """The index of a file opened just now, None where its packets cannot be trusted to tell; and its packets.

    Args:
        container: at its beginning.
        stream: the video stream in it.
        source: path of the file, or its content.
        keep: the packets are kept when they have no more bytes than this together, else None.

    Raises:
        Damage: when there is no packet.
    """
    name, codec = container.format.name, stream.codec_context.codec.canonical_name
    extradata = stream.codec_context.extradata
    if name not in _TIMED_CONTAINERS or codec not in _TIMED_CODECS:
        return None, None
    if codec == "h264" and may_hold_fields(extradata):
        return None, None
    pts, pos, kind, packets = [], [], [], []
    last, size, damage = None, 0, ""
    try:
        for packet in packets_of(container, stream):
            if packet.is_corrupt:
                damage = CUT_SHORT
                break
            # Frames without a time, and new parameters in the middle, are for the decoder to sort out.
            time = packet.pts
            if time is None:
                return None, None
            for side in packet.iter_sidedata():
                if pts and side.data_type == "new_extradata":
                    return None, None
            # The first packet is where a plain decode begins, too.
            marked = packet.is_keyframe
            key = marked and (not pts or starts_afresh(packet, codec, extradata))
            pts.append(time)
            pos.append(packet.pos)
            kind.append(KEY * key + SHOWN * shows_picture(packet, codec) + MARKED * marked)
            size += packet.size
            if size <= keep:
                packets.append(packet)
            last = packet
    except av.FFmpegError as error:
        damage = cause_of(error)
    entries = stream.index_entries if name.startswith("mov") else ()
    if len(entries) > len(pts) and (expected := sum(entry.size > 0 for entry in entries)) > len(pts):
        damage = f"{expected - len(pts)} of {expected} packets are missing"
    damage = damage or cut_short(source)
    if damage and last is None:
        raise Damage(f"no frames: {damage}")
    end = None
    if damage:
        # What is missing comes later in decoding order, so it is shown after this; frames before are all there.
        end = (last.pts if last.dts is None else last.dts) + (last.duration or 1)
    pos = [-1 if place is None else place for place in pos]
    return timed_index(pts, pos, kind, damage, end), packets if size <= keep else None


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets of a stream without the empty one that marks the end."""
    return (packet for packet in container.demux(stream) if packet.size)


def cut_short(source: str | Path | bytes) -> str:
    """What is wrong when the container announces more bytes than the file has, else nothing."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        head = file.read(64)
        return CUT_SHORT if announced_bytes(head) > file.seek(0, io.SEEK_END) else ""
