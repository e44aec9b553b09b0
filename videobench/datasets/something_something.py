"""Something-Something V1 and V2, and other lists of frame folders (HMDB51).

Two layouts are in use: lists with a line ``folder frames label`` per video (UniFormer, MorphMLP: ``sth``), and for V2
the official JSON files with a list of frame files (SlowFast, Motionformer: ``ssv2``). With either, ``DATA.STORED_AS
videos`` reads video files instead of frame folders.
"""

import json
import os
from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videobench.config import CfgNode, ConfigError
from videobench.datasets.containers import VideoError
from videobench.datasets.picture_files import FrameFolders, PictureFiles
from videobench.datasets.records import Frames, TextBuilder, VideoList, check_label, list_lines, skip_mark, with_suffix

_VIDEO_SUFFIXES = (".webm", ".mp4", ".avi")
# SSv2 frames were extracted at this rate for the published recipes.
_SSV2_FPS = Fraction(30)
_HEADER = b"original_vido_id video_id frame_id path labels"


@dataclass(frozen=True)
class ListedFrames(VideoList):
    """Videos whose frame files are listed line by line in a csv file; the lines are read when a video is opened.

    Attributes:
        frame_list: the csv file.
        starts: byte where the lines of a video begin, int64 [videos].
        sizes: bytes of its lines, int32 [videos].
        counts: their number, int32 [videos].
    """

    frame_list: Path = Path()
    starts: np.ndarray | None = None
    sizes: np.ndarray | None = None
    counts: np.ndarray | None = None

    def open(self, index: int) -> Frames:
        """The frames of a video; files are looked for when they are needed."""
        try:
            with open(self.frame_list, "rb") as stream:
                stream.seek(int(self.starts[index]))
                lines = stream.read(int(self.sizes[index])).splitlines()
        except OSError as error:
            raise VideoError(self.path(index), f"{self.frame_list}: {error.strerror}") from error
        files = [line.split(b" ")[3] for line in lines]

        def file(frame: int) -> str:
            return os.path.join(self.prefix, os.fsdecode(files[frame]))

        return PictureFiles(self.prefix or ".", file, len(files), _SSV2_FPS)


def read_folder_list(cfg: CfgNode, split: str, rule: str) -> VideoList:
    """DATA.LABEL_PATH_TEMPLATE with ``train`` or ``validation`` in it: lines of ``folder frames label``.

    Validation and test read the ``validation`` list, or ``val`` where that is missing.

    Raises:
        ConfigError: for a missing or empty list and for lines that are no such thing; names file and line.
    """
    data = cfg.DATA
    words = ("train",) if split == "train" else ("validation", "val")
    candidates = [Path(data.PATH_TO_DATA_DIR) / data.LABEL_PATH_TEMPLATE.format(word) for word in words]
    path = next((path for path in candidates if path.exists()), candidates[0])
    names, counts, labels = TextBuilder(), array("i"), array("q")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this list file ({error.strerror}); DATA.PATH_TO_DATA_DIR names its folder and "
            "DATA.LABEL_PATH_TEMPLATE its name"
        ) from error
    with stream:
        for number, line in list_lines(stream):
            fields = line.split()
            try:
                count, label = int(fields[-2]), int(fields[-1])
            except (ValueError, IndexError):
                count, label = 0, 0
            if len(fields) < 3 or not 0 < count < 2**31:
                raise ConfigError(
                    f"{path}, line {number}: expected 'folder frames label' with whole numbers and at least one "
                    f"frame, got {line.decode(errors='replace')!r}"
                )
            check_label(label, cfg.MODEL.NUM_CLASSES, f"{path}, line {number}")
            names.add(line.rsplit(None, 2)[0])
            counts.append(count)
            labels.append(label)
    if not labels:
        raise ConfigError(f"{path}: this list file has no videos")
    common = {
        "source": path,
        "prefix": data.PATH_PREFIX,
        "labels": np.frombuffer(labels, np.int64),
        "rule": rule,
        "crop_margin": False,
    }
    if data.STORED_AS == "videos":
        return VideoList(names=with_suffix(names.column(), data.PATH_PREFIX, _VIDEO_SUFFIXES), **common)
    return FrameFolders(
        names=names.column(), template=data.IMAGE_TEMPLATE, counts=np.frombuffer(counts, np.int32), **common
    )


def read_official(cfg: CfgNode, split: str) -> VideoList:
    """SSv2 from ``something-something-v2-{labels,train,validation}.json``; frame files from train.csv and val.csv.

    The JSON files may also be called labels.json, train.json and validation.json, as in the archive of labels.
    Validation and test both read ``validation``: the labels of the official test split are not public.

    Raises:
        ConfigError: for files that are missing or not of this form, templates without a label, and videos that have
            a label but no frames.
    """
    data, folder = cfg.DATA, Path(cfg.DATA.PATH_TO_DATA_DIR)
    path = _official(folder, "train" if split == "train" else "validation")
    label_file = _official(folder, "labels")
    numbers = read_label_numbers(label_file)
    names, labels = TextBuilder(), array("q")
    for place, video in enumerate(_read_json(path, list), start=1):
        where = f"{path}, entry {place}"
        if not isinstance(video, dict) or not {"id", "template"} <= video.keys():
            raise ConfigError(f"{where}: expected an object with 'id' and 'template', got {video!r:.100}")
        template = str(video["template"]).replace("[", "").replace("]", "")
        if template not in numbers:
            raise ConfigError(f"{where}: {label_file.name} has no class {template!r}")
        check_label(numbers[template], cfg.MODEL.NUM_CLASSES, where)
        names.add(str(video["id"]))
        labels.append(numbers[template])
    if not labels:
        raise ConfigError(f"{path}: this list file has no videos")
    column = names.column()
    common = {
        "source": path,
        "prefix": data.PATH_PREFIX,
        "labels": np.frombuffer(labels, np.int64),
        "rule": "segments_ssv2",
        "crop_margin": False,
    }
    if data.STORED_AS == "videos":
        return VideoList(names=with_suffix(column, data.PATH_PREFIX, _VIDEO_SUFFIXES), **common)
    frame_list = folder / ("train.csv" if split == "train" else "val.csv")
    blocks = _read_frame_list(frame_list)
    rows = np.empty((len(column), 3), np.int64)
    for index in range(len(column)):
        if (block := blocks.get(column[index])) is None:
            raise ConfigError(
                f"{path}, entry {index + 1}: {frame_list} has no frames of video {column[index]}; DATA.STORED_AS "
                "videos reads video files"
            )
        rows[index] = block
    if others := list(blocks.keys() - {column[index] for index in range(len(column))}):
        raise ConfigError(f"{frame_list}: video {min(others)} is not in {path.name} ({len(others)} such videos)")
    starts, sizes, counts = rows.T
    return ListedFrames(
        names=column,
        frame_list=frame_list,
        starts=np.ascontiguousarray(starts),
        sizes=sizes.astype(np.int32),
        counts=counts.astype(np.int32),
        **common,
    )


def _official(folder: Path, name: str) -> Path:
    """An official file, by its long or its short name."""
    long, short = folder / f"something-something-v2-{name}.json", folder / f"{name}.json"
    return short if short.exists() and not long.exists() else long


def read_label_numbers(path: Path) -> dict[str, int]:
    """Class numbers by name, from a JSON file of ``{"name": "number"}``.

    Raises:
        ConfigError: for another file, and numbers below 0 or given twice.
    """
    content = _read_json(path, dict)
    try:
        numbers = {name: int(number) for name, number in content.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{path}: expected class numbers by name, as {{"Holding something": "19"}}') from error
    if len(set(numbers.values())) != len(numbers) or min(numbers.values(), default=-1) < 0:
        raise ConfigError(f"{path}: class numbers must be 0 or more, each once")
    return numbers


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this file ({error.strerror}); DATA.PATH_TO_DATA_DIR names its folder"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, kind):
        raise ConfigError(f"{path}: expected a JSON {'object' if kind is dict else 'list'}")
    return content


def _read_frame_list(path: Path) -> dict[str, tuple[int, int, int]]:
    """First byte, bytes and number of the lines of every video, which must stand together."""
    blocks: dict[str, tuple[int, int, int]] = {}
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this list of frames ({error.strerror}); DATA.STORED_AS videos reads video files"
        ) from error
    with stream:
        header = skip_mark(stream).readline()
        if header.strip() != _HEADER:
            raise ConfigError(f"{path}, line 1: expected the header {_HEADER.decode()!r}, got {header[:80]!r}")
        place = start = stream.tell()
        video, count = b"", 0
        for number, line in enumerate(stream, start=2):
            if line.count(b" ") != 4:
                raise ConfigError(
                    f"{path}, line {number}: expected five fields with one blank between them, got "
                    f"{line.strip().decode(errors='replace')!r}"
                )
            name = line[: line.find(b" ")]
            if name != video:
                if count:
                    blocks[os.fsdecode(video)] = (start, place - start, count)
                if (shown := os.fsdecode(name)) in blocks:
                    raise ConfigError(f"{path}, line {number}: the frames of video {shown} are not together")
                video, start, count = name, place, 0
            count += 1
            place += len(line)
        if count:
            blocks[os.fsdecode(video)] = (start, place - start, count)
    return blocks
