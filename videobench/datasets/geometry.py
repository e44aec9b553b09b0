"""Affine maps of whole clips, equal to Pillow's up to one grey level.

Every frame and channel of a clip is sampled at the same places, so a map is one table of weighted source pixels for the
frame, applied to all frames and channels at once.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import ceil, cos, floor, radians, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# a, b, c, d, e, f: output pixel (x, y) shows the source at (a x + b y + c, d x + e y + f), from the top left corner.
Matrix = tuple[float, float, float, float, float, float]
INTERPOLATIONS = ("bilinear", "bicubic")
# Pixels beyond the edge that the taps of a source within the frame reach.
_EDGE = 2
# Keeps float32's rounding from losing a level where Pillow's double precision has a whole number.
_SAFE = 1 + 4e-6
# Where the taps of a kernel lie, from the source pixel to the left.
_OFFSETS = {"whole": (0,), "bilinear": (0, 1), "bicubic": (-1, 0, 1, 2)}
# Pixels that are worked on at a time on a CPU: no multiple of 1024, at which rows of a matrix drive each other out.
_PIECE = 7168 + 48


def rotation(degrees: float, width: int, height: int) -> Matrix:
    """Counter-clockwise rotation around the centre of the frame."""
    # Rounded as in Pillow: the last bits decide whether a source on the edge is outside.
    angle = -radians(degrees % 360)
    c, s, x, y = round(cos(angle), 15), round(sin(angle), 15), width / 2, height / 2
    return c, s, c * -x + s * -y + x, -s, c, -s * -x + c * -y + y


def affine(clip: Tensor, matrix: Matrix, interpolation: str, fill: Sequence[int]) -> Tensor:
    """A uint8 clip [T, C, H, W] with every frame mapped by ``matrix``.

    Pixels whose source lies outside of the frame take the colour ``fill``; neighbours beyond the edge repeat it. The
    kernels are Pillow's (cubic with a = -1), and so is cutting off, not rounding, of the result.

    Args:
        matrix: from output to source coordinates, in pixels; pixel centres lie at halves.
        interpolation: bilinear or bicubic.
        fill: one value per channel.
    """
    frames, channels, height, width = clip.shape
    planes, pixels, device = frames * channels, height * width, clip.device
    table, stride, background = _table(clip, fill)
    index, weight = _samples(height, width, matrix, interpolation, stride, background, device)
    mapped = torch.empty(planes, pixels, dtype=torch.uint8, device=device)
    # On a CPU in pieces that stay in its cache.
    piece = _PIECE if device.type == "cpu" else pixels
    for start in range(0, pixels, piece):
        part = slice(start, start + piece)
        values = F.embedding_bag(index[part], table, per_sample_weights=weight[part], mode="sum")
        mapped[:, part] = to_uint8(values).t()
    return mapped.view(frames, channels, height, width)


def translate(clip: Tensor, pixels: float, axis: int, interpolation: str, fill: Sequence[int]) -> Tensor:
    """As :func:`affine` for a shift along one axis of the clip (2: upwards, 3: to the left), in a third of the time."""
    size = clip.shape[axis]
    # Pixel i shows i + pixels; those from first to last have a source within the frame.
    first, last = max(0, ceil(-pixels - 0.5)), min(size, ceil(size - pixels - 0.5))
    colour = torch.tensor(fill, dtype=torch.uint8).to(clip.device, non_blocking=True)
    moved = colour.view(1, -1, 1, 1).expand_as(clip).contiguous()
    if first >= last:
        return moved
    whole = floor(pixels)
    d = pixels - whole
    weights, offset = ([1 - d, d], 0) if interpolation == "bilinear" else (_cubic(d), -1)
    padding = [_EDGE, _EDGE, 0, 0] if axis == 3 else [0, 0, _EDGE, _EDGE]
    source = F.pad(clip.float(), padding, mode="replicate")
    total = None
    for i, weight in enumerate(weights):
        tap = source.narrow(axis, first + whole + offset + i + _EDGE, last - first)
        total = tap * (weight * _SAFE) if total is None else total.add_(tap, alpha=weight * _SAFE)
    moved.narrow(axis, first, last - first).copy_(to_uint8(total))
    return moved


def shear(clip: Tensor, value: float, axis: int, interpolation: str, fill: Sequence[int]) -> Tensor:
    """As :func:`affine` for moving every row (axis 3) or column (axis 2) by ``value`` times its place."""
    if clip.device.type != "cpu":
        matrix = (1, value, 0, 0, 1, 0) if axis == 3 else (1, 0, 0, value, 1, 0)
        return affine(clip, matrix, interpolation, fill)
    if axis == 2:
        turned = clip.transpose(2, 3).contiguous()
        return shear(turned, value, 3, interpolation, fill).transpose(2, 3).contiguous()
    frames, channels, height, width = clip.shape
    shift = (torch.arange(height, dtype=torch.float64) + 0.5) * value
    source = (torch.arange(width, dtype=torch.float64) + 0.5) + shift[:, None]
    whole = shift.floor()
    weights = _weights((shift - whole).float()[:, None].expand(height, width), interpolation)
    first, last = (source < 0).sum(1).tolist(), (source < width).sum(1).tolist()
    # Rows move by whole pixels, so many at a time as move alike; then every row is mixed with its neighbours.
    # NumPy, because PyTorch takes longer to begin than to copy a few rows.
    padded = np.pad(clip.numpy(), ((0, 0), (0, 0), (0, 0), (_EDGE, _EDGE)), "edge")
    reach = 2 * _EDGE - 1
    moved = np.empty((frames, channels, height, width + reach), np.uint8)
    for pixels, top, bottom in _runs(whole.int().tolist()):
        begin, end = min(first[top:bottom]), max(last[top:bottom])
        if begin < end:
            source = padded[:, :, top:bottom, begin + pixels + 1 : end + pixels + 1 + reach]
            moved[:, :, top:bottom, begin : end + reach] = source
    sheared = torch.empty(clip.shape, dtype=torch.uint8)
    weights = [weight * _SAFE for weight in weights]
    for piece, place in zip(torch.from_numpy(moved), sheared, strict=True):
        piece, total = piece.float(), None
        for offset, weight in zip(_OFFSETS[interpolation], weights, strict=True):
            tap = piece[..., offset + 1 : offset + 1 + width]
            total = tap * weight if total is None else total.addcmul_(tap, weight)
        place.copy_(to_uint8(total))
    colour, picture = np.array(fill, np.uint8)[:, None, None], sheared.numpy()
    for (begin, end), top, bottom in _runs(list(zip(first, last, strict=True))):
        picture[:, :, top:bottom, :begin] = colour
        picture[:, :, top:bottom, end:] = colour
    return sheared


def _runs(values: list) -> Iterator[tuple]:
    """Every value that is not the one before, and the first and last + 1 of its places in a row."""
    begin = 0
    for value, run in groupby(values):
        end = begin + len(list(run))
        yield value, begin, end
        begin = end


def _table(clip: Tensor, fill: Sequence[int]) -> tuple[Tensor, int, int]:
    """All planes of a pixel as one row, float32: the frame with its edge repeated, then rows of the fill colour.

    Returns the table, the rows between a pixel and the one below it, and the number of the first row of fill.
    """
    frames, channels, height, width = clip.shape
    rows, stride, planes = height + 2 * _EDGE, width + 2 * _EDGE, frames * channels
    picture = torch.empty(planes, rows, stride, dtype=torch.uint8, device=clip.device)
    picture[:, _EDGE:-_EDGE, _EDGE:-_EDGE] = clip.reshape(planes, height, width)
    picture[:, :, :_EDGE], picture[:, :, -_EDGE:] = picture[:, :, _EDGE, None], picture[:, :, -_EDGE - 1, None]
    picture[:, :_EDGE], picture[:, -_EDGE:] = picture[:, _EDGE, None], picture[:, -_EDGE - 1, None]
    picture = picture.view(planes, rows * stride)
    # As much fill as the taps of one pixel span.
    table = torch.empty((rows + 2 * _EDGE) * stride, planes, device=clip.device)
    piece = _PIECE if clip.device.type == "cpu" else rows * stride
    for start in range(0, rows * stride, piece):
        part = slice(start, min(start + piece, rows * stride))
        # First turned, then made floating point: several times faster than both at once.
        table[part] = picture[:, part].t().contiguous()
    table[rows * stride :] = torch.tensor(fill, dtype=torch.float32).repeat(frames).to(clip.device, non_blocking=True)
    return table, stride, rows * stride


def _samples(
    height: int, width: int, matrix: Matrix, interpolation: str, stride: int, background: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The rows of the table that every output pixel is made of and their weights, both [H * W, taps]."""
    a, b, c, d, e, f = matrix
    # In float64, as in Pillow: which pixels lie outside hangs on the last bits.
    x = torch.arange(width, dtype=torch.float64, device=device).add_(0.5)
    y = torch.arange(height, dtype=torch.float64, device=device).add_(0.5)[:, None]
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
    first_x, weights_x, offsets_x = _taps(source_x, "whole" if matrix[:3] == (1, 0, 0) else interpolation)
    first_y, weights_y, offsets_y = _taps(source_y, "whole" if matrix[3:] == (0, 1, 0) else interpolation)
    first = (first_y + _EDGE).mul_(stride).add_(first_x + _EDGE).masked_fill_(outside, background + stride + 1)
    offsets = [i * stride + j for i in offsets_y for j in offsets_x]
    index = first.to(torch.int32).view(-1, 1) + torch.tensor(offsets, dtype=torch.int32).to(device, non_blocking=True)
    weight = (weights_y[:, None] * weights_x.mul_(_SAFE)).flatten(0, 1)
    return index, weight.flatten(1).t().contiguous()


def to_uint8(values: Tensor) -> Tensor:
    """Float values, less than 2^15 from zero, cut to [0, 255] and to whole numbers."""
    # By way of int16, which is several times faster on CPUs than the direct conversion.
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)


def _taps(source: Tensor, interpolation: str) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Along one axis: the source pixel [H, W] to the left, the weights float32 [taps, H, W] and places of its taps."""
    first = (source - 0.5).floor_()
    d = (source - 0.5).sub_(first).float()
    return first, torch.stack(_weights(d, interpolation)), _OFFSETS[interpolation]


def _weights(d: Tensor, interpolation: str) -> list[Tensor]:
    """Weights of the taps (`_OFFSETS`) around a place that lies ``d`` to the right of the first pixel."""
    if interpolation == "whole":
        return [torch.ones_like(d)]
    return [1 - d, d] if interpolation == "bilinear" else _cubic(d)


def _cubic(d: Tensor | float) -> list:
    """Weights of the four pixels around a place that lies ``d`` to the right of the second."""
    return [d * (d * (2 - d) - 1), d * d * (d - 2) + 1, d * (d * (1 - d) + 1), d * d * (d - 1)]
