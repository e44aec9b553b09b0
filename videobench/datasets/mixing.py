"""Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019) of a batch of clips, and the soft targets that go with them.

The partner of sample i is sample N - 1 - i; the draws and the arithmetic are those of SlowFast and timm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode

MODES = ("batch", "pair", "elem")
# Classes of the heads of EPIC-Kitchens-100, whose labels are a dict.
EPIC_CLASSES = {"verb": 97, "noun": 300}

# Top, bottom, left and right of what a sample takes from its partner; bottom and right are not part of it.
Cut = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed: with one draw for the batch, for every pair of partners, or for every sample.

    Attributes:
        enabled: otherwise inputs and labels pass as they are.
        num_classes: of single-label targets.
        alpha, cutmix_alpha: of the Beta distributions of the shares; 0 switches mixup or cutmix off.
        probability: that a batch, pair or sample is mixed at all.
        switch_probability: of cutmix where both are on.
        smoothing: label smoothing within the targets.
    """

    num_classes: int
    enabled: bool = True
    alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    smoothing: float = 0.1
    mode: str = "batch"
    head_classes: Mapping[str, int] = field(default_factory=lambda: EPIC_CLASSES)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Mixing":
        """The mixing of MIXUP.*."""
        mixup = cfg.MIXUP
        return cls(
            num_classes=cfg.MODEL.NUM_CLASSES,
            enabled=mixup.ENABLE,
            alpha=mixup.ALPHA,
            cutmix_alpha=mixup.CUTMIX_ALPHA,
            probability=mixup.PROB,
            switch_probability=mixup.SWITCH_PROB,
            smoothing=mixup.LABEL_SMOOTH_VALUE,
            mode=mixup.MODE,
        )

    def __call__(
        self, inputs: Tensor, labels: Tensor | dict[str, Tensor], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Mix a batch in place.

        Args:
            inputs: float [N, ..., H, W]; changed in place.
            labels: class numbers int64 [N], multi-hot float [N, classes], or a dict of either per head.
            rng: of this batch; ranks and steps have their own.

        Returns:
            The inputs, and soft targets float32 [N, classes] (per head).
        """
        if not self.enabled:
            return inputs, labels
        shares, cuts = self.draw(len(inputs), *inputs.shape[-2:], rng)
        _mix_inputs(inputs, shares, cuts)
        shares = torch.from_numpy(shares).to(inputs.device, non_blocking=True)
        if isinstance(labels, dict):
            return inputs, {
                head: self._targets(values, self.head_classes[head], shares) for head, values in labels.items()
            }
        return inputs, self._targets(labels, self.num_classes, shares)

    def draw(
        self, samples: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Cut | None]]:
        """How much every sample keeps of itself, float32 [N], and what it takes from its partner (None: mixup)."""
        if self.mode == "batch":
            share, cut = self._draw_batch(height, width, rng)
            return np.full(samples, share, dtype=np.float32), [cut] * samples
        count = samples // 2 if self.mode == "pair" else samples
        shares, cuts = self._draw_each(count, height, width, rng)
        if self.mode == "pair":
            # The sample in the middle of an odd batch is its own partner.
            middle = [1.0] * (samples % 2)
            shares = np.concatenate([shares, middle, shares[::-1]])
            cuts = [*cuts, *[None] * len(middle), *cuts[::-1]]
        return shares.astype(np.float32), cuts

    def _draw_batch(self, height: int, width: int, rng: np.random.Generator) -> tuple[float, Cut | None]:
        if not rng.random() < self.probability:
            return 1.0, None
        cutmix = self.cutmix_alpha > 0
        if cutmix and self.alpha > 0:
            cutmix = rng.random() < self.switch_probability
        alpha = self.cutmix_alpha if cutmix else self.alpha
        share = float(rng.beta(alpha, alpha))
        return _cut(share, height, width, rng) if cutmix else (share, None)

    def _draw_each(
        self, count: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Cut | None]]:
        cutmix = np.full(count, self.cutmix_alpha > 0)
        if self.alpha > 0 and self.cutmix_alpha > 0:
            cutmix = rng.random(count) < self.switch_probability
            of_cutmix = rng.beta(self.cutmix_alpha, self.cutmix_alpha, count)
            shares = np.where(cutmix, of_cutmix, rng.beta(self.alpha, self.alpha, count))
        else:
            alpha = self.cutmix_alpha or self.alpha
            shares = rng.beta(alpha, alpha, count)
        shares = np.where(rng.random(count) < self.probability, shares, 1.0)
        cuts: list[Cut | None] = [None] * count
        for i in np.flatnonzero(cutmix & (shares != 1)):
            shares[i], cuts[i] = _cut(shares[i], height, width, rng)
        return shares, cuts

    def _targets(self, labels: Tensor, classes: int, shares: Tensor) -> Tensor:
        if labels.is_floating_point():
            # Each label of several is a decision of its own: smoothed towards one half (timm).
            targets = labels.float() * (1 - self.smoothing) + 0.5 * self.smoothing
        else:
            off = self.smoothing / classes
            targets = torch.full((len(labels), classes), off, device=labels.device)
            targets.scatter_(1, labels[:, None], 1 - self.smoothing + off)
        shares = shares[:, None]
        return targets * shares + targets.flip(0) * (1 - shares)


def _cut(share: float, height: int, width: int, rng: np.random.Generator) -> tuple[float, Cut]:
    """A box of about ``1 - share`` of the frame around a random pixel, clipped to it, and the share that is left.

    Sides of odd length lose a pixel, as in SlowFast; recent versions of timm keep it.
    """
    ratio = sqrt(1 - share)
    half_height, half_width = int(height * ratio) // 2, int(width * ratio) // 2
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    top, bottom = max(y - half_height, 0), min(y + half_height, height)
    left, right = max(x - half_width, 0), min(x + half_width, width)
    return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)


def _mix_inputs(inputs: Tensor, shares: np.ndarray, cuts: list[Cut | None]) -> None:
    mixup = np.array([1.0 if cut else share for share, cut in zip(shares, cuts, strict=True)], dtype=np.float32)
    if mixup.min() < 1 or any(cut != cuts[0] for cut in cuts):
        partners = inputs.flip(0)
        own = torch.from_numpy(mixup).to(inputs.device, non_blocking=True).view(-1, *[1] * (inputs.dim() - 1))
        inputs.mul_(own).addcmul_(partners, 1 - own)
        for sample, partner, cut in zip(inputs, partners, cuts, strict=True):
            if cut:
                top, bottom, left, right = cut
                sample[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    elif cuts[0]:
        # One box for all: only that part of the batch is copied.
        top, bottom, left, right = cuts[0]
        inputs[..., top:bottom, left:right] = inputs[..., top:bottom, left:right].flip(0)
