"""List files to records: ``path label`` lines, kept as columns rather than as one Python object per line."""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videobench.config import CfgNode, ConfigError


@dataclass(frozen=True)
class VideoList:
    """The videos of one split. Columns are NumPy arrays, which worker processes share instead of copying."""

    source: Path
    prefix: str
    labels: np.ndarray  # int64 [videos]
    _names: np.ndarray  # uint8, all paths one after the other
    _ends: np.ndarray  # int64 [videos], where each path ends

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The path as the list file has it."""
        start = int(self._ends[index - 1]) if index else 0
        return self._names[start : int(self._ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def path(self, index: int) -> str:
        """The path to open: the prefix and the name."""
        return os.path.join(self.prefix, self.name(index))


def read_list(path: str | Path, *, separator: str = " ", prefix: str = "", num_classes: int | None = None) -> VideoList:
    """Read a Kinetics-style list file: one ``path<separator>label`` per line, no header; blank lines do not count.

    The line is split at its last separator, so a path may contain it.

    Args:
        path: the list file.
        separator: what stands between path and label.
        prefix: folder put in front of every path.
        num_classes: labels must be below it.

    Raises:
        ConfigError: for a missing or empty file, a line that does not split and a label that is no class number; the
            message names the file and the line.
    """
    path = Path(path)
    names, ends, labels = bytearray(), array("q"), array("q")
    cut = separator.encode()
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this list file ({error.strerror}); DATA.PATH_TO_DATA_DIR names its folder"
        ) from error
    with stream:
        for number, line in enumerate(stream, start=1):
            line = line.strip()
            if not line:
                continue
            name, found, label = line.rpartition(cut)
            name = name.rstrip()
            try:
                value = int(label)
            except ValueError:
                value = None
            if not found or not name or value is None:
                raise ConfigError(
                    f"{path}, line {number}: expected 'path{separator}label' with a whole number as label, got "
                    f"{line.decode(errors='replace')!r}; DATA.PATH_LABEL_SEPARATOR is {separator!r}"
                )
            if value < 0 or (num_classes is not None and value >= num_classes):
                limit = f"0 to {num_classes - 1} (MODEL.NUM_CLASSES is {num_classes})" if num_classes else "0 or more"
                raise ConfigError(f"{path}, line {number}: label {value} is out of range, expected {limit}")
            names += name
            ends.append(len(names))
            labels.append(value)
    if not labels:
        raise ConfigError(f"{path}: this list file has no videos")
    return VideoList(
        source=path,
        prefix=prefix,
        labels=np.frombuffer(labels, dtype=np.int64),
        _names=np.frombuffer(names, dtype=np.uint8),
        _ends=np.frombuffer(ends, dtype=np.int64),
    )


def read_class_names(path: str | Path) -> list[str]:
    """Class names by class number.

    A line is a name (its number is the line's, from 0), or a name, a tab or blank and its number.

    Raises:
        ConfigError: when the file cannot be read, is empty, or its numbers are not 0 to n - 1, each once.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the class names (DATA.CLASS_NAMES): {error}") from error
    if not lines:
        raise ConfigError(f"{path}: the file of class names (DATA.CLASS_NAMES) is empty")
    split = [line.rpartition("\t" if "\t" in line else " ") for line in lines]
    if all(name.strip() and number.isdigit() for name, _, number in split):
        by_number = {int(number): name.strip() for name, _, number in split}
        if len(by_number) != len(lines) or sorted(by_number) != list(range(len(lines))):
            raise ConfigError(f"{path}: class numbers must be 0 to {len(lines) - 1}, each once")
        return [by_number[number] for number in range(len(lines))]
    return lines


def split_list(cfg: CfgNode, split: str) -> VideoList:
    """The list file of a split; a missing test.csv is val.csv, as the published protocols have it."""
    folder = Path(cfg.DATA.PATH_TO_DATA_DIR)
    if split == "test" and not (folder / "test.csv").exists() and (folder / "val.csv").exists():
        split = "val"
    return read_list(
        folder / f"{split}.csv",
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        num_classes=cfg.MODEL.NUM_CLASSES,
    )
