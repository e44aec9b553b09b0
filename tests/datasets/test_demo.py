"""The embedded data set: real files, reproducible, and no frame that gives the class away."""

import av
import numpy as np
import pytest

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names, read_list
from videobench.datasets.demo import CLASSES, FRAMES, SIZE, render_clip, write_demo_dataset


def test_real_h264_files_lists_and_names(demo_data):
    videos = read_list(demo_data / "train.csv", prefix=str(demo_data), num_classes=8)
    assert len(videos) == 32
    assert videos.labels.tolist() == [i % 8 for i in range(32)]
    assert read_class_names(demo_data / "classes.txt") == list(CLASSES)
    with av.open(videos.path(0)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", SIZE, SIZE)
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_writing_again_changes_nothing_and_the_same_seed_gives_the_same_files(demo_data, tmp_path):
    splits = {"train": 32, "val": 10}
    stamp = (demo_data / "train/0005.mp4").stat().st_mtime_ns
    assert write_demo_dataset(demo_data, splits=splits) is False
    assert (demo_data / "train/0005.mp4").stat().st_mtime_ns == stamp
    steps = []
    assert write_demo_dataset(tmp_path, splits={"val": 3}, workers=1, progress=lambda *p: steps.append(p)) is True
    assert steps == [(1, 3), (2, 3), (3, 3)]
    (tmp_path / "val/0001.mp4").unlink()
    assert write_demo_dataset(tmp_path, splits={"val": 3}, workers=1) is True
    for i in range(3):
        assert (tmp_path / f"val/{i:04d}.mp4").read_bytes() == (demo_data / f"val/{i:04d}.mp4").read_bytes()


@pytest.mark.parametrize("pair", [(0, 1), (2, 3), (4, 5), (6, 7)])
def test_opposite_classes_start_alike_and_part(pair):
    one, two = (render_clip(label, np.random.default_rng(5)).astype(int) for label in pair)
    difference = np.abs(one - two).mean((1, 2, 3))
    assert difference[0] == 0
    assert difference[4:12].min() > 1


def test_the_reversed_clip_is_the_opposite_motion():
    """What moves left in one order of frames moves right in the other: only the order tells them apart."""
    frames = render_clip(0, np.random.default_rng(3)).astype(float)
    background = np.median(frames, axis=0)
    mass = np.abs(frames - background).sum((1, 3))
    angle = np.angle((mass * np.exp(2j * np.pi * np.arange(SIZE) / SIZE)).sum(1))
    steps = np.diff(np.unwrap(angle))
    assert steps.mean() < 0
    assert np.diff(np.unwrap(angle[::-1])).mean() > 0


def test_other_lists_are_not_lost(tmp_path):
    (tmp_path / "train.csv").write_text("mine.mp4 0\n")
    with pytest.raises(ConfigError, match=r"train\.csv is not of the demo data set and would be lost"):
        write_demo_dataset(tmp_path, splits={"train": 2}, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    assert (tmp_path / "train.csv").read_text() == "mine.mp4 0\n"
