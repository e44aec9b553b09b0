"""Tiny copies of the public data sets in their real form; every picture says which frame it is."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from video_fixtures import write_clip

from videobench.config import CfgNode, load_config

_LEVELS, _STEP, _BLACK = 36, 6, 20
_FAST = {"preset": "ultrafast", "g": "12", "crf": "10"}


def numbered(count: int, first: int = 0, size: tuple[int, int] = (32, 24)) -> np.ndarray:
    """Plain pictures [count, height, width, 3] whose red and green are digits of the frame's number, blue is 200."""
    frames = np.full((count, size[1], size[0], 3), 200, np.uint8)
    for row, number in enumerate(range(first, first + count)):
        frames[row, ..., :2] = [_BLACK + _STEP * digit for digit in (number % _LEVELS, number // _LEVELS)]
    return frames


def numbers(frames: Tensor) -> list[int]:
    """The numbers of frames [T, H, W, 3] or [T, 3, H, W] made by `numbered`."""
    if frames.shape[-1] != 3:
        frames = frames.permute(0, 2, 3, 1)
    means = frames.double().mean((1, 2))
    assert ((means[:, 2] - 200).abs() < 5).all(), "blue is the third channel"
    low, high = ((means[:, :2] - _BLACK) / _STEP).round().long().T
    return (low + _LEVELS * high).tolist()


def write_frames(folder: Path, template: str, count: int, first: int = 1) -> None:
    """Frame files; the picture in file k says k."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(numbered(count, first), start=first):
        Image.fromarray(frame).save(folder / template.format(number), quality=95)


def write_video(path: Path, count: int, rate: int = 30) -> None:
    """A video; frame i, from 0, says i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {"codec": "libvpx", "options": {"deadline": "realtime", "crf": "4"}} if path.suffix == ".webm" else {}
    write_clip(path, numbered(count), rate=rate, **{"options": _FAST, **codec})


def kinetics(root: Path, separator: str = " ") -> None:
    """Two training and one validation video."""
    for name, count in (("a/one.mp4", 40), ("b/two.mp4", 12), ("b/three.mp4", 20)):
        write_video(root / name, count)
    (root / "train.csv").write_text(f"a/one.mp4{separator}0\nb/two.mp4{separator}1\n")
    (root / "val.csv").write_text(f"b/three.mp4{separator}1\n")


def sth(root: Path, template: str = "{:05d}.jpg") -> None:
    """Lists as UniFormer's, and frame folders."""
    for name, count in (("100218", 9), ("48032", 5), ("85", 7)):
        write_frames(root / "frames" / name, template, count)
    (root / "somesomev1_rgb_train_split.txt").write_text("100218 9 134\n48032 5 72\n")
    (root / "somesomev1_rgb_validation_split.txt").write_text("85 7 30\n")


def ssv2(root: Path) -> None:
    """The official JSON files, lists of frames as SlowFast's, frame folders."""
    templates = {"900001": "Holding [something] next to [something]", "900002": "Pushing [something]"}
    (root / "something-something-v2-labels.json").write_text(
        json.dumps({"Holding something next to something": "19", "Pushing something": "93"})
    )
    for split, name, videos in (("train", "train", {"900001": 12, "900002": 9}), ("validation", "val", {"900001": 12})):
        entries = [{"id": video, "label": "x", "template": templates[video], "placeholders": []} for video in videos]
        (root / f"something-something-v2-{split}.json").write_text(json.dumps(entries))
        lines = ["original_vido_id video_id frame_id path labels"]
        # The lists need not be in the order of the JSON file.
        for number, video in enumerate(reversed(videos)):
            lines += [f'{video} {number} {i} {video}/{video}_{i + 1:06d}.jpg ""' for i in range(videos[video])]
            write_frames(root / "frames" / video, video + "_{:06d}.jpg", videos[video])
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")


EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
EPIC_ROWS = (
    "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:00.60,8,36,open door,open,3,door,3,['door'],[3]\n"
    "P04_121_0,P04,P04_121,00:00:00.560,00:00:00.54,00:00:01.00,27,50,take plate,take,0,plate,2,['plate'],[2]\n"
)


def epic(root: Path) -> None:
    """Official csv files, frame folders of two videos (60 and 50 fps) and the videos themselves."""
    for name in ("EPIC_100_train.csv", "EPIC_100_validation.csv"):
        (root / name).write_text(EPIC_HEADER + EPIC_ROWS)
    for video, rate in (("P01_01", 60), ("P04_121", 50)):
        write_frames(root / video[:3] / "rgb_frames" / video, "frame_{:010d}.jpg", 60)
        write_video(root / video[:3] / "videos" / f"{video}.MP4", 60, rate)


def imagenet(root: Path) -> None:
    """Class folders of pictures, one of them grey, one in CMYK, and a folder that is no class."""
    for split, count in (("train", 3), ("val", 1)):
        for number, name in enumerate(("n01443537", "n01440764")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, frame in enumerate(numbered(count, 10 * number, (40, 30))):
                picture = Image.fromarray(frame)
                picture = picture.convert({1: "L", 2: "CMYK"}[i]) if i in (1, 2) else picture
                picture.save(folder / f"{name}_{i}.JPEG", quality=95)
        (root / split / "others").mkdir()


def config(name: str, root: Path, *overrides: object, prefix: str = "") -> CfgNode:
    """A configuration for a data set under ``root``, with clips of 4 frames of 16 x 16."""
    return load_config(
        [],
        [
            *("TRAIN.DATASET", name, "TEST.DATASET", name),
            *("DATA.PATH_TO_DATA_DIR", str(root), "DATA.PATH_PREFIX", str(root / prefix), "DATA.NUM_FRAMES", 4),
            *("DATA.SAMPLING_RATE", 2, "DATA.TRAIN_CROP_SIZE", 16, "DATA.TEST_CROP_SIZE", 16),
            *("DATA.TRAIN_JITTER_SCALES", [16, 20], "DATA_LOADER.NUM_WORKERS", 0, *overrides),
        ],
    )
