"""One folder of pictures, as the frames of a video, made smaller for training."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from videobench.datasets.containers import VideoError, cause_of
from videobench.datasets.picture_files import open_picture
from videobench.datasets.preparation.encoding import FULL, Encoded
from videobench.datasets.preparation.files import is_picture, printable, put_in_place, walk

# Says which folder and which settings the pictures beside it come from.
_STAMP = ".videobench.json"


@dataclass(frozen=True)
class FrameEncoding:
    """How to make pictures smaller.

    Attributes:
        short_side: of the pictures, in pixels; smaller ones are copied as they are.
        quality: of JPEG and WebP, as Pillow counts it.
    """

    short_side: int = 256
    quality: int = 90


class FrameJob(NamedTuple):
    """A folder to work on.

    Attributes:
        source: the folder.
        target: the new one.
        encoding: see `FrameEncoding`.
        frames: how many pictures there have to be at least.
    """

    source: str
    target: str
    encoding: FrameEncoding
    frames: int = 0


def shrink(job: FrameJob, beat: Callable[[], None]) -> Encoded:
    """Make the pictures of a folder smaller, in a new folder with the same names that is there whole or not at all.

    Only pictures are taken, not what else is in the folder, nor folders in it.
    """
    target = Path(job.target)
    part = target.with_name(f".{target.name}.part")
    if not os.path.isdir(job.source):
        return Encoded("no such folder")
    try:
        pictures = _pictures(job.source)
        stats = [entry.stat() for entry in pictures]
    except OSError as error:
        return Encoded(cause_of(error))
    if len(pictures) < max(job.frames, 1):
        return Encoded(
            f"{len(pictures)} pictures, and {job.frames} listed" if pictures else "no pictures in this folder"
        )
    size = sum(stat.st_size for stat in stats)
    latest = max(stat.st_mtime_ns for stat in stats)
    description = {"videobench": asdict(job.encoding), "pictures": len(pictures), "size": size, "mtime_ns": latest}
    try:
        if target.exists():
            if _stamp(target) != description:
                return Encoded("its target exists already and is not of this folder and these settings")
            return Encoded(bytes_in=size, bytes_out=size_of(target))
        _remove(part)
        part.mkdir(parents=True)
        for entry in pictures:
            _shrink_picture(Path(entry.path), part / entry.name, job.encoding)
            beat()
        (part / _STAMP).write_text(json.dumps(description))
        put_in_place(part, target)
        return Encoded(bytes_in=size, bytes_out=size_of(target))
    except VideoError as error:
        return Encoded(f"{printable(os.path.basename(error.path))}: {error.cause}")
    except OSError as error:
        return Encoded(f"cannot write {printable(job.target)}: {cause_of(error)}", fatal=error.errno in FULL)
    finally:
        with contextlib.suppress(OSError):
            _remove(part)


def find_frame_folders(root: Path) -> list[str]:
    """Folders below ``root``, relative to it, that have pictures in them; hidden ones do not count."""
    return sorted(os.path.relpath(place, root) for place, names in walk(root) if any(map(is_picture, names)))


def size_of(path: str | Path) -> int:
    """Bytes of a file, or of the pictures in a folder."""
    return sum(entry.stat().st_size for entry in _pictures(path)) if os.path.isdir(path) else os.stat(path).st_size


def _pictures(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if is_picture(entry.name)]
    return sorted(found, key=lambda entry: entry.name)


def _shrink_picture(source: Path, target: Path, encoding: FrameEncoding) -> None:
    from PIL import Image

    with open_picture(str(source)) as picture:
        picture.load()
    scale = encoding.short_side / min(picture.size)
    if scale >= 1:
        shutil.copyfile(source, target)
        return
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    small = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    small.save(target, quality=encoding.quality)


def _stamp(folder: Path) -> dict | None:
    try:
        return json.loads((folder / _STAMP).read_bytes())
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
