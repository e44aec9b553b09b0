"""Frames: bit-equal to a plain sequential decode for every kind of file, and one clear error for every bad one."""

import json
import os
import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import av
import golden
import numpy as np
import pytest
import torch
import video_fixtures as videos
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from videobench.datasets import containers, decoding
from videobench.datasets.decoding import Video, VideoError, decode, probe
from videobench.datasets.packets import counted_index
from videobench.datasets.pictures import Pictures
from videobench.datasets.scanning import CUT_SHORT

# Kinds whose frames have to be counted by decoding; every other kind must take the fast way.
COUNTED = {
    "h264_interlaced", "h264_ts", "h264_raw", "h264_avi", "h264_flv", "mpeg4_avi", "mpeg4_mp4", "mpeg2_ps", "mpeg2_ts",
    "mjpeg_avi", "ffv1_mkv", "gif",
}  # fmt: skip
MIRRORED = {"h264_mirror", "h264_transpose"}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Name -> (file, reference frames), made when first asked for."""
    made = {}

    def get(kind: str) -> tuple[Path, np.ndarray]:
        if kind not in made:
            path = videos.KINDS[kind](tmp_path_factory.mktemp(kind))
            made[kind] = path, videos.reference(path)
        return made[kind]

    return get


@pytest.fixture
def from_disk(monkeypatch):
    """Nothing is kept in memory and every jump is a seek, as in very large files."""
    monkeypatch.setattr(decoding, "_KEEP_PACKETS", 0)
    monkeypatch.setattr(decoding, "_KEEP_FRAMES", 0)
    monkeypatch.setattr(decoding, "_SEEK_OVER", -1)


def assert_frames(got: torch.Tensor, reference: np.ndarray, indices) -> None:
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    assert np.array_equal(got.numpy(), reference[list(indices)])


@pytest.mark.parametrize("kind", sorted(set(videos.KINDS) - MIRRORED))
def test_all_frames_in_order_then_one_by_one(kind, library):
    path, reference = library(kind)
    with Video(path) as video:
        assert video.frames == len(reference)
        assert video.index.timed == (kind not in COUNTED)
        assert_frames(video.decode(range(video.frames)), reference, range(len(reference)))
        for i in range(0, video.frames, 3):
            assert_frames(video.decode([i]), reference, [i])
        assert video.index.timed == (kind not in COUNTED), "the frames announced are those that came out"


@pytest.mark.parametrize("kind", sorted(set(videos.KINDS) - MIRRORED))
def test_frames_read_anew_from_disk(kind, library, from_disk):
    path, reference = library(kind)
    last = len(reference) - 1
    picks = [[last], [0], [last // 2, last, last // 2], [last // 3], [0, last]]
    with Video(path) as video:
        index = video.index
        assert video._packets is None
        for indices in picks:
            assert_frames(video.decode(indices), reference, indices)
    for indices in picks:
        assert_frames(decode(path, indices, index), reference, indices)
        assert_frames(decode(path.read_bytes(), indices), reference, indices)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_frames_in_any_order(data, library):
    path, reference = library(data.draw(st.sampled_from(sorted(set(videos.KINDS) - MIRRORED)), label="kind"))
    indices = data.draw(st.lists(st.integers(0, len(reference) - 1), min_size=1, max_size=12), label="indices")
    assert_frames(decode(path, indices), reference, indices)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_encoding_of_h264(data, tmp_path_factory):
    """GOPs of any length, open or closed, with or without pyramids of B-frames, at any time stamps."""
    draw = data.draw
    frames = draw(st.integers(1, 40), label="frames")
    gaps = draw(st.lists(st.integers(1, 9), min_size=frames, max_size=frames), label="gaps")
    keyint = draw(st.integers(1, 20), label="keyint")
    parameters = {
        "keyint": keyint,
        "min-keyint": draw(st.integers(1, max(1, keyint // 2)), label="min-keyint"),
        "bframes": draw(st.integers(0, 7), label="bframes"),
        "b-pyramid": draw(st.sampled_from(["none", "strict", "normal"]), label="b-pyramid"),
        "b-adapt": draw(st.integers(0, 1), label="b-adapt"),
        "open-gop": draw(st.integers(0, 1), label="open-gop"),
        "ref": draw(st.integers(1, 4), label="ref"),
        "weightp": draw(st.integers(0, 2), label="weightp"),
    }
    path = videos.write_clip(
        tmp_path_factory.mktemp("x264") / draw(st.sampled_from(["a.mp4", "a.mkv", "a.mov"]), label="name"),
        frames,
        size=(48, 32),
        rate=1000 if draw(st.booleans(), label="varying") else 30,
        ticks=np.cumsum(gaps).tolist(),
        options=videos.X264 | {"x264-params": ":".join(f"{key}={value}" for key, value in parameters.items())},
    )
    reference = videos.reference(path)
    with Video(path) as video:
        assert video.index.timed
        assert video.frames == len(reference) == frames
        for _ in range(4):
            indices = draw(st.lists(st.integers(0, frames - 1), min_size=1, max_size=5), label="indices")
            assert_frames(video.decode(indices), reference, indices)
        assert video.index.timed


def test_every_real_file():
    folder = golden.require(golden.SHARED / "videos")
    for entry in json.loads((folder / "manifest.json").read_text()):
        path = folder / entry["file"]
        if entry["file"] == "broken_h264.mp4":
            continue
        reference = videos.reference(path)
        n = len(reference)
        clip = sorted({min(n - 1, n // 3 + 4 * i) for i in range(16)})
        with Video(path) as video:
            timed = video.index.timed
            assert timed == (entry["codec"] in {"h264", "hevc", "vp8", "vp9", "av1"})
            for indices in ([n - 1, 0, n // 2, 0], clip, range(0, n, max(1, n // 5))):
                assert_frames(video.decode(indices), reference, indices)
            info = video.info
            assert video.index.timed == timed
        assert info.frames == n == entry["frames_shown"], path
        assert (info.width, info.height) == (entry["display_width"], entry["display_height"])
        assert info.rotation == -(entry["display_matrix_rotation"] or 0) % 360
        assert info.codec == entry["codec"]
        assert info.damage == ""
        assert info.duration == pytest.approx(entry["last_pts"] - entry["first_pts"] + 1 / info.fps, rel=0.01)


def test_a_real_damaged_file_gives_the_frames_before_the_damage():
    path = golden.require(golden.SHARED / "videos" / "broken_h264.mp4")
    frames = []
    with pytest.raises(av.InvalidDataError), av.open(str(path)) as container:  # noqa: PT012
        container.streams.video[0].codec_context.thread_count = 1
        frames.extend(frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
    assert_frames(decode(path, range(len(frames))), np.stack(frames), range(len(frames)))
    with pytest.raises(VideoError) as caught:
        decode(path, [5, 40])
    assert caught.value.cause == (
        "frame 40 asked for, frames 0 to 27 are there (packet 30: Invalid data found when processing input)"
    )


@pytest.mark.parametrize(("kind", "turn"), [("rotate90", 90), ("rotate180", 180), ("rotate270", 270)])
def test_rotated_files_stand_upright(kind, turn, library):
    flat, (path, _) = library("h264")[1], library(f"h264_{kind}")
    assert_frames(decode(path, [0, 7]), np.rot90(flat, -turn // 90, (1, 2)), [0, 7])
    info = probe(path)
    assert info.rotation == turn
    assert (info.width, info.height) == ((64, 48) if turn == 180 else (48, 64))


def test_mirrored_files_stand_upright(library):
    flat = library("h264")[1]
    assert_frames(decode(library("h264_mirror")[0], [0, 7]), flat[:, :, ::-1], [0, 7])
    assert_frames(decode(library("h264_transpose")[0], [0, 7]), flat.swapaxes(1, 2), [0, 7])


def test_what_probe_says(library):
    info = probe(library("h264_ntsc")[0])
    assert info == decoding.VideoInfo(
        frames=40,
        fps=Fraction(30000, 1001),
        width=64,
        height=48,
        rotation=0,
        duration=pytest.approx(40 * 1001 / 30000),
        codec="h264",
        key_frames=(0, 12, 24, 36),
        damage="",
    )
    path, reference = library("h264_edit_list")
    info = probe(path)
    assert info.frames == len(reference) == 25
    assert info.fps == 30, "the frames that the edit list hides do not count"
    assert info.duration == pytest.approx(25 / 30)
    assert probe(library("h264_late_start")[0]).duration == pytest.approx(40 / 30)
    assert probe(library("h264_vfr")[0]).fps == Fraction(720, 71)
    assert probe(library("av1")[0]).codec == "av1"
    assert os.sched_getscheduler(0) not in (os.SCHED_FIFO, os.SCHED_RR), (
        "the encoder of AV1 left real-time priority behind"
    )
    assert probe(library("h264_one_frame")[0]).frames == 1


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"), ("a.flv", "flv"), ("a.ts", "mpeg4")],
)
def test_the_frame_rate_is_an_average_where_distances_vary(name, codec, tmp_path):
    path = videos.write_clip(tmp_path / name, 24, codec=codec, ticks=[i + i // 3 * 4 for i in range(24)])
    with Video(path) as video:
        assert video.fps == pytest.approx(30 * 23 / 51, rel=0.05), "what the header states would be 30"
        assert video.info.duration == pytest.approx(51 / 30 + 1 / video.fps, rel=0.01)


def test_a_time_that_damage_moved_to_the_end_of_the_clock_leaves_an_index_that_can_be_kept():
    index = counted_index(2, [0], "", [-(2**62) * 2, 2**63 - 1])
    assert 0 < index.span < 2**63


def test_key_frames_that_only_begin_a_refresh_are_no_place_to_start(library):
    path, _ = library("h264_intra_refresh")
    with av.open(str(path)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0)) > 1
    assert probe(path).key_frames == (0,)
    assert len(probe(library("h264_open_gop")[0]).key_frames) > 3, "recovery points that recover at once are"


def test_of_two_video_streams_the_first_is_taken_and_cover_pictures_are_none(library, tmp_path):
    path, reference = library("h264_multi_stream")
    assert reference.shape == (40, 48, 64, 3)
    assert videos.reference(path, stream=1).shape == (50, 96, 128, 3)
    assert (probe(path).frames, probe(path).width) == (40, 64)
    cover = videos.write_clip(tmp_path / "a.mp4", cover=videos.pictures(1, 32, 32)[0], options=videos.X264)
    with av.open(str(cover)) as container:
        assert len(container.streams.video) == 2
    assert probe(cover).frames == 40


def test_444_pictures_of_old_encoders_are_read_as_the_first_packet_says(tmp_path):
    path = videos.KINDS["h264_odd_444"](tmp_path)
    plain = decode(path, [25])
    videos.forge_x264_version(path, 148)
    reference = videos.reference(path)
    assert not torch.equal(decode(path, [25]), plain)
    for indices in ([25], [12], [25, 12]):
        assert_frames(decode(path, indices), reference, indices)


def test_one_pass_finds_the_frames_and_the_file_is_opened_once(library, monkeypatch):
    path, reference = library("h264")
    opened = []
    monkeypatch.setattr(containers.av, "open", lambda *a, _open=av.open, **k: opened.append(a) or _open(*a, **k))
    with Video(path) as video:
        indices = [video.frames - 1, 3]
        assert_frames(video.decode(indices), reference, indices)
        assert video.info.frames == 40
    assert len(opened) == 1


def test_only_wanted_frames_are_converted_each_once(library, monkeypatch):
    converted = []
    put = Pictures.put
    monkeypatch.setattr(Pictures, "put", lambda self, row, f: converted.append(f.pts) or put(self, row, f))
    for kind in ("h264", "mpeg4_avi"):
        converted.clear()
        decode(library(kind)[0], [30, 5, 30, 6, 5])
        assert len(converted) == 3


def test_skipping_leaves_out_most_of_the_decoding(library):
    """Of 70 frames in GOPs of 32 with 7 disposable B-frames, 16 wanted ones need few others."""
    path, reference = library("h264_disposable")
    decoded = []

    class Watched:
        def __init__(self, decoder):
            self._decoder = decoder

        def __getattr__(self, name):
            return getattr(self._decoder, name)

        def __setattr__(self, name, value):
            object.__setattr__(self, name, value) if name == "_decoder" else setattr(self._decoder, name, value)

        def decode(self, packet):
            frames = self._decoder.decode(packet)
            decoded.extend(frames)
            return frames

    with Video(path) as video:
        video._decoder = Watched(video._decoder)
        indices = range(34, 64, 3)
        assert_frames(video.decode(indices), reference, indices)
    assert len(decoded) <= 15


def test_a_wrong_index_is_noticed(library):
    path, reference = library("h264")
    with Video(library("h264_vfr")[0]) as other:
        assert_frames(decode(path, [20, 3], other.index), reference, [20, 3])
    with Video(library("h264_late_start")[0]) as other:
        assert_frames(decode(path, [39, 3], other.index), reference, [39, 3])


def test_an_index_survives_pickling(library):
    path, reference = library("h264_open_gop")
    with Video(path) as video:
        index = pickle.loads(pickle.dumps(video.index))  # noqa: S301
    assert_frames(decode(path, [33, 2], index), reference, [33, 2])


def overwrite(path: Path, target: Path, seed: int) -> Path:
    """A copy with random bytes somewhere inside one of its video packets; what the container says stays as it is."""
    rng = np.random.default_rng(seed)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = places[rng.integers(len(places))]
    offset = int(rng.integers(size))
    length = min(int(rng.choice([1, 4, 50])), size - offset)
    content = bytearray(path.read_bytes())
    content[start + offset : start + offset + length] = rng.bytes(length)
    target.write_bytes(content)
    return target


def plain_until_damage(path: Path) -> dict[int, np.ndarray]:
    """Pictures by time stamp as a plain decode gives them, up to where it breaks off."""
    found: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        # How errors are concealed depends on it.
        container.streams.video[0].codec_context.thread_count = 1
        try:
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    break
                found[frame.pts] = frame.to_ndarray(format="rgb24")
        except av.FFmpegError:
            pass  # what came before it counts
    return found


@pytest.mark.parametrize(
    "kind", ["h264", "h264_open_gop", "h264_mkv_sound", "h264_disposable", "h264_10bit", "hevc", "vp9_mp4", "av1"]
)
def test_damage_inside_packets_gives_the_plain_decoder_s_pictures_or_none(kind, library, tmp_path):
    path, reference = library(kind)
    compared = 0
    for seed in range(4):
        mutant = overwrite(path, tmp_path / f"{seed}{path.suffix}", seed)
        plain = plain_until_damage(mutant)
        for i in range(0, len(reference), 5):
            try:
                with Video(mutant) as video:
                    picture, index = video.decode([i])[0].numpy(), video.index
            except VideoError:
                continue
            if index.timed and (time := int(index.pts[index.order[i]])) in plain:
                assert np.array_equal(picture, plain[time]), (seed, i)
                compared += 1
    assert compared > 8


# Bad files: name -> (how to make it, the message).
HEADER = "not a video, or its header is missing"
BAD = {
    "missing.mp4": (lambda p: None, "no such file"),
    "folder.mp4": (lambda p: p.mkdir(), "is a directory"),
    "fifo.mp4": (os.mkfifo, "not a regular file"),
    "empty.mp4": (lambda p: p.write_bytes(b""), "empty file"),
    "text.txt": (lambda p: p.write_text("no video\n" * 99), HEADER),
    "text.mp4": (lambda p: p.write_text("no video\n" * 99), HEADER),
    "noise.mp4": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)), HEADER),
    "list.m3u8": (
        lambda p: p.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://192.0.2.1/a.ts\n"), HEADER
    ),
    "list.txt": (lambda p: p.write_text("ffconcat version 1.0\nfile /etc/hostname\n"), HEADER),
    "sound.m4a": (videos.write_sound, "no video stream, only audio"),
    "sound_and_cover.mp4": (
        lambda p: videos.write_sound(p, videos.pictures(1)[0]), "no video stream, only audio and cover picture"
    ),
    "no_header.mp4": (lambda p: videos.cut(videos.write_clip(p, options=videos.X264), p, 0.7), HEADER),
    "no_frames.mp4": (
        lambda p: videos.cut(videos.write_clip(p, 250, mux_options={"movflags": "faststart"}), p, through=b"mdat"),
        "no frames: 250 of 250 packets are missing",
    ),
    "nul\0.mp4": (lambda p: None, "a null byte in its name"),
    "http:" + "//192.0.2.1/a.mp4": (lambda p: None, "no such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_fail_and_say_why(name, tmp_path):
    make, cause = BAD[name]
    path = tmp_path / name
    make(path)
    for attempt in (lambda: probe(path), lambda: decode(path, [0]), lambda: decode(str(path), [3, 1])):
        with pytest.raises(VideoError) as caught:
            attempt()
        assert caught.value.cause == cause
        assert caught.value.path == str(path)
        assert str(caught.value) == f"{path}: {cause}"
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (again.path, again.cause) == (caught.value.path, caught.value.cause)


def test_streams_without_frames(tmp_path):
    path = videos.cut(videos.KINDS["h264_flv"](tmp_path), tmp_path / "b.flv", 0.02)
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert caught.value.cause == "no frames: the video stream is empty"


def test_bad_content_from_memory():
    with pytest.raises(VideoError, match=r"^<0 bytes>: empty file$"):
        decode(b"", [0])
    with pytest.raises(VideoError, match=r"^<900 bytes>: not a video"):
        probe(b"no video " * 100)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 2, options=videos.X264)
    path.chmod(0)
    with pytest.raises(VideoError, match="Permission denied"):
        probe(path)


def test_frames_that_do_not_exist(library):
    path, _ = library("h264")
    for index in (40, -1, 10**12):
        with pytest.raises(VideoError) as caught:
            decode(path, [0, index])
        assert caught.value.cause == f"frame {index} asked for, frames 0 to 39 are there"
    with pytest.raises(ValueError, match="no frame numbers"):
        decode(path, [])
    with pytest.raises(TypeError):
        decode(path, [1.5])
    assert decode(path, np.array([1, 2])).shape == decode(path, torch.tensor([1, 2])).shape == (2, 48, 64, 3)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("kind", ["h264_fast_start", "h264_fragmented", "h264_mkv_sound", "vp9_hidden_frames"])
def test_files_that_end_too_early_give_the_frames_that_are_surely_right(kind, share, library, tmp_path):
    path, reference = library(kind)
    path = videos.cut(path, tmp_path / path.name, share)
    with Video(path) as video:
        frames, damage = video.frames, video.index.damage
        assert frames < len(reference)
        assert damage == CUT_SHORT or damage.endswith("packets are missing")
        assert_frames(video.decode(range(frames)), reference, range(frames))
        with pytest.raises(VideoError) as caught:
            video.decode([0, len(reference) - 1])
    last = len(reference) - 1
    assert caught.value.cause == f"frame {last} asked for, frames 0 to {frames - 1} are there ({damage})"


@pytest.mark.parametrize("kind", ["h264", "h264_mkv_sound", "hevc", "mpeg4_mp4"])
def test_damage_in_the_middle_never_gives_another_frame_than_asked_for(kind, library, tmp_path):
    path, reference = library(kind)
    path = Path(shutil.copy(path, tmp_path))
    videos.damage_packet(path, 16)
    causes = {}
    for i in range(len(reference)):
        try:
            assert_frames(decode(path, [i]), reference, [i])
        except VideoError as error:
            causes[i] = error.cause
    assert causes
    assert all("asked for, frames 0 to" in cause for cause in causes.values())
    assert all("Invalid data found" in cause or "damaged" in cause for cause in causes.values())
    assert min(causes) > 9, "frames before the damage are there"
    if kind == "h264":
        assert max(causes) < 24, "and those behind the next key frame"


def test_metadata_in_an_unknown_encoding(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 3, options=videos.X264, metadata={"comment": "ABCDEFGH"})
    path.write_bytes(path.read_bytes().replace(b"ABCDEFGH", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"))
    assert probe(path).frames == 3


@pytest.mark.parametrize("name", ["we:ird.mp4", "per%03dcent.mp4", "a b [x]?*.mp4", "ünï.mp4", "-i.mp4", "file:x.mp4"])
def test_odd_names(name, library, tmp_path, monkeypatch):
    path, reference = library("h264")
    monkeypatch.chdir(tmp_path)
    shutil.copy(path, name)
    assert_frames(decode(name, [7]), reference, [7])


@pytest.mark.parametrize("seed", range(8))
def test_mutilated_files_give_frames_or_the_one_error(seed, library, tmp_path):
    rng = np.random.default_rng(seed)
    for kind in sorted(videos.KINDS):
        path, _ = library(kind)
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 3, 20])):
            place, length = int(rng.integers(len(content))), int(rng.choice([1, 4, 50]))
            content[place : place + length] = rng.bytes(int(rng.choice([0, length])))
        path = tmp_path / path.name
        path.write_bytes(content)
        try:
            with Video(path) as video:
                last = video.frames - 1
                assert video.decode([0, last // 2, last]).shape[3] == 3
                assert video.info.fps > 0
        except VideoError:
            pass
