"""Where to cut a clip (pure arithmetic on boxes), and the cut: crop and resize in one pass, on uint8.

A box is (y0, x0, height, width) in the ORIGINAL frame, so that "resize, then crop" needs no resize of the whole frame.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Box(NamedTuple):
    """A rectangle in a frame; may have fractions of pixels."""

    y0: float
    x0: float
    height: float
    width: float


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after the short side became ``short_side``; the long side is rounded down."""
    if min(height, width) == short_side:
        return height, width
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def window(height: int, width: int, crop: int, position: int) -> Box:
    """One of three square windows along the long side: 0 left (top of an upright frame), 1 centre, 2 right (bottom)."""
    if position not in (0, 1, 2):
        raise ValueError(f"crop position {position} is not 0, 1 or 2")
    if crop > min(height, width):
        raise ValueError(f"a crop of {crop} does not fit into {height} x {width}")
    y0, x0 = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
    if position != 1:
        if height > width:
            y0 = 0 if position == 0 else height - crop
        else:
            x0 = 0 if position == 0 else width - crop
    return Box(y0, x0, crop, crop)


def in_original(box: Box, resized: tuple[int, int], original: tuple[int, int]) -> Box:
    """A box of the resized frame in pixels of the original one."""
    scale_y, scale_x = original[0] / resized[0], original[1] / resized[1]
    return Box(box.y0 * scale_y, box.x0 * scale_x, box.height * scale_y, box.width * scale_x)


def test_boxes(height: int, width: int, short_side: int, crop: int, crops: int, *, single: str = "centre") -> list[Box]:
    """The test crops of a frame: resize the short side, cut 1 or 3 windows along the long side.

    Args:
        height: of the frame.
        width: of the frame.
        short_side: what the short side is resized to first.
        crop: side of the square windows.
        crops: 1 or 3.
        single: where one crop lies: ``centre``, or ``left`` (left or top), which the published Something-Something
            loaders take.
    """
    if crops not in (1, 3):
        raise ValueError(f"{crops} spatial crops: 1 and 3 are possible")
    resized = resized_size(height, width, short_side)
    positions = range(3) if crops == 3 else [{"left": 0, "centre": 1}[single]]
    return [in_original(window(*resized, crop, position), resized, (height, width)) for position in positions]


def random_resized_box(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A box of random area (share of the frame) and aspect ratio (width / height), anywhere in the frame.

    Ten tries; when none fits, the largest centre crop within the range of aspect ratios (Inception-style crop).
    """
    for _ in range(10):
        pixels = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            y0 = int(rng.integers(0, height - h, endpoint=True))
            return Box(y0, int(rng.integers(0, width - w, endpoint=True)), h, w)
    w, h = width, height
    if width / height < aspect[0]:
        h = min(round(width / aspect[0]), height)
    elif width / height > aspect[1]:
        w = min(round(height * aspect[1]), width)
    return Box((height - h) // 2, (width - w) // 2, h, w)


def random_short_side_box(
    height: int,
    width: int,
    scales: tuple[int, int],
    crop: int,
    rng: np.random.Generator,
    *,
    inverse: bool = False,
) -> Box:
    """Short side resized to a random size, then a ``crop`` x ``crop`` window anywhere.

    The published code never takes the last position of a window; here every position is equally likely.

    Args:
        height: of the frame.
        width: of the frame.
        scales: smallest and largest short side.
        crop: side of the window.
        rng: where the numbers come from.
        inverse: uniform in 1 / size instead of in size.
    """
    low, high = scales
    size = round(1 / rng.uniform(1 / high, 1 / low)) if inverse else round(rng.uniform(low, high))
    resized = resized_size(height, width, size)
    if crop > min(resized):
        raise ValueError(f"a crop of {crop} does not fit into {resized[0]} x {resized[1]}")
    y0 = int(rng.integers(0, resized[0] - crop, endpoint=True))
    x0 = int(rng.integers(0, resized[1] - crop, endpoint=True))
    return in_original(Box(y0, x0, crop, crop), resized, (height, width))


def crop_resize(
    frames: Tensor, box: Box, size: int | tuple[int, int], *, flip: bool = False, antialias: bool = True
) -> Tensor:
    """Cut a box out of every frame and resize it: [T, H, W, 3] -> [T, 3, size, size], same type.

    Args:
        frames: uint8 (or float) frames.
        box: in pixels of these frames; its edges are rounded to whole pixels.
        size: side of the result, or (height, width).
        flip: mirror left and right.
        antialias: average over all pixels that fall into one; off is the published form.
    """
    y0, x0 = round(box[0]), round(box[1])
    y1, x1 = round(box[0] + box[2]), round(box[1] + box[3])
    cut = frames[:, y0:y1, x0:x1].permute(0, 3, 1, 2)
    size = (size, size) if isinstance(size, int) else size
    if cut.shape[2:] != torch.Size(size):
        cut = F.interpolate(cut, size, mode="bilinear", align_corners=False, antialias=antialias)
    return cut.flip(-1) if flip else cut
