"""From a plan (what is annotated, what is on disk) to list files, with everything left out named."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from videobench.config import ConfigError
from videobench.datasets.preparation.files import printable, told, unlistable, write_lines
from videobench.datasets.preparation.verify import PUBLISHED, Check, check_all

#: What is known of the files of the lists beside it.
JOURNAL = "checked.jsonl"
_SHOWN = 10
# Stands in a row for the number of frames, which only reading the video tells.
FRAMES = "\0"


class Row(NamedTuple):
    """A line of a list.

    Attributes:
        file: what it is about, relative to the plan's root: a video, an image, or a folder of frames.
        line: the line as it will be written.
        frames: number of frames in a folder.
        name: what to call it when it is left out; else its file.
    """

    file: str
    line: str
    frames: int = 0
    name: str = ""


# Keys that say where the lists and the files are, where they are not those of DATA.
_FOLDER_KEYS = {
    "epickitchens": ("EPICKITCHENS.ANNOTATIONS_DIR", "EPICKITCHENS.VISUAL_DATA_DIR"),
    "imagenet": ("DATA.PATH_TO_PRELOAD_IMDB", "DATA.PATH_PREFIX"),
}


@dataclass
class Plan:
    """Lists to be made.

    Attributes:
        root: folder of the videos or frames.
        lists: name of a list file -> its rows, in their final order.
        dataset: which reader takes the lists, a name for TRAIN.DATASET.
        keys: what else that reader has to be told, apart from where lists, files and names are.
        left_out: name of a list file -> (what is annotated, why it is in no list).
        classes: name of a file of class names -> the names by number.
        notes: what users should know.
        template: how the frames in folders are named; empty for files.
        published: name of a list file -> key of `PUBLISHED`.
        layout: what stands around the rows in a list file; rows alone unless given.
    """

    root: Path
    lists: dict[str, list[Row]]
    dataset: str
    keys: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    classes: dict[str, Sequence[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    template: str = ""
    published: dict[str, str] = field(default_factory=dict)
    layout: Callable[[list[str]], list[str]] = list

    def configuration(self, out: Path) -> list[str]:
        """Lines of a YAML file with which a recipe reads these lists when they lie in ``out``."""
        lists, files = _FOLDER_KEYS.get(self.dataset, ("DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX"))
        keys = {"TRAIN.DATASET": self.dataset, "TEST.DATASET": self.dataset}
        keys |= {lists: os.path.abspath(out), files: os.path.abspath(self.root), **self.keys}
        names = [os.path.abspath(out / name) for name in self.classes]
        if len(names) == 1:
            (classes,) = self.classes.values()
            keys |= {"DATA.CLASS_NAMES": names[0], "MODEL.NUM_CLASSES": len(classes)}
        elif names:
            keys["DATA.CLASS_NAMES"] = names
        sections: dict[str, dict[str, Any]] = {}
        for key, value in keys.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, width=10_000).splitlines()


@dataclass(frozen=True)
class MadeLists:
    """What was written, and what is in none of the lists.

    Attributes:
        lists: name of a list file -> number of its rows.
        left_out: as in `Plan`, with faulty files added.
        notes: what users should know.
        written: the files written.
    """

    lists: dict[str, int]
    left_out: dict[str, list[tuple[str, str]]]
    notes: list[str]
    written: list[Path]

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return not any(self.left_out.values())

    def __str__(self) -> str:
        lines = []
        for name, count in self.lists.items():
            out = self.left_out.get(name, [])
            lines.append(f"{name}: {count} lines, {len(out)} left out")
            lines += [f"  {printable(what)}: {cause}" for what, cause in out[:_SHOWN]]
            if len(out) > _SHOWN:
                lines.append(f"  ... and {len(out) - _SHOWN} more")
        return "\n".join([*lines, *self.notes, *(f"wrote {path}" for path in self.written)])


def make_lists(
    plan: Plan,
    out: Path,
    *,
    check: str = "packets",
    overwrite: bool = False,
    workers: int | None = None,
    patience: float = 300.0,
    progress: Callable[[int, int], None] | None = None,
) -> MadeLists:
    """Write the lists of a plan into ``out``, and beside them what belongs to them.

    That is NAME.left_out.txt (``what TAB cause``) for each, the class names, and data.yaml, the keys that say where all
    this is: given behind a recipe, it makes that read these lists. checked.jsonl is what is known of the files: sound
    ones that have not changed are not read again.

    Args:
        plan: see `Plan`.
        out: folder.
        check: ``none``, ``packets`` or ``full``: how to look for faulty files, see `verify.Check`.
        overwrite: replace files that exist and hold something else.
        workers: processes; None means one per core.
        patience: seconds without progress after which a file counts as hanging.
        progress: called with (files checked, files in all).

    Raises:
        ConfigError: when files exist already, or nothing would be listed.
    """
    rows = [row for rows in plan.lists.values() for row in rows]
    if not rows:
        some = next((f", for example {what}: {why}" for out in plan.left_out.values() for what, why in out), "")
        raise ConfigError(f"{plan.root}: nothing of what is annotated is here{some}")
    faulty, counted = {}, {}
    if check == "none" and any(FRAMES in row.line for row in rows):
        raise ConfigError("the list needs the number of frames of every video: use --check packets or full")
    if check != "none":
        frames = {row.file: row.frames for row in rows}
        checks = {
            file: Check(str(plan.root / file), check == "full", plan.template if count else "", count)
            for file, count in frames.items()
        }
        results, _ = check_all(checks, out / JOURNAL, workers=workers, patience=patience, progress=progress)
        faulty = {file: result.cause for file, result in results.items()}
        counted = {file: result.frames for file, result in results.items()}
    faulty |= {row.file: f"a list cannot hold {cause}" for row in rows if (cause := unlistable(row.line))}
    left_out, lists, contents, notes = {}, {}, {}, list(plan.notes)
    for name, listed in plan.lists.items():
        sound = [row for row in listed if not faulty.get(row.file)]
        left_out[name] = list(plan.left_out.get(name, []))
        for row in listed:
            if cause := faulty.get(row.file):
                left_out[name].append((row.name, f"{row.file}: {cause}") if row.name else (row.file, cause))
        lists[name] = len(sound)
        contents[name] = plan.layout([row.line.replace(FRAMES, str(counted.get(row.file, 0))) for row in sound])
        contents[f"{Path(name).stem}.left_out.txt"] = [told(what, cause) for what, cause in left_out[name]]
        if known := plan.published.get(name):
            notes.append(f"{name}: {len(sound)} lines, the published list of {known} has {PUBLISHED[known]}")
    # With their numbers, because a name such as "take 2" would otherwise be read as a name and its number.
    for name, classes in plan.classes.items():
        contents[name] = [f"{printable(label)}\t{number}" for number, label in enumerate(classes)]
    contents["data.yaml"] = plan.configuration(out)
    _check_free(out, contents, overwrite)
    written = [write_lines(out / name, lines) for name, lines in contents.items()]
    return MadeLists(lists, left_out, notes, written)


def _check_free(out: Path, contents: dict[str, Sequence[str]], overwrite: bool) -> None:
    for name, lines in contents.items():
        path = out / name
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        if path.exists() and path.read_bytes() != text and not overwrite:
            raise ConfigError(f"{path}: exists already and holds something else; --overwrite replaces it")
