"""Reading the official annotation files: tables, JSON, names of classes in whatever spelling."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from videobench.config import ConfigError
from videobench.datasets.records import CsvTable

#: What the public data sets call their splits, and what lists here are called.
SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
NOT_FOUND = "not found"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    try:
        # Not splitlines, to which other characters are the end of a line, too.
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read this ({error})") from error


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a csv file with a header that names at least ``columns``.

    Raises:
        ConfigError: for a file without one of them, or without rows, and for a row that ends before them or is not csv.
    """
    table = CsvTable(path, (line if line.strip() else "" for line in read_lines(path)))
    missing = [column for column in columns if table.fieldnames is not None and column not in table.fieldnames]
    rows = []
    for row in table if not missing else ():
        if any(row[column] is None for column in columns):
            raise ConfigError(f"{path}, line {table.line_num}: this line ends too early")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path}: {f'no column {missing[0]}' if missing else 'no rows'}; the official csv has one")
    return rows


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: for a file that is none.
    """
    try:
        return json.loads("\n".join(read_lines(path)))
    except ValueError as error:
        raise ConfigError(f"{path}: not json ({error})") from error


def class_numbers(order: Sequence[str], labels: Iterable[str], classes: Sequence[Path] | None) -> dict[str, int]:
    """Class number by `plain` name.

    Args:
        order: names of classes by number.
        labels: names that must have a number.
        classes: the files that the order comes from, for messages.

    Raises:
        ConfigError: for names that occur twice, and labels without a number.
    """
    where = ", ".join(map(str, classes or ()))
    number = {plain(name): i for i, name in enumerate(order)}
    if len(number) != len(order):
        raise ConfigError(f"{where}: names of classes occur twice")
    if unknown := [label for label in labels if plain(label) not in number]:
        raise ConfigError(f"{len(unknown)} classes are not in {where}, the first is {unknown[0]!r}")
    return number


def plain(name: str) -> str:
    """A class name without what its spellings differ in: case, underscores, brackets, quotation marks."""
    return re.sub(r"\s+", " ", re.sub(r"[\[\]\"'()]", "", name.replace("_", " "))).strip().lower()
