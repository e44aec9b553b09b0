"""tools/show_clips.py: what it shows is what training and testing read."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import dataset_fixtures as fixtures
import numpy as np
import pytest
import torch
from PIL import Image
from video_fixtures import pictures, write_clip

from videobench.config import ConfigError
from videobench.datasets.annotations import split_list
from videobench.datasets.augment import Augmentation
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import crop_resize
from videobench.datasets.decoding import decode
from videobench.datasets.loader import TrainingLoader
from videobench.datasets.views import VideoViews
from videobench.engine.show_clips import shown_videos
from videobench.reporting.contact_sheet import SheetRow, contact_sheet

ROOT = Path(__file__).resolve().parents[2]
AUGMENTED = ["AUG.ENABLE", True, "AUG.COLOR_JITTER", 0.4, "AUG.RE_PROB", 1.0, "AUG.NUM_SAMPLE", 2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinetics")
    fixtures.kinetics(folder)
    write_clip(folder / "b/three.mp4", pictures(30, 64, 48), options={"preset": "ultrafast"})
    return folder


@pytest.fixture
def configure(root):
    overrides = ("DATA_LOADER.NUM_WORKERS", 0, "TRAIN.BATCH_SIZE", 2, "NUM_GPUS", 0)
    return lambda *more: fixtures.config("kinetics", root, *overrides, *more)


@pytest.mark.parametrize("policy", ["", "rand-m7-n4-mstd0.5-inc1"])
def test_training_clips_are_the_loader_s_first_batch(configure, policy):
    cfg = configure(*AUGMENTED, "AUG.AA_TYPE", policy, "DATA.FLIP_LABEL_PAIRS", [[0, 1]])
    shown = list(shown_videos(cfg, "train", num=2, epoch=3))
    batch = next(iter(TrainingLoader(cfg).epoch(3)))
    augmentation = Augmentation.from_config(cfg)
    clips = batch.clips if augmentation.in_workers else augmentation.pixels(batch.clips, batch.keys)
    inputs = augmentation.finish(clips, batch.keys)
    std, mean = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in (cfg.DATA.STD, cfg.DATA.MEAN))
    expected = (255 * (inputs * std + mean)).round().clamp(0, 255).permute(0, 2, 3, 4, 1).numpy()
    assert [video.path for video in shown for _ in video.clips] == batch.videos
    flat = [clip for video in shown for clip in video.clips]
    assert [clip.label for clip in flat] == [f"class {label}" for label in batch.labels.tolist()]
    np.testing.assert_array_equal(np.stack([clip.pixels for clip in flat]), expected)


def test_training_frames_and_boxes_are_those_that_were_cut(configure):
    videos = split_list(configure(), "train")
    for video in shown_videos(configure(), "train", num=2):
        for clip in video.clips:
            assert clip.pixels.shape == (4, 16, 16, 3)
            assert fixtures.numbers(torch.from_numpy(clip.pixels)) == list(clip.cut.frames)
            frames = decode(video.path, clip.cut.frames)
            cut = crop_resize(frames, clip.cut.box, 16, flip=clip.cut.mirrored, antialias=configure().DATA.ANTIALIAS)
            assert np.abs(clip.pixels.astype(int) - cut.permute(0, 2, 3, 1).numpy()).max() <= 1
    assert len(videos) == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_views_are_those_of_the_test(configure, reverse):
    cfg = configure(
        *("TEST.NUM_ENSEMBLE_VIEWS", 2, "TEST.NUM_SPATIAL_CROPS", 3, "DATA.REVERSE_INPUT_CHANNEL", reverse),
        *("DATA.TRAIN_JITTER_SCALES", [20, 24]),
    )
    (video,) = shown_videos(cfg, "test")
    views = VideoViews(cfg, split_list(cfg, "test"), [(2, 3)])[0]
    expected = views.clips()[torch.from_numpy(views.grids[0])].permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_array_equal(np.stack([clip.pixels for clip in video.clips]), expected)
    facts = video.as_dict()
    assert (facts["frames"], facts["fps"], facts["height"], facts["width"]) == (30, 30.0, 48, 64)
    # The short side, 48, becomes 16: boxes are as high as the frame and begin at its left, middle and right.
    assert [clip["box"] for clip in facts["clips"][:3]] == [
        {"y0": 0, "x0": pytest.approx(x0, abs=1.6), "height": 48, "width": pytest.approx(48, abs=1.6)}
        for x0 in (0, 8, 16)
    ]
    # A view is its box of its frames, resized; views are cut from whole resized frames, so edges differ a little.
    for clip in video.clips:
        cut = crop_resize(decode(video.path, clip.cut.frames), clip.cut.box, 16, antialias=cfg.DATA.ANTIALIAS)
        assert np.abs(clip.pixels.astype(int) - cut.permute(0, 2, 3, 1).numpy()).mean() < 12


def test_shuffled_frames_are_shown_as_they_are_tested(configure):
    cfg = configure("TEST.SHUFFLE_FRAMES", True, "RNG_SEED", 3, "TEST.NUM_ENSEMBLE_VIEWS", 1)
    (video,) = shown_videos(cfg, "test")
    frames = list(video.clips[0].cut.frames)
    assert frames != sorted(frames)
    plain = next(shown_videos(configure("TEST.NUM_ENSEMBLE_VIEWS", 1), "test")).clips[0].cut.frames
    assert sorted(frames) == list(plain)


def test_one_video_by_path_by_name_and_without_a_list(configure, root, tmp_path):
    by_name = list(shown_videos(configure(), "train", video="b/two.mp4"))
    by_path = list(shown_videos(configure(), "train", video=str(root / "b/two.mp4")))
    assert [v.as_dict() for v in by_name] == [v.as_dict() for v in by_path]
    assert by_name[0].clips[0].label == "class 1"
    other = write_clip(tmp_path / "other.mp4", 20, options={"preset": "ultrafast"})
    for folder in (root, "nowhere"):
        (alone,) = shown_videos(configure("DATA.PATH_TO_DATA_DIR", str(folder)), "test", video=str(other))
        assert (alone.frames, alone.clips[0].label) == (20, "no label")
    assert list(tmp_path.iterdir()) == [other]
    with pytest.raises(ConfigError, match=r"missing\.mp4 is not in .*train\.csv"):
        list(shown_videos(configure(), "train", video="missing.mp4"))


def test_unreadable_videos_are_named(configure, tmp_path, caplog):
    fixtures.kinetics(tmp_path)
    (tmp_path / "b/two.mp4").write_bytes(b"no video")
    cfg = fixtures.config("kinetics", tmp_path, "NUM_GPUS", 0, "DATA.MAX_FAILED_FRACTION", 0.5)
    with caplog.at_level("WARNING", logger="videobench.engine.show_clips"):
        shown = list(shown_videos(cfg, "train"))
    assert [Path(video.path).name for video in shown] == ["one.mp4", "one.mp4"]
    assert "two.mp4" in caplog.text
    with pytest.raises(VideoError, match=r"two\.mp4"):
        list(shown_videos(cfg, "train", video="b/two.mp4"))


def test_frame_folders_and_pictures(tmp_path):
    fixtures.sth(tmp_path / "sth")
    fixtures.imagenet(tmp_path / "imagenet")
    (video, *_) = shown_videos(fixtures.config("sth", tmp_path / "sth", "NUM_GPUS", 0, prefix="frames"), "train")
    assert (video.fps, len(video.clips[0].cut.frames)) == (None, 4)
    (picture, *_) = shown_videos(
        fixtures.config("imagenet", tmp_path / "imagenet", "NUM_GPUS", 0, "DATA.NUM_FRAMES", 1), "val"
    )
    assert picture.clips[0].cut.frames == (0,)


def test_a_sheet_has_the_clip_s_own_pixels_and_the_box():
    clip = pictures(20, 24, 24)
    original = np.zeros((48, 96, 3), np.uint8)
    sheet = np.array(contact_sheet([SheetRow("a title", original, (0, 24, 48, 48), range(20), clip)], side=0))
    found = [
        (sheet[y : y + 24, x : x + 24] == clip[0]).all()
        for y in range(sheet.shape[0] - 24)
        for x in range(sheet.shape[1] - 24)
    ]
    assert sum(found) == 1
    red = np.argwhere((sheet[..., 0] > 200) & (sheet[..., 1] < 90))
    red = red[red[:, 1] < 60]  # left of the frames
    assert np.ptp(red[:, 0]) + 1 == 24
    assert np.ptp(red[:, 1]) + 1 == 24
    assert contact_sheet([SheetRow("", original, (0, 0, 48, 48), range(20), clip)], side=64).height > 128


def test_the_tool(configure, tmp_path, monkeypatch, capsys):
    recipe, sheet = tmp_path / "recipe.yaml", tmp_path / "sheet.png"
    recipe.write_text(configure().dump())
    monkeypatch.chdir(tmp_path)

    def tool(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["show_clips.py", "--cfg", str(recipe), *map(str, words)])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(ROOT / "tools/show_clips.py"), run_name="__main__")
        return done.value.code, *capsys.readouterr()

    code, out, _ = tool("--split", "train", "--num", 1, "--json", "--output", sheet, "DATA.NUM_FRAMES", 3)
    assert code == 0
    (video,) = json.loads(out)
    assert len(video["clips"][0]["frames"]) == 3
    with Image.open(sheet) as picture:
        assert picture.width > 3 * 128
    code, out, _ = tool("--video", "b/three.mp4")
    assert code == 0
    assert "clip 1 of" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "sheet.png"]
    code, out, error = tool("--video", "no.mp4")
    assert (code, out) == (2, "")
    assert error.startswith("error: no.mp4 is not in")
    for words, message in (
        (("--num", 0), "--num is 0"),
        (("--epoch", -1), "--epoch -1"),
        (("--size", 3), "--size is 3; use 16 or more, or 0"),
        (("--output", tmp_path / "sheet.xyz"), "sheet.xyz cannot be written: unknown file extension"),
        (("--output", tmp_path / "no/sheet.png"), "sheet.png cannot be written"),
    ):
        code, out, error = tool("--num", 1, *words)
        assert (code, out, message in error) == (2, "", True), error


def test_a_name_of_any_bytes_is_shown(configure, root, tmp_path):
    name = os.fsdecode(b"\xff.mp4")
    shutil.copy(root / "b/three.mp4", tmp_path / name)
    (video,) = shown_videos(configure(), "test", video=str(tmp_path / name))
    assert video.as_text().startswith(f"{tmp_path}/\\xff.mp4: 30 frames")
    assert contact_sheet(video.sheet_rows()).width > 0
