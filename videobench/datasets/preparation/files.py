"""What the steps of preparation read and write beside videos: lines of lists, a journal of what is done."""

import fcntl
import json
import os
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videobench.config import ConfigError

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv",
})
# fmt: on
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


class Entry(NamedTuple):
    """A line of a list.

    Attributes:
        name: the video or folder, as listed.
        rest: what follows the name, separator included; empty in a list of files without labels.
    """

    name: str
    rest: str


def read_entries(path: Path, separator: str = " ", fields: int = 1) -> list[Entry]:
    """The lines of a list: a name and ``fields`` more fields, or only names; blank lines do not count.

    Raises:
        ConfigError: for a file that cannot be read, is empty, or has a line without a name or with fewer fields than
            the first.
    """
    try:
        # Not splitlines, to which other characters are the end of a line, too: names may have them.
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this list ({error.strerror})") from error
    # Annotations that are read by the makers of lists, or by `split_list`.
    first = lines[0].strip()
    if first in ("[", "{") or first.startswith(("[{", '{"')) or {"youtube_id", "narration_id"} & set(first.split(",")):
        raise ConfigError(f"{path}: these are annotations, not a list of files; give the folder of the files instead")
    entries: list[Entry] = []
    for number, text in enumerate(lines, start=1):
        line = text.strip(string.whitespace)
        if not line:
            continue
        parts = line.rsplit(separator, fields)
        # A path with blanks and without a label must not lose its last word.
        labelled = len(parts) == fields + 1 and all(_is_label(part) for part in parts[1:])
        name = parts[0].rstrip() if labelled else line
        if not name or (entries and labelled != bool(entries[0].rest)):
            form = separator.join(["path", *["number"] * fields])
            raise ConfigError(f"{path}, line {number}: expected {form!r} (see --separator), got {line!r}")
        entries.append(Entry(name, line[len(name) :] if labelled else ""))
    if not entries:
        raise ConfigError(f"{path}: this list is empty")
    return entries


def check_files_listed(path: Path, entries: Sequence[Entry], prefix: str, option: str) -> None:
    """Refuse a list of ``folder frames label``, whose number of frames has been taken for a part of the name.

    Raises:
        ConfigError: with the ``option`` that means such lists.
    """
    name, _, frames = entries[0].name.rpartition(entries[0].rest[:1] or " ")
    if name and entries[0].rest and frames.isdigit() and not os.path.exists(os.path.join(prefix, entries[0].name)):
        raise ConfigError(
            f"{path}: lines look like 'folder frames label'; {option} means folders of frames, and for videos give "
            "their folder instead of the list"
        )


def find_files(folder: Path, suffixes: Iterable[str]) -> Iterator[str]:
    """Files with these endings below a folder, relative to it, in sorted order; hidden ones do not count.

    Raises:
        ConfigError: see `walk`.
    """
    suffixes = frozenset(suffixes)
    found = []
    for place, names in walk(folder):
        below = os.path.relpath(place, folder)
        found += [
            name if below == "." else f"{below}/{name}"
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return iter(sorted(found))


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name; hidden ones (``._1.jpg`` of macOS) are none."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder at and below ``folder`` that is not hidden, and the names of its files; links are followed.

    Not those that lead to a folder above, in which there would be no end.

    Raises:
        ConfigError: for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise ConfigError(f"{printable(error.filename)}: cannot read this folder ({error.strerror})") from error

    above = {os.fspath(folder): (os.path.realpath(folder),)}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        chain, kept = above.pop(place), []
        for name in folders:
            path = os.path.join(place, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(chain[-1], name)
            if not name.startswith(".") and real not in chain:
                above[path] = (*chain, real)
                kept.append(name)
        folders[:] = kept
        yield place, names


def unlistable(name: str) -> str:
    """What keeps a line of a list from beginning with this name, as another one would be read; empty when nothing."""
    if any(mark in name for mark in "\n\r"):
        return "a line break in its name"
    return "a blank at its beginning" if name[:1].isspace() else ""


def listable(names: Iterable[str]) -> list[Entry]:
    """Names found in a folder as the lines of a list.

    Raises:
        ConfigError: for a name that no list can hold.
    """
    entries = [Entry(name, "") for name in names]
    if wrong := next((entry.name for entry in entries if unlistable(entry.name)), None):
        raise ConfigError(f"{wrong!r} has {unlistable(wrong)}, which a list cannot hold; rename it")
    return entries


def told(name: str, cause: str) -> str:
    """``name TAB cause`` in one line, whatever is in them."""
    return re.sub(r"[\n\r]+", " ", f"{name}\t{cause}")


def printable(name: str) -> str:
    """A name in a form that can be printed whatever its bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    put_in_place(part, path)
    return path


def put_in_place(part: Path, target: Path) -> None:
    """Give a finished file, or a folder of files, its name: what has it is whole, even after a power failure."""
    for path in [*part.iterdir(), part] if part.is_dir() else [part]:
        _sync(path)
    part.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """A file of JSON lines that only grows; what a killed run wrote last may be missing, nothing else.

    Raises:
        ConfigError: when another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            # Of this process alone: workers, which it forks and which may outlive it for a moment, do not hold it.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(f"{path}: another run is at work on this; wait for its end") from error
        self._file.seek(0)
        content = self._file.read()
        # A line that was cut off counts as not written.
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        try:
            self.records: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise ConfigError(f"{path}: not a journal of this tool; name another folder with --out") from error

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; it survives the end of this process."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Let other runs have the file."""
        self._file.close()


def _is_label(field: str) -> bool:
    return all(part.strip().lstrip("-").isdigit() for part in re.split("[;,]", field))
