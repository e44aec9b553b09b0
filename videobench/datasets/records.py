"""The videos of one split as columns: without an object per line, a million lines are small and workers share them."""

from __future__ import annotations

import codecs
import csv
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

import numpy as np
from torch import Tensor

from videobench.config import ConfigError
from videobench.datasets.backends import VideoReader
from videobench.datasets.packets import VideoIndex

# The first videos of a list may be missing.
_NAMES_TRIED = 100

#: One class number, one per head (-1: unknown), or a float32 row of zeros and ones over all classes.
Label = int | dict[str, int] | np.ndarray


class Frames(Protocol):
    """What sampling needs of an open video, frame folder or picture: the face of `decoding.Video`.

    Attributes:
        path: what it is called in messages.
        index: how many frames there are, and what is damaged.
        fps: frames per second; None where the files do not tell.
    """

    path: str
    index: VideoIndex
    fps: Fraction | None

    @property
    def frames(self) -> int:
        """Number of frames."""

    def decode(self, indices: Sequence[int]) -> Tensor:
        """The frames with the given numbers, counted from 0, as uint8 RGB [T, H, W, 3].

        Raises:
            VideoError: when not all of these frames can be had.
        """

    def __enter__(self) -> Frames: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class TextColumn:
    """Strings, all one after the other in one array.

    Attributes:
        text: bytes of all strings, uint8.
        ends: where each string ends, int64 [strings].
    """

    text: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())


class TextBuilder:
    """Collects the strings of a `TextColumn` one by one."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("q")

    def add(self, text: str | bytes) -> None:
        self._text += os.fsencode(text)
        self._ends.append(len(self._text))

    def column(self) -> TextColumn:
        return TextColumn(np.frombuffer(self._text, np.uint8), np.frombuffer(self._ends, np.int64))


@dataclass(frozen=True)
class ClassSets:
    """Several classes per video: the class numbers of all videos one after the other.

    Attributes:
        classes: class numbers, int32.
        ends: where the classes of each video end, int64 [videos].
        num_classes: width of a row.
    """

    classes: np.ndarray
    ends: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int | np.ndarray) -> np.ndarray:
        """Float32 [num_classes] (or [videos, num_classes] for several): 1 for every class of the video, else 0."""
        several = not isinstance(index, int)
        rows = np.zeros((len(index) if several else 1, self.num_classes), np.float32)
        for row, video in zip(rows, index if several else [index], strict=True):
            row[self.classes[self.ends[video - 1] if video else 0 : self.ends[video]]] = 1
        return rows if several else rows[0]


@dataclass(frozen=True)
class VideoList:
    """Video files, and what the readers of other forms build on.

    Attributes:
        source: the file or folder that was read.
        prefix: folder in front of every name.
        names: what each video is called in the list.
        labels: class numbers, int64 [videos]; a dict of them by head; or `ClassSets`.
        rule: the sampling rule that ``auto`` means for these videos.
        crop_margin: whether a single test crop is cut out of larger frames (the first of DATA.TRAIN_JITTER_SCALES), or
            of frames whose short side has its size.
        reader: what opens video files.
    """

    source: Path
    prefix: str
    names: TextColumn
    labels: np.ndarray | dict[str, np.ndarray] | ClassSets
    rule: str = "time"
    crop_margin: bool = True
    reader: VideoReader = field(default_factory=VideoReader)

    #: Whether the records are single pictures, which have transforms of their own.
    pictures: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """What the list calls the video."""
        return self.names[index]

    def path(self, index: int) -> str:
        """The file or folder that holds the video."""
        return os.path.join(self.prefix, self.name(index))

    def label(self, index: int) -> Label:
        """What is to be predicted."""
        if isinstance(self.labels, dict):
            return {head: int(column[index]) for head, column in self.labels.items()}
        label = self.labels[index]
        return label if isinstance(self.labels, ClassSets) else int(label)

    def open(self, index: int) -> Frames:
        """The video, opened; use as a context manager.

        Raises:
            VideoError: for a file that is no video.
        """
        return self.reader.open(self.path(index))


def skip_mark(stream: BinaryIO) -> BinaryIO:
    """A list file that was just opened, behind the byte order mark that spreadsheets put in front."""
    if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        stream.seek(0)
    return stream


def list_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a list file that was just opened, numbered from 1, without blank ones and blanks around them.

    They may end as on any system: with a line feed, a carriage return or both.
    """
    lines = (part.strip() for line in skip_mark(stream) for part in line.splitlines())
    return ((number, line) for number, line in enumerate(lines, start=1) if line)


class CsvTable(csv.DictReader):
    """The rows of a csv file by the names in its first line; a quotation mark without its other half swallows none.

    Args:
        path: the file, for messages.
        lines: its lines.

    Raises:
        ConfigError: here and for every row, for quotation marks that are not csv.
    """

    def __init__(self, path: Path, lines: Iterable[str]) -> None:
        super().__init__(lines, strict=True)
        self._path = path
        with self._errors():
            _ = self.fieldnames  # read when first asked for

    def __next__(self) -> dict[str, str]:
        with self._errors():
            return super().__next__()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        begin = self.line_num + 1
        try:
            yield
        except csv.Error as error:
            raise ConfigError(f"{self._path}, line {begin}: quotation marks that do not pair ({error})") from error


def check_label(label: int, num_classes: int | None, where: str, key: str = "MODEL.NUM_CLASSES") -> None:
    """Raise a ConfigError unless a label is a class number."""
    if label < 0 or (num_classes is not None and label >= num_classes):
        limit = f"0 to {num_classes - 1} ({key} is {num_classes})" if num_classes else "0 or more"
        raise ConfigError(f"{where}: label {label} is out of range, expected {limit}")


def with_suffix(names: TextColumn, prefix: str, suffixes: tuple[str, ...]) -> TextColumn:
    """The names with the suffix of the first file found, among the first names (without one, the first suffix)."""
    tried = (names[index] for index in range(min(len(names), _NAMES_TRIED)))
    found = (suffix for name in tried for suffix in suffixes if os.path.exists(os.path.join(prefix, name + suffix)))
    suffix = next(found, suffixes[0])
    builder = TextBuilder()
    for index in range(len(names)):
        builder.add(names[index] + suffix)
    return builder.column()
