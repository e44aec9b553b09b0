"""Scores of finished videos on the disk, so that a test that was killed goes on where it stopped.

A folder OUTPUT_DIR/test_scores/<fingerprint> belongs to one test: the same weights, protocol, list and versions. Every
process of every attempt appends to a file of its own, so nothing is ever written twice or changed. A record ends with
a checksum: whatever a kill leaves half-written is dropped when the file is read.
"""

import hashlib
import json
import logging
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from videobench.reporting.run_files import OutputError, whole_file, written_to

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"attempt(\d+)-rank\d+\.scores")


@dataclass(frozen=True)
class Layout:
    """What a row of numbers of a video consists of: for every grid and every head the scores of its classes, then for
    every grid and every head the share of views that agree with their sum.
    """

    grids: tuple[tuple[int, int], ...]
    heads: tuple[tuple[str, int], ...]

    @property
    def length(self) -> int:
        """Numbers per video."""
        return len(self.grids) * sum(classes + 1 for _, classes in self.heads)

    def split(self, rows: np.ndarray) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Rows [N, length] as, for every grid, (scores [N, classes], agreement [N]) of every head."""
        parts, start = [], 0
        agreement = rows[:, len(self.grids) * sum(classes for _, classes in self.heads) :]
        for g in range(len(self.grids)):
            part = {}
            for h, (name, classes) in enumerate(self.heads):
                part[name] = rows[:, start : start + classes], agreement[:, g * len(self.heads) + h]
                start += classes
            parts.append(part)
        return parts


@dataclass(frozen=True)
class Done:
    """What earlier attempts left: rows by video number, what they consist of, and the seconds they took."""

    rows: dict[int, np.ndarray]
    layout: Layout | None
    seconds: float
    attempts: int


class ScoreStore:
    """The folder of one test.

    Args:
        output_dir: the folder of the run.
        facts: everything that the scores depend on, as plain data.
    """

    def __init__(self, output_dir: str | Path, facts: Mapping[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True, indent=1)
        self.facts = facts
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.folder = Path(output_dir) / "test_scores" / self.fingerprint[:16]

    def read(self) -> Done:
        """What is there; the folders of other tests are named and left alone."""
        for other in sorted(self.folder.parent.glob("*/facts.json")):
            if other.parent != self.folder:
                logger.warning(
                    "%s: unfinished scores of another test are set aside (%s); remove the folder when it is not needed",
                    *(other.parent, "; ".join(_differences(other, self.facts))),
                )
        rows: dict[int, np.ndarray] = {}
        layout, seconds = None, {}
        for path in sorted(self.folder.glob("*.scores")):
            if not (match := _SHARD.fullmatch(path.name)):
                continue
            attempt = int(match[1])
            seconds.setdefault(attempt, 0.0)
            content = read_shard(path)
            if content is None or not len(content[1]):
                continue
            layout = content[0]
            for record in content[1]:
                rows[int(record["video"])] = record["values"].copy()
                seconds[attempt] = max(seconds[attempt], float(record["seconds"]))
        return Done(rows, layout, sum(seconds.values()), max(seconds, default=0))

    def prepare(self) -> None:
        """Make the folder and write what its scores depend on.

        Raises:
            OutputError: when it cannot be written.
        """
        path = self.folder / "facts.json"
        with written_to(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write((json.dumps(self.facts, sort_keys=True, indent=1) + "\n").encode())

    def writer(self, attempt: int, rank: int) -> "ShardWriter":
        """Where a process of an attempt appends its scores."""
        return ShardWriter(self.folder / f"attempt{attempt:04d}-rank{rank:04d}.scores")

    def remove(self) -> None:
        """Remove the folder: the results are written, there is nothing to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.exists() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


class ShardWriter:
    """Appends scores to a new file; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._layout: Layout | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, layout: Layout, rows: Mapping[int, np.ndarray], seconds: float) -> None:
        """Write the rows of some videos, which is ``seconds`` after the attempt began.

        Raises:
            ValueError: when the layout is another than before.
            OutputError: when the file cannot be written; what was written before can be read.
        """
        content = b""
        if self._layout is None:
            self._layout = layout
            content = json.dumps({"grids": layout.grids, "heads": layout.heads}).encode() + b"\n"
        elif layout != self._layout:
            raise ValueError(f"{self.path}: the network's outputs changed from {self._layout} to {layout}")
        kind = _record_type(layout)
        records = np.zeros(len(rows), kind)
        for record, (video, values) in zip(records, rows.items(), strict=True):
            record["video"], record["seconds"], record["values"] = video, seconds, values
            record["check"] = zlib.crc32(record.tobytes()[: -kind["check"].itemsize])
        with written_to(self.path):
            if self._file is None:
                try:
                    self._file = self.path.open("xb", buffering=0)
                except FileExistsError as error:  # both counted the attempts before the other began
                    raise OutputError(
                        f"{self.path}: another command does this test in the same OUTPUT_DIR; wait for its end"
                    ) from error
            rest = memoryview(content + records.tobytes())
            while rest:  # an unbuffered write may be partial
                rest = rest[self._file.write(rest) :]


def read_shard(path: Path) -> tuple[Layout, np.ndarray] | None:
    """The layout and the whole records of a file, up to the first that is damaged; None without a whole header."""
    header, found, body = path.read_bytes().partition(b"\n")
    if not found:
        return None
    try:
        stated = json.loads(header)
        layout = Layout(tuple(tuple(g) for g in stated["grids"]), tuple(tuple(h) for h in stated["heads"]))
        kind = _record_type(layout)
    except (ValueError, LookupError, TypeError):
        logger.warning("%s is damaged: its videos are scored again", path)
        return None
    records = np.frombuffer(body, kind, count=len(body) // kind.itemsize)
    for number, record in enumerate(records):
        if zlib.crc32(record.tobytes()[: -kind["check"].itemsize]) != record["check"]:
            return layout, records[:number]
    return layout, records


def _record_type(layout: Layout) -> np.dtype:
    return np.dtype([("video", "<i8"), ("seconds", "<f8"), ("values", "<f8", (layout.length,)), ("check", "<u4")])


def _differences(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """In which facts another folder differs."""
    try:
        other = json.loads(path.read_text())
    except (OSError, ValueError):
        return ["what it depends on cannot be read"]
    if not isinstance(other, dict):
        return ["what it depends on cannot be read"]
    mine = json.loads(json.dumps(facts))
    names = [name for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)]
    return [f"other {name}" if len(str(mine.get(name))) > 40 else f"{name} {other.get(name)!r}" for name in names]
