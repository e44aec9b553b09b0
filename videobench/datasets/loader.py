"""Batches of clips: data sets over list files, the order of an epoch, workers, and what happens to bad files.

Everything random about a training clip is drawn from (seed, epoch, index of the video), so the clips of an epoch do not
depend on the number of workers or ranks, nor on where a run was stopped and resumed.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList, read_list
from videobench.datasets.cropping import crop_resize, random_resized_box, random_short_side_box, test_crops
from videobench.datasets.decoding import Video, VideoError
from videobench.datasets.sampling import clip_indices

logger = logging.getLogger(__name__)


class DataError(RuntimeError):
    """More unreadable training videos than DATA.MAX_FAILED_FRACTION allows."""


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


class VideoViews(Dataset):
    """Every view of a video as uint8 [views, T, C, H, W], the crops of a clip next to each other; decoded once."""

    def __init__(
        self, cfg: CfgNode, videos: VideoList, *, clips: int, crops: int, shuffle_frames: bool = False
    ) -> None:
        self.videos = videos
        self.temporal = Temporal.from_config(cfg)
        self.crop_size = cfg.DATA.TEST_CROP_SIZE
        self.short_side = cfg.DATA.TRAIN_JITTER_SCALES[0] if crops == 1 else self.crop_size
        self.clips, self.crops = clips, crops
        self.seed = cfg.RNG_SEED if shuffle_frames else None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[Tensor | None, int, int, Failure | None]:
        label = int(self.videos.labels[index])
        try:
            return self._views(index), label, index, None
        except VideoError as error:
            return None, label, index, Failure.of(self.videos, index, error)

    def _views(self, index: int) -> Tensor:
        with Video(self.videos.path(index)) as video:
            clips = [self.temporal.indices(video, view=k, views=self.clips) for k in range(self.clips)]
            wanted = sorted({i for clip in clips for i in clip})
            frames = video.decode(wanted)
        crops = test_crops(frames, self.short_side, self.crop_size, self.crops)
        place = {frame: row for row, frame in enumerate(wanted)}
        rows = torch.tensor([[place[i] for i in clip] for clip in clips])
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, index])
            rows = torch.stack([clip[torch.from_numpy(rng.permutation(len(clip)))] for clip in rows])
        return torch.stack([crop[clip] for clip in rows for crop in crops])


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The keys of this rank's share of every full batch of an epoch; any world size makes the same batches."""

    def __init__(self, videos: int, batch_size: int, rank: int, world_size: int) -> None:
        self.steps = videos // batch_size
        self.batch_size, self.share = batch_size, batch_size // world_size
        self.first = rank * self.share
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            start = step * self.batch_size + self.first
            yield [(self.epoch, start + i) for i in range(self.share)]


class TrainingLoader:
    """Batches (clips uint8 [N, T, C, H, W], labels [N]) of this rank, epoch after epoch."""

    def __init__(self, cfg: CfgNode, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> None:
        self.videos = split_list(cfg, "train")
        batch_size = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
        self.sampler = EpochBatches(len(self.videos), batch_size, rank, world_size)
        if not len(self.sampler):
            raise DataError(
                f"{self.videos.source}: {len(self.videos)} videos do not fill one batch of {batch_size} "
                "(TRAIN.BATCH_SIZE times NUM_SHARDS); use a smaller batch"
            )
        self.dataset = TrainingClips(cfg, self.videos)
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=_collate_training,
            pin_memory=pin_memory,
            **_workers(cfg),
        )
        self.failed: dict[int, Failure] = {}
        self._named: set[int] = set()

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch.

        Raises:
            DataError: when more videos than DATA.MAX_FAILED_FRACTION of the list cannot be read.
        """
        self.sampler.epoch = epoch
        self.failed = {}
        for clips, labels, failures in self._loader:
            self._count(failures)
            yield clips, labels

    def _count(self, failures: list[Failure]) -> None:
        for failure in failures:
            self.failed[failure.index] = failure
            if failure.index not in self._named:
                self._named.add(failure.index)
                logger.warning("unreadable video replaced: %s: %s", failure.video, failure.cause)
        self.check_failures(len(self.failed))

    def check_failures(self, count: int) -> None:
        """Raise a DataError when ``count`` unreadable videos are more than DATA.MAX_FAILED_FRACTION allows."""
        if count > self.dataset.allowed_failures:
            some = "\n".join(f"  {f.video}: {f.cause}" for f in list(self.failed.values())[:10])
            raise DataError(
                f"{self.videos.source}: {count} of {len(self.videos)} videos cannot be read, more than the "
                f"{self.dataset.allowed_failures} that DATA.MAX_FAILED_FRACTION allows; mend or remove them:\n{some}"
            )


def view_loader(
    cfg: CfgNode,
    split: str,
    *,
    clips: int,
    crops: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    shuffle_frames: bool = False,
) -> DataLoader:
    """Videos of a split, one at a time with all their views; ranks take turns, and every video comes exactly once."""
    dataset = VideoViews(cfg, split_list(cfg, split), clips=clips, crops=crops, shuffle_frames=shuffle_frames)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(rank, len(dataset), world_size),
        pin_memory=pin_memory,
        **_workers(cfg, persistent=split == "val" and cfg.TRAIN.ENABLE),
    )


def split_list(cfg: CfgNode, split: str) -> VideoList:
    """The list file of a split; a missing test.csv is val.csv, as the published protocols have it."""
    folder = Path(cfg.DATA.PATH_TO_DATA_DIR)
    if split == "test" and not (folder / "test.csv").exists() and (folder / "val.csv").exists():
        split = "val"
    return read_list(
        folder / f"{split}.csv",
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        num_classes=cfg.MODEL.NUM_CLASSES,
    )


def _collate_training(items: list[tuple[Tensor | None, int, list[Failure]]]):
    failures = [failure for _, _, found in items for failure in found]
    # A place that no video could fill comes with more failures than are allowed: the run stops before this is used.
    clips = [clip for clip, _, _ in items if clip is not None]
    labels = [label for clip, label, _ in items if clip is not None]
    return torch.stack(clips) if clips else torch.empty(0), torch.tensor(labels), failures


def _workers(cfg: CfgNode, persistent: bool = True) -> dict[str, Any]:
    workers = cfg.DATA_LOADER.NUM_WORKERS
    if workers == -1:
        workers = min(8, max(1, usable_cores() // max(cfg.NUM_GPUS, 1)))
    return {"num_workers": workers, "persistent_workers": persistent and workers > 0}


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
