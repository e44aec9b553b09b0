"""Where the videos that annotations name are: files, or folders of frames."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.preparation.annotation_files import NOT_FOUND
from videobench.datasets.preparation.files import VIDEO_SUFFIXES, find_files, is_picture
from videobench.datasets.preparation.lists import FRAMES, Plan, Row


class NamedVideos:
    """Videos below a folder, by the names that annotations give them.

    As soon as one of them has a folder of frames, folders of frames are what is meant; otherwise files anywhere below
    the folder, whose names without suffix count.

    Args:
        root: folder.
        places: name of a video -> where its folder of frames may be, relative to ``root``.
    """

    def __init__(self, root: Path, places: Mapping[str, Sequence[str]]) -> None:
        self._root = root
        self._folders = {}
        for name, candidates in places.items():
            if folder := next((place for place in candidates if (root / place).is_dir()), None):
                self._folders[name] = folder
        found = () if self._folders else find_files(root, VIDEO_SUFFIXES)
        self._files = {name: file for file in found if (name := Path(file).stem) in places}
        suffixes = Counter(Path(file).suffix for file in self._files.values())
        self._suffix = suffixes.most_common(1)[0][0] if suffixes else ""
        self._naming: set[str] = set()

    def row(self, name: str, label: int) -> Row | str:
        """Its line ``folder frames label``, or why there is none."""
        if file := self._files.get(name):
            listed, suffix = os.path.splitext(file)
            if suffix != self._suffix:
                return f"is a {suffix} file, and most are {self._suffix}; a list has files of one kind"
            return Row(file, f"{listed} {FRAMES} {label}")
        if not (folder := self._folders.get(name)):
            return NOT_FOUND
        frames, naming, cause = _frames_in(self._root / folder)
        if cause:
            return cause
        self._naming.add(naming)
        return Row(folder, f"{folder} {frames} {label}", frames)

    def describe(self, plan: Plan) -> None:
        """Tell a plan how its videos are stored.

        Raises:
            ConfigError: where frames are named in different ways.
        """
        if len(self._naming) > 1:
            raise ConfigError(f"{self._root}: frames are named in different ways: {', '.join(sorted(self._naming))}")
        plan.template = "".join(self._naming)
        plan.keys["DATA.STORED_AS"] = "frames" if plan.template else "videos"
        if plan.template:
            plan.keys["DATA.IMAGE_TEMPLATE"] = plan.template


def _frames_in(folder: Path) -> tuple[int, str, str]:
    """Number of frames, how they are named, and what is wrong."""
    names = sorted(filter(is_picture, os.listdir(folder)))
    match = re.fullmatch(r"(.*?)(\d+)(\.\w+)", names[0]) if names else None
    if not match:
        return 0, "", "no frames"
    before, after = (part.replace("{", "{{").replace("}", "}}") for part in (match[1], match[3]))
    template = f"{before}{{:0{len(match[2])}d}}{after}"
    there = set(names)
    missing = next((n for n in range(1, len(names) + 1) if template.format(n) not in there), None)
    if missing:
        return len(names), template, f"{len(names)} frames, but no {template.format(missing)}"
    return len(names), template, ""
