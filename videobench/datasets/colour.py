"""Colour changes of whole clips besides RandAugment: two kinds of jitter, and grey clips."""

import numpy as np
import torch
from torch import Tensor

from videobench.datasets import pixel_ops

# Weights of red, green and blue in a grey value. Motionformer takes channel 2 for red whatever the order of its frames
# is: that is right for frames that OpenCV read, and exchanges red and blue in its Kinetics rows.
_LUMA = (0.114, 0.587, 0.299)


def jitter(clip: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation of a uint8 RGB clip [T, C, H, W] times factors from ``1 +- strength``.

    In random order, the same for all frames, with Pillow's operations: torchvision's ColorJitter, as timm uses it.
    """
    changes = (pixel_ops.brightness, pixel_ops.contrast, pixel_ops.color)
    for i in rng.permutation(len(changes)):
        clip = changes[i](clip, rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return clip


def grey_normalised(clip: Tensor) -> Tensor:
    """The grey values [1, T, H, W] of a normalised clip [C, T, H, W], as Motionformer weighs the channels."""
    weights = torch.tensor(_LUMA).to(clip.device, non_blocking=True)
    return (clip * weights.view(-1, 1, 1, 1)).sum(0, keepdim=True)


def jitter_normalised(clip: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Motionformer's colour jitter of a normalised clip [C, T, H, W]: factors from ``1 +- strength``, in random order.

    Brightness scales the normalised values, so it moves them away from the mean rather than from black; contrast moves
    them from the mean grey of their frame, saturation from their grey value. Nothing is cut off.
    """
    for change in rng.permutation(3):
        factor = 1 + rng.uniform(-strength, strength)
        if change == 0:
            clip = clip * factor
        else:
            start = grey_normalised(clip)
            clip = torch.lerp(start.mean((2, 3), keepdim=True) if change == 1 else start, clip, factor)
    return clip
