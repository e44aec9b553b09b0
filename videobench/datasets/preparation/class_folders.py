"""Lists of data that lie in a folder per class: videos, and ImageNet's pictures."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.own_videos import stratified_split
from videobench.datasets.preparation.annotation_files import class_numbers, plain, read_lines, read_table
from videobench.datasets.preparation.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_files
from videobench.datasets.preparation.lists import Plan, Row


def folder(
    root: Path,
    classes: Sequence[Path] | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    separator: str = " ",
) -> Plan:
    """Lists of a folder with one folder of videos per class, below train/, val/ and test/ or all together.

    Args:
        root: folder.
        classes: order of the classes, see `annotations.read_class_names`; None for the sorted folder names.
        val_fraction: share of each class that goes to val.csv where there are no folders of splits, see
            `own_videos.stratified_split`.
        seed: of that split.
        separator: between path and label.

    Raises:
        ConfigError: for a video in no folder of a class, classes that are not in ``classes``, and a ``val_fraction``
            that is none, or that is given where there are folders of splits.
    """
    splits = [s for s in ("train", "val", "test") if (root / s).is_dir()]
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"--val-fraction is {val_fraction:g}; it is from 0 to below 1")
    if val_fraction and splits:
        raise ConfigError(
            f"--val-fraction: {root} has a split of its own ({', '.join(splits)}); to draw one from the training "
            "videos, give --data their folder"
        )
    places = [(s, root / s) for s in splits] or [("train", root)]
    found = {split: _by_class(place, split if splits else "") for split, place in places}
    names = sorted({name for by_class in found.values() for name in by_class})
    order = read_class_names(classes) if classes else names
    number = class_numbers(order, names, classes)
    plan = Plan(root, {}, dataset="kinetics", classes={"classes.txt": order})
    plan.keys["DATA.PATH_LABEL_SEPARATOR"] = separator
    beside = [name for name in find_files(root, VIDEO_SUFFIXES) if name.partition("/")[0] not in splits]
    if splits and beside:
        plan.notes.append(f"left out, beside {' and '.join(splits)}: {len(beside)} videos, the first is {beside[0]}")
    for split, by_class in found.items():
        for name in sorted(by_class):
            label = number[plain(name)]
            videos = [(video, label) for video in by_class[name]]
            held = stratified_split(videos, val_fraction, seed) if val_fraction and not splits else set()
            for video in videos:
                row = Row(video[0], f"{video[0]}{separator}{label}")
                plan.lists.setdefault(f"{'val' if video in held else split}.csv", []).append(row)
    return plan


def _by_class(place: Path, below: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in find_files(place, VIDEO_SUFFIXES):
        parts = Path(name).parts
        if len(parts) < 2:
            raise ConfigError(f"{place / name}: lies in no folder of a class")
        found.setdefault(parts[0], []).append(f"{below}/{name}" if below else name)
    return found


def imagenet(root: Path, val_labels: Path | None = None, classes: Sequence[Path] = ()) -> Plan:
    """train.json and val.json (``im_path``, ``class``) of ImageNet; numbers are those of the sorted folder names.

    Args:
        root: folder with train/n01440764/*.JPEG, and val/ likewise or, with ``val_labels``, flat.
        val_labels: LOC_val_solution.csv, with ImageId and PredictionString, whose first word is the class's folder.
        classes: LOC_synset_mapping.txt (``n01440764 tench, Tinca tinca``), whose lines become the names of the classes.

    Raises:
        ConfigError: where no folder in train/ is named as a class, or one has no line in ``classes``.
    """
    train = root / "train"
    synsets = sorted(e.name for e in os.scandir(train) if re.fullmatch(r"n\d+", e.name)) if train.is_dir() else []
    if not synsets:
        raise ConfigError(f"{train}: no folders named as classes (n01440764)")
    number = {name: i for i, name in enumerate(synsets)}
    names = {line.partition(" ")[0]: line for path in classes for line in read_lines(path)}
    if classes and (unnamed := [name for name in synsets if name not in names]):
        raise ConfigError(f"{classes[0]}: no line for {unnamed[0]} ({len(unnamed)} such folders in {train})")
    truth = {}
    if val_labels:
        rows = read_table(val_labels, ("ImageId", "PredictionString"))
        truth = {row["ImageId"]: row["PredictionString"].partition(" ")[0] for row in rows}
    plan = Plan(root, {}, dataset="imagenet", classes={"classes.txt": [names.get(name, name) for name in synsets]})
    for split in ("train", "val"):
        rows, out = [], []
        for name in find_files(root / split, IMAGE_SUFFIXES):
            place = Path(name)
            synset = truth.get(place.stem, "") if place.parent == Path() else place.parts[0]
            if synset in number:
                record = json.dumps({"im_path": f"{split}/{name}", "class": number[synset]})
                rows.append(Row(f"{split}/{name}", record))
            else:
                out.append((f"{split}/{name}", f"no class {synset}" if synset else "its class is not known"))
        plan.lists[f"{split}.json"], plan.left_out[f"{split}.json"] = rows, out
        plan.published[f"{split}.json"] = f"imagenet-{split}"
    plan.layout = lambda lines: ["[", *(f"{line}," for line in lines[:-1]), *lines[-1:], "]"]
    return plan
