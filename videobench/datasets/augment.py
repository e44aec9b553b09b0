"""Augmentation of whole clips: from uint8 frames to what the network takes.

What is random about a clip is drawn from (seed, epoch, video, sample), so it does not depend on the other clips of the
batch, on workers, ranks or the device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.config.checks import PICTURES
from videobench.datasets import colour
from videobench.datasets.erasing import Erasing
from videobench.datasets.pixel_ops import gaussian_blur
from videobench.datasets.rand_augment import Policy

# Independent streams of random numbers of one clip.
_PIXELS, _FINISH = int.from_bytes(b"pixels", "big"), int.from_bytes(b"finish", "big")
# What RandAugment shows outside of a video's frames.
_GREY = (128, 128, 128)
# Motionformer's chances and strength, which its recipes do not name.
_JITTER_PROBABILITY, _JITTER_STRENGTH, _GREY_PROBABILITY, _BLUR_PROBABILITY = 0.8, 0.4, 0.2, 0.5
# Its blur was never published; this is SimCLR's range (Chen et al., 2020), in pixels.
_BLUR_SIGMA = (0.1, 2.0)


def normalise(clips: Tensor, mean: Sequence[float], std: Sequence[float], *, reverse_channels: bool = False) -> Tensor:
    """Uint8 clips [N, T, C, H, W] as float32 network input [N, C, T, H, W]: ``(x / 255 - mean) / std`` per channel.

    Args:
        clips: RGB frames.
        mean: per channel, in the range [0, 1], in the order of the frames' channels.
        std: divisor per channel.
        reverse_channels: hand the channels over in BGR order; this happens last, so mean and std stay in RGB order.
    """
    clips = clips.transpose(1, 2)
    shape = (1, -1, 1, 1, 1)
    mean, std = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    scale = (1.0 / (255.0 * std)).to(clips.device, non_blocking=True).view(shape)
    shift = (mean / std).to(clips.device, non_blocking=True).view(shape)
    clips = torch.addcmul(-shift, clips.float(), scale)
    return clips.flip(1) if reverse_channels else clips


@dataclass(frozen=True)
class Augmentation:
    """What happens to the clips of a training batch after decoding, cropping and flipping.

    ``pixels`` works on uint8 frames, in the loader's workers where ``in_workers`` is true and otherwise on the training
    device; ``finish`` makes the network's input from its result, on the training device.
    """

    seed: int
    in_workers: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse_channels: bool = False
    policy: Policy | None = None
    interpolation: str = "bicubic"
    fill: tuple[int, ...] = _GREY
    jitter: float = 0.0
    blur: bool = False
    jitter_normalised: bool = False
    grey_normalised: bool = False
    erasing: Erasing | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Augmentation":
        """The augmentation of AUG.* and of Motionformer's DATA.COLORJITTER, GRAYSCALE and GAUSSIAN.

        Raises:
            ConfigError: for an AUG.AA_TYPE that cannot be read.
        """
        aug, data = cfg.AUG, cfg.DATA
        mean = tuple(map(float, data.MEAN))
        # Published: videos are filled with grey, images with their mean colour.
        fill = tuple(min(255, round(255 * m)) for m in mean) if cfg.TRAIN.DATASET.lower() in PICTURES else _GREY
        return cls(
            seed=cfg.RNG_SEED,
            in_workers=aug.DEVICE == "cpu" or (aug.DEVICE == "auto" and cfg.NUM_GPUS == 0),
            mean=mean,
            std=tuple(map(float, data.STD)),
            reverse_channels=data.REVERSE_INPUT_CHANNEL,
            policy=Policy.parse(aug.AA_TYPE) if aug.ENABLE and aug.AA_TYPE else None,
            interpolation=aug.INTERPOLATION,
            fill=fill,
            jitter=aug.COLOR_JITTER if aug.ENABLE and not aug.AA_TYPE else 0.0,
            blur=data.GAUSSIAN,
            jitter_normalised=data.COLORJITTER,
            grey_normalised=data.GRAYSCALE,
            erasing=Erasing(aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT) if aug.ENABLE and aug.RE_PROB > 0 else None,
        )

    def pixels(self, clips: Tensor, keys: Tensor | Iterable[Sequence[int]]) -> Tensor:
        """RandAugment, colour jitter and blur of uint8 RGB clips [N, T, C, H, W]; all frames of a clip alike.

        Args:
            keys: (epoch, video, sample) of every clip, as int64 [N, 3] or a list.
        """
        if not (self.policy or self.jitter or self.blur):
            return clips
        return torch.stack([self._clip_pixels(clip, rng) for clip, rng in self._streams(_PIXELS, clips, keys)])

    def _clip_pixels(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        if self.policy:
            clip = self.policy(clip, rng, self.fill, self.interpolation)
        if self.jitter:
            clip = colour.jitter(clip, self.jitter, rng)
        if self.blur and rng.random() < _BLUR_PROBABILITY:
            clip = gaussian_blur(clip, rng.uniform(*_BLUR_SIGMA))
        return clip

    def finish(self, clips: Tensor, keys: Tensor | Iterable[Sequence[int]]) -> Tensor:
        """Network input float32 [N, C, T, H, W] of uint8 clips [N, T, C, H, W] that went through ``pixels``.

        Normalised, then with Motionformer's colour changes and random erasing, in the channel order of the network.

        Args:
            keys: (epoch, video, sample) of every clip, as int64 [N, 3] or a list.
        """
        inputs = normalise(clips, self.mean, self.std)
        if self.jitter_normalised or self.grey_normalised or self.erasing:
            for clip, rng in self._streams(_FINISH, inputs, keys):
                self._finish_clip(clip, rng)
        return inputs.flip(1) if self.reverse_channels else inputs

    def _finish_clip(self, clip: Tensor, rng: np.random.Generator) -> None:
        if self.jitter_normalised and rng.random() < _JITTER_PROBABILITY:
            clip.copy_(colour.jitter_normalised(clip, _JITTER_STRENGTH, rng))
        if self.grey_normalised and rng.random() < _GREY_PROBABILITY:
            clip.copy_(colour.grey_normalised(clip).expand_as(clip))
        if self.erasing:
            self.erasing(clip, rng)

    def _streams(self, stream: int, clips: Tensor, keys: Tensor | Iterable[Sequence[int]]):
        rows = keys.tolist() if isinstance(keys, Tensor) else keys
        for clip, key in zip(clips, rows, strict=True):
            yield clip, np.random.default_rng([self.seed, stream, *key])
