"""Lists of UCF101 and HMDB51 from the split files that they are published with."""

from collections.abc import Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.preparation.annotation_files import NOT_FOUND, class_numbers, plain, read_lines
from videobench.datasets.preparation.files import VIDEO_SUFFIXES, find_files
from videobench.datasets.preparation.lists import Plan, Row
from videobench.datasets.preparation.named_videos import NamedVideos

# What the number behind a video of HMDB51 says; with 0 it belongs to neither part of the split.
_HMDB_PARTS = {"1": "train.txt", "2": "val.txt"}


def ucf101(splits: Path, split: int, root: Path, separator: str = " ") -> Plan:
    """train.csv and val.csv of a split of UCF101; val.csv is its test list.

    Args:
        splits: folder of trainlist01.txt (``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1``), testlist01.txt (without
            numbers) and classInd.txt (``1 ApplyEyeMakeup``, numbers from 1).
        split: 1, 2 or 3.
        root: folder of the videos, in folders of classes or not, with any suffix of a video.
        separator: between path and label.

    Raises:
        ConfigError: for split files that are missing, and videos of no class.
    """
    order = read_class_names(splits / "classInd.txt")
    number = class_numbers(order, (), [splits / "classInd.txt"])
    # v_HandStandPushups_g01_c01 lies in HandstandPushups, and some copies agree on one spelling.
    files = {Path(file).stem.lower(): file for file in find_files(root, VIDEO_SUFFIXES)}
    plan = Plan(root, {}, dataset="ucf101", classes={"classes.txt": order})
    plan.keys["DATA.PATH_LABEL_SEPARATOR"] = separator
    for source, name in (("trainlist", "train.csv"), ("testlist", "val.csv")):
        path = splits / f"{source}{split:02d}.txt"
        plan.lists[name], plan.left_out[name] = [], []
        for line in filter(str.strip, read_lines(path)):
            # The number of the training list says what the folder says.
            video = line.split()[0]
            label = number.get(plain(Path(video).parent.name))
            if label is None:
                raise ConfigError(f"{path}: {video}: its folder is no class of classInd.txt")
            if file := files.get(Path(video).stem.lower()):
                plan.lists[name].append(Row(file, f"{file}{separator}{label}"))
            else:
                plan.left_out[name].append((video, NOT_FOUND))
        if split == 1:
            plan.published[name] = f"ucf101-{Path(name).stem}"
    return plan


def hmdb51(splits: Path, split: int, root: Path, classes: Sequence[Path] | None = None) -> Plan:
    """train.txt and val.txt (``folder frames label``) of a split of HMDB51; val.txt is its test list.

    Args:
        splits: folder of CLASS_test_split1.txt: lines of ``video.avi 1`` (train), 2 (test) or 0 (neither).
        split: 1, 2 or 3.
        root: folder of the videos, or of their folders of frames, in folders of classes or not.
        classes: order of the classes, see `annotations.read_class_names`; None for the alphabetical one.

    Raises:
        ConfigError: for a folder without split files, and lines of another form.
    """
    ending = f"_test_split{split}.txt"
    paths = {path.name.removesuffix(ending): path for path in sorted(splits.glob(f"*{ending}"))}
    if not paths:
        raise ConfigError(f"{splits}: no files of split {split} (brush_hair{ending}) in this folder")
    order = read_class_names(classes) if classes else list(paths)
    number = class_numbers(order, paths, classes)
    listed = [(name, *line) for name, path in paths.items() for line in _hmdb_lines(path)]
    videos = NamedVideos(root, {video: [f"{name}/{video}", video] for name, video, _ in listed})
    plan = Plan(root, {"train.txt": [], "val.txt": []}, dataset="hmdb", classes={"classes.txt": order})
    plan.left_out = {name: [] for name in plan.lists}
    for name, video, part in listed:
        if part == "0":
            continue
        row = videos.row(video, number[plain(name)])
        if isinstance(row, Row):
            plan.lists[_HMDB_PARTS[part]].append(row)
        else:
            plan.left_out[_HMDB_PARTS[part]].append((f"{name}/{video}", row))
    videos.describe(plan)
    plan.keys["DATA.LABEL_PATH_TEMPLATE"] = "{}.txt"
    plan.published = {"train.txt": "hmdb51-train", "val.txt": "hmdb51-val"}
    return plan


def _hmdb_lines(path: Path) -> list[tuple[str, str]]:
    """(video without suffix, 0, 1 or 2)."""
    lines = [line.split() for line in read_lines(path) if line.strip()]
    if wrong := next((line for line in lines if len(line) != 2 or line[1] not in ("0", *_HMDB_PARTS)), None):
        raise ConfigError(f"{path}: lines are 'video.avi 0', 1 or 2; got {' '.join(wrong)!r}")
    return [(Path(video).stem, part) for video, part in lines]
