"""Training batches: the order of an epoch, loading ahead, and what happens to bad files."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList, split_list
from videobench.datasets.augment import Augmentation
from videobench.datasets.clips import Failure, TrainingClips, TrainingItem
from videobench.datasets.workers import WorkerPool, worker_count

logger = logging.getLogger(__name__)

Labels = Tensor | dict[str, Tensor]


class DataError(RuntimeError):
    """More unreadable training videos than DATA.MAX_FAILED_FRACTION allows."""


@dataclass(frozen=True)
class TrainingBatch:
    """One rank's share of a training batch, N clips.

    Attributes:
        clips: uint8 [N, T, C, H, W]; the AUG.NUM_SAMPLE clips of a video are next to each other.
        labels: int64 [N]; int64 [N] for verb and noun in a dict; or float [N, classes] of several labels a video.
        keys: int64 [N, 3], the epoch, the video's number in the list and the number of the sample: what random numbers
            for a clip are drawn from. Always on the host.
        source: the list of videos.
    """

    clips: Tensor
    labels: Labels
    keys: Tensor
    source: VideoList

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def videos(self) -> list[str]:
        """The path of every clip's video."""
        return [self.source.path(index) for index in self.keys[:, 1].tolist()]

    def pin_memory(self) -> "TrainingBatch":
        """The same batch in page-locked memory."""
        labels = _each(self.labels, lambda tensor: tensor.pin_memory())
        return replace(self, clips=self.clips.pin_memory(), labels=labels)

    def to(self, device: torch.device | str, stream: torch.cuda.Stream | None = None) -> "TrainingBatch":
        """The same batch with clips and labels on a device; from page-locked memory, without waiting.

        Args:
            device: where to.
            stream: copies here, while the current stream goes on with what it has to do.
        """
        with torch.cuda.stream(stream):
            clips = self.clips.to(device, non_blocking=True)
            labels = _each(self.labels, lambda tensor: tensor.to(device, non_blocking=True))
        if stream is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            # Else the memory would be free for the next batch as soon as this one is dropped.
            for tensor in (clips, *(labels.values() if isinstance(labels, dict) else [labels])):
                tensor.record_stream(current)
        return replace(self, clips=clips, labels=labels)


class EpochBatches:
    """The keys of this rank's share of every full batch of an epoch; any world size makes the same batches."""

    def __init__(self, videos: int, batch_size: int, rank: int, world_size: int) -> None:
        self.steps = videos // batch_size
        self.batch_size, self.share = batch_size, batch_size // world_size
        self.first = rank * self.share

    def __len__(self) -> int:
        return self.steps

    def keys(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, int]]:
        """(epoch, position in the epoch's order) of one video after the other, ``share`` of them a step."""
        for step in range(first_step, self.steps):
            start = step * self.batch_size + self.first
            yield from ((epoch, start + i) for i in range(self.share))


class TrainingLoader:
    """The training batches of this rank, epoch after epoch.

    Attributes:
        failed: the unreadable videos of the epoch so far, by their number in the list.
    """

    def __init__(self, cfg: CfgNode, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> None:
        self.videos = split_list(cfg, "train")
        batch_size = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
        self.batches = EpochBatches(len(self.videos), batch_size, rank, world_size)
        if not len(self.batches):
            raise DataError(
                f"{self.videos.source}: {len(self.videos)} videos do not fill one batch of {batch_size} "
                "(TRAIN.BATCH_SIZE times NUM_SHARDS); use a smaller batch"
            )
        self.dataset = TrainingClips(cfg, self.videos)
        self._augmentation = Augmentation.from_config(cfg)
        self._pin = pin_memory
        clip_bytes = cfg.DATA.NUM_FRAMES * 3 * cfg.DATA.TRAIN_CROP_SIZE**2
        self._pool = WorkerPool(
            self._load,
            workers=worker_count(cfg),
            videos=len(self.videos),
            path=self.videos.path,
            timeout=cfg.DATA_LOADER.TIMEOUT,
            ahead=cfg.DATA_LOADER.PREFETCH * self.batches.share,
            # Labels are small beside a clip.
            item_bytes=cfg.AUG.NUM_SAMPLE * clip_bytes + (1 << 16),
        )
        # Items that go on from epoch to epoch, and the step that comes next, counted from the first epoch.
        self._stream: tuple[Iterator[list[TrainingItem]], int | None] = iter(()), None
        self._epochs = cfg.SOLVER.MAX_EPOCH
        self.failed: dict[int, Failure] = {}
        self._named: set[int] = set()

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, first_step: int = 0, failed: Iterable[Failure] = ()) -> Iterator[TrainingBatch]:
        """The batches of one epoch; while the last ones are used, those of the next epoch are loaded.

        Args:
            epoch: its number, from 0.
            first_step: the batch to begin with; it and all later ones are those of the whole epoch, the earlier ones
                are not read.
            failed: the unreadable videos of the earlier batches (`failed` when the epoch was left), which count too.

        Raises:
            DataError: when more videos than DATA.MAX_FAILED_FRACTION of the list cannot be read.
            WorkerError: when loader processes die over and over.
        """
        self.failed = {}
        self._count(failed)
        start, end = epoch * len(self) + first_step, (epoch + 1) * len(self)
        stream, coming = self._stream
        if coming != start:
            stream = self._pool.groups(self._coming_keys(epoch, first_step), self.batches.share, copy=False)
        for step in range(start, end):
            # A stream that breaks off here cannot be gone on with.
            self._stream = stream, None
            items = next(stream)
            self._count(failure for item in items for failure in item.failures)
            batch = self._collate(epoch, items)
            self._stream = stream, step + 1
            yield batch

    def close(self) -> None:
        """End the loader processes; the next epoch starts others."""
        self._stream = iter(()), None
        self._pool.close()

    def _coming_keys(self, epoch: int, first_step: int) -> Iterator[tuple[int, int]]:
        """The keys of this rank from a step to the end of the training."""
        yield from self.batches.keys(epoch, first_step)
        for later in range(epoch + 1, self._epochs):
            yield from self.batches.keys(later)

    def _load(self, key: tuple[int, int]) -> TrainingItem:
        """The item of a key, augmented where that is the workers' task; runs in the workers."""
        item = self.dataset[key]
        if item.clips is None or not self._augmentation.in_workers:
            return item
        return replace(item, clips=self._augmentation.pixels(item.clips, _keys(key[0], item)))

    def _count(self, failures: Iterable[Failure]) -> None:
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

    def _collate(self, epoch: int, items: list[TrainingItem]) -> TrainingBatch:
        # A place that no video could fill comes with more failures than are allowed, so every place is filled here.
        shape = sum(len(item.clips) for item in items), *items[0].clips.shape[1:]
        clips = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)
        # By NumPy, in this thread: for torch's others to join in, loader processes would have to leave their cores.
        np.concatenate([item.clips.numpy() for item in items], out=clips.numpy())
        labels = _joined([item.labels for item in items])
        labels = _each(labels, lambda tensor: tensor.pin_memory()) if self._pin else labels
        keys = torch.tensor([key for item in items for key in _keys(epoch, item)])
        return TrainingBatch(clips, labels, keys, self.videos)


def _keys(epoch: int, item: TrainingItem) -> list[tuple[int, int, int]]:
    return [(epoch, item.index, sample) for sample in range(len(item.clips))]


def _each(labels: Labels, change: Any) -> Labels:
    return {head: change(part) for head, part in labels.items()} if isinstance(labels, dict) else change(labels)


def _joined(parts: list[Labels]) -> Labels:
    if isinstance(parts[0], dict):
        return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}
    return torch.cat(parts)
