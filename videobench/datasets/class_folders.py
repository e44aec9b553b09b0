"""A folder per class: ImageNet, other pictures, and videos; and lists of pictures as JSON."""

import json
import logging
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from videobench.config import CfgNode, ConfigError
from videobench.datasets.picture_files import Pictures
from videobench.datasets.preparation.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from videobench.datasets.records import TextBuilder, VideoList, check_label

logger = logging.getLogger(__name__)

_IMAGENET_CLASS = re.compile(r"n\d+")


def read_imagenet(cfg: CfgNode, split: str) -> VideoList:
    """Pictures of folders ``{train,val,test}/n<digits>``, or of DATA.PATH_TO_PRELOAD_IMDB; other folders do not count.

    Raises:
        ConfigError: see `read_class_folders`.
    """
    if cfg.DATA.PATH_TO_PRELOAD_IMDB:
        return _read_picture_list(cfg, split)
    return read_class_folders(cfg, split, pictures=True, is_class=_IMAGENET_CLASS.fullmatch)


def read_class_folders(
    cfg: CfgNode, split: str, *, pictures: bool, is_class: Callable[[str], object] = lambda _: True
) -> VideoList:
    """Files of ``PATH_TO_DATA_DIR/<split>/<class>/``; classes are numbered in the sorted order of the training folders.

    A missing ``test`` is ``val``. What is neither picture nor video by its suffix is left out, and said so.

    Args:
        cfg: where the folders are.
        split: train, val or test.
        pictures: whether to read pictures, or videos.
        is_class: which folder names are classes.

    Raises:
        ConfigError: for a missing or empty folder, and a class that is not among the training ones.
    """
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    folder = _split_path(root / "train", root / split, root / "val", split)
    classes = {name: number for number, name in enumerate(_classes(root / "train", folder, is_class))}
    if len(classes) > cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"{root / 'train'}: {len(classes)} class folders, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}"
        )
    suffixes = IMAGE_SUFFIXES if pictures else VIDEO_SUFFIXES
    names, labels, others = TextBuilder(), array("q"), Counter()
    for name in _folders(folder, is_class):
        if name not in classes:
            raise ConfigError(f"{folder / name}: {root / 'train'} has no such class")
        for file in sorted(entry.name for entry in os.scandir(folder / name) if not entry.name.startswith(".")):
            suffix = os.path.splitext(file)[1].lower()
            if suffix not in suffixes:
                others[suffix or "no suffix"] += 1
                continue
            names.add(f"{name}/{file}")
            labels.append(classes[name])
    kind = "pictures" if pictures else "videos"
    if others:
        found = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common())
        logger.warning("%s: files that are no %s by their suffix are left out: %s", folder, kind, found)
    if not labels:
        raise ConfigError(f"{folder}: no class folders with {kind} in it")
    records = Pictures if pictures else VideoList
    return records(
        source=folder,
        prefix=str(folder),
        names=names.column(),
        labels=np.frombuffer(labels, np.int64),
        rule="native" if pictures else "time",
    )


def _read_picture_list(cfg: CfgNode, split: str) -> VideoList:
    """``{train,val}.json``: a list of ``{"im_path", "class"}``."""
    folder = Path(cfg.DATA.PATH_TO_PRELOAD_IMDB)
    path = _split_path(folder / "train.json", folder / f"{split}.json", folder / "val.json", split)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this list of pictures ({error.strerror}); DATA.PATH_TO_PRELOAD_IMDB names its folder"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON file: {error}") from error
    names, labels = TextBuilder(), array("q")
    for number, entry in enumerate(content if isinstance(content, list) else [content], start=1):
        if (
            not isinstance(entry, dict)
            or type(entry.get("class")) is not int
            or not isinstance(entry.get("im_path"), str)
        ):
            raise ConfigError(f"{path}, entry {number}: expected 'im_path' and a number as 'class', got {entry!r:.100}")
        check_label(entry["class"], cfg.MODEL.NUM_CLASSES, f"{path}, entry {number}")
        names.add(entry["im_path"])
        labels.append(entry["class"])
    if not labels:
        raise ConfigError(f"{path}: this list file has no pictures")
    return Pictures(
        source=path,
        prefix=cfg.DATA.PATH_PREFIX,
        names=names.column(),
        labels=np.frombuffer(labels, np.int64),
        rule="native",
    )


def _split_path(train: Path, named: Path, val: Path, split: str) -> Path:
    if split == "train":
        return train
    return val if split == "test" and not named.exists() and val.exists() else named


def _classes(train: Path, other: Path, is_class) -> list[str]:
    """The classes of the training folder, or, where there is none, of another."""
    return _folders(train if train.exists() else other, is_class)


def _folders(folder: Path, is_class) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".") and is_class(e.name)]
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot read this folder of classes ({error.strerror}); it belongs into DATA.PATH_TO_DATA_DIR"
        ) from error
    return sorted(names)
