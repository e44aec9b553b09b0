"""Test views: every clip and crop of a video, from one decode."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList, split_list
from videobench.datasets.clips import Failure, Temporal
from videobench.datasets.cropping import test_crops
from videobench.datasets.decoding import Video, VideoError
from videobench.datasets.workers import worker_options


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
        **worker_options(cfg, persistent=split == "val" and cfg.TRAIN.ENABLE),
    )
