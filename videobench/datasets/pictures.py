"""Decoded frames to rows of upright RGB pictures."""

from collections.abc import Callable

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

#: Frames handed over at a time by `decoding.Video.decode_parts`, and what takes them.
PART = 16
Take = Callable[[list[int], Tensor], None]


class Damage(Exception):
    """What is wrong with a file from here on."""


class Pictures:
    """Rows of RGB pictures [T, H, W, 3], filled one by one, or handed over a part at a time.

    Args:
        count: number of rows.
        reformatter: what converts frames.
        take: who takes the rows a part at a time; None keeps all of them.

    Attributes:
        pixels: uint8 [T, H, W, 3].
        geometry: width, height and degrees clockwise of what was put last.
    """

    def __init__(self, count: int, reformatter: VideoReformatter, take: Take | None) -> None:
        self._count, self._reformatter, self._take = count, reformatter, take
        self._waiting: list[int] = []
        self._filled: set[int] = set()
        self.pixels: np.ndarray | None = None
        self.geometry: tuple[int, int, int] | None = None

    @property
    def complete(self) -> bool:
        """Whether every row was filled."""
        return len(self._filled) == self._count

    def put(self, row: int, frame: av.VideoFrame) -> None:
        """Convert a frame into a row, upright.

        Raises:
            Damage: for a frame of another size than those before it.
        """
        # By default the conversion starts a thread on every core of the host.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane, shape = rgb.planes[0], (rgb.height, rgb.width, 3)
        picture, turn = upright(np.ndarray(shape, np.uint8, plane, strides=(plane.line_size, 3, 1)), frame)
        height, width = picture.shape[:2]
        if self.pixels is None:
            rows = self._count if self._take is None else min(PART, self._count)
            self.pixels = np.empty((rows, height, width, 3), np.uint8)
            self.geometry = width, height, turn
        elif self.pixels.shape[1:] != picture.shape:
            before = f"{self.pixels.shape[2]} x {self.pixels.shape[1]}"
            raise Damage(f"the size of the frames changes from {before} to {width} x {height}")
        self._filled.add(row)
        if self._take is None:
            self.pixels[row] = picture
            return
        self.pixels[len(self._waiting)] = picture
        self._waiting.append(row)
        if len(self._waiting) == len(self.pixels) or self.complete:
            self._take(self._waiting, torch.from_numpy(self.pixels[: len(self._waiting)]))
            self._waiting = []


def upright(picture: np.ndarray, frame: av.VideoFrame) -> tuple[np.ndarray, int]:
    """The picture [H, W, 3] turned by quarter turns, and mirrored, as its display matrix says; degrees clockwise."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture, 0
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    upended = min(abs(b), abs(c)) > max(abs(a), abs(d))
    right, down = (c, b) if upended else (a, d)
    if upended:
        picture = picture.swapaxes(0, 1)
    turn = (90 if upended else 0) + (180 if down < 0 else 0)
    return picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1], turn
