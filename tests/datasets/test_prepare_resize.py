"""`prepare_data.py resize`: the same frames at the same times, few of which need decoding, and no original touched."""

import errno
import multiprocessing
import os
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
from PIL import Image
from torch.nn import functional as F

from videobench.config import ConfigError
from videobench.datasets.containers import open_video
from videobench.datasets.decoding import Video, decode
from videobench.datasets.preparation import resize as resize_module
from videobench.datasets.preparation.encoding import Encoded, Encoding, Job, encode, even_size
from videobench.datasets.preparation.files import write_lines
from videobench.datasets.preparation.frame_folders import FrameEncoding, FrameJob, shrink, size_of
from videobench.datasets.preparation.resize import Resized, resize

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


@settings(max_examples=25)
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
    assert "3 of 4 are done: " in str(done)
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
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [".train.csv.lock"]


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


def test_the_list_itself_is_an_original_too(folder, tmp_path):
    shutil.copy(folder / "train.csv", tmp_path / "train.csv")
    with pytest.raises(ConfigError, match=r"train\.csv would be replaced by the new list; choose another folder"):
        resize(tmp_path / "train.csv", tmp_path, SMALL, prefix=str(folder), workers=1)
    assert (tmp_path / "train.csv").read_bytes() == (folder / "train.csv").read_bytes()
    assert not (tmp_path / "c.mp4").exists()


def test_two_runs_do_not_write_the_same_files(folder, tmp_path):
    ended = []

    def meanwhile(line: str) -> None:
        other = multiprocessing.get_context("fork").Process(target=refused, args=(folder, tmp_path / "out"))
        other.start()
        other.join()
        ended.append(other.exitcode)

    done = resize(folder / "train.csv", tmp_path / "out", SMALL, prefix=str(folder), workers=1, say=meanwhile)
    assert (ended, len(done.failures)) == ([0], 1)


def refused(folder: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match="another run is at work on this"):
        run(folder, out)


@pytest.mark.parametrize("encoding", [Encoding(preset="quick"), Encoding(crf=60), Encoding(gop=0), FrameEncoding(1)])
def test_settings_that_no_encoder_takes(tmp_path, encoding):
    with pytest.raises(ConfigError, match=r"--preset one of ultrafast|--short-side is at least 2"):
        resize(tmp_path, tmp_path / "out", encoding)


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
    assert said[0].startswith(f"24 files to encode need about {24 * size / 1000:.1f} KB (measured on 16 of them)")
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


def test_only_what_is_on_the_disk_gets_its_name(folder, tmp_path, monkeypatch):
    """What a power failure leaves behind is a whole file, or none: bytes first, then the name, then its folder."""
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr(Path, "replace", lambda part, name: (events.append(f"-> {name}"), replace(part, name))[1])
    out = tmp_path / "out"
    encoded(folder / "c.webm", out / "b.mp4")
    assert events == [f"{out}/.b.mp4.part", f"-> {out}/b.mp4", f"{out}"]
    events.clear()
    write_lines(out / "list.txt", ["b.mp4 0"])
    assert events == [f"{out}/.list.txt.part", f"-> {out}/list.txt", f"{out}"]
    events.clear()
    shrunk(pictures(tmp_path / "frames/7", 2), out / "7")
    part = f"{out}/.7.part"
    assert sorted(events[:3]) == [f"{part}/.videobench.json", f"{part}/00001.jpg", f"{part}/00002.jpg"]
    assert events[3:] == [part, f"-> {out}/7", f"{out}"]


def full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_does_not_reach_the_disk_has_no_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    for result, target in (
        (encode(Job(str(folder / "c.webm"), str(tmp_path / "out/b.mp4"), SMALL), lambda: None), "b.mp4"),
        (shrink(FrameJob(str(pictures(tmp_path / "7", 2)), str(tmp_path / "out/7"), TINY), lambda: None), "7"),
    ):
        assert result == Encoded(f"cannot write {tmp_path}/out/{target}: No space left on device", fatal=True)
    assert not list((tmp_path / "out").iterdir())


# Folders of frames.

TINY = FrameEncoding(short_side=24)


def pictures(folder: Path, count: int, size: tuple[int, int] = (64, 48), suffix: str = ".jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(videos.pictures(count, 4, 3), start=1):
        smooth = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        smooth.save(folder / f"{number:05d}{suffix}", quality=95)
    return folder


def shrunk(source: Path, target: Path, encoding: FrameEncoding = TINY) -> Path:
    result = shrink(FrameJob(str(source), str(target), encoding), lambda: None)
    assert result == Encoded(bytes_in=size_of(source), bytes_out=size_of(target))
    return target


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_get_smaller_and_keep_their_names(tmp_path, suffix):
    source = pictures(tmp_path / "12", 3, suffix=suffix)
    (source / "notes.txt").write_text("no picture")
    Image.new("L", (70, 50), 99).save(source / f"00004{suffix}")
    target = shrunk(source, tmp_path / "new/12")
    assert sorted(path.name for path in target.glob("[!.]*")) == [f"{n:05d}{suffix}" for n in range(1, 5)]
    for path in target.glob(f"*{suffix}"):
        with Image.open(source / path.name) as before, Image.open(path) as after:
            assert min(after.size) == 24
            expected = np.asarray(before.resize(after.size, Image.Resampling.BICUBIC)).astype(int)
            assert np.abs(expected - np.asarray(after)).mean() < (4 if suffix == ".jpg" else 0.01)


def test_pictures_that_are_small_enough_stay_as_they_are(tmp_path):
    source = pictures(tmp_path / "12", 2)
    for path in shrunk(source, tmp_path / "new", FrameEncoding(48)).glob("*.jpg"):
        assert path.read_bytes() == (source / path.name).read_bytes()


def test_a_list_of_frame_folders(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    for name in ("7", "8", "9", "x y"):
        pictures(data / name, 3)
    videos.cut(data / "8/00002.jpg", data / "8/00002.jpg", 0.5)
    (data / "9/00003.jpg").write_text("no picture")
    (data / "train.txt").write_text("7 3 1\n8 3 0\nx y 3 2\n9 3 0\n10 3 0\n7 4 1\n")
    said: list[str] = []

    def again(encoding: FrameEncoding = TINY) -> Resized:
        return resize(data / "train.txt", out, encoding, prefix=str(data), workers=1, say=said.append)

    done = again()
    causes = dict(done.failures)
    assert causes.pop("8").startswith("00002.jpg: ")
    assert causes == {
        "7": "3 pictures, and 4 listed",
        "9": "00003.jpg: not a picture, or its header is missing",
        "10": "no such folder",
    }
    (data / "train.txt").write_text("7 3 1\n8 3 0\nx y 3 2\n")
    assert [name for name, _ in again().failures] == ["8"]
    assert said[0].startswith("4 folders to make smaller need about ")
    assert (out / "train.txt").read_text() == "7 3 1\nx y 3 2\n"
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["7", "x y"]
    # What is done stays done; what was cut off is made anew; what is not of these settings is left alone.
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    (out / "x y").rename(out / ".x y.part")
    assert [name for name, _ in again().failures] == ["8"]
    assert {path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp} == {*(out / "7").glob("*.jpg")}
    cause = "its target exists already and is not of this folder and these settings"
    assert [failure[1] for failure in again(FrameEncoding(16)).failures].count(cause) == 2


def test_a_folder_of_frame_folders(tmp_path):
    pictures(tmp_path / "data/P01/rgb_frames/P01_01", 2)
    pictures(tmp_path / "data/P02/rgb_frames/P02_01", 2)
    done = resize(tmp_path / "data", tmp_path / "out", TINY, workers=1, say=lambda _: None)
    assert not done.failures
    assert (tmp_path / "out/data.txt").read_text() == "P01/rgb_frames/P01_01\nP02/rgb_frames/P02_01\n"
    assert len(list((tmp_path / "out/P01/rgb_frames/P01_01").glob("*.jpg"))) == 2
    pictures(tmp_path / "data/P01", 1)
    with pytest.raises(ConfigError, match=r"P01/rgb_frames/P01_01 lies in P01; frames want a folder per video"):
        resize(tmp_path / "data", tmp_path / "new", TINY, workers=1)


def test_frames_where_videos_are_meant_and_the_other_way_round(folder, tmp_path):
    frames = pictures(tmp_path / "frames/7", 2).parent
    (frames / "train.txt").write_text("7 2 0\n")
    for source, encoding, message in (
        (frames, SMALL, "no video files in this folder; folders of frames are made smaller with --frames"),
        (folder, TINY, "no folders of pictures in this folder; videos are encoded without --frames"),
        (frames / "train.txt", SMALL, "lines look like 'folder frames label'; --frames means folders of frames"),
        (folder / "train.csv", TINY, "expected 'path number number'|lines of a list of frame folders"),
    ):
        with pytest.raises(ConfigError, match=message):
            resize(source, tmp_path / "out", encoding, prefix=str(source.parent), workers=1)
    (tmp_path / "EPIC_100_train.csv").write_text("narration_id,video_id\nP01_01_0,P01_01\n")
    with pytest.raises(ConfigError, match="these are annotations, not a list of files; give the folder of the files"):
        resize(tmp_path / "EPIC_100_train.csv", tmp_path / "out", SMALL)


def test_damaged_files_are_not_encoded(tmp_path):
    source = videos.write_clip(tmp_path / "a.mp4", 20, options=videos.X264)
    videos.damage_packet(source, 12)
    result = encode(Job(str(source), str(tmp_path / "b.mp4"), SMALL), lambda: None)
    assert result.cause.startswith("behind frame")
    cut = videos.cut(videos.KINDS["h264_fast_start"](tmp_path), tmp_path / "cut.mp4", 0.6)
    assert "packets are missing" in encode(Job(str(cut), str(tmp_path / "b.mp4"), SMALL), lambda: None).cause
    assert not list(tmp_path.glob("*b.mp4*"))
