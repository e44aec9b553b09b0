"""`prepare_data.py resize`: the same frames at the same times, few of which need decoding, and no original touched."""

import shutil
from fractions import Fraction
from pathlib import Path

import av
import golden
import numpy as np
import pytest
import torch
import video_fixtures as videos
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from videobench.config import ConfigError
from videobench.datasets.containers import open_video
from videobench.datasets.decoding import Video, decode
from videobench.datasets.preparation import resize as resize_module
from videobench.datasets.preparation.encoding import Encoded, Encoding, Job, encode, even_size
from videobench.datasets.preparation.resize import resize

SMALL = Encoding(short_side=40, crf=10)


def times(path: Path) -> list[Fraction]:
    container, stream = open_video(path)
    with container:
        return [frame.pts * frame.time_base for frame in container.decode(stream)]


def encoded(source: Path, target: Path, encoding: Encoding = SMALL) -> Path:
    result = encode(Job(str(source), str(target), encoding), lambda: None)
    assert result == Encoded(bytes_in=source.stat().st_size, bytes_out=target.stat().st_size)
    return target


# MPEG-4 in AVI has no time stamps that could be kept: they are those of decoding.
@pytest.mark.parametrize("kind", sorted(videos.KINDS))
def test_frames_times_and_frame_rate_stay(kind, tmp_path):
    source = videos.KINDS[kind](tmp_path)
    target = encoded(source, tmp_path / "new" / "b.mp4")
    reference = videos.reference(source)
    with Video(source) as before, Video(target) as after:
        assert after.frames == len(reference) == before.frames
        assert after.fps == before.fps
        assert after.index.timed
        assert after.info.codec == "h264"
        assert (after.info.rotation, after.index.damage) == (0, "")
        got = after.decode(range(after.frames))
        upright = before.decode(range(before.frames))
    if kind not in ("mpeg4_avi", "h264_raw"):
        assert times(target) == times(source)
    assert got.shape[1:3] == even_size(*upright.shape[2:0:-1], 40)[::-1]
    # Every frame is the one it was: nearer to it than to its neighbours.
    small = F.interpolate(upright.permute(0, 3, 1, 2).float(), got.shape[1:3], mode="bilinear", antialias=True)
    distance = torch.cdist(got.permute(0, 3, 1, 2).float().flatten(1), small.flatten(1))
    if kind != "h264_rotate180":
        assert (distance.argmin(1) == torch.arange(len(got))).float().mean() > 0.9
    assert distance.diagonal().mean() / got[0].numel() ** 0.5 < 22
    assert not list(target.parent.glob(".*"))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_time_stamps_stay(data, tmp_path_factory):
    count = data.draw(st.integers(1, 40), label="frames")
    gaps = data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count), label="gaps")
    rate = data.draw(st.sampled_from([Fraction(1000), Fraction(90000), Fraction(30000, 1001), Fraction(25)]))
    folder = tmp_path_factory.mktemp("vfr")
    # Matroska counts in milliseconds.
    name = data.draw(st.sampled_from(["a.mp4", "a.mkv"] if rate <= 1000 else ["a.mp4"]), label="name")
    source = videos.write_clip(
        folder / name, count, size=(48, 32), rate=rate, ticks=np.cumsum(gaps).tolist(), options=videos.X264
    )
    assert times(encoded(source, folder / "b.mp4")) == times(source)


def test_every_real_file(tmp_path):
    folder = golden.require(golden.SHARED / "videos")
    for path in sorted(folder.iterdir()):
        # The largest pictures are left to the kinds above; these show what real files do to times and colours.
        if path.suffix in (".md", ".json") or path.stat().st_size > 300_000 or path.name == "broken_h264.mp4":
            continue
        target = encoded(path, tmp_path / f"{path.name}.mp4", Encoding(short_side=128, preset="ultrafast"))
        with Video(path) as before, Video(target) as after:
            assert (after.frames, after.fps) == (before.frames, before.fps), path
            middle = before.frames // 2
            was, now = before.decode([middle]).permute(0, 3, 1, 2).float(), after.decode([middle]).permute(0, 3, 1, 2)
            assert min(now.shape[2:]) in (128, 174)
            was = F.interpolate(was, now.shape[2:], mode="bicubic", antialias=True).clamp(0, 255)
            difference = was - now
            assert difference.abs().mean() < 4, path
            assert difference.mean().abs() < 1.5, path
        if path.suffix != ".avi":
            assert times(target) == times(path), path


def test_few_frames_need_decoding(tmp_path):
    source = videos.write_clip(tmp_path / "a.mp4", 100, options=videos.X264, audio=True)
    for fast in (False, True):
        target = encoded(source, tmp_path / f"{fast}.mp4", Encoding(gop=32, fast_decode=fast))
        assert [stream.type for stream in av.open(str(target)).streams] == ["video"]
        with Video(target) as video:
            assert video.info.key_frames == (0, 32, 64, 96)
        container, stream = open_video(target)
        stream.codec_context.skip_frame = "NONREF"
        assert [frame.pts * frame.time_base * 30 for frame in container.decode(stream)][:7] == [
            0,
            8,
            16,
            24,
            31,
            32,
            40,
        ]
        # x264 writes its settings into the first packet.
        assert (b"cabac=0" in target.read_bytes()) == fast


def test_sizes():
    assert even_size(340, 256, 256) == (340, 256)
    assert even_size(1080, 1920, 256) == (256, 456)
    assert even_size(1920, 1080, 256) == (456, 256)
    assert even_size(333, 255, 256) == (332, 256), "odd ones become even"
    assert even_size(639, 480, 256) == (340, 256)
    assert even_size(3, 1, 256) == (4, 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Originals with a list of them; one of four is no video."""
    data = tmp_path / "data"
    (data / "x").mkdir(parents=True)
    videos.write_clip(data / "x/a b.mp4", 9, options=videos.X264)
    videos.write_clip(data / "c.webm", 9, codec="libvpx", options={"b": "100k"})
    videos.write_clip(data / "d.avi", 9, codec="mpeg4")
    (data / "e.mp4").write_text("no video")
    (data / "train.csv").write_text("x/a b.mp4 3\nc.webm 0\ne.mp4 1\nd.avi 2\nc.webm 0\n")
    return data


def run(folder: Path, out: Path, encoding: Encoding = SMALL, **options):
    said: list[str] = []
    done = resize(folder / "train.csv", out, encoding, prefix=str(folder), workers=1, say=said.append, **options)
    return done, said


def test_a_list_becomes_a_new_one_and_what_is_done_stays_done(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done, said = run(folder, tmp_path / "out")
    assert done.failures == [("e.mp4", "not a video, or its header is missing")]
    assert (tmp_path / "out/train.csv").read_text() == "x/a b.mp4 3\nc.mp4 0\nd.mp4 2\nc.mp4 0\n"
    assert (tmp_path / "out/train.failed.txt").read_text() == "e.mp4\tnot a video, or its header is missing\n"
    assert "3 of 4 files are encoded" in str(done)
    assert said[0].startswith("4 files to encode need about ")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    assert len(made) == 3
    # As if killed while the third was written.
    (tmp_path / "out/d.mp4").rename(tmp_path / "out/.d.mp4.part")
    again, said = run(folder, tmp_path / "out")
    assert again.failures == done.failures
    assert said[0].startswith("2 files to encode")
    assert decode(tmp_path / "out/d.mp4", [8]).shape[1] == 40
    unchanged = {path for path, time in made.items() if path.stat().st_mtime_ns == time}
    assert unchanged == made.keys() - {tmp_path / "out/d.mp4"}
    assert not list((tmp_path / "out").rglob(".*"))


def test_what_is_not_ours_is_never_overwritten(folder, tmp_path):
    run(folder, tmp_path / "out")
    other, _ = run(folder, tmp_path / "out", Encoding(short_side=32))
    cause = "its target exists already and is not of this file and these settings"
    assert [failure[1] for failure in other.failures].count(cause) == 3
    (tmp_path / "out/c.mp4").write_text("precious")
    assert ("c.webm", cause) in run(folder, tmp_path / "out")[0].failures
    assert (tmp_path / "out/c.mp4").read_text() == "precious"
    with pytest.raises(ConfigError, match=r"x/a b\.mp4 is an original; choose another folder"):
        run(folder, folder)
    (tmp_path / "out/x/a b.mp4").unlink()
    (tmp_path / "out/x/a b.mp4").symlink_to(folder / "x/a b.mp4")
    with pytest.raises(ConfigError, match="is an original"):
        run(folder, tmp_path / "out")


def test_names_that_collide_or_lead_elsewhere(folder, tmp_path):
    (folder / "train.csv").write_text("c.webm 0\nc.mkv 1\n")
    with pytest.raises(ConfigError, match=r"c\.mkv and c\.webm would both become c\.mp4"):
        run(folder, tmp_path / "out")
    (folder / "train.csv").write_text("../c.webm 0\n")
    with pytest.raises(ConfigError, match="leads out of its folder"):
        run(folder, tmp_path / "out")
    (folder / "train.csv").write_text(f"{folder}/x/a b.mp4 3\n{folder}/c.webm 0\n")
    assert not run(folder, tmp_path / "out")[0].failures
    assert (tmp_path / "out/train.csv").read_text() == "x/a b.mp4 3\nc.mp4 0\n"


def test_too_little_space_is_said_before_most_of_the_work(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    first = videos.write_clip(tmp_path / "a.mp4", 5, options=videos.X264)
    folder.mkdir()
    for i in range(40):
        shutil.copy(first, folder / f"{i:02d}.mp4")
    monkeypatch.setattr(resize_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9**9, 9**9, 1000))
    said: list[str] = []
    with pytest.raises(ConfigError, match="not enough space"):
        resize(folder, tmp_path / "out", SMALL, workers=1, say=said.append)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.mp4")) / 16
    assert said[0].startswith(f"24 files to encode need about {24 * size / 1000:.1f} KB (measured on 16 files)")
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 16


def no_space(job: Job, beat) -> Encoded:
    return Encoded("No space left on device", fatal=True)


def test_a_full_disk_ends_the_run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(resize_module, "encode", no_space)
    with pytest.raises(ConfigError, match="No space left on device; what is done stays"):
        run(folder, tmp_path / "out")


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out").write_text("a file, no folder")
    result = encode(Job(str(videos.KINDS["h264"](tmp_path)), str(tmp_path / "out/b.mp4"), SMALL), lambda: None)
    assert result == Encoded(f"cannot write {tmp_path}/out/b.mp4: File exists")


def test_damaged_files_are_not_encoded(tmp_path):
    source = videos.write_clip(tmp_path / "a.mp4", 20, options=videos.X264)
    videos.damage_packet(source, 12)
    result = encode(Job(str(source), str(tmp_path / "b.mp4"), SMALL), lambda: None)
    assert result.cause.startswith("behind frame")
    cut = videos.cut(videos.KINDS["h264_fast_start"](tmp_path), tmp_path / "cut.mp4", 0.6)
    assert "packets are missing" in encode(Job(str(cut), str(tmp_path / "b.mp4"), SMALL), lambda: None).cause
    assert not list(tmp_path.glob("*b.mp4*"))
