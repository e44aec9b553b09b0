"""Training clips: which frames of a video, which part of them, mirrored or not.

Everything random about a clip is drawn from (seed, epoch, index of the video), so the clips of an epoch do not depend
on the number of workers or ranks, nor on where a run was stopped and resumed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import Box, crop_resize, random_resized_box, random_short_side_box
from videobench.datasets.reading import note_reading
from videobench.datasets.records import Frames, Label
from videobench.datasets.sampling import clip_indices

# Random resized crop of the published ImageNet training (Szegedy et al., 2015, section 6).
_IMAGE_AREA, _IMAGE_ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


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
    def from_config(cls, cfg: CfgNode, videos: VideoList) -> "Temporal":
        """As DATA.* says; the rule ``auto`` is that of the data set."""
        data = cfg.DATA
        rule = videos.rule if data.SAMPLING_RULE == "auto" else data.SAMPLING_RULE
        return cls(rule, data.NUM_FRAMES, data.SAMPLING_RATE, float(data.TARGET_FPS), data.USE_OFFSET_SAMPLING)

    def indices(self, video: Frames, **view: Any) -> list[int]:
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


@dataclass(frozen=True)
class Cut:
    """Where a training clip comes from: numbers of frames, whole pixels of them, and whether it is mirrored."""

    frames: tuple[int, ...]
    box: Box
    mirrored: bool


@dataclass(frozen=True)
class TrainingItem:
    """The training clips of one video.

    Attributes:
        clips: uint8 [S, T, C, H, W], S samples of one decode; None when no video could be read.
        labels: int64 [S], int64 [S] per head in a dict, or float [S, classes] for several labels a video.
        index: number of the video in the list.
        failures: the videos that could not be read before this one.
        cuts: where each sample comes from.
    """

    clips: Tensor | None
    labels: Tensor | dict[str, Tensor]
    index: int
    failures: list[Failure]
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True)
class TrainingCrop:
    """Which part of the frames a training clip shows, and how it is resized.

    Single pictures are cut as in published ImageNet training: a random resized crop, resized with bicubic weights.
    """

    size: int
    area: tuple[float, ...]
    aspect: tuple[float, ...]
    scales: tuple[int, int]
    inverse: bool
    flip: bool
    antialias: bool
    mode: str

    @classmethod
    def from_config(cls, cfg: CfgNode, videos: VideoList) -> "TrainingCrop":
        data = cfg.DATA
        area, aspect = tuple(data.TRAIN_JITTER_SCALES_RELATIVE), tuple(data.TRAIN_JITTER_ASPECT_RELATIVE)
        if videos.pictures and not area:
            area, aspect = _IMAGE_AREA, _IMAGE_ASPECT
        return cls(
            size=data.TRAIN_CROP_SIZE,
            area=area,
            aspect=aspect,
            scales=tuple(data.TRAIN_JITTER_SCALES),
            inverse=data.INV_UNIFORM_SAMPLE,
            flip=data.RANDOM_FLIP,
            antialias=data.ANTIALIAS or videos.pictures,
            mode="bicubic" if videos.pictures else "bilinear",
        )

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, Box, bool]:
        """A part of uint8 frames [T, H, W, 3] as [T, 3, size, size], where it was cut, and whether it is mirrored."""
        height, width = frames.shape[1:3]
        if self.area:
            box = random_resized_box(height, width, self.area, self.aspect, rng)
        else:
            box = random_short_side_box(height, width, self.scales, self.size, rng, inverse=self.inverse)
        flip, box = bool(self.flip and rng.random() < 0.5), box.whole()
        return crop_resize(frames, box, self.size, flip=flip, antialias=self.antialias, mode=self.mode), box, flip


class TrainingClips(Dataset):
    """AUG.NUM_SAMPLE random clips of a video, asked for by (epoch, position in the epoch's order)."""

    def __init__(self, cfg: CfgNode, videos: VideoList) -> None:
        self.videos = videos
        self.seed = cfg.RNG_SEED
        self.temporal = Temporal.from_config(cfg, videos)
        self.crop = TrainingCrop.from_config(cfg, videos)
        self.samples, self.resample = cfg.AUG.NUM_SAMPLE, cfg.AUG.RESAMPLE_FRAMES
        self.flipped_label = {a: b for pair in cfg.DATA.FLIP_LABEL_PAIRS for a, b in (pair, pair[::-1])}
        self.allowed_failures = int(cfg.DATA.MAX_FAILED_FRACTION * len(videos))
        self._order: tuple[int, np.ndarray] | None = None

    def order(self, epoch: int) -> np.ndarray:
        """The videos in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.videos))
        return self._order[1]

    def __getitem__(self, key: tuple[int, int]) -> TrainingItem:
        epoch, position = key
        order = self.order(epoch)
        failures: list[Failure] = []
        # A video that cannot be read gives its place to the next one in the epoch's order.
        for step in range(min(self.allowed_failures + 1, len(order))):
            index = int(order[(position + step) % len(order)])
            try:
                note_reading(index)
                clips, labels, cuts = self._clips(index, epoch)
                return TrainingItem(clips, labels, index, failures, cuts)
            except VideoError as error:
                failures.append(Failure.of(self.videos, index, error))
        return TrainingItem(None, torch.empty(0, dtype=torch.int64), -1, failures)

    def _clips(self, index: int, epoch: int) -> tuple[Tensor, Tensor | dict[str, Tensor], tuple[Cut, ...]]:
        """The clips [S, T, C, H, W] of a video, their labels and where they come from; one decode."""
        rngs = [np.random.default_rng([self.seed, epoch, index, sample]) for sample in range(self.samples)]
        with self.videos.open(index) as video:
            # As published, the samples of a video are crops of the same frames, unless AUG.RESAMPLE_FRAMES.
            drawn = [self.temporal.indices(video, draw=rng) for rng in (rngs if self.resample else rngs[:1])]
            wanted = sorted({frame for indices in drawn for frame in indices})
            frames = video.decode(wanted)
        row = {frame: number for number, frame in enumerate(wanted)}
        label = self.videos.label(index)
        clips, labels, cuts = [], [], []
        for sample, rng in enumerate(rngs):
            indices = drawn[sample if self.resample else 0]
            rows = [row[frame] for frame in indices]
            clip, box, flipped = self.crop(frames if indices == wanted else frames[rows], rng)
            clips.append(clip)
            labels.append(self._mirrored(label) if flipped else label)
            cuts.append(Cut(tuple(indices), box, flipped))
        return clips[0][None] if len(clips) == 1 else torch.stack(clips), _stacked(labels), tuple(cuts)

    def _mirrored(self, label: Label) -> Label:
        """The label of the mirrored video (DATA.FLIP_LABEL_PAIRS)."""
        if not self.flipped_label or isinstance(label, dict):
            return label
        if isinstance(label, int):
            return self.flipped_label.get(label, label)
        mirrored = label.copy()
        for one, other in self.flipped_label.items():
            mirrored[other] = label[one]
        return mirrored


def _stacked(labels: list[Label]) -> Tensor | dict[str, Tensor]:
    if isinstance(labels[0], dict):
        return {head: torch.tensor([label[head] for label in labels]) for head in labels[0]}
    if isinstance(labels[0], int):
        return torch.tensor(labels)
    return torch.from_numpy(np.stack(labels))
