"""Where to cut a clip (pure arithmetic on boxes), and the cut itself, on uint8 frames.

A box is (y0, x0, height, width) in pixels of the ORIGINAL frame, so that "resize, then crop" is one pass over the part
that is needed. `test_crops` resizes whole frames instead, once for all crops of a clip, and is exact.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Box(NamedTuple):
    """A rectangle in a frame; may begin and end within pixels."""

    y0: float
    x0: float
    height: float
    width: float

    def whole(self) -> "Box":
        """With the edges rounded to whole pixels, as `crop_resize` cuts it; never to nothing."""
        (y0, height), (x0, width) = _whole(self.y0, self.height), _whole(self.x0, self.width)
        return Box(y0, x0, height, width)


def _whole(start: float, length: float) -> tuple[int, int]:
    first, last = round(start), round(start + length)
    # In a frame one pixel wide a box is narrower than that.
    return (math.floor(start), 1) if first == last and length > 0 else (first, last - first)


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after the short side became ``short_side``; the long side is rounded down, as published."""
    if min(height, width) == short_side:
        return height, width
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def window(height: int, width: int, crop: int, position: int) -> Box:
    """One of three square windows along the long side: 0 left (top of a tall frame), 1 centre, 2 right (bottom)."""
    if position not in (0, 1, 2):
        raise ValueError(f"crop position {position} is not 0, 1 or 2")
    _check_fits(crop, (height, width))
    y0, x0 = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
    if position != 1 and height > width:
        y0 = 0 if position == 0 else height - crop
    elif position != 1:
        x0 = 0 if position == 0 else width - crop
    return Box(y0, x0, crop, crop)


def test_windows(
    height: int,
    width: int,
    short_side: int,
    crop: int,
    crops: int,
    single: str = "centre",  # noqa: PT028 (not a test)
) -> tuple[tuple[int, int], list[Box]]:
    """The size that test frames are resized to, and the windows cut out of that.

    Args:
        height: of the frame.
        width: of the frame.
        short_side: what the short side is resized to first.
        crop: side of the square windows.
        crops: 3 along the long side, or 1.
        single: where the one lies: ``centre``, or ``left`` (the top of a tall frame), as the published loaders of
            Something-Something have it.
    """
    if crops not in (1, 3) or single not in ("centre", "left"):
        raise ValueError(f"{crops} crops, {single!r}: possible are 3, or 1 at the centre or left")
    size = resized_size(height, width, short_side)
    positions = (0, 1, 2) if crops == 3 else (1 if single == "centre" else 0,)
    return size, [window(*size, crop, position) for position in positions]


def image_test_window(height: int, width: int, crop: int, ratio: float = 0.875) -> tuple[tuple[int, int], Box]:
    """The size that test images are resized to, and the centre window cut out of that (torchvision's arithmetic).

    The short side becomes ``crop / ratio``, rounded down; offsets are rounded half to even. A ratio of 0 makes the
    whole image ``crop`` x ``crop``, whatever its shape.
    """
    if not ratio:
        return (crop, crop), Box(0, 0, crop, crop)
    short_side, short, long = int(crop / ratio), min(height, width), max(height, width)
    scaled = int(short_side * long / short)
    size = (scaled, short_side) if height > width else (short_side, scaled)
    return size, Box(round((size[0] - crop) / 2), round((size[1] - crop) / 2), crop, crop)


def random_resized_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A whole-pixel box of random size, anywhere in the frame.

    Ten tries; when none fits, the largest centre box within the range of aspect ratios.

    Args:
        height: of the frame.
        width: of the frame.
        area: smallest and largest share of the frame, drawn uniformly.
        aspect: smallest and largest width / height, drawn uniformly in the logarithm.
        rng: where the numbers come from.
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
        h = round(width / aspect[0])
    elif width / height > aspect[1]:
        w = round(height * aspect[1])
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

    The published code never takes the last position in either direction; here all are equally likely.

    Args:
        height: of the frame.
        width: of the frame.
        scales: smallest and largest short side.
        crop: side of the window.
        rng: where the numbers come from.
        inverse: uniform in 1 / size instead of in size.
    """
    low, high = scales
    short_side = round(1 / rng.uniform(1 / high, 1 / low)) if inverse else round(rng.uniform(low, high))
    size = resized_size(height, width, short_side)
    _check_fits(crop, size)
    y0, x0 = (int(rng.integers(0, side - crop, endpoint=True)) for side in size)
    return in_original(Box(y0, x0, crop, crop), size, (height, width))


def crop_resize(
    frames: Tensor,
    box: Box,
    size: int | tuple[int, int],
    *,
    flip: bool = False,
    antialias: bool = True,
    mode: str = "bilinear",
) -> Tensor:
    """Cut a box out of every frame and resize it, in one pass: [T, H, W, 3] -> [T, 3, height, width].

    The edges of the box are rounded to whole pixels of the frame. Against resizing the whole frame and cutting then,
    that shifts the picture by up to half a pixel of the frame, and the pixels at the edges see no neighbours outside
    the box. On real videos that is 1.1 grey levels on average at 340 x 256 and 0.2 at 960 x 540, and up to 60 in
    single pixels on sharp edges. With and without antialias differ by 0.4 and 0.8 on average.

    Args:
        frames: uint8 frames (floating point is possible).
        box: in pixels of these frames.
        size: side of the result, or (height, width).
        flip: mirror left and right.
        antialias: a pixel averages over all that fall into it; off is the published form, which takes two.
        mode: bilinear (videos) or bicubic (images; within a grey level of Pillow's).

    Returns:
        The type of ``frames``, channels last in memory.
    """
    y0, x0, height, width = box.whole()
    y1, x1 = y0 + height, x0 + width
    if y0 < 0 or x0 < 0 or y1 > frames.shape[1] or x1 > frames.shape[2] or y1 <= y0 or x1 <= x0:
        raise ValueError(f"{box} is no part of a frame of {frames.shape[1]} x {frames.shape[2]}")
    size = (size, size) if isinstance(size, int) else size
    cut = _resize(frames[:, y0:y1, x0:x1], size, antialias, mode)
    return cut.flip(-1) if flip else cut


def test_crops(
    frames: Tensor,
    short_side: int,
    crop: int,
    crops: int,
    single: str = "centre",  # noqa: PT028 (not a test)
    antialias: bool = True,  # noqa: PT028 (not a test)
) -> list[Tensor]:
    """The test crops of a clip: [T, H, W, 3] -> 1 or 3 times [T, 3, crop, crop], of whole frames resized once.

    Args:
        frames: uint8 frames.
        short_side: see `test_windows`.
        crop: see `test_windows`.
        crops: see `test_windows`.
        single: see `test_windows`.
        antialias: see `crop_resize`.
    """
    size, windows = test_windows(*frames.shape[1:3], short_side, crop, crops, single)
    resized = _resize(frames, size, antialias)
    return [resized[:, :, y0 : y0 + crop, x0 : x0 + crop] for y0, x0, _, _ in windows]


def _resize(frames: Tensor, size: tuple[int, int], antialias: bool, mode: str = "bilinear") -> Tensor:
    # As channels-last memory, uint8 takes PyTorch's vectorised path without conversion to floating point.
    images = frames.permute(0, 3, 1, 2)
    if images.shape[2:] == torch.Size(size):
        return images
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=antialias)


def in_original(box: Box, size: tuple[int, int], original: tuple[int, int]) -> Box:
    """A box of the resized frame in pixels of the original one."""
    scale_y, scale_x = original[0] / size[0], original[1] / size[1]
    return Box(box.y0 * scale_y, box.x0 * scale_x, box.height * scale_y, box.width * scale_x)


def _check_fits(crop: int, size: Iterable[int]) -> None:
    height, width = size
    if crop > min(height, width):
        raise ValueError(f"a crop of {crop} x {crop} does not fit into {height} x {width}")
