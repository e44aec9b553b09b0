"""Training clips: which frames of a video, which part of them, mirrored or not.

Everything random about a clip is drawn from (seed, epoch, index of the video), so the clips of an epoch do not depend
on the number of workers or ranks, nor on where a run was stopped and resumed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList
from videobench.datasets.cropping import crop_resize, random_resized_box, random_short_side_box
from videobench.datasets.decoding import Video, VideoError
from videobench.datasets.sampling import clip_indices


@dataclass(frozen=True)
class Failure:
    """A video that could not be read."""

    index: int
    video: str
    cause: str

    @classmethod
    def of(cls, videos: VideoList, index: int, error: VideoError) -> "Failure":
        """The failure of a video of a list; its path in a form that can be printed whatever the bytes of its name."""
        path = videos.path(index).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return cls(index, path, error.cause)


@dataclass(frozen=True)
class Temporal:
    """How clips are taken from a video's frames."""

    rule: str
    num_frames: int
    stride: int
    target_fps: float
    use_offset: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Temporal":
        data = cfg.DATA
        return cls(
            data.SAMPLING_RULE, data.NUM_FRAMES, data.SAMPLING_RATE, float(data.TARGET_FPS), data.USE_OFFSET_SAMPLING
        )

    def indices(self, video: Video, **view: Any) -> list[int]:
        """Frame numbers of a training clip (``draw``) or of a test view (``view``, ``views``).

        Raises:
            VideoError: for a damaged file, whose clips would not come from where they should.
        """
        if video.index.damage:
            raise VideoError(video.path, f"damaged: {video.index.damage}")
        return clip_indices(
            self.rule,
            frames=video.frames,
            fps=video.fps,
            num_frames=self.num_frames,
            stride=self.stride,
            target_fps=self.target_fps,
            use_offset=self.use_offset,
            **view,
        )


class TrainingClips(Dataset):
    """One random clip of a video as uint8 [T, C, H, W], asked for by (epoch, position in the epoch's order)."""

    def __init__(self, cfg: CfgNode, videos: VideoList) -> None:
        data = cfg.DATA
        self.videos = videos
        self.seed = cfg.RNG_SEED
        self.temporal = Temporal.from_config(cfg)
        self.crop_size = data.TRAIN_CROP_SIZE
        self.area, self.aspect = data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_ASPECT_RELATIVE
        self.scales, self.inverse = data.TRAIN_JITTER_SCALES, data.INV_UNIFORM_SAMPLE
        self.flip = data.RANDOM_FLIP
        self.flipped_label = {a: b for pair in data.FLIP_LABEL_PAIRS for a, b in (pair, pair[::-1])}
        self.allowed_failures = int(data.MAX_FAILED_FRACTION * len(videos))
        self._order: tuple[int, np.ndarray] | None = None

    def order(self, epoch: int) -> np.ndarray:
        """The videos in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.videos))
        return self._order[1]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor | None, int, list[Failure]]:
        epoch, position = key
        order = self.order(epoch)
        failures: list[Failure] = []
        # A video that cannot be read gives its place to the next one in the epoch's order.
        for step in range(min(self.allowed_failures + 1, len(order))):
            index = int(order[(position + step) % len(order)])
            try:
                return *self._clip(index, np.random.default_rng([self.seed, epoch, index])), failures
            except VideoError as error:
                failures.append(Failure.of(self.videos, index, error))
        return None, -1, failures

    def _clip(self, index: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        label = int(self.videos.labels[index])
        with Video(self.videos.path(index)) as video:
            frames = video.decode(self.temporal.indices(video, draw=rng))
        height, width = frames.shape[1:3]
        if self.area:
            box = random_resized_box(height, width, tuple(self.area), tuple(self.aspect), rng)
        else:
            box = random_short_side_box(height, width, tuple(self.scales), self.crop_size, rng, inverse=self.inverse)
        flip = self.flip and rng.random() < 0.5
        if flip:
            label = self.flipped_label.get(label, label)
        return crop_resize(frames, box, self.crop_size, flip=flip), label
