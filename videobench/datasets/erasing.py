"""Random erasing (Zhong et al., 2020) of one box in all frames of a clip, as in SlowFast."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videobench.datasets.cropping import Box

MODES = ("const", "rand", "pixel")
# Share of the frame that a box takes (divided among the boxes), and its ratio of height to width.
_AREA = 0.02, 1 / 3
_LOG_ASPECT = math.log(0.3), math.log(1 / 0.3)


@dataclass(frozen=True)
class Erasing:
    """Chance per clip, what a box is filled with, and the largest number of boxes.

    Modes, in units of the normalised input: ``const`` is 0, ``rand`` one normal colour per frame, ``pixel`` a normal
    number per pixel, channel and frame.
    """

    probability: float
    mode: str
    count: int

    def boxes(self, frames: int, height: int, width: int, rng: np.random.Generator) -> list[Box]:
        """Where a clip is erased: nowhere, or up to ``count`` boxes that are smaller than the frame."""
        if rng.random() > self.probability:
            return []
        count = 1 if self.count == 1 else int(rng.integers(1, self.count, endpoint=True))
        drawn = (self._box(height, width, count, 100 if frames > 1 else 10, rng) for _ in range(count))
        return [box for box in drawn if box is not None]

    def _box(self, height: int, width: int, count: int, tries: int, rng: np.random.Generator) -> Box | None:
        for _ in range(tries):
            area = rng.uniform(*_AREA) * height * width / count
            aspect = math.exp(rng.uniform(*_LOG_ASPECT))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top = int(rng.integers(0, height - h, endpoint=True))
                return Box(top, int(rng.integers(0, width - w, endpoint=True)), h, w)
        return None

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> None:
        """Erase parts of a normalised clip [C, T, H, W], in place."""
        channels, frames, height, width = clip.shape
        for top, left, h, w in self.boxes(frames, height, width, rng):
            patch = clip[:, :, top : top + h, left : left + w]
            if self.mode == "const":
                patch.zero_()
                continue
            size = (h, w) if self.mode == "pixel" else (1, 1)
            noise = torch.from_numpy(rng.standard_normal((channels, frames, *size), dtype=np.float32))
            patch.copy_(noise.to(clip.device, non_blocking=True).expand_as(patch))
