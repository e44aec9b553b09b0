"""Training batches: the order of an epoch, and what happens to bad files."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from videobench.config import CfgNode
from videobench.datasets.annotations import split_list
from videobench.datasets.clips import Failure, TrainingClips
from videobench.datasets.workers import worker_options

logger = logging.getLogger(__name__)


class DataError(RuntimeError):
    """More unreadable training videos than DATA.MAX_FAILED_FRACTION allows."""


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
            **worker_options(cfg),
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


def _collate_training(items: list[tuple[Tensor | None, int, list[Failure]]]):
    failures = [failure for _, _, found in items for failure in found]
    # A place that no video could fill comes with more failures than are allowed: the run stops before this is used.
    clips = [clip for clip, _, _ in items if clip is not None]
    labels = [label for clip, label, _ in items if clip is not None]
    return torch.stack(clips) if clips else torch.empty(0), torch.tensor(labels), failures
