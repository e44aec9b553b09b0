"""Every file of a list read completely, with the cause for each that is faulty."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from videobench.config import ConfigError
from videobench.datasets.containers import VideoError, cause_of, open_video
from videobench.datasets.decoding import Video
from videobench.datasets.picture_files import open_picture
from videobench.datasets.preparation.files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Entry,
    Journal,
    check_files_listed,
    find_files,
    listable,
    printable,
    read_entries,
    told,
    write_lines,
)
from videobench.datasets.preparation.jobs import Lost, run_jobs
from videobench.datasets.workers import usable_cores

# Videos (EPIC: actions, ImageNet: pictures) in the published lists. Every copy of Kinetics is another one, because
# videos disappear: the official tables of validation name 19,906 (Kinetics-400) and 30,000 (Kinetics-600) videos, and
# lists to train on are not published.
PUBLISHED = {
    # The lists that UniFormer and MorphMLP publish; those of Something-Something have all official rows.
    "k400-val": 19_787,
    "k600-val": 28_736,
    "ssv1-train": 86_017,
    "ssv1-val": 11_522,
    "ssv2-train": 168_913,
    "ssv2-val": 24_777,
    # The rows of the official tables (github.com/epic-kitchens/epic-kitchens-100-annotations; Damen et al., Rescaling
    # Egocentric Vision, 2022).
    "epic100-train": 67_217,
    "epic100-val": 9_668,
    "epic100-test": 13_092,
    # Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015.
    "imagenet-train": 1_281_167,
    "imagenet-val": 50_000,
    # trainlist01.txt and testlist01.txt of UCF101; 70 and 30 videos of each of the 51 classes in any split of HMDB51
    # (Kuehne et al., HMDB: A Large Video Database for Human Motion Recognition, 2011).
    "ucf101-train": 9_537,
    "ucf101-val": 3_783,
    "hmdb51-train": 3_570,
    "hmdb51-val": 1_530,
}
_SHOWN_FAULTS = 50


class Check(NamedTuple):
    """What to read.

    Attributes:
        path: a video, an image, or a folder of frames.
        full: decode every frame; else only the packets are looked at, where they tell where the frames are.
        template: for a folder, how the files of its frames are named, as ``{:05d}.jpg``; numbers begin with 1.
        frames: for a folder, how many there must be.
    """

    path: str
    full: bool = True
    template: str = ""
    frames: int = 0


class Checked(NamedTuple):
    """What is wrong with a file, empty when nothing is, and how many frames it has."""

    cause: str
    frames: int = 0


@dataclass(frozen=True)
class Verification:
    """What a check of a list found.

    Attributes:
        files: different files in the list.
        known: those of them that an earlier run had found sound.
        faults: (name as listed, cause), in the order of the list.
        notes: what is no fault of a file.
        complete: False where the list does not have the expected number of lines.
        written: the files written.
    """

    files: int
    known: int
    faults: list[tuple[str, str]]
    notes: list[str]
    complete: bool
    written: list[Path]

    @property
    def sound(self) -> bool:
        """Whether there is nothing to mend."""
        return not self.faults and self.complete

    def __str__(self) -> str:
        lines = [f"{printable(name)}: {cause}" for name, cause in self.faults[:_SHOWN_FAULTS]]
        if len(self.faults) > _SHOWN_FAULTS:
            lines.append(f"... and {len(self.faults) - _SHOWN_FAULTS} more")
        earlier = f" ({self.known} of them in an earlier run)" if self.known else ""
        lines.append(
            f"{self.files} files checked{earlier}: {self.files - len(self.faults)} sound, {len(self.faults)} faulty"
        )
        return "\n".join([*lines, *self.notes, *(f"wrote {path}" for path in self.written)])


def verify(
    source: Path,
    *,
    prefix: str = "",
    separator: str = " ",
    template: str = "",
    full: bool = True,
    expect: str | None = None,
    out: Path | None = None,
    workers: int | None = None,
    patience: float = 300.0,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check every file of a list, or below a folder.

    Beside the list, or in ``out``, lie afterwards NAME.verify.jsonl (what is known about every file; sound files that
    have not changed since are not read again), NAME.quarantine.txt (``name TAB cause``) and NAME.clean.SUFFIX (the
    lines of the sound files as they were).

    Args:
        source: a list (``path label`` lines, or paths only), or a folder, in which all files named as videos count.
        prefix: folder put in front of every path of a list.
        separator: between path and label.
        template: the list names folders of frames (``folder frames label``), whose files are named like this.
        full: decode every frame; else see `Check`.
        expect: key of `PUBLISHED`; another number of lines is a fault.
        out: where to write.
        workers: processes; None means one per core.
        patience: seconds without progress after which a file counts as hanging.
        progress: called with (files done, files in all).

    Raises:
        ConfigError: for a list that cannot be read.
    """
    entries, prefix = _entries(source, prefix, separator, template)
    base = (out or (source if source.is_dir() else source.parent)) / (
        source.resolve().name if source.is_dir() else source.stem
    )
    checks: dict[str, Check] = {}
    for entry in entries:
        frames = int(entry.rest.split(separator)[-2]) if template else 0
        checks.setdefault(entry.name, Check(os.path.join(prefix, entry.name), full, template, frames))
    results, known = check_all(
        checks,
        base.with_name(f"{base.name}.verify.jsonl"),
        workers=workers,
        patience=patience,
        progress=progress,
    )
    notes, complete = _about_list(entries, expect)
    causes = {name: results[name].cause for name in checks if results[name].cause}
    faults = list(causes.items())
    suffix = ".txt" if source.is_dir() else source.suffix
    written = [
        write_lines(base.with_name(f"{base.name}.quarantine.txt"), [told(name, cause) for name, cause in faults]),
        write_lines(
            base.with_name(f"{base.name}.clean{suffix}"), [e.name + e.rest for e in entries if e.name not in causes]
        ),
    ]
    return Verification(len(checks), known, faults, notes, complete, written)


def check_all(
    checks: Mapping[str, Check],
    journal: Path,
    *,
    workers: int | None,
    patience: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Checked], int]:
    """Read files, but for those that an earlier run with the same journal found sound and that have not changed.

    Args:
        checks: what to read, by any name.
        journal: file of what is known; written as the results come, so that a run that was stopped loses nothing.
        workers, patience, progress: see `verify`.

    Returns:
        The result of each name, and how many of them were known.
    """
    log = Journal(journal)
    try:
        records = {record["path"]: record for record in log.records}
        results = {}
        for name, check in checks.items():
            if _known_sound(record := records.get(_key(check.path)), check):
                results[name] = Checked("", record["found"])
        known, asked = len(results), [name for name in checks if name not in results]
        items = [checks[name] for name in asked]
        jobs = run_jobs(check_file, items, workers=workers or usable_cores(), patience=patience)
        for done, (number, result) in enumerate(jobs, start=known + 1):
            check = items[number]
            results[asked[number]] = result = Checked(result.cause) if isinstance(result, Lost) else result
            log.add(_asked(check) | {"full": check.full, "found": result.frames, "cause": result.cause})
            if progress:
                progress(done, len(checks))
    finally:
        log.close()
    return results, known


def check_file(check: Check, beat: Callable[[], None]) -> Checked:
    """Read a video, an image or a folder of frames."""
    try:
        if check.template:
            return Checked("", _check_frames(check, beat))
        if os.path.splitext(check.path)[1].lower() in IMAGE_SUFFIXES:
            return Checked("", _check_image(check.path, check.full))
        return Checked("", _check_video(check, beat))
    except VideoError as error:
        return Checked(error.cause)


def _check_video(check: Check, beat: Callable[[], None]) -> int:
    with Video(check.path) as video:
        index = video.index
    if index.damage:
        raise VideoError(check.path, index.damage)
    # Where the packets do not tell, finding the frames has decoded them all.
    if check.full and index.timed and (frames := _count_frames(check.path, beat)) != index.frames:
        raise VideoError(check.path, f"{index.frames} frames announced, {frames} come out")
    return index.frames


def sound_frames(path: str, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """All frames of an opened video in order.

    Raises:
        VideoError: at the first damage.
    """
    count, size = 0, None
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise VideoError(path, f"frame {count} is damaged")
            if size not in (None, (frame.width, frame.height)):
                raise VideoError(path, f"the size of the frames changes at frame {count}")
            size = frame.width, frame.height
            yield frame
            count += 1
    except av.FFmpegError as error:
        raise VideoError(path, f"behind frame {count}: {cause_of(error)}") from error


def _count_frames(path: str, beat: Callable[[], None]) -> int:
    container, stream = open_video(path)
    count = 0
    with container:
        for _ in sound_frames(path, container, stream):
            count += 1
            beat()
    return count


def _check_frames(check: Check, beat: Callable[[], None]) -> int:
    if not os.path.isdir(check.path):
        raise VideoError(check.path, "no such folder")
    names = [check.template.format(number) for number in range(1, check.frames + 1)]
    there = set(os.listdir(check.path))
    missing = [name for name in names if name not in there]
    if missing:
        raise VideoError(check.path, f"{len(missing)} of {check.frames} frames are missing, the first is {missing[0]}")
    for name in names if check.full else ():
        try:
            _check_image(os.path.join(check.path, name))
        except VideoError as error:
            raise VideoError(check.path, f"{name}: {error.cause}") from error
        beat()
    return check.frames


def _check_image(path: str, full: bool = True) -> int:
    with open_picture(path) as picture:
        if full:
            picture.load()
    return 1


def _entries(source: Path, prefix: str, separator: str, template: str) -> tuple[list[Entry], str]:
    if not source.is_dir():
        entries = read_entries(source, separator, fields=2 if template else 1)
        if template and not entries[0].rest:
            raise ConfigError(
                f"{source}: lines of a list of frame folders are 'folder{separator}frames{separator}label'"
            )
        if not template:
            check_files_listed(source, entries, prefix, "--template")
        return entries, prefix
    entries = listable(find_files(source, VIDEO_SUFFIXES))
    if not entries:
        raise ConfigError(
            f"{source}: no video files in this folder; folders of frames are checked by their list and --template"
        )
    return entries, os.fspath(source)


def _about_list(entries: list[Entry], expect: str | None) -> tuple[list[str], bool]:
    """Notes, and whether the number of lines is the expected one."""
    notes = []
    again = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if again:
        notes.append(f"{len(again)} files are listed more than once, the first is {printable(again[0])}")
    complete = expect is None or len(entries) == PUBLISHED[expect]
    if expect:
        notes.append(f"{len(entries)} lines, the published list of {expect} has {PUBLISHED[expect]}")
    return notes, complete


def _key(path: str) -> str:
    return os.path.abspath(path)


def _stamp(path: str) -> dict:
    """A file's name, size and time of change; a missing file has neither."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return {"path": _key(path), "size": -1, "mtime_ns": -1}
    return {"path": _key(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _asked(check: Check) -> dict:
    """What has to be the same for a result to hold."""
    return _stamp(check.path) | {"frames": check.frames, "template": check.template}


def _known_sound(record: dict | None, check: Check) -> bool:
    # Faulty files are looked at again: what killed a process may have been another process.
    return (
        record is not None
        and not record["cause"]
        and record["full"] >= check.full
        and record.items() >= _asked(check).items()
    )
