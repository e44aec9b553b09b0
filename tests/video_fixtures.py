"""Small video files of many kinds, sound and broken, and the plain decode they are compared with."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

# Quarter turns and mirrors as (a, b, c, d) of the display matrix.
MATRICES = {
    "rotate90": (0, 1, -1, 0),
    "rotate180": (-1, 0, 0, -1),
    "rotate270": (0, -1, 1, 0),
    "mirror": (-1, 0, 0, 1),
    "transpose": (0, 1, 1, 0),
}


def pictures(count: int, width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """Frames [count, height, width, 3], each unlike the others: texture and a patch, both moving."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height, width, 3)).astype(np.float32)
    for axis in (0, 1, 0, 1):
        texture = (texture + np.roll(texture, 1, axis)) / 2
    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i] = np.roll(texture, (i, 2 * i), (0, 1)).clip(0, 255)
        y, x = (5 * i) % (height - 8), (3 * i) % (width - 8)
        frames[i, y : y + 8, x : x + 8] = (i * 37 % 256, i * 91 % 256, 255 - i * 13 % 256)
    return frames


def write_clip(
    path: Path,
    frames: np.ndarray | int = 40,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    rate: Fraction | int = 30,
    ticks: Sequence[int] | None = None,
    key_frames: Sequence[int] = (),
    matrix: tuple[int, int, int, int] | None = None,
    options: dict[str, str] | None = None,
    mux_options: dict[str, str] | None = None,
    full_range: bool = False,
    colorspace: int | None = None,
    audio: bool = False,
    second_video: np.ndarray | None = None,
    cover: np.ndarray | None = None,
    metadata: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Encode frames (an array, or how many to make up) into a file.

    Args:
        path: where to; its suffix chooses the container unless ``format`` does.
        frames: uint8 [T, H, W, 3], or a number.
        codec: encoder.
        pix_fmt: what is stored.
        size: (width, height) of made-up frames.
        rate: frames per second.
        ticks: time stamps of the frames in units of 1 / rate; 0, 1, 2, ... unless given.
        key_frames: frames that must be key frames.
        matrix: display matrix (a, b, c, d).
        options: for the encoder.
        mux_options: for the container.
        full_range: store the full range of levels.
        colorspace: colour matrix to tag.
        audio: add a second of sound.
        second_video: frames of a second video stream.
        cover: a picture to attach before the video.
        metadata: for the container.
        format: container.
    """
    if isinstance(frames, int):
        frames = pictures(frames, *size)
    output = av.open(os.fspath(path), "w", format=format, options=mux_options or {})
    with _priority_kept(), output as container:
        container.metadata.update(metadata or {})
        if cover is not None:
            attached = _cover_stream(container, cover)
        stream = _video_stream(container, frames, codec, pix_fmt, rate, options or {})
        context = stream.codec_context
        if full_range:
            context.color_range = 2
        if colorspace is not None:
            context.colorspace = colorspace
        if matrix is not None:
            a, b, c, d = (value << 16 for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        other = None
        if second_video is not None:
            other = _video_stream(container, second_video, codec, pix_fmt, rate, options or {})
        sound = container.add_stream("aac", rate=8000) if audio else None
        if cover is not None:
            _write_cover(container, attached, cover)
        for i, picture in enumerate(frames):
            frame = _frame(picture, pix_fmt, i if ticks is None else ticks[i], full_range=full_range)
            frame.time_base = 1 / Fraction(rate)
            if i in key_frames:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if other is not None:
            for i, picture in enumerate(second_video):
                container.mux(other.encode(_frame(picture, pix_fmt, i)))
            container.mux(other.encode(None))
        if sound is not None:
            _write_sound(container, sound)
    return path


@contextlib.contextmanager
def _priority_kept() -> Iterator[None]:
    """SVT-AV1 makes the calling process a real-time one where it may, as root; two of them busy starve all others."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_sound(path: Path, cover: np.ndarray | None = None) -> Path:
    """A file without video; ``cover`` attaches a picture."""
    with av.open(os.fspath(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        if cover is not None:
            _write_cover(container, _cover_stream(container, cover), cover)
        _write_sound(container, sound)
    return path


def hide_first_frames(path: Path, seconds: float) -> None:
    """Make an mp4 file's edit list begin later, so that its first frames are decoded but not shown."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 4
    scale = content.index(b"mdhd") + 4
    timescale = int.from_bytes(content[scale + 12 : scale + 16], "big")
    start = int.from_bytes(content[place + 12 : place + 16], "big", signed=True)
    content[place + 12 : place + 16] = (start + round(seconds * timescale)).to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def damage_packet(path: Path, number: int) -> None:
    """Overwrite a packet of the first video stream (packets in file order)."""
    with av.open(os.fspath(path)) as container:
        packet = bytes([p for p in container.demux(container.streams.video[0]) if p.size][number])
    # Lengths of all ones leave the decoder nothing to guess.
    path.write_bytes(path.read_bytes().replace(packet, b"\xff" * len(packet)))


def forge_x264_version(path: Path, version: int) -> None:
    """Make a file of x264 look as if an older x264, with known faults, had made it."""
    path.write_bytes(re.sub(rb"x264 - core \d+", b"x264 - core %d" % version, path.read_bytes()))


def cut(path: Path, target: Path, share: float = 1.0, *, through: bytes = b"") -> Path:
    """The first part of a file: a share of its bytes, or all up to where some bytes come first."""
    content = path.read_bytes()
    target.write_bytes(content[: content.index(through) + len(through) if through else int(len(content) * share)])
    return target


def reference(path: Path, stream: int = 0) -> np.ndarray:
    """All frames by plain sequential decode, turned by the angle that FFmpeg reports."""
    frames = []
    with av.open(os.fspath(path)) as container:
        video = container.streams.video[stream]
        video.codec_context.thread_count = 1
        for frame in container.decode(video):
            frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
    return np.stack(frames)


# SVT-AV1 writes pages of facts to stderr.
os.environ.setdefault("SVT_LOG", "1")

X264 = {"preset": "veryfast", "threads": "1"}
# For encodings that are compared with each other: the macroblock tree is not repeatable with AVX-512.
REPEATABLE = X264 | {"x264-params": "mbtree=0"}
_VPX = {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "12", "b": "200k"}
_SVT = {"preset": "11", "svtav1-params": "lp=1"}


def _x265(parameters: str) -> dict[str, str]:
    return {"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:frame-threads=1:{parameters}"}


# Name -> how to write it.
KINDS: dict[str, Callable[[Path], Path]] = {
    "h264": lambda p: write_clip(p / "a.mp4", options=REPEATABLE | {"g": "12"}),
    "h264_one_gop": lambda p: write_clip(p / "a.mp4", options=X264),
    "h264_disposable": lambda p: write_clip(
        p / "a.mp4", 70, options=X264 | {"g": "32", "x264-params": "bframes=7:b-pyramid=none:b-adapt=0"}
    ),
    "h264_open_gop": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"x264-params": "open-gop=1:keyint=10:bframes=5:b-adapt=0:b-pyramid=normal"}
    ),
    "h264_intra_refresh": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"x264-params": "intra-refresh=1:keyint=12"}
    ),
    "h264_slices_weighted": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"preset": "slow", "x264-params": "slices=3:keyint=15"}
    ),
    "h264_vfr": lambda p: write_clip(
        p / "a.mp4", 24, ticks=[i + (i // 3) * 2 + (i // 7) * 11 for i in range(24)], options=X264 | {"g": "8"}
    ),
    "h264_late_start": lambda p: write_clip(
        p / "a.mp4", ticks=range(50, 90), options=X264 | {"g": "12"}, mux_options={"use_editlist": "0"}
    ),
    "h264_edit_list": lambda p: _with(write_clip(p / "a.mp4", options=X264 | {"g": "12"}), hide_first_frames, 0.5),
    "h264_odd_444": lambda p: write_clip(
        p / "a.mp4", size=(63, 47), pix_fmt="yuv444p", options=X264 | {"g": "10", "bf": "2"}
    ),
    "h264_10bit": lambda p: write_clip(p / "a.mp4", pix_fmt="yuv420p10le", options=X264 | {"g": "12"}),
    "h264_422_10bit": lambda p: write_clip(p / "a.mkv", pix_fmt="yuv422p10le", options=X264 | {"g": "12"}),
    "h264_full_range": lambda p: write_clip(
        p / "a.mkv", pix_fmt="yuvj420p", full_range=True, options=X264 | {"g": "12"}
    ),
    "h264_bt709": lambda p: write_clip(p / "a.mp4", colorspace=1, options=X264 | {"g": "12"}),
    "h264_interlaced": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"g": "12", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    ),
    "h264_fragmented": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"g": "10"}, mux_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "h264_fast_start": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"g": "12"}, mux_options={"movflags": "faststart"}
    ),
    "h264_mkv_sound": lambda p: write_clip(p / "a.mkv", options=X264 | {"g": "12"}, audio=True),
    "h264_ts": lambda p: write_clip(p / "a.ts", options=X264 | {"g": "12"}),
    "h264_raw": lambda p: write_clip(p / "a.h264", options=X264 | {"g": "12"}, format="h264"),
    "h264_avi": lambda p: write_clip(p / "a.avi", options=X264 | {"g": "12", "bf": "0"}),
    "h264_flv": lambda p: write_clip(p / "a.flv", options=X264 | {"g": "12"}),
    "h264_one_frame": lambda p: write_clip(p / "a.mp4", 1, options=X264),
    "h264_two_frames": lambda p: write_clip(p / "a.mp4", 2, options=X264),
    "h264_ntsc": lambda p: write_clip(p / "a.mp4", rate=Fraction(30000, 1001), options=X264 | {"g": "12"}),
    "h264_multi_stream": lambda p: write_clip(
        p / "a.mp4", options=X264 | {"g": "12"}, audio=True, second_video=pictures(50, 128, 96, seed=1)
    ),
    "hevc": lambda p: write_clip(p / "a.mp4", codec="libx265", options=_x265("keyint=10:bframes=4:b-adapt=0")),
    "hevc_closed_10bit_odd": lambda p: write_clip(
        p / "a.mkv",
        codec="libx265",
        pix_fmt="yuv444p10le",
        size=(65, 49),
        options=_x265("keyint=8:no-open-gop=1"),
    ),
    "vp8_hidden_frames": lambda p: write_clip(p / "a.webm", codec="libvpx", options=_VPX),
    "vp9_hidden_frames": lambda p: write_clip(p / "a.webm", codec="libvpx-vp9", size=(65, 49), options=_VPX),
    "vp9_mp4": lambda p: write_clip(p / "a.mp4", codec="libvpx-vp9", options={"g": "9", "deadline": "realtime"}),
    "av1": lambda p: write_clip(p / "a.mp4", codec="libsvtav1", options=_SVT | {"g": "16"}),
    "av1_webm_10bit": lambda p: write_clip(
        p / "a.webm", codec="libsvtav1", pix_fmt="yuv420p10le", options=_SVT | {"g": "12"}
    ),
    "mpeg4_avi": lambda p: write_clip(p / "a.avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg4_mp4": lambda p: write_clip(p / "a.mp4", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg2_ps": lambda p: write_clip(p / "a.mpg", codec="mpeg2video", options={"g": "12", "bf": "2"}, format="mpeg"),
    "mpeg2_ts": lambda p: write_clip(p / "a.ts", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "mjpeg_avi": lambda p: write_clip(p / "a.avi", codec="mjpeg", pix_fmt="yuvj420p"),
    "ffv1_mkv": lambda p: write_clip(p / "a.mkv", codec="ffv1"),
    "gif": lambda p: write_clip(p / "a.gif", codec="gif", pix_fmt="rgb8", rate=10),
} | {
    f"h264_{name}": lambda p, m=matrix: write_clip(p / "a.mp4", matrix=m, options=REPEATABLE | {"g": "12"})
    for name, matrix in MATRICES.items()
}


def _video_stream(container, frames, codec, pix_fmt, rate, options):
    stream = container.add_stream(codec, rate=rate, options=dict(options))
    stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
    stream.codec_context.time_base = 1 / Fraction(rate)
    stream.codec_context.thread_count = 1
    return stream


def _cover_stream(container, cover):
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = cover.shape[1], cover.shape[0], "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _write_cover(container, stream, cover: np.ndarray) -> None:
    container.mux(stream.encode(_frame(cover, "yuvj420p", 0)))
    container.mux(stream.encode(None))


def _frame(picture: np.ndarray, pix_fmt: str, tick: int, *, full_range: bool = False) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame = frame.reformat(format=pix_fmt, dst_color_range=2 if full_range else None, threads=1)
    frame.pts = tick
    return frame


def _write_sound(container, stream) -> None:
    tone = (np.sin(np.arange(8000) * 0.3) * 8000).astype(np.int16)
    for start in range(0, 8000, 1000):
        frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1000], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _with(path: Path, change: Callable[..., None], *arguments: object) -> Path:
    change(path, *arguments)
    return path
