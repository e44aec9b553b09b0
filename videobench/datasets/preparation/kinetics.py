"""Lists of Kinetics from its official tables."""

import re
from collections.abc import Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.preparation.annotation_files import NOT_FOUND, SPLITS, class_numbers, plain, read_table
from videobench.datasets.preparation.files import VIDEO_SUFFIXES, find_files
from videobench.datasets.preparation.lists import Plan, Row


def kinetics(annotations: Sequence[Path], videos: Path, classes: Sequence[Path] | None, separator: str = " ") -> Plan:
    """Lists of Kinetics 400, 600 or 700 from the official tables (label, youtube_id, time_start, time_end, split).

    A video may lie anywhere below ``videos`` as ID_START_END (seconds, with or without leading zeros) or ID, with any
    suffix of a video.

    Args:
        annotations: csv files; rows go where their column ``split`` says.
        videos: folder.
        classes: order of the classes, see `annotations.read_class_names`; None for the alphabetical one.
        separator: between path and label.

    Raises:
        ConfigError: for tables of another form, and test tables, whose labels are held out.
    """
    files, strange = _youtube_files(videos)
    rows = [row for path in annotations for row in _rows(path)]
    labels = sorted({row["label"] for row in rows})
    order = read_class_names(classes) if classes else labels
    number = class_numbers(order, labels, classes)
    plan = Plan(videos, {}, dataset="kinetics", classes={"classes.txt": order})
    plan.keys["DATA.PATH_LABEL_SEPARATOR"] = separator
    for row in rows:
        split = SPLITS.get(row["split"].strip())
        if split is None:
            raise ConfigError(f"{row['youtube_id']}: unknown split {row['split']!r}")
        try:
            start = int(float(row["time_start"]))
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{row['youtube_id']}: time_start {row['time_start']!r} is no number") from error
        found = files.get((row["youtube_id"], start)) or files.get((row["youtube_id"], None))
        name = f"{split}.csv"
        plan.lists.setdefault(name, [])
        if found:
            plan.lists[name].append(Row(found, f"{found}{separator}{number[plain(row['label'])]}"))
        else:
            plan.left_out.setdefault(name, []).append((f"{row['youtube_id']}, from second {start}", NOT_FOUND))
    if f"k{len(order)}-val" in ("k400-val", "k600-val") and "val.csv" in plan.lists:
        plan.published["val.csv"] = f"k{len(order)}-val"
    plan.notes.append(f"class numbers: {'as in ' + ', '.join(map(str, classes)) if classes else 'alphabetical'}")
    if strange:
        plan.notes.append(f"{len(strange)} videos are not named ID or ID_START_END, the first is {strange[0]}")
    return plan


def _rows(path: Path) -> list[dict[str, str]]:
    rows = read_table(path, ("youtube_id", "time_start", "split"))
    if "label" not in rows[0]:
        raise ConfigError(f"{path}: no column label; where labels are held out (test tables), leave the file out")
    if bare := next((row["youtube_id"] for row in rows if not row["label"]), None):
        raise ConfigError(f"{path}: {bare} has no label; where labels are held out (test tables), leave the file out")
    return rows


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
