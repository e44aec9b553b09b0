"""Test views: every clip and crop of a video, from one decode.

A loader process hands over a video's frames once, resized, and says where its views lie in them; the views are cut out
on the device. Neighbouring clips share frames and crops share all of them, so memory is bounded by the frames of a
video, however many views are asked for.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList, split_list
from videobench.datasets.clips import Failure, Temporal
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import Box, crop_resize, image_test_window, in_original, test_windows
from videobench.datasets.reading import note_reading
from videobench.datasets.workers import WorkerPool, worker_count

#: Clips per video and crops per clip.
Grid = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """Where the planes of `Views` come from.

    Attributes:
        frames: numbers of the frames in the video, one for every frame of a plane.
        size: (height, width) of the video's frames.
        sizes: what they were resized to, for every plane.
        corners: where the plane begins in the resized frames, (y0, x0).
    """

    frames: tuple[int, ...]
    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    corners: tuple[tuple[int, int], ...]


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
        source: where they come from; None without views.
    """

    index: int
    planes: tuple[Tensor, ...]
    places: np.ndarray
    rows: np.ndarray
    grids: tuple[np.ndarray, ...]
    crop: int
    failure: Failure | None = None
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def frames(self, view: int) -> list[int]:
        """The numbers of a view's frames in the video."""
        return [self.source.frames[row] for row in self.rows[view].tolist()]

    def box(self, view: int) -> Box:
        """The crop of a view in pixels of the video's frames."""
        plane, y0, x0 = self.places[view].tolist()
        (top, left), size = self.source.corners[plane], self.source.sizes[plane]
        return in_original(Box(top + y0, left + x0, self.crop, self.crop), size, self.source.size)

    def clips(self, first: int = 0, last: int | None = None) -> Tensor:
        """Views ``first`` to ``last`` (exclusive) as uint8 [views, T, C, H, W], on the device of the planes."""
        part, clips = slice(first, last), []
        rows = torch.from_numpy(self.rows[part]).to(self.planes[0].device)
        for (plane, y0, x0), frames in zip(self.places[part].tolist(), rows, strict=True):
            clips.append(self.planes[plane][:, :, y0 : y0 + self.crop, x0 : x0 + self.crop][frames])
        return torch.stack(clips)

    def to(self, device: torch.device, *, pin: bool = False) -> "Views":
        """A copy on a device, which stays when the loader's memory is used again.

        With ``pin`` it goes through pinned memory, and nobody waits for a GPU to have it.
        """
        planes = (plane.pin_memory() if pin else plane for plane in self.planes)
        return replace(
            self,
            planes=tuple(plane.to(device, copy=True, non_blocking=pin) for plane in planes),
            places=self.places.copy(),
            rows=self.rows.copy(),
            grids=tuple(members.copy() for members in self.grids),
        )


def short_side(cfg: CfgNode, videos: VideoList, crops: int) -> int:
    """The short side of the frames that 1 or 3 crops are cut from; some data leave a margin around a single crop."""
    return cfg.DATA.TRAIN_JITTER_SCALES[0] if crops == 1 and videos.crop_margin else cfg.DATA.TEST_CROP_SIZE


class VideoViews:
    """The views of every grid of a video, by its number in the list; decoded once, coinciding views once."""

    def __init__(
        self, cfg: CfgNode, videos: VideoList, grids: Sequence[Grid] = ((1, 1),), *, shuffle_frames: bool = False
    ) -> None:
        self.videos, self.grids = videos, tuple(grids)
        self.temporal = Temporal.from_config(cfg, videos)
        self.crop_size = cfg.DATA.TEST_CROP_SIZE
        self.short_sides = {crops: short_side(cfg, videos, crops) for crops in (1, 3)}
        self.crop_ratio = cfg.DATA.VAL_CROP_RATIO
        self.resize = {"antialias": cfg.DATA.ANTIALIAS or videos.pictures}
        self.resize["mode"] = "bicubic" if videos.pictures else "bilinear"
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
            planes = _Planes(self, len(wanted))
            if parts := getattr(video, "decode_parts", None):
                parts(wanted, planes.take)
            else:  # all of them are in memory anyhow
                planes.take(list(range(len(wanted))), video.decode(wanted))
        row = {frame: number for number, frame in enumerate(wanted)}
        windows, sizes, corners = planes.windows, planes.sizes, planes.corners
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
        source = Source(tuple(wanted), planes.frame_size, tuple(sizes), tuple(corners))
        return Views(
            index, tuple(planes.planes), places[:, :3], places[:, 3:], tuple(grids), self.crop_size, source=source
        )

    def windows(self, height: int, width: int, crops: int) -> tuple[tuple[int, int], list[Box]]:
        """The size that frames are resized to for 1 or 3 crops, and the crops in it."""
        if self.videos.pictures and crops == 1:
            size, box = image_test_window(height, width, self.crop_size, self.crop_ratio)
            return size, [box]
        return test_windows(height, width, self.short_sides[crops], self.crop_size, crops, self.single)


class _Planes:
    """The frames of a video at the sizes that crops are cut from, no more of them than the crops cover.

    They are resized as they are decoded, a few at a time: frames of full size would fill a gigabyte.

    Attributes:
        frame_size: (height, width) of the video's frames.
        windows: for every number of crops, the size it needs and the crops in it.
        sizes, corners, planes: the different sizes, where the part that is kept begins in each, and the frames.
    """

    def __init__(self, views: VideoViews, count: int) -> None:
        self._views, self._count = views, count
        self.planes: list[Tensor] = []

    def take(self, rows: list[int], frames: Tensor) -> None:
        """Resize some frames, uint8 [rows, H, W, 3], into their rows."""
        if not self.planes:
            self._begin(*frames.shape[1:3])
        for plane, size, (y0, x0) in zip(self.planes, self.sizes, self.corners, strict=True):
            resized = crop_resize(frames, Box(0, 0, *self.frame_size), size, **self._views.resize)
            plane[rows] = resized[:, :, y0 : y0 + plane.shape[2], x0 : x0 + plane.shape[3]]

    def _begin(self, height: int, width: int) -> None:
        self.frame_size = height, width
        self.windows = {crops: self._views.windows(height, width, crops) for _, crops in self._views.grids}
        self.sizes = list(dict.fromkeys(size for size, _ in self.windows.values()))
        self.corners = []
        for size in self.sizes:
            boxes = [box for other, part in self.windows.values() if other == size for box in part]
            first = [int(min(box[axis] for box in boxes)) for axis in (0, 1)]
            last = [int(max(box[axis] for box in boxes)) + self._views.crop_size for axis in (0, 1)]
            self.corners.append(tuple(first))
            shape = (self._count, 3, last[0] - first[0], last[1] - first[1])
            self.planes.append(torch.empty(shape, dtype=torch.uint8).to(memory_format=torch.channels_last))


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
            for (views,) in pool.groups(self.indices, copy=False):
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
