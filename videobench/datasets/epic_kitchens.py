"""EPIC-Kitchens-100: actions in long videos, each with a verb and a noun, from the official csv files."""

import os
from array import array
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from videobench.config import CfgNode, ConfigError
from videobench.datasets.picture_files import PictureFiles, VideoSegment
from videobench.datasets.records import CsvTable, Frames, TextBuilder, TextColumn, VideoList, check_label
from videobench.datasets.sampling import epic_segment, timestamp_seconds

#: Numbers of verbs and nouns (Damen et al., Rescaling Egocentric Vision, 2022).
VERBS, NOUNS = 97, 300
_COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
_VIDEO_SUFFIXES = (".MP4", ".mp4", ".mkv", ".webm", ".avi")
# Where a video lies, as the official download scripts put it, or with one or both of the folders left out or exchanged.
_PLACES = (
    "{participant}/{kind}/{video}",
    "{participant}/{video}",
    "{kind}/{participant}/{video}",
    "{kind}/{video}",
    "{video}",
)
_KINDS = {"frames": "rgb_frames", "videos": "videos"}
_CLASSES = {"verb": ("verb_class", VERBS), "noun": ("noun_class", NOUNS)}


@dataclass(frozen=True)
class Actions(VideoList):
    """Actions by narration; frame j of an action is the file with the number ``first + j``, as published.

    Frame files count from 1, so that is one frame earlier than the time stamp says; a video file is read one frame
    early, too, and gives the same pictures. File 0 and frame -1, which do not exist, are the first one.

    Attributes:
        folders: of the videos: frame folders, or video files.
        videos: which of them holds the action, int32 [actions].
        spans: first frame, end frame and frame rate of frame folders (int32 [actions, 3]), or start and stop in
            seconds (float64 [actions, 2]) for video files.
    """

    folders: TextColumn | None = None
    videos: np.ndarray | None = None
    spans: np.ndarray | None = None

    def path(self, index: int) -> str:
        """The frame folder or the video file that holds the action."""
        return os.path.join(self.prefix, self.folders[int(self.videos[index])])

    def open(self, index: int) -> Frames:
        """The frames of an action alone."""
        path, span = self.path(index), self.spans[index]
        if span.dtype.kind == "f":
            return VideoSegment(self.reader.open(path), float(span[0]), float(span[1]), earlier=1)
        first, end, fps = span.tolist()
        return PictureFiles(path, partial(_frame_file, path, first), end - first, Fraction(fps))


def find_video(root: str | Path, video: str, stored_as: str) -> str | None:
    """Where a video is, relative to ``root``: its folder of ``frames``, or its file among ``videos``; None if nowhere.

    Looked for are P01/rgb_frames/P01_01 (P01/videos/P01_01.MP4), as downloaded, P01/P01_01, rgb_frames/P01/P01_01,
    rgb_frames/P01_01 and P01_01; files also with other suffixes than .MP4.
    """
    for place in _places(video, stored_as):
        if stored_as == "frames" and os.path.isdir(os.path.join(root, place)):
            return place
        if stored_as == "videos":
            for suffix in _VIDEO_SUFFIXES:
                if os.path.exists(os.path.join(root, place + suffix)):
                    return place + suffix
    return None


def _places(video: str, stored_as: str) -> list[str]:
    words = {"participant": video.partition("_")[0], "kind": _KINDS[stored_as], "video": video}
    return [place.format(**words) for place in _PLACES]


def read_actions(cfg: CfgNode, split: str) -> VideoList:
    """The actions of a split; a missing class, as in the official test list, is -1.

    A list named ``.pkl`` in the configuration is read from the csv file of the same name beside it: a pickle runs
    whatever program its author put into it.

    Raises:
        ConfigError: for a missing list, missing columns, and rows with impossible times or classes; names file and
            line.
    """
    epic = cfg.EPICKITCHENS
    name = {"train": epic.TRAIN_LIST, "val": epic.VAL_LIST, "test": epic.TEST_LIST}[split]
    path = Path(epic.ANNOTATIONS_DIR or cfg.DATA.PATH_TO_DATA_DIR) / name
    if path.suffix == ".pkl":
        pickled, path = path, path.with_suffix(".csv")
        if not path.exists():
            raise ConfigError(
                f"{pickled}: pickles are not read, because reading one runs the program in it; put the official "
                f"{path.name} (github.com/epic-kitchens/epic-kitchens-100-annotations) into its folder"
            )
    stored_as = cfg.DATA.STORED_AS
    as_videos = stored_as == "videos"
    prefix = epic.VISUAL_DATA_DIR or cfg.DATA.PATH_PREFIX
    names, folders, places, numbers = TextBuilder(), TextBuilder(), {}, array("i")
    labels = {head: array("q") for head in _CLASSES}
    spans = array("d" if as_videos else "i")
    try:
        # The narrations, which are not read, may be in any encoding.
        stream = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this list file ({error.strerror}); EPICKITCHENS.ANNOTATIONS_DIR names its folder"
        ) from error
    with stream:
        rows = CsvTable(path, stream)
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise ConfigError(f"{path}, line 1: the columns {', '.join(missing)} are missing")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if any(row[column] is None for column in _COLUMNS):
                raise ConfigError(f"{where}: this line ends too early")
            spans.extend(_span(row, as_videos, where))
            for head, (column, classes) in _CLASSES.items():
                labels[head].append(_class(row.get(column), column, classes, where))
            if split == "train" and min(labels["verb"][-1], labels["noun"][-1]) < 0:
                raise ConfigError(f"{where}: an action to train on needs verb_class and noun_class")
            names.add(row["narration_id"])
            video = row["video_id"]
            if video not in places:
                places[video] = len(places)
                missing = _places(video, stored_as)[0] + _VIDEO_SUFFIXES[0] * as_videos
                folders.add(find_video(prefix, video, stored_as) or missing)
            numbers.append(places[video])
    if not numbers:
        raise ConfigError(f"{path}: this list file has no actions")
    return Actions(
        source=path,
        prefix=prefix,
        names=names.column(),
        labels={head: np.frombuffer(column, np.int64) for head, column in labels.items()},
        rule="epic",
        crop_margin=False,
        folders=folders.column(),
        videos=np.frombuffer(numbers, np.int32),
        spans=np.frombuffer(spans, np.float64 if as_videos else np.int32).reshape(len(numbers), -1),
    )


def _span(row: dict[str, str], as_videos: bool, where: str) -> tuple[float, ...]:
    start, stop = row["start_timestamp"], row["stop_timestamp"]
    for stamp in (start, stop):
        # The published arithmetic takes what follows the dot for hundredths, however many digits there are.
        if len(stamp.partition(".")[2]) != 2:
            raise ConfigError(f"{where}: time stamp {stamp!r} is not of the form HH:MM:SS.hh")
    try:
        first, end, fps = epic_segment(row["video_id"], start, stop)
        seconds = timestamp_seconds(start), timestamp_seconds(stop)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not first < end < 2**31:
        count = "no frames" if end <= first else "more frames than a video can have"
        raise ConfigError(f"{where}: the action from {start} to {stop} has {count}")
    return seconds if as_videos else (first, end, fps)


def _class(text: str | None, column: str, classes: int, where: str) -> int:
    if text is None or not text.strip():
        return -1
    try:
        label = int(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {column} {text!r} is not a whole number") from error
    check_label(label, classes, where, column)
    return label


def _frame_file(folder: str, first: int, index: int) -> str:
    return os.path.join(folder, f"frame_{max(first + index, 1):010d}.jpg")
