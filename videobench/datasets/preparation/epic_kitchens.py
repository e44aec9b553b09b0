"""The official lists of EPIC-Kitchens-100, less what is not there."""

import os
from collections.abc import Sequence
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.annotations import read_class_names
from videobench.datasets.epic_kitchens import find_video
from videobench.datasets.preparation.annotation_files import NOT_FOUND, read_lines, read_table
from videobench.datasets.preparation.lists import Plan, Row
from videobench.datasets.sampling import epic_segment

_NEEDED = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")


def epic(annotations: Sequence[Path], root: Path, classes: Sequence[Path] = ()) -> Plan:
    """The official tables of EPIC-Kitchens-100 without the rows whose video or frames are not there.

    Frames are taken, or videos where there are more of these.

    Args:
        annotations: EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_test_timestamps.csv.
        root: folder of the videos or frames, as `find_video` looks for them.
        classes: EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv (id, key).

    Raises:
        ConfigError: for tables of another form.
    """
    if len({path.name for path in annotations}) < len(annotations):
        raise ConfigError(f"{', '.join(map(str, annotations))}: two tables of one name would become one list")
    tables = {path: read_table(path, _NEEDED) for path in annotations}
    videos = {(row["participant_id"], row["video_id"]) for rows in tables.values() for row in rows}
    found = {
        stored: {video: place for _, video in videos if (place := find_video(root, video, stored))}
        for stored in ("frames", "videos")
    }
    stored = max(found, key=lambda kind: len(found[kind]))
    places, other = found[stored], found["videos" if stored == "frames" else "frames"]
    counts = {place: _count_frames(root / place) for place in places.values()} if stored == "frames" else {}
    plan = Plan(root, {}, dataset="epickitchens", template="frame_{:010d}.jpg" if stored == "frames" else "")
    plan.keys["DATA.STORED_AS"] = stored
    header = None
    for path, rows in tables.items():
        text = [line for line in read_lines(path) if line.strip()]
        if len(text) != len(rows) + 1:
            raise ConfigError(f"{path}: a row goes over several lines; write every action in one")
        if header not in (None, text[0]):
            raise ConfigError(f"{path}: other columns than {annotations[0]}; give it to a call of its own")
        header = text[0]
        plan.lists[path.name], plan.left_out[path.name] = [], []
        for line, row in zip(text[1:], rows, strict=True):
            video = row["video_id"]
            place = places.get(video)
            if not place:
                cause = _why_missing(root, video, stored, other)
            else:
                last = _last_frame(path, row)
                short = stored == "frames" and last > counts[place]
                cause = f"ends at frame {last}, {place} has {counts[place]}" if short else ""
            if cause:
                plan.left_out[path.name].append((row["narration_id"], cause))
            else:
                plan.lists[path.name].append(Row(place, line, counts.get(place, 0), row["narration_id"]))
        split = next((split for split in ("train", "test") if split in path.name), "val")
        plan.published[path.name] = f"epic100-{split}"
    # Verbs first, as DATA.CLASS_NAMES takes them.
    for path in sorted(classes, key=lambda path: "verb" not in path.name):
        plan.classes["verbs.txt" if "verb" in path.name else "nouns.txt"] = read_class_names(path)
    plan.layout = lambda lines: [header, *lines]
    return plan


def _last_frame(path: Path, row: dict[str, str]) -> int:
    """The highest number of a frame file that is read: the one before the end."""
    try:
        return epic_segment(row["video_id"], row["start_timestamp"], row["stop_timestamp"])[1] - 1
    except ValueError as error:
        raise ConfigError(f"{path}: {row['narration_id']}: {error}") from error


def _why_missing(root: Path, video: str, stored: str, other: dict[str, str]) -> str:
    if video in other:
        return f"only as {'a video' if stored == 'frames' else 'frames'}, {other[video]}; most others are {stored}"
    folder = f"{video.partition('_')[0]}/rgb_frames/{video}"
    if os.path.exists(root / f"{folder}.tar"):
        return f"{NOT_FOUND}: {folder}.tar has to be unpacked into a folder {folder}"
    return f"{NOT_FOUND}: neither frames nor a video of {video}"


def _count_frames(folder: Path) -> int:
    return sum(name.endswith(".jpg") and not name.startswith(".") for name in os.listdir(folder))
