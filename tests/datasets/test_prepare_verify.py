"""`prepare_data.py verify`: what it says about sound and faulty files, and that nothing stops it."""

import faulthandler
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import golden
import pytest
import video_fixtures as videos

from videobench.config import ConfigError
from videobench.datasets.preparation import verify as verify_module
from videobench.datasets.preparation.files import Journal
from videobench.datasets.preparation.verify import PUBLISHED, Check, Checked, check_file, verify

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools/prepare_data.py")]


# Run in processes of their own.


def crashing_check(check: Check, beat) -> Checked:
    if check.path.endswith("crash.mp4"):
        faulthandler.disable()  # pytest's would print its stack
        os.kill(os.getpid(), signal.SIGSEGV)
    return check_file(check, beat)


def hold(path: Path, channel) -> None:
    journal = Journal(path)
    channel.send("held")
    channel.recv()
    journal.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return videos.write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 20, options=videos.X264)


def plant(folder: Path, clip: Path) -> None:
    """Four sound files and ten faults of different kinds."""
    (folder / "in" / "deep").mkdir(parents=True)
    for name in ("1 one.mp4", "in/two.mp4", "in/deep/three.mp4"):
        shutil.copy(clip, folder / name)
    videos.KINDS["mpeg4_avi"](folder / "in").rename(folder / "in/four.avi")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n" * 99)
    (folder / "link.mp4").symlink_to("nowhere")
    os.mkfifo(folder / "fifo.mp4")
    videos.write_sound(folder / "sound.mp4")
    videos.cut(clip, folder / "header.mp4", 0.7)
    long = videos.write_clip(
        folder / "cut.mp4", 60, options=videos.REPEATABLE | {"g": "12"}, mux_options={"movflags": "faststart"}
    )
    videos.cut(long, long, 0.6)
    videos.damage_packet(Path(shutil.copy(clip, folder / "damaged.mp4")), 12)
    shutil.copy(clip, folder / "crash.mp4")
    videos.cut(videos.KINDS["mpeg4_avi"](folder), folder / "short.avi", 0.8)
    (folder / "a.avi").unlink()
    (folder / "notes.txt").write_text("is not named as a video")


CAUSES = {
    "crash.mp4": "reading it brought its process down (SIGSEGV)",
    "cut.mp4": "28 of 60 packets are missing",
    "damaged.mp4": "behind frame 10: Invalid data found when processing input",
    "empty.mp4": "empty file",
    "fifo.mp4": "not a regular file",
    "header.mp4": "not a video, or its header is missing",
    "link.mp4": "no such file",
    "short.avi": "the file ends too early",
    "sound.mp4": "no video stream, only audio",
    "text.mp4": "not a video, or its header is missing",
}


def test_what_it_prints_on_a_folder_with_ten_faults(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(verify_module, "check_file", crashing_check)
    folder = tmp_path / "data"
    plant(folder, clip)
    found = verify(folder, workers=2, out=tmp_path / "out")
    faults = "\n".join(f"{name}: {cause}" for name, cause in CAUSES.items())
    assert str(found) == (
        f"{faults}\n14 files checked: 4 sound, 10 faulty\n"
        f"wrote {tmp_path}/out/data.quarantine.txt\nwrote {tmp_path}/out/data.clean.txt"
    )
    assert not found.sound
    quarantine = (tmp_path / "out/data.quarantine.txt").read_text().splitlines()
    assert [line.split("\t") for line in quarantine] == [list(pair) for pair in CAUSES.items()]
    assert (tmp_path / "out/data.clean.txt").read_text().splitlines() == [
        "1 one.mp4",
        "in/deep/three.mp4",
        "in/four.avi",
        "in/two.mp4",
    ]


def test_a_list_keeps_its_lines_and_an_unchanged_sound_file_is_not_read_again(clip, tmp_path):
    for name in ("a b.mp4", "c.mp4", "d.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "e.mp4").write_text("x")
    source = tmp_path / "train.csv"
    source.write_text("a b.mp4 3\nc.mp4 0\n\nmissing.mp4 1\ne.mp4 1\nd.mp4 2;4\nc.mp4 0\n")
    found = verify(source, prefix=str(tmp_path), workers=1, expect="k400-val")
    assert found.faults == [("missing.mp4", "no such file"), ("e.mp4", "not a video, or its header is missing")]
    assert found.notes == [
        "1 files are listed more than once, the first is c.mp4",
        "6 lines, the published list of k400-val has 19787",
    ]
    assert (tmp_path / "train.clean.csv").read_text() == "a b.mp4 3\nc.mp4 0\nd.mp4 2;4\nc.mp4 0\n"
    # Mended, broken, untouched.
    shutil.copy(clip, tmp_path / "e.mp4")
    (tmp_path / "d.mp4").write_text("y")
    again = verify(source, prefix=str(tmp_path), workers=1)
    assert again.known == 2
    assert [name for name, _ in again.faults] == ["missing.mp4", "d.mp4"]
    # Having looked at packets is not having decoded everything.
    assert verify(source, prefix=str(tmp_path), workers=1, full=False).known == 3


def test_only_full_reading_finds_damage_inside_frames(clip, tmp_path):
    path = Path(shutil.copy(clip, tmp_path))
    videos.damage_packet(path, 12)
    assert check_file(Check(str(path), full=False), lambda: None) == Checked("", 20)
    assert check_file(Check(str(path)), lambda: None) == Checked(CAUSES["damaged.mp4"])


def test_lists_of_frame_folders_and_of_images(tmp_path):
    from PIL import Image

    for folder, frames in (("7", 5), ("8", 5), ("9", 4)):
        (tmp_path / folder).mkdir()
        for n in range(1, frames + 1):
            Image.new("RGB", (16, 12), (n, 0, 0)).save(tmp_path / folder / f"{n:05d}.jpg")
    videos.cut(tmp_path / "8/00003.jpg", tmp_path / "8/00003.jpg", 0.8)
    source = tmp_path / "train.txt"
    source.write_text("7 5 1\n8 5 0\n9 5 2\n10 3 2\n")
    found = verify(source, prefix=str(tmp_path), workers=1, template="{:05d}.jpg")
    assert [name for name, _ in found.faults] == ["8", "9", "10"]
    assert found.faults[0][1].startswith("00003.jpg: ")
    assert found.faults[1:] == [
        ("9", "1 of 5 frames are missing, the first is 00005.jpg"),
        ("10", "no such folder"),
    ]
    # What was found sound under one name says nothing of others.
    other = verify(source, prefix=str(tmp_path), workers=1, template="{:06d}.jpg")
    assert [name for name, _ in other.faults] == ["7", "8", "9", "10"]
    source.write_text("7/00001.jpg 0\n8/00003.jpg 0\n8/00009.jpg 0\n")
    assert [name for name, _ in verify(source, prefix=str(tmp_path), workers=1).faults] == [
        "8/00003.jpg",
        "8/00009.jpg",
    ]


def test_a_killed_run_goes_on_where_it_was(clip, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(30):
        shutil.copy(clip, folder / f"{i:02d}.mp4")
    (folder / "30.mp4").touch()
    journal = folder / "data.verify.jsonl"
    command = [*TOOL, "verify", str(folder), "--workers", "1"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 5):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.001)
    run.kill()
    run.wait()
    done = journal.read_bytes().count(b"\n")
    with journal.open("ab") as stream:
        stream.write(b'{"path": "cut o')
    found = verify(folder, workers=1)
    assert (found.files, found.known) == (31, min(done, 30))
    assert found.faults == [("30.mp4", "empty file")]
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len({record["path"] for record in records}) == 31


def test_the_tool_s_exit_status(clip, tmp_path, monkeypatch, capsys):
    tool = runpy.run_path(TOOL[1])["main"]
    shutil.copy(clip, tmp_path / "a.mp4")
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", "verify", str(tmp_path)])
    assert tool() == 0
    assert "1 files checked: 1 sound, 0 faulty" in capsys.readouterr().out
    (tmp_path / "b.mp4").touch()
    assert tool() == 1
    assert "b.mp4: empty file" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", "verify", str(tmp_path / "no.csv")])
    assert tool() == 2
    assert "no.csv: cannot read this list (No such file or directory)" in capsys.readouterr().err


def test_wrong_input(tmp_path):
    source = tmp_path / "a.csv"
    for text, message in (
        ("", "this list is empty"),
        ("a.mp4 1\nb.mp4\n", "line 2: expected 'path number'"),
        ("a.mp4 1\n 2\n", "line 2"),
        ("7 12 0\n8 12 1\n", "a.csv: lines look like 'folder frames label'; --template means folders of frames"),
        ("label,youtube_id,split\nrun,aaaaaaaaaaa,val\n", "a.csv: these are annotations, not a list of files"),
        ('[\n{"im_path": "a.jpg", "class": 0}\n]\n', "a.csv: these are annotations, not a list of files"),
        ('[{"id": "7", "template": "Pushing [something]"}]', "a.csv: these are annotations, not a list of files"),
        ("\ufeffnarration_id,participant_id\nP01_01_0,P01\n", "a.csv: these are annotations, not a list of files"),
    ):
        source.write_text(text)
        with pytest.raises(ConfigError, match=message):
            verify(source, workers=1)
    with pytest.raises(ConfigError, match="no video files in this folder"):
        verify(tmp_path, workers=1)
    source.write_text("a.mp4\n")
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "a.verify.jsonl", theirs))
    other.start()
    assert ours.recv() == "held"
    with pytest.raises(ConfigError, match="another run is at work"):
        verify(source, workers=1)
    ours.send("enough")
    other.join()
    (tmp_path / "a.verify.jsonl").write_text("hello\n")
    with pytest.raises(ConfigError, match="not a journal"):
        verify(source, workers=1)


def test_published_counts_are_those_of_the_annotation_files():
    text = (golden.require(golden.GOLDEN / "annotations/README.md")).read_text().replace(" ", "")
    for name in ("k400-val", "k600-val", "ssv1-train", "ssv1-val", "ssv2-train", "ssv2-val"):
        assert str(PUBLISHED[name]) in text, name
