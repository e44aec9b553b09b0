"""Pillow's image operations on whole uint8 clips [T, C, H, W]; statistics are taken frame by frame, as Pillow would.

Results equal Pillow's to one grey level (GaussianBlur: two). ``value`` is the argument that timm gives the operation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from videobench.datasets.geometry import affine, rotation, to_uint8, translate

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
    # Below 2^24 at every step, so exact in float32.
    luma = (red * 19595 + green * 38470).add_(blue, alpha=7471).add_(32768).div_(65536).floor_()
    return luma.unsqueeze(1)


def auto_contrast(clip: Tensor) -> Tensor:
    """Stretch every channel of every frame to the whole range."""
    low, high = clip.amin((2, 3), keepdim=True).float(), clip.amax((2, 3), keepdim=True).float()
    # A channel of one value stays as it is.
    flat = high <= low
    scale = torch.where(flat, 1.0, 255.0 / (high - low))
    return to_uint8(clip.float().sub_(low.masked_fill(flat, 0.0)).mul_(scale).add_(1e-3))


def equalize(clip: Tensor) -> Tensor:
    """Make the histogram of every channel of every frame as even as it can be."""
    frames, channels, height, width = clip.shape
    planes, pixels = frames * channels, height * width
    # One code per level and plane, so that counting and look-up are one pass over the clip.
    first = torch.arange(0, planes * 256, 256, dtype=torch.int32, device=clip.device)
    codes = (clip.reshape(planes, pixels).int() + first[:, None]).flatten()
    counts = torch.bincount(codes, minlength=planes * 256).view(planes, 256)
    highest = clip.reshape(planes, pixels).amax(1, keepdim=True).long()
    step = (pixels - counts.gather(1, highest)) // 255
    below = counts.cumsum(1) - counts
    table = (below + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    table = torch.where(step == 0, torch.arange(256, device=clip.device), table)
    return table.to(torch.uint8).flatten().index_select(0, codes).view_as(clip)


def solarize(clip: Tensor, threshold: int) -> Tensor:
    """Invert what is at or above a threshold from 0 to 256."""
    # Shifted by eight bits, negative numbers are all ones and others 0: several times faster than a comparison.
    return clip ^ (threshold - 1 - clip.to(torch.int16)).bitwise_right_shift_(8).to(torch.uint8)


def solarize_add(clip: Tensor, add: int) -> Tensor:
    """Lighten what is darker than 128 by ``add``, up to 128 levels."""
    return clip + (clip.to(torch.int16) - 128).bitwise_right_shift_(8).bitwise_and_(add).to(torch.uint8)


def posterize(clip: Tensor, bits: int) -> Tensor:
    """Keep the highest bits."""
    return clip & (0xFF00 >> bits & 0xFF)


def color(clip: Tensor, value: float) -> Tensor:
    """Saturation: 0 is grey, 1 changes nothing."""
    return _blend(grey(clip), clip, value)


def contrast(clip: Tensor, value: float) -> Tensor:
    """Contrast: 0 is the mean grey of each frame, 1 changes nothing."""
    mean = grey(clip).mean((1, 2, 3), keepdim=True, dtype=torch.float64).add_(0.5).floor_()
    return _blend(mean.float(), clip, value)


def brightness(clip: Tensor, value: float) -> Tensor:
    """Brightness: 0 is black, 1 changes nothing."""
    return to_uint8(clip.float().mul_(value))


def sharpness(clip: Tensor, value: float) -> Tensor:
    """Sharpness: 0 is smoothed with a 3 x 3 kernel (the outermost pixels stay), 1 changes nothing."""
    levels = clip.to(torch.int16)
    rows = levels[..., :-2, :] + levels[..., 1:-1, :] + levels[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * levels[..., 1:-1, 1:-1]
    smooth = clip.float()
    smooth[..., 1:-1, 1:-1] = total.float().div_(13).add_(0.5).floor_()
    return _blend(smooth, clip, value)


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
    # The last term keeps rounding from losing a level where the two are equal.
    return to_uint8(clip.float().mul_(factor).add_(start.mul(1 - factor).add_(1e-3)))


def _shear_x(clip: Tensor, value: float, sampling: Sampling) -> Tensor:
    return affine(clip, (1, value, 0, 0, 1, 0), sampling.interpolation, sampling.fill)


def _shear_y(clip: Tensor, value: float, sampling: Sampling) -> Tensor:
    return affine(clip, (1, 0, 0, value, 1, 0), sampling.interpolation, sampling.fill)


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


# On a CPU, these go so few frames at a time that their intermediate results stay in its cache.
_PIECEWISE = {"equalize", "color", "contrast", "sharpness", "gaussian_blur", "translate_x", "translate_y"}


def apply(name: str, clip: Tensor, value: float | None, sampling: Sampling) -> Tensor:
    """The clip after the named operation, as a new tensor (or the clip itself where nothing changes)."""
    if clip.device.type == "cpu" and name in _PIECEWISE:
        count = max(1, _PIECE // clip[0].numel())
        return torch.cat([_apply(name, piece, value, sampling) for piece in clip.split(count)])
    return _apply(name, clip, value, sampling)


def _apply(name: str, clip: Tensor, value: float | None, sampling: Sampling) -> Tensor:
    if name in _GEOMETRIC:
        return _GEOMETRIC[name](clip, value, sampling)
    return _PLAIN[name](clip) if value is None else _VALUED[name](clip, value)
