"""Somebody's own videos: a folder per class or a table; classes inferred, a validation part held back, lists made."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.preparation.files import VIDEO_SUFFIXES, find_files, printable, write_lines

# What a header may call the two columns of a table.
_PATH_COLUMNS = ("path", "video", "file", "filename", "clip")
_LABEL_COLUMNS = ("label", "class", "cls", "class_name", "category")

Labelled = list[tuple[str, str]]  # name of a video relative to the root, name of its class


@dataclass
class OwnVideos:
    """Labelled videos in two splits.

    Attributes:
        root: folder that the names are relative to.
        classes: class names by number.
        train, val: (name, class number) of every video.
        notes: what their owner should know.
    """

    root: Path
    classes: list[str]
    train: list[tuple[str, int]]
    val: list[tuple[str, int]]
    notes: list[str] = field(default_factory=list)

    def lists(self) -> dict[str, list[str]]:
        """The lines of train.csv, val.csv and classes.txt, as DATA.PATH_TO_DATA_DIR and DATA.CLASS_NAMES take them."""
        return {
            "train.csv": [f"{name} {label}" for name, label in self.train],
            "val.csv": [f"{name} {label}" for name, label in self.val],
            # With their numbers, because a name such as "take 2" would otherwise be read as a name and its number.
            "classes.txt": [f"{printable(name)}\t{number}" for number, name in enumerate(self.classes)],
        }

    def write_lists(self, folder: Path) -> None:
        """Write what :meth:`lists` has."""
        for name, lines in self.lists().items():
            write_lines(folder / name, lines)


def own_videos(
    source: str | Path, *, val_share: float = 0.2, seed: int = 0, root: str | Path | None = None
) -> OwnVideos:
    """Read labelled videos and hold a part of every class back for validation.

    Args:
        source: one of
            a folder with a sub-folder of videos (at any depth) per class;
            a folder with sub-folders ``train`` and ``val`` of that kind: their split is kept;
            a folder with tables ``train.csv`` and ``val.csv``: their split is kept;
            a table of paths and class names or numbers, with a comma, a tab or a blank between them; the columns are
            the first and the last, unless a header names them (``path`` and ``label``).
            Class numbers are named by a classes.txt beside it.
        val_share: share of every class in the validation part.
        seed: of the choice. Whether a video is held back depends on the seed and the names in its class alone.
        root: what the paths of a table are relative to; None means its own folder.

    Raises:
        ConfigError: for fewer than two classes, videos that do not exist, are of two classes or in both splits, and
            when no class has a video to hold back.
    """
    source = Path(source).expanduser()
    if not 0 < val_share < 1:
        raise ConfigError(f"the validation share is {val_share}; use a number between 0 and 1")
    if not source.exists():
        raise ConfigError(f"{source} does not exist; name a folder with a sub-folder per class, or a table of videos")
    notes: list[str] = []
    folder = source if source.is_dir() else source.parent
    splits = _read(source, notes)
    labelled = [video for videos in splits.values() for video in videos]
    names = _class_names(folder / "classes.txt", {label for _, label in labelled})
    root = Path(root or folder).expanduser().resolve()
    _check(source, root, labelled, names)
    number = {label: index for index, label in enumerate(names)}
    parts = {split: [(name, number[label]) for name, label in dict.fromkeys(rows)] for split, rows in splits.items()}
    if "all" in parts:
        held = stratified_split(parts["all"], val_share, seed)
        parts = {
            "train": [video for video in parts["all"] if video not in held],
            "val": [video for video in parts["all"] if video in held],
        }
        notes.append(f"the split is drawn with seed {seed}: {100 * val_share:g} % of every class validate")
    found = OwnVideos(root, list(names.values()), parts["train"], parts["val"], notes)
    _note_thin_classes(found)
    return found


def stratified_split(videos: Sequence[tuple[str, int]], share: float, seed: int) -> set[tuple[str, int]]:
    """The videos to hold back: ``share`` of every class, at least one of it and at most all but one."""
    members: dict[int, list[str]] = {}
    for name, label in videos:
        members.setdefault(label, []).append(name)
    held = set()
    for label, names in members.items():
        # Ordered by digest rather than drawn, so that a new video moves few others.
        names.sort(key=lambda name: hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest())
        held |= {(name, label) for name in names[: min(max(1, round(share * len(names))), len(names) - 1)]}
    return held


def _read(source: Path, notes: list[str]) -> dict[str, Labelled]:
    if source.is_file():
        return {"all": _read_table(source)}
    if all((source / f"{split}.csv").exists() for split in ("train", "val")):
        notes.append("the folder's own tables train.csv and val.csv are used as they are")
        return {split: _read_table(source / f"{split}.csv") for split in ("train", "val")}
    if all((source / split).is_dir() for split in ("train", "val")):
        notes.append("the folder's own split into train and val is used as it is")
        return {split: _by_folder(source, split, notes) for split in ("train", "val")}
    return {"all": _by_folder(source, "", notes)}


def _by_folder(source: Path, split: str, notes: list[str]) -> Labelled:
    place = source / split
    found = [name.partition("/") for name in find_files(place, VIDEO_SUFFIXES)]
    videos = [(f"{split}/{label}/{rest}".lstrip("/"), label) for label, slash, rest in found if slash]
    loose = [name for name, slash, _ in found if not slash]
    if loose:
        notes.append(f"left out, in no sub-folder of a class: {_some(loose)}")
    folders = {path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if empty := sorted(folders - {label for _, label in videos}):
        notes.append(f"no classes, because no video is in them: {_some(empty)}")
    endings = {path.suffix.lower() for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")}
    if others := sorted(endings - VIDEO_SUFFIXES):
        notes.append(
            f"left out, files that do not end as videos do: {_some(ending or 'no ending' for ending in others)}"
        )
    return videos


def _read_table(path: Path) -> Labelled:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this table ({error.strerror})") from error
    lines = {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip()}
    separator = next((mark for mark in "\t," if lines and all(mark in line for line in lines.values())), " ")
    if separator == " ":
        rows = [line.rpartition(" ")[::2] for line in lines.values()]
    else:
        # Line by line, so that a quotation mark without its other half spoils no more than its own line.
        rows = [next(csv.reader([line], delimiter=separator)) for line in lines.values()]
    head = [field.strip().lower() for field in rows[0]] if rows else []
    named = [
        next((head.index(name) for name in known if name in head), None) for known in (_PATH_COLUMNS, _LABEL_COLUMNS)
    ]
    header = None not in named
    first, last = named if header else (0, -1)
    videos = []
    for number, row in list(zip(lines, rows, strict=True))[header:]:
        if len(row) < (len(head) if header else 2) or not row[first].strip() or not row[last].strip():
            # Where the blank separates because one line has no comma, that line is the wrong one.
            mark = next((mark for mark in "\t," if separator == " " and mark in lines[number]), "")
            number = next((other for other, line in lines.items() if mark not in line), number)
            raise ConfigError(
                f"{path}, line {number}: expected a path and a class, as in 'a.mp4,jump', got "
                f"{printable(lines[number])!r}"
            )
        videos.append((row[first].strip(), row[last].strip()))
    return videos


def _class_names(listed: Path, labels: set[str]) -> dict[str, str]:
    """Label -> class name, in the order of the class numbers."""
    if not all(label.isdecimal() for label in labels):
        return {label: label for label in sorted(labels)}
    order = sorted(labels, key=int)
    if not listed.exists():
        return {label: label for label in order}
    names = {str(number): name for number, name in enumerate(read_class_names(listed))}
    if unknown := [label for label in order if label not in names]:
        raise ConfigError(
            f"{listed} has {len(names)} classes, but there is a label {unknown[-1]}; labels are 0 to {len(names) - 1}"
        )
    return names


def _check(source: Path, root: Path, labelled: Labelled, names: dict[str, str]) -> None:
    if len(names) < 2:
        raise ConfigError(
            f"{source}: found {len(labelled)} videos of {len(names)} class(es){': ' * bool(names)}{_some(names)}; "
            "a classifier needs two, each in a sub-folder of its own (or named in a table)"
        )
    for text in (*names.values(), *(name for name, _ in labelled)):
        if any(mark in text for mark in "\n\r\t") or text[:1].isspace():
            raise ConfigError(
                f"{source}: rename what has a line break or tab in its name, or begins with a blank: {text!r}"
            )
    if missing := [name for name, _ in labelled if not (root / name).exists()]:
        raise ConfigError(
            f"{source}: {len(missing)} of {len(labelled)} videos do not exist: {_some(missing)}; their paths are "
            f"relative to {root}, or to DATA.PATH_PREFIX where you set it"
        )
    labels: dict[str, str] = {}
    for name, label in labelled:
        if labels.setdefault(name, label) != label:
            raise ConfigError(f"{source}: {printable(name)} is listed as {labels[name]} and as {label}; keep one")


def _note_thin_classes(found: OwnVideos) -> None:
    if both := {name for name, _ in found.train} & {name for name, _ in found.val}:
        raise ConfigError(f"{found.root}: in both splits: {_some(sorted(both))}; what is trained on cannot validate")
    counts = {split: {label for _, label in videos} for split, videos in (("train", found.train), ("val", found.val))}
    for split, there in counts.items():
        if not there:
            raise ConfigError(f"{found.root}: no video is left for the {split} split; every class needs two or more")
        if absent := [name for label, name in enumerate(found.classes) if label not in there]:
            why = "cannot be learned" if split == "train" else "cannot be validated, for want of a second video"
            found.notes.append(f"{why}: {_some(absent)}")


def _some(names: Iterable[str], count: int = 5) -> str:
    names = [printable(name) for name in names]
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
