"""Test views: every clip and crop of a video, from one decode.

A loader process hands over a video's frames once, resized, and says where its views lie in them; the views are cut out
on the device. Neighbouring clips share frames and crops share all of them, so memory is bounded by the frames of a
video, however many views are asked for.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList, split_list
from videobench.datasets.clips import Failure, Temporal
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import Box, crop_resize, image_test_window, test_windows
from videobench.datasets.workers import WorkerPool, note_reading, worker_count

#: Clips per video and crops per clip.
Grid = tuple[int, int]


@dataclass(frozen=True)
class Views:
    """The views of one video that differ from each other, as places in the frames they share.

    Attributes:
        index: number of the video in its list.
        planes: uint8 [frames, C, h, w], one tensor for every size that crops are cut from.
        places: int64 [views, 3], the plane of a view and the top left corner (y0, x0) of its crop in it.
        rows: int64 [views, T], the frames of a view in its plane.
        grids: for every grid asked for, int64 [clips * crops]: which of these views it consists of, the crops of a
            clip next to each other.
        crop: side of the crops.
        failure: why there are no views.
    """

    index: int
    planes: tuple[Tensor, ...]
    places: np.ndarray
    rows: np.ndarray
    grids: tuple[np.ndarray, ...]
    crop: int
    failure: Failure | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def clips(self, first: int = 0, last: int | None = None) -> Tensor:
        """Views ``first`` to ``last`` (exclusive) as uint8 [views, T, C, H, W], on the device of the planes."""
        part, clips = slice(first, last), []
        rows = torch.from_numpy(self.rows[part]).to(self.planes[0].device)
        for (plane, y0, x0), frames in zip(self.places[part].tolist(), rows, strict=True):
            clips.append(self.planes[plane][:, :, y0 : y0 + self.crop, x0 : x0 + self.crop][frames])
        return torch.stack(clips)

    def to(self, device: torch.device) -> "Views":
        """A copy on a device, which stays when the loader's memory is used again."""
        return replace(
            self,
            planes=tuple(plane.to(device, copy=True) for plane in self.planes),
            places=self.places.copy(),
            rows=self.rows.copy(),
            grids=tuple(members.copy() for members in self.grids),
        )


class VideoViews:
    """The views of every grid of a video, by its number in the list; decoded once, coinciding views once."""

    def __init__(
        self, cfg: CfgNode, videos: VideoList, grids: Sequence[Grid] = ((1, 1),), *, shuffle_frames: bool = False
    ) -> None:
        self.videos, self.grids = videos, tuple(grids)
        self.temporal = Temporal.from_config(cfg, videos)
        self.crop_size = cfg.DATA.TEST_CROP_SIZE
        self.short_sides = {1: cfg.DATA.TRAIN_JITTER_SCALES[0] if videos.crop_margin else self.crop_size}
        self.short_sides[3] = self.crop_size
        self.crop_ratio = cfg.DATA.VAL_CROP_RATIO
        self.resize = {"antialias": cfg.DATA.ANTIALIAS, "mode": "bilinear"}
        if videos.pictures:
            self.resize = {"antialias": True, "mode": "bicubic"}
        self.single = cfg.TEST.SINGLE_CROP
        self.seed = cfg.RNG_SEED if shuffle_frames else None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Views:
        try:
            note_reading(index)
            return self._views(index)
        except VideoError as error:
            nothing = np.empty((0, 0), np.int64)
            return Views(index, (), nothing, nothing, (), self.crop_size, Failure.of(self.videos, index, error))

    def _views(self, index: int) -> Views:
        with self.videos.open(index) as video:
            clips = {n: [self.temporal.indices(video, view=k, views=n) for k in range(n)] for n, _ in self.grids}
            wanted = sorted({frame for part in clips.values() for clip in part for frame in clip})
            frames = video.decode(wanted)
        row = {frame: number for number, frame in enumerate(wanted)}
        windows = {crops: self._windows(frames, crops) for _, crops in self.grids}
        sizes = list(dict.fromkeys(size for size, _ in windows.values()))
        planes, corners = zip(*(self._plane(frames, size, windows.values()) for size in sizes), strict=True)
        # Where a view lies says what it shows, so that views which coincide become one.
        numbers: dict[tuple, int] = {}
        grids = []
        for count, crops in self.grids:
            size, boxes = windows[crops]
            plane = sizes.index(size)
            # Every grid draws alike, whatever else is asked for.
            rng = np.random.default_rng([self.seed, index]) if self.seed is not None else None
            members = []
            for clip in clips[count]:
                rows = [row[frame] for frame in (clip if rng is None else rng.permutation(clip).tolist())]
                for box in boxes:
                    key = (plane, int(box.y0) - corners[plane][0], int(box.x0) - corners[plane][1], *rows)
                    members.append(numbers.setdefault(key, len(numbers)))
            grids.append(np.array(members))
        places = np.array(list(numbers))
        return Views(index, planes, places[:, :3], places[:, 3:], tuple(grids), self.crop_size)

    def _windows(self, frames: Tensor, crops: int) -> tuple[tuple[int, int], list[Box]]:
        if self.videos.pictures and crops == 1:
            size, box = image_test_window(*frames.shape[1:3], self.crop_size, self.crop_ratio)
            return size, [box]
        return test_windows(*frames.shape[1:3], self.short_sides[crops], self.crop_size, crops, self.single)

    def _plane(self, frames: Tensor, size: tuple[int, int], windows: Iterable) -> tuple[Tensor, tuple[int, int]]:
        """The frames at a size, no more of them than the windows at this size cover, and where that part begins."""
        boxes = [box for other, boxes in windows if other == size for box in boxes]
        y0, x0 = int(min(box.y0 for box in boxes)), int(min(box.x0 for box in boxes))
        y1, x1 = (int(max(box[axis] for box in boxes)) + self.crop_size for axis in (0, 1))
        resized = crop_resize(frames, Box(0, 0, *frames.shape[1:3]), size, **self.resize)
        return resized[:, :, y0:y1, x0:x1].contiguous(memory_format=torch.channels_last), (y0, x0)


class ViewLoader:
    """Videos of a split, one at a time with all their views; iterate over it as often as wanted.

    What it hands over lies in memory that the next video takes (see `Views.to`).

    Args:
        cfg: the configuration.
        split: train, val or test.
        grids: (clips, crops) of every set of views wanted.
        indices: the videos wanted, in this order; all of the list unless given.
        rank: ranks take turns, so that every video comes exactly once.
        world_size: number of ranks.
        shuffle_frames: permute the frames of every clip.
    """

    def __init__(
        self,
        cfg: CfgNode,
        split: str,
        grids: Sequence[Grid] = ((1, 1),),
        *,
        indices: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        shuffle_frames: bool = False,
    ) -> None:
        self.videos = split_list(cfg, split)
        self.views = VideoViews(cfg, self.videos, grids, shuffle_frames=shuffle_frames)
        self.indices = (range(len(self.videos)) if indices is None else indices)[rank::world_size]
        self._cfg = cfg

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Views]:
        pool = WorkerPool(
            self.views.__getitem__,
            workers=worker_count(self._cfg),
            videos=len(self.videos),
            path=self.videos.path,
            timeout=self._cfg.DATA_LOADER.TIMEOUT,
        )
        try:
            for (views,) in pool.groups(self.indices):
                yield views
        finally:
            pool.close()


def video_bytes(videos: VideoList, indices: Sequence[int]) -> np.ndarray:
    """Bytes to read and decode for some videos, float64; 0 for frame folders and for what is not there.

    The actions in one long file share its bytes.
    """
    paths = [videos.path(index) for index in indices]

    def size(path: str) -> int:
        try:
            facts = os.stat(path)
        except OSError:
            return 0
        return facts.st_size if stat.S_ISREG(facts.st_mode) else 0

    counts = Counter(paths)
    # On shared file systems each answer takes a millisecond or more.
    with ThreadPoolExecutor(16) as threads:
        sizes = dict(zip(counts, threads.map(size, counts), strict=True))
    return np.array([sizes[path] / counts[path] for path in paths], np.float64)


def spread(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Jobs shared out to ranks: as many to each as to every other, give or take one, and sums of costs as equal.

    The dearest jobs are dealt out first, round by round, the dearest of a round to the rank with the least so far. What
    a network computes for a job is the same for all, what decoding takes is its cost, and both end together.

    Returns:
        The numbers of each rank's jobs, rising.
    """
    order = np.argsort(-np.asarray(costs, np.float64), kind="stable")
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = np.zeros(ranks)
    for start in range(0, len(order), ranks):
        jobs = order[start : start + ranks]
        for job, rank in zip(jobs, np.argsort(sums, kind="stable"), strict=False):
            shares[rank].append(int(job))
            sums[rank] += costs[job]
    return [sorted(share) for share in shares]
