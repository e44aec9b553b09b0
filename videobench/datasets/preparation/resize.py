"""A whole list of videos or frame folders made smaller: names, space, what is done already, and a new list."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from videobench.config import ConfigError
from videobench.datasets.preparation.encoding import PRESETS, Encoded, Encoding, Job, encode
from videobench.datasets.preparation.files import (
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
from videobench.datasets.preparation.frame_folders import FrameEncoding, FrameJob, find_frame_folders, shrink, size_of
from videobench.datasets.preparation.jobs import Lost, run_jobs
from videobench.datasets.workers import usable_cores

# So many files, spread over the list, are encoded first to measure the space that all need.
_MEASURED_ON = 16
_MARGIN = 1.05


@dataclass(frozen=True)
class Resized:
    """What became of a list.

    Attributes:
        files: different videos or folders in it.
        failures: (name as listed, cause), in the order of the list.
        bytes_in: size of the originals that were encoded.
        bytes_out: size of what came out.
        written: the files written beside the videos.
    """

    files: int
    failures: list[tuple[str, str]]
    bytes_in: int
    bytes_out: int
    written: list[Path]

    def __str__(self) -> str:
        lines = [f"{printable(name)}: {cause}" for name, cause in self.failures]
        lines.append(
            f"{self.files - len(self.failures)} of {self.files} are done: "
            f"{_size(self.bytes_in)} became {_size(self.bytes_out)}"
        )
        return "\n".join([*lines, *(f"wrote {path}" for path in self.written)])


def resize(
    source: Path,
    out: Path,
    encoding: Encoding | FrameEncoding,
    *,
    prefix: str = "",
    separator: str = " ",
    workers: int | None = None,
    patience: float = 300.0,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> Resized:
    """Make every video or frame folder of a list, or below a folder, smaller, into ``out``.

    Frames, their number and their time stamps stay what they are (see `encode` and `shrink`); sound is left out. Names
    stay the same but for the suffix of videos, .mp4. What an earlier run has finished with the same settings is not
    done again. Afterwards ``out`` holds a list of the same name without the failed ones, and NAME.failed.txt (``name
    TAB cause``).

    Args:
        source: a list (``path label`` lines, or paths only; ``folder frames label`` for frame folders), or a folder.
        out: where the videos and the list go; not where the originals lie.
        encoding: how to encode videos, or, a `FrameEncoding`, that frame folders are meant.
        prefix: folder put in front of every path of a list.
        separator: between path and label.
        workers: processes, each with one encoder thread; None means one per core.
        patience: seconds without progress after which a file counts as hanging.
        say: called with lines about the space needed.
        progress: called with (files done, files in all).

    Raises:
        ConfigError: before anything is encoded, for a list that cannot be read, targets that would be originals or each
            other, and another run at work on it; after the first files, when the rest does not fit on the disk.
    """
    frames = isinstance(encoding, FrameEncoding)
    if encoding.short_side < 2 or (encoding.quality if frames else encoding.gop) < 1:
        raise ConfigError("--short-side is at least 2, --gop and --quality at least 1")
    if not frames and (encoding.preset not in PRESETS or not 0 <= encoding.crf <= 51):
        raise ConfigError(f"--crf is from 0 to 51, --preset one of {', '.join(PRESETS)}")
    entries, prefix = _entries(source, prefix, separator, frames)
    targets = _targets(entries, out, "" if frames else ".mp4")
    names = list(targets)
    places = [(os.path.join(prefix, name), os.fspath(out / targets[name]), encoding) for name in names]
    if frames:
        counts = {entry.name: int(entry.rest.split(separator)[-2]) for entry in entries if entry.rest}
        work, jobs = shrink, [FrameJob(*place, counts.get(name, 0)) for place, name in zip(places, names, strict=True)]
    else:
        work, jobs = encode, [Job(*place) for place in places]
    _check_apart(jobs)
    list_name = f"{source.resolve().name}.txt" if source.is_dir() else source.name
    if os.path.realpath(out / list_name) == os.path.realpath(source):
        raise ConfigError(f"{source} would be replaced by the new list; choose another folder with --out")
    spread = sorted({i * len(jobs) // _MEASURED_ON for i in range(_MEASURED_ON)} if len(jobs) > _MEASURED_ON else ())
    rest = sorted(set(range(len(jobs))).difference(spread))
    results: dict[int, Encoded] = {}
    # Two runs would write the same unfinished files.
    with closing(Journal(out / f".{list_name}.lock")):
        for part in (spread, rest):
            if part is rest:
                _check_space([results[i] for i in spread], [jobs[i] for i in rest], out, say)
            todo = [jobs[i] for i in part]
            for number, result in run_jobs(work, todo, workers=workers or usable_cores(), patience=patience):
                result = Encoded(cause=result.cause) if isinstance(result, Lost) else result
                if result.fatal:
                    raise ConfigError(f"{result.cause}; what is done stays, and the same command goes on from there")
                results[part[number]] = result
                if progress:
                    progress(len(results), len(jobs))
    failures = [(names[i], results[i].cause) for i in range(len(jobs)) if results[i].cause]
    failed = {name for name, _ in failures}
    written = [
        write_lines(out / list_name, [targets[e.name] + e.rest for e in entries if e.name not in failed]),
        write_lines(out / f"{Path(list_name).stem}.failed.txt", [told(name, cause) for name, cause in failures]),
    ]
    done = results.values()
    return Resized(len(jobs), failures, sum(r.bytes_in for r in done), sum(r.bytes_out for r in done), written)


def _entries(source: Path, prefix: str, separator: str, frames: bool) -> tuple[list[Entry], str]:
    if source.is_dir():
        names = find_frame_folders(source) if frames else list(find_files(source, VIDEO_SUFFIXES))
        if not names:
            raise ConfigError(
                f"{source}: no folders of pictures in this folder; videos are encoded without --frames"
                if frames
                else f"{source}: no video files in this folder; folders of frames are made smaller with --frames"
            )
        return listable(names), os.fspath(source)
    entries = read_entries(source, separator, fields=2 if frames else 1)
    if frames and not entries[0].rest:
        raise ConfigError(f"{source}: lines of a list of frame folders are 'folder{separator}frames{separator}label'")
    if not frames:
        check_files_listed(source, entries, prefix, "--frames")
    return entries, prefix


def _targets(entries: list[Entry], out: Path, suffix: str) -> dict[str, str]:
    """The new name of every listed one, relative to ``out``; with ``suffix``, if any, in the place of its own."""
    names = list(dict.fromkeys(entry.name for entry in entries))
    absolute = [name for name in names if os.path.isabs(name)]
    root = os.path.commonpath([os.path.dirname(name) for name in absolute]) if absolute else ""
    targets: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        inner = os.path.normpath(os.path.relpath(name, root) if os.path.isabs(name) else name)
        if inner.startswith(".."):
            raise ConfigError(f"{printable(name)}: leads out of its folder, so there is no place for it in {out}")
        target = os.path.splitext(inner)[0] + suffix if suffix else inner
        if target in taken:
            raise ConfigError(f"{printable(name)} and {printable(taken[target])} would both become {target}")
        targets[name], taken[target] = target, name
    for target, name in taken.items():
        if above := next((str(place) for place in Path(target).parents if str(place) in taken), None):
            raise ConfigError(f"{printable(name)} lies in {printable(taken[above])}; frames want a folder per video")
    return targets


def _check_apart(jobs: Sequence[Job | FrameJob]) -> None:
    originals = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in originals:
            raise ConfigError(f"{printable(job.target)} is an original; choose another folder with --out")


def _check_space(
    measured: list[Encoded], rest: Sequence[Job | FrameJob], out: Path, say: Callable[[str], None]
) -> None:
    """Say how much space the rest needs, and stop when there is less."""
    done = [result for result in measured if not result.cause]
    sizes = list(_sizes(job.source for job in rest if not os.path.exists(job.target)))
    free = shutil.disk_usage(out).free
    if not done:
        need, how = sum(sizes), "if they stay as large as they are"
    else:
        need = round(sum(sizes) * sum(r.bytes_out for r in done) / sum(r.bytes_in for r in done))
        how = f"measured on {len(done)} of them"
    what = "folders to make smaller" if isinstance(rest[0], FrameJob) else "files to encode"
    say(f"{len(sizes)} {what} need about {_size(need)} ({how}); {_size(free)} are free in {out}")
    if need * _MARGIN > free:
        raise ConfigError(f"{out}: not enough space; free some, or make them smaller (--short-side, --crf, --quality)")


def _sizes(paths: Iterator[str]) -> Iterator[int]:
    for path in paths:
        try:
            yield size_of(path)
        except (OSError, ValueError):
            pass  # the work names the cause


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
