"""Pillow's image operations on whole uint8 clips [T, C, H, W]; statistics are taken frame by frame, as Pillow would.

Results equal Pillow's to one grey level (GaussianBlur: two). ``value`` is the argument that timm gives the operation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from videobench.datasets.geometry import affine, rotation, shear, to_uint8, translate

# Values that are worked on at a time on a CPU.
_PIECE = 2**18 + 2**17


@dataclass(frozen=True)
class Sampling:
    """How geometric operations fill what has no source, per channel, and interpolate: bilinear or bicubic."""

    fill: tuple[int, ...]
    interpolation: str


def grey(clip: Tensor) -> Tensor:
    """ITU-R 601 luma of RGB frames as float [T, 1, H, W], rounded to whole levels (exactly as Pillow's mode L)."""
    red, green, blue = clip.float().unbind(1)
    # Whole multiples of 2^-16 below 2^8 at every step, so exact in float32.
    luma = red.mul(19595 / 65536).add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536)
    return luma.add_(0.5).floor_().unsqueeze(1)


def auto_contrast(clip: Tensor) -> Tensor:
    """Stretch every channel of every frame to the whole range."""
    low, high = clip.amin((2, 3), keepdim=True).float(), clip.amax((2, 3), keepdim=True).float()
    # A channel of one value stays as it is.
    flat = high <= low
    scale = torch.where(flat, 1.0, 255.0 / (high - low))
    return to_uint8(clip.float().sub_(low.masked_fill(flat, 0.0)).mul_(scale).add_(1e-3))


def equalize(clip: Tensor) -> Tensor:
    """Make the histogram of every channel of every frame as even as it can be."""
    planes = clip.flatten(0, 1).flatten(1)
    pixels = planes.shape[1]
    counts = _histograms(planes)
    highest = planes.amax(1, keepdim=True).long()
    step = (pixels - counts.gather(1, highest)) // 255
    below = counts.cumsum(1) - counts
    table = (below + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    table = torch.where(step == 0, torch.arange(256, device=clip.device), table).to(torch.uint8)
    if clip.device.type != "cpu":
        return table.gather(1, planes.long()).view_as(clip)
    equal = [levels.index_select(0, plane.int()) for levels, plane in zip(table, planes, strict=True)]
    return torch.stack(equal).view_as(clip)


def _histograms(planes: Tensor) -> Tensor:
    """How many pixels of every plane have each level: int64 [planes, 256] of uint8 [planes, pixels]."""
    if planes.device.type == "cpu":
        return torch.stack([torch.bincount(plane, minlength=256) for plane in planes])
    # On a GPU bincount waits for its own result, to know how long it is.
    counts = torch.zeros(len(planes), 256, dtype=torch.int64, device=planes.device)
    return counts.scatter_add_(1, planes.long(), counts.new_ones(()).expand(planes.shape))


def solarize(clip: Tensor, threshold: int) -> Tensor:
    """Invert what is at or above a threshold from 0 to 256."""
    if threshold < 1:
        return ~clip
    # 0 below and 1 from the threshold on, whose negative is all ones: in bytes, far faster than a comparison.
    mask = clip.clamp(threshold - 1, min(threshold, 255)).sub_(threshold - 1).neg_()
    return mask.bitwise_xor_(clip)


def solarize_add(clip: Tensor, add: int) -> Tensor:
    """Lighten what is darker than 128 by ``add``, up to 128 levels."""
    # All ones below 128 and 0 from there on.
    return clip.clamp(127, 128).sub_(128).bitwise_and_(add).add_(clip)


def posterize(clip: Tensor, bits: int) -> Tensor:
    """Keep the highest bits."""
    return clip & (0xFF00 >> bits & 0xFF)


def color(clip: Tensor, value: float) -> Tensor:
    """Saturation: 0 is grey, 1 changes nothing."""
    return _blend(grey(clip), clip, value)


def contrast(clip: Tensor, value: float) -> Tensor:
    """Contrast: 0 is the mean grey of each frame, 1 changes nothing."""
    # Rows sum exactly in float32, which is faster than float64 for every pixel.
    mean = grey(clip).sum(3).double().sum(2) / clip[0, 0].numel()
    return _blend(mean.add_(0.5).floor_().float()[..., None, None], clip, value)


def brightness(clip: Tensor, value: float) -> Tensor:
    """Brightness: 0 is black, 1 changes nothing."""
    return to_uint8(clip.float().mul_(value))


def sharpness(clip: Tensor, value: float) -> Tensor:
    """Sharpness: 0 is smoothed with a 3 x 3 kernel (the outermost pixels stay), 1 changes nothing."""
    height, width = clip.shape[2:]
    levels = clip.to(torch.int16, memory_format=torch.contiguous_format)
    total = levels * 13
    if min(height, width) > 2:
        # All rows as one line of pixels; what reaches across an edge is replaced.
        line = levels.view(-1)
        rows = (line[: -2 * width] + line[width:-width]).add_(line[2 * width :])
        inner = total.view(-1)[width + 1 : -width - 1]
        torch.add(rows[:-2], rows[2:], out=inner)
        inner.add_(rows[1:-1]).add_(line[width + 1 : -width - 1], alpha=4)
        total[..., :: height - 1, :] = levels[..., :: height - 1, :] * 13
        total[..., :: width - 1] = levels[..., :: width - 1] * 13
    return _blend(total.float().mul_(1 / 13).round_(), clip, value)


def gaussian_blur(clip: Tensor, sigma: float) -> Tensor:
    """Pillow's Gaussian blur of standard deviation ``sigma`` in pixels: three box blurs along each axis."""
    # Radius of the box whose variance is a third of the wanted one (Gwosdek et al., 2011, equation 14).
    variance = sigma * sigma / 3
    whole = floor((sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    planes = clip.flatten(0, 1).float().unsqueeze(1)
    size = 2 * (whole + part) + 1
    outer = (1 - (2 * whole + 1) / size) / 2
    kernel = [outer, *[1 / size] * (2 * whole + 1), outer]
    for vertical in (False, True):
        for _ in range(3):
            planes = _box_blur(planes, kernel, vertical)
    return to_uint8(planes).view_as(clip)


def _box_blur(planes: Tensor, kernel: Sequence[float], vertical: bool) -> Tensor:
    reach = len(kernel) // 2
    pad, shape = ((0, 0, reach, reach), (1, 1, -1, 1)) if vertical else ((reach, reach, 0, 0), (1, 1, 1, -1))
    weight = torch.tensor(kernel).view(shape).to(planes.device, non_blocking=True)
    # Halves go down, as by the fixed-point weights of Pillow, which sum to a little less than 1.
    return F.conv2d(F.pad(planes, pad, mode="replicate"), weight).add_(0.4999).floor_()


def _blend(start: Tensor, clip: Tensor, factor: float) -> Tensor:
    """Between ``start`` (factor 0) and the clip (factor 1), or beyond."""
    return to_uint8(torch.lerp(start, clip.float(), factor))


def _shear_x(clip: Tensor, value: float, sampling: Sampling) -> Tensor:
    return shear(clip, value, 3, sampling.interpolation, sampling.fill)


def _shear_y(clip: Tensor, value: float, sampling: Sampling) -> Tensor:
    return shear(clip, value, 2, sampling.interpolation, sampling.fill)


def _translate_x(clip: Tensor, pixels: float, sampling: Sampling) -> Tensor:
    return translate(clip, pixels, 3, sampling.interpolation, sampling.fill)


def _translate_y(clip: Tensor, pixels: float, sampling: Sampling) -> Tensor:
    return translate(clip, pixels, 2, sampling.interpolation, sampling.fill)


def _rotate(clip: Tensor, degrees: float, sampling: Sampling) -> Tensor:
    height, width = clip.shape[2:]
    return affine(clip, rotation(degrees, width, height), sampling.interpolation, sampling.fill)


# Operations without a number, with one, and with one and a way of sampling.
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": torch.bitwise_not,
}
_VALUED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "gaussian_blur": gaussian_blur,
}
_GEOMETRIC: dict[str, Callable[[Tensor, float, Sampling], Tensor]] = {
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}


# On a CPU, others than these go so few frames at a time that their intermediate results stay in its cache.
_WHOLE = {"rotate", "shear_x", "shear_y", "posterize", "invert", "equalize"}


def apply(name: str, clip: Tensor, value: float | None, sampling: Sampling) -> Tensor:
    """The clip after the named operation, as a new tensor (or the clip itself where nothing changes)."""
    if clip.device.type != "cpu" or name in _WHOLE:
        return _apply(name, clip, value, sampling)
    changed = torch.empty(clip.shape, dtype=torch.uint8)
    count = max(1, _PIECE // clip[0].numel())
    for piece, place in zip(clip.split(count), changed.split(count), strict=True):
        place.copy_(_apply(name, piece, value, sampling))
    return changed


def _apply(name: str, clip: Tensor, value: float | None, sampling: Sampling) -> Tensor:
    if name in _GEOMETRIC:
        return _GEOMETRIC[name](clip, value, sampling)
    return _PLAIN[name](clip) if value is None else _VALUED[name](clip, value)
