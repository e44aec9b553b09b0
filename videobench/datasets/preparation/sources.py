"""Official annotation files and folders of the public data sets, as plans for list files."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.own_videos import stratified_split
from videobench.datasets.preparation.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_files
from videobench.datasets.preparation.lists import FRAMES, Plan, Row

_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_NOT_FOUND = "not found"


def kinetics(annotations: Sequence[Path], videos: Path, classes: Sequence[Path] | None, separator: str = " ") -> Plan:
    """Lists of Kinetics 400, 600 or 700 from the official tables (label, youtube_id, time_start, time_end, split).

    A video may lie anywhere below ``videos`` as ID_START_END (seconds, with or without leading zeros) or ID, with any
    suffix of a video.

    Args:
        annotations: csv files; rows go where their column ``split`` says.
        videos: folder.
        classes: order of the classes, see `annotations.read_class_names`; None for the alphabetical one.
        separator: between path and label.
    """
    files, strange = _youtube_files(videos)
    rows = [row for path in annotations for row in _table(path, ("label", "youtube_id", "time_start", "split"))]
    labels = sorted({row["label"] for row in rows})
    order = read_class_names(classes) if classes else labels
    number = _numbers(order, labels, classes)
    plan = Plan(videos, {}, classes={"classes.txt": order})
    for row in rows:
        split = _SPLITS.get(row["split"].strip())
        if split is None:
            raise ConfigError(f"{row['youtube_id']}: unknown split {row['split']!r}")
        start = int(float(row["time_start"]))
        found = files.get((row["youtube_id"], start)) or files.get((row["youtube_id"], None))
        name = f"{split}.csv"
        plan.lists.setdefault(name, [])
        if found:
            plan.lists[name].append(Row(found, f"{found}{separator}{number[_plain(row['label'])]}"))
        else:
            plan.left_out.setdefault(name, []).append((f"{row['youtube_id']}, from second {start}", _NOT_FOUND))
    if f"k{len(order)}-val" in ("k400-val", "k600-val") and "val.csv" in plan.lists:
        plan.published["val.csv"] = f"k{len(order)}-val"
    plan.notes.append(f"class numbers: {'as in ' + ', '.join(map(str, classes)) if classes else 'alphabetical'}")
    if strange:
        plan.notes.append(f"{len(strange)} videos are not named ID or ID_START_END, the first is {strange[0]}")
    return plan


def something_something(
    version: str,
    splits: dict[str, Path],
    labels: Path,
    root: Path,
    classes: Sequence[Path] | None = None,
) -> Plan:
    """NAME_train.txt and NAME_validation.txt (``folder frames label``) of Something-Something from the official files.

    Args:
        version: ``ssv1`` or ``ssv2``.
        splits: ``train``, ``validation`` -> json (a list with ``id`` and ``template``) or csv (``id;template``).
        labels: json (template -> number) or a file with a template per line, in the order of the numbers.
        root: folder of the videos (ID.webm, ID.mp4), or of a folder of frames per video.
        classes: another order of the classes, see `annotations.read_class_names`.
    """
    order = read_class_names(classes or labels)
    number = _numbers(order, (), classes)
    folders = {e.name: e.path for e in os.scandir(root) if e.is_dir() and e.name.isdigit()}
    files = {} if folders else {Path(name).stem: name for name in find_files(root, VIDEO_SUFFIXES)}
    plan = Plan(root, {}, classes={"classes.txt": order})
    templates = set()
    for split, path in splits.items():
        name = f"{version}_{split}.txt"
        plan.published[name] = f"{version}-{_SPLITS[split]}"
        plan.lists[name] = rows = []
        plan.left_out[name] = out = []
        for video, template in _something_rows(path):
            label = number.get(_plain(template))
            if label is None:
                raise ConfigError(f"{path}: video {video}: {template!r} is no class of {labels}")
            if video in files:
                rows.append(Row(files[video], f"{video} {FRAMES} {label}"))
            elif video in folders:
                frames, naming, cause = _frame_folder(folders[video])
                if cause:
                    out.append((video, cause))
                else:
                    templates.add(naming)
                    rows.append(Row(video, f"{video} {frames} {label}", frames))
            else:
                out.append((video, _NOT_FOUND))
    if len(templates) > 1:
        raise ConfigError(f"{root}: frames are named in different ways: {', '.join(sorted(templates))}")
    plan.template = "".join(templates)
    stored = f'DATA.IMAGE_TEMPLATE "{plan.template}"' if templates else "DATA.STORED_AS videos"
    plan.notes.append(f'set DATA.LABEL_PATH_TEMPLATE "{version}_{{}}.txt" {stored} DATA.PATH_PREFIX {root}')
    return plan


def epic(annotations: Sequence[Path], root: Path, classes: Sequence[Path] = ()) -> Plan:
    """The official tables of EPIC-Kitchens-100 without the rows whose video or frames are not there.

    Args:
        annotations: EPIC_100_train.csv, EPIC_100_validation.csv.
        root: folder with PARTICIPANT/rgb_frames/VIDEO/frame_0000000001.jpg or PARTICIPANT/videos/VIDEO.MP4.
        classes: EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv (id, key).
    """
    plan = Plan(root, {}, template="frame_{:010d}.jpg")
    files = {os.path.splitext(name)[0]: name for name in find_files(root, VIDEO_SUFFIXES)}
    counts: dict[str, int] = {}
    header = None
    for path in annotations:
        rows = plan.lists[path.name] = []
        out = plan.left_out[path.name] = []
        text = _lines(path)
        if header not in (None, text[0]):
            raise ConfigError(f"{path}: other columns than {annotations[0]}")
        header = text[0]
        needed = ("narration_id", "participant_id", "video_id", "stop_timestamp")
        for line, row in zip(text[1:], _table(path, needed), strict=True):
            video = row["video_id"]
            folder = f"{row['participant_id']}/rgb_frames/{video}"
            if file := files.get(f"{row['participant_id']}/videos/{video}"):
                rows.append(Row(file, line))
                continue
            if folder not in counts:
                counts[folder] = _count_images(root / folder)
            last = _epic_frame(row["stop_timestamp"], video)
            if not counts[folder]:
                out.append((row["narration_id"], f"{_NOT_FOUND}: neither {folder} nor the video"))
            elif last > counts[folder]:
                out.append((row["narration_id"], f"ends at frame {last}, {folder} has {counts[folder]}"))
            else:
                rows.append(Row(folder, line, counts[folder]))
        split = "train" if "train" in path.name else "val"
        plan.published[path.name] = f"epic100-{split}"
    for path in classes:
        plan.classes["verbs.txt" if "verb" in path.name else "nouns.txt"] = read_class_names(path)
    plan.layout = lambda lines: [header, *lines]
    return plan


def imagenet(root: Path, val_labels: Path | None = None) -> Plan:
    """train.json and val.json (``im_path``, ``class``) of ImageNet; numbers are those of the sorted folder names.

    Args:
        root: folder with train/n01440764/*.JPEG, and val/ likewise or, with ``val_labels``, flat.
        val_labels: csv with ImageId and PredictionString, whose first word is the folder name of the class.
    """
    synsets = sorted(e.name for e in os.scandir(root / "train") if e.is_dir() and re.fullmatch(r"n\d+", e.name))
    if not synsets:
        raise ConfigError(f"{root / 'train'}: no folders named as classes (n01440764)")
    number = {name: i for i, name in enumerate(synsets)}
    truth = {}
    if val_labels:
        truth = {row["ImageId"]: row["PredictionString"].split()[0] for row in _table(val_labels, ("ImageId",))}
    plan = Plan(root, {}, classes={"classes.txt": synsets})
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
    """
    splits = [s for s in ("train", "val", "test") if (root / s).is_dir()]
    places = [(s, root / s) for s in splits] or [("train", root)]
    found = {split: _by_class(place, split if splits else "") for split, place in places}
    names = sorted({name for by_class in found.values() for name in by_class})
    order = read_class_names(classes) if classes else names
    number = _numbers(order, names, classes)
    plan = Plan(root, {}, classes={"classes.txt": order})
    for split, by_class in found.items():
        for name in sorted(by_class):
            label = number[_plain(name)]
            videos = [(video, label) for video in by_class[name]]
            held = stratified_split(videos, val_fraction, seed) if val_fraction and not splits else set()
            for video in videos:
                row = Row(video[0], f"{video[0]}{separator}{label}")
                plan.lists.setdefault(f"{'val' if video in held else split}.csv", []).append(row)
    return plan


def _numbers(order: Sequence[str], labels: Iterable[str], classes: Sequence[Path] | None) -> dict[str, int]:
    """Class number by name in its plain form; every label must have one."""
    number = {_plain(name): i for i, name in enumerate(order)}
    if len(number) != len(order):
        raise ConfigError(f"{', '.join(map(str, classes or ()))}: names of classes occur twice")
    if unknown := [label for label in labels if _plain(label) not in number]:
        where = ", ".join(map(str, classes or ()))
        raise ConfigError(f"{len(unknown)} classes are not in {where}, the first is {unknown[0]!r}")
    return number


def _plain(name: str) -> str:
    """A class name without what its spellings differ in: case, underscores, brackets, quotation marks."""
    return re.sub(r"\s+", " ", re.sub(r"[\[\]\"'()]", "", name.replace("_", " "))).strip().lower()


def _youtube_files(folder: Path) -> tuple[dict[tuple[str, int | None], str], list[str]]:
    """(id, first second or None) -> file, and the files named otherwise."""
    files: dict[tuple[str, int | None], str] = {}
    strange = []
    for name in find_files(folder, VIDEO_SUFFIXES):
        match = re.fullmatch(r"([\w-]{11})(?:_(\d+)_(\d+))?", Path(name).stem, re.ASCII)
        if match:
            files.setdefault((match[1], int(match[2]) if match[2] else None), name)
        else:
            strange.append(name)
    return files, strange


def _something_rows(path: Path) -> list[tuple[str, str]]:
    """(id, template) of a split."""
    if path.suffix == ".json":
        return [(str(row["id"]), row["template"]) for row in _json(path)]
    rows = [line.split(";", 1) for line in _lines(path) if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise ConfigError(f"{path}: lines are 'id;template'")
    return [(row[0].strip(), row[1]) for row in rows]


def _frame_folder(path: str) -> tuple[int, str, str]:
    """Number of frames, how they are named, and what is wrong."""
    names = sorted(e.name for e in os.scandir(path) if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES)
    match = re.fullmatch(r"(.*?)(\d+)(\.\w+)", names[0]) if names else None
    if not match:
        return 0, "", "no frames"
    template = f"{match[1]}{{:0{len(match[2])}d}}{match[3]}"
    missing = [n for n in range(1, len(names) + 1) if template.format(n) not in set(names)]
    if missing:
        return len(names), template, f"{len(names)} frames, but no {template.format(missing[0])}"
    return len(names), template, ""


def _count_images(folder: Path) -> int:
    return sum(e.name.endswith(".jpg") for e in os.scandir(folder)) if folder.is_dir() else 0


def _epic_frame(timestamp: str, video: str) -> int:
    """The frame at a time stamp, in the published extraction: 50 frames per second for videos of three-digit number."""
    hours, minutes, seconds = timestamp.split(":")
    rate = 50 if len(video.rpartition("_")[2]) == 3 else 60
    return math.floor(round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * rate, 6))


def _by_class(place: Path, below: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in find_files(place, VIDEO_SUFFIXES):
        parts = Path(name).parts
        if len(parts) < 2:
            raise ConfigError(f"{place / name}: lies in no folder of a class")
        found.setdefault(parts[0], []).append(f"{below}/{name}" if below else name)
    return found


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(_lines(path)))
    missing = [column for column in columns if rows and rows[0].get(column) is None]
    if not rows or missing:
        raise ConfigError(f"{path}: {f'no column {missing[0]}' if missing else 'no rows'}; the official csv has one")
    return rows


def _json(path: Path):
    try:
        return json.loads("\n".join(_lines(path)))
    except ValueError as error:
        raise ConfigError(f"{path}: not json ({error})") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read this ({error})") from error
