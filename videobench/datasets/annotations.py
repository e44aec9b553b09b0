"""The videos of a split, whatever the data set: list files, and which reader TRAIN.DATASET and TEST.DATASET name."""

import csv
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from videobench.config import CfgNode, ConfigError
from videobench.datasets.backends import VideoReader
from videobench.datasets.class_folders import read_class_folders, read_imagenet
from videobench.datasets.epic_kitchens import read_actions
from videobench.datasets.records import ClassSets, TextBuilder, VideoList, check_label, list_lines
from videobench.datasets.something_something import read_folder_list, read_label_numbers, read_official


def split_list(cfg: CfgNode, split: str) -> VideoList:
    """The videos of a split (train, val or test) of the data set that TRAIN.DATASET or TEST.DATASET names.

    Raises:
        ConfigError: for whatever is wrong with its lists; names the file and the line.
    """
    name = (cfg.TEST if split == "test" else cfg.TRAIN).DATASET.lower()
    videos = READERS[name](cfg, split)
    return replace(videos, reader=VideoReader.from_config(cfg, videos.source))


def read_kinetics(cfg: CfgNode, split: str) -> VideoList:
    """``<split>.csv`` in DATA.PATH_TO_DATA_DIR; a missing test.csv is val.csv, as the published protocols have it."""
    folder = Path(cfg.DATA.PATH_TO_DATA_DIR)
    if split == "test" and not (folder / "test.csv").exists() and (folder / "val.csv").exists():
        split = "val"
    return read_list(
        folder / f"{split}.csv",
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        num_classes=cfg.MODEL.NUM_CLASSES,
        multi_label=cfg.DATA.MULTI_LABEL,
    )


#: Readers by the names of TRAIN.DATASET and TEST.DATASET, in lower case.
READERS: dict[str, Callable[[CfgNode, str], VideoList]] = {
    "kinetics": read_kinetics,
    "ucf101": read_kinetics,
    "sth": partial(read_folder_list, rule="segments_sth"),
    "hmdb": partial(read_folder_list, rule="native"),
    "ssv2": read_official,
    "epickitchens": read_actions,
    "imagenet": read_imagenet,
    "image_folder": partial(read_class_folders, pictures=True),
    "video_folder": partial(read_class_folders, pictures=False),
}


def read_list(
    path: str | Path,
    *,
    separator: str = " ",
    prefix: str = "",
    num_classes: int | None = None,
    multi_label: bool = False,
) -> VideoList:
    """Read a Kinetics-style list file: one ``path<separator>label`` per line, no header; blank lines do not count.

    The line is split at its last separator, so a path may contain it.

    Args:
        path: the list file.
        separator: what stands between path and label.
        prefix: folder put in front of every path.
        num_classes: labels must be below it.
        multi_label: labels are several class numbers with ``;`` between them (or ``,``, unless that is the separator).

    Raises:
        ConfigError: for a missing or empty file, a line that does not split and a label that is no class number; the
            message names the file and the line.
    """
    path = Path(path)
    names, labels, ends = TextBuilder(), array("q"), array("q")
    cut = separator.encode()
    expected = f"path{separator}label[;label...]" if multi_label else f"path{separator}label"
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this list file ({error.strerror}); DATA.PATH_TO_DATA_DIR names its folder"
        ) from error
    with stream:
        for number, line in list_lines(stream):
            name, found, field = line.rpartition(cut)
            name = name.rstrip()
            try:
                values = [int(label) for label in re.split(b"[;,]", field)] if multi_label else (int(field),)
            except ValueError:
                values = ()
            if not found or not name or not values:
                raise ConfigError(
                    f"{path}, line {number}: expected '{expected}' with a whole number as label, got "
                    f"{line.decode(errors='replace')!r}; DATA.PATH_LABEL_SEPARATOR is {separator!r}"
                )
            for label in values:
                if label < 0 or (num_classes is not None and label >= num_classes):
                    check_label(label, num_classes, f"{path}, line {number}")
            names.add(name)
            labels.extend(values)
            ends.append(len(labels))
    if not labels:
        raise ConfigError(f"{path}: this list file has no videos")
    column = np.frombuffer(labels, np.int64)
    if multi_label:
        column = ClassSets(column.astype(np.int32), np.frombuffer(ends, np.int64), num_classes or int(column.max()) + 1)
    return VideoList(source=path, prefix=prefix, names=names.column(), labels=column)


_CLASS_LISTS = Path(__file__).parent / "classes"


def read_class_names(path: str | Path | Sequence[str | Path]) -> list[str]:
    """Class names by class number.

    Every form that the public data sets come with is read: a name per line (its number is the line's, from 0); a name,
    a tab or blank and its number; a number, a blank and its name, counted from 0 or 1 (UCF101's classInd.txt); a csv
    file with the columns ``id`` and ``key`` (EPIC-Kitchens); a JSON object of numbers by name (Something-Something V2).
    Several files are taken together (the two of Kinetics-600). The name of a file in ``classes/`` here stands for it:
    kinetics400 and kinetics600 (alphabetical), kinetics400_uniformer and kinetics600_uniformer (as UniFormer numbers
    them); something_something (alphabetical: the official numbers of V2, and those of all published lists of V1 and V2;
    the category.txt beside UniFormer's and MorphMLP's lists of V2 has another order than these lists).

    Raises:
        ConfigError: when a file cannot be read or is empty, or its numbers are not 0 to n - 1, each once.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    shown = ", ".join(map(str, paths))
    paths = [known if (known := _CLASS_LISTS / f"{one}.txt").is_file() else one for one in paths]
    if len(paths) == 1 and Path(paths[0]).suffix == ".json":
        numbered = [(number, name) for name, number in read_label_numbers(Path(paths[0])).items()]
        return _by_number(numbered, shown)
    lines = [line for one in paths for line in _lines(Path(one))]
    if not lines:
        raise ConfigError(f"{shown}: the file of class names (DATA.CLASS_NAMES) is empty")
    header = next(csv.reader([lines[0]]))
    if header[:2] == ["id", "key"]:
        rows = list(csv.reader(lines[1:]))
        if any(len(row) < 2 or not row[0].isdecimal() for row in rows):
            raise ConfigError(f"{shown}: expected a number and a name in the columns id and key")
        return _by_number([(int(row[0]), row[1]) for row in rows], shown)
    split = [line.rpartition("\t" if "\t" in line else " ") for line in lines]
    if all(name.strip() and number.isdecimal() for name, _, number in split):
        return _by_number([(int(number), name.strip()) for name, _, number in split], shown)
    split = [line.partition(" ") for line in lines]
    numbers = [int(number) if number.isdecimal() and name.strip() else -1 for number, _, name in split]
    if numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return [name.strip() for _, _, name in split]
    return lines


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the class names (DATA.CLASS_NAMES): {error}") from error


def _by_number(numbered: list[tuple[int, str]], shown: str) -> list[str]:
    names = dict(numbered)
    if len(names) != len(numbered) or sorted(names) != list(range(len(numbered))):
        raise ConfigError(f"{shown}: class numbers must be 0 to {len(numbered) - 1}, each once")
    return [names[number] for number in range(len(numbered))]
