"""Videos kept as one picture file per frame, and single pictures, with the face of `decoding.Video`.

Pictures are read with Pillow: it decodes JPEG with libjpeg-turbo and that library's default settings, as OpenCV and
Pillow do in the published code, so the pixels are the same. FFmpeg's decoder (PyAV) gives other ones and takes longer,
and torchvision's knows fewer kinds of files. Draft mode, which decodes at a fraction of the size, changes the pixels.
An orientation tag is not heeded, as in the published image training.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from videobench.datasets.containers import VideoError, cause_of
from videobench.datasets.decoding import Video
from videobench.datasets.packets import counted_index
from videobench.datasets.pictures import PART, Take
from videobench.datasets.records import Frames, VideoList

if TYPE_CHECKING:
    from PIL import Image

# What Pillow may take a file for. Left out are kinds that it starts other programs for (EPS).
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


@contextmanager
def open_picture(path: str) -> Iterator["Image.Image"]:
    """A picture file, opened with Pillow.

    Raises:
        VideoError: here and while its pixels are read, for whatever is wrong with it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_FORMATS) as picture:
            yield picture
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except UnidentifiedImageError as error:
        raise VideoError(path, "not a picture, or its header is missing") from error
    # Pillow reports broken pictures as one of several kinds of exceptions.
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(path, cause_of(error)) from error


class PictureFiles:
    """Frames that are picture files.

    Args:
        path: what to call them together; part of every message.
        file: path of frame i, counted from 0.
        frames: number of frames.
        fps: frames per second, None where nothing tells.
    """

    def __init__(self, path: str, file: Callable[[int], str], frames: int, fps: Fraction | None = None) -> None:
        self.path, self.fps = path, fps
        self.index = counted_index(frames, (), "")
        self._file = file

    def __enter__(self) -> "PictureFiles":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between two pictures."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.index.frames

    def decode(self, indices: Sequence[int]) -> Tensor:
        """The frames with the given numbers, as uint8 RGB [T, H, W, 3]; each file is read once.

        Raises:
            VideoError: for a frame outside, a missing or broken file, and frames of different sizes; names the file.
        """
        wanted = sorted(set(indices))
        if not 0 <= wanted[0] <= wanted[-1] < self.frames:
            raise VideoError(self.path, f"frames {wanted[0]} to {wanted[-1]} asked for, there are {self.frames}")
        pictures = [self._read(i) for i in wanted]
        for i, picture in zip(wanted, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                (height, width, _), first = picture.shape, pictures[0].shape
                raise VideoError(
                    self.path,
                    f"{self._name(i)} is {width} x {height}, but {self._name(wanted[0])} is {first[1]} x {first[0]}",
                )
        place = {frame: row for row, frame in enumerate(wanted)}
        return torch.from_numpy(np.stack([pictures[place[i]] for i in indices]))

    def decode_parts(self, indices: Sequence[int], take: Take) -> None:
        """See `decoding.Video.decode_parts`."""
        first = None
        for start in range(0, len(indices), PART):
            rows = list(range(start, min(start + PART, len(indices))))
            frames = self.decode([indices[row] for row in rows])
            first = frames.shape[1:] if first is None else first
            if frames.shape[1:] != first:
                raise VideoError(
                    self.path,
                    f"{self._name(indices[start])} is {frames.shape[2]} x {frames.shape[1]}, but "
                    f"{self._name(indices[0])} is {first[1]} x {first[0]}",
                )
            take(rows, frames)

    def _read(self, index: int) -> np.ndarray:
        file = self._file(index)
        try:
            with open_picture(file) as picture:
                return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
        except VideoError as error:
            # A single picture has been named already.
            alone = not isinstance(file, str) or file == self.path
            raise VideoError(self.path, error.cause if alone else f"{self._name(index)}: {error.cause}") from error

    def _name(self, index: int) -> str:
        return os.path.relpath(self._file(index), self.path)


class VideoSegment:
    """Part of a video file from one time to another; its frames are counted from 0.

    Args:
        video: the open file; it is closed with the segment.
        start: seconds.
        stop: seconds.
        earlier: frames that the segment is moved towards the beginning by.
    """

    def __init__(self, video: Video, start: float, stop: float, earlier: int = 0) -> None:
        self.path = video.path
        self._video = video
        try:
            self.fps = self._video.fps
            self._first = round(start * self.fps)
            self._earlier = earlier
            frames = min(round(stop * self.fps), self._video.frames) - self._first
            if frames < 1:
                seconds = float(self._video.frames / self.fps)
                raise VideoError(self.path, f"the segment of {start:g} to {stop:g} s is not in its {seconds:.2f} s")
            self.index = counted_index(frames, (), self._video.index.damage)
        except VideoError:
            self._video.close()
            raise

    def __enter__(self) -> "VideoSegment":
        return self

    def __exit__(self, *_: object) -> None:
        self._video.close()

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.index.frames

    def decode(self, indices: Sequence[int]) -> Tensor:
        """See `decoding.Video.decode`."""
        return self._video.decode([self._number(i) for i in indices])

    def decode_parts(self, indices: Sequence[int], take: Take) -> None:
        """See `decoding.Video.decode_parts`."""
        # Before the file's first frame there is that frame.
        rows: dict[int, list[int]] = {}
        for row, i in enumerate(indices):
            rows.setdefault(self._number(i), []).append(row)
        groups = list(rows.values())

        def spread(found: list[int], frames: Tensor) -> None:
            copies = [(row, place) for place, group in enumerate(found) for row in groups[group]]
            take([row for row, _ in copies], frames[[place for _, place in copies]])

        self._video.decode_parts(list(rows), spread)

    def _number(self, index: int) -> int:
        return max(self._first - self._earlier + index, 0)


@dataclass(frozen=True)
class FrameFolders(VideoList):
    """Folders with one picture per frame, numbered from 1.

    Attributes:
        template: file name of a frame with a place for its number, as ``{:05d}.jpg``.
        counts: frames of each video, int32 [videos].
    """

    template: str = ""
    counts: np.ndarray | None = None

    def open(self, index: int) -> Frames:
        """The frames of a video; files are looked for when they are needed."""
        folder = self.path(index)
        return PictureFiles(folder, partial(_numbered, folder, self.template), int(self.counts[index]))


@dataclass(frozen=True)
class Pictures(VideoList):
    """Single pictures: videos of one frame."""

    pictures: ClassVar[bool] = True

    def open(self, index: int) -> Frames:
        """The picture; its file is looked for when it is needed."""
        path = self.path(index)
        return PictureFiles(path, lambda _: path, 1)


def _numbered(folder: str, template: str, index: int) -> str:
    return os.path.join(folder, template.format(index + 1))
