"""What the views of a test cost: python benchmarks/testing.py [--videos FOLDER].

CPU seconds per video from the file to uint8 views, 16 frames with stride 4, for 4 clips x 1 crop (short side 256) and
10 x 3 (short side 224): as the tester does it, one decode for all views, and as the published loaders do it, the file
opened and the clip decoded anew for every view, here with the same exact decoder. A network costs both the same and
is left out. The ways take turns, video by video; a figure is the median over the runs of what all videos of a run cost.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from clock import cpu_seconds
from corpus import write_original
from record import facts, write_results
from torch import Tensor

import videobench
from videobench.datasets.annotations import split_list
from videobench.datasets.clips import Temporal
from videobench.datasets.cropping import test_crops
from videobench.datasets.views import VideoViews

RESULTS = Path(__file__).parent / "results/testing.json"
GRIDS = ((4, 1), (10, 3))
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")
# Views that go to the network at a time.
BATCH = 8


def decoded_once(views: VideoViews, index: int) -> Tensor:
    """All views of a video as the tester makes them, a batch at a time; the last batch."""
    found = views[index]
    for first in range(0, len(found), BATCH):
        batch = found.clips(first, min(first + BATCH, len(found)))
    return batch


def decoded_per_view(views: VideoViews, temporal: Temporal, index: int, clips: int, crops: int) -> Tensor:
    """All views of a video, each from the file; the last one."""
    for clip in range(clips):
        for crop in range(crops):
            with views.videos.open(index) as video:
                frames = video.decode(temporal.indices(video, view=clip, views=clips))
            view = test_crops(frames, views.short_sides[crops], views.crop_size, crops)[crop].contiguous()
    return view


def measure(paths: Sequence[Path], lists: Path, runs: int) -> dict[str, dict[str, float]]:
    """CPU seconds per video of both ways for every grid of views; the list of the videos is written into ``lists``."""
    (lists / "test.csv").write_text("".join(f"{path.resolve()},0\n" for path in paths))
    overrides = ["DATA.PATH_TO_DATA_DIR", str(lists), "DATA.PATH_LABEL_SEPARATOR", ",", "DATA.INDEX_CACHE", "off"]
    overrides += ["DATA.NUM_FRAMES", 16, "DATA.SAMPLING_RATE", 4, "DATA.TRAIN_JITTER_SCALES", [256, 320]]
    cfg = videobench.load_config([], overrides)
    videos = split_list(cfg, "test")
    temporal = Temporal.from_config(cfg, videos)
    results = {}
    for clips, crops in GRIDS:
        views = VideoViews(cfg, videos, ((clips, crops),))
        once, per_view = [], []
        for _ in range(runs):
            sums = [0.0, 0.0]
            for index in range(len(videos)):
                sums[0] += cpu_seconds(partial(decoded_once, views, index))
                sums[1] += cpu_seconds(partial(decoded_per_view, views, temporal, index, clips, crops))
            once.append(sums[0] / len(videos))
            per_view.append(sums[1] / len(videos))
        results[f"{clips}x{crops}"] = {
            "decoded_once": round(statistics.median(once), 4),
            "decoded_per_view": round(statistics.median(per_view), 4),
            "times_less": round(statistics.median(b / a for a, b in zip(once, per_view, strict=True)), 2),
        }
        print(f"{clips}x{crops}", results[f"{clips}x{crops}"], flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of videos instead of made-up ones")
    parser.add_argument("--count", type=int, default=6, help="made-up videos (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if args.videos is None:
            paths = [Path(made) / f"{number}.mp4" for number in range(args.count)]
            for number, path in enumerate(paths):
                write_original(path, number)
        else:
            paths = sorted(path for path in args.videos.iterdir() if path.suffix in SUFFIXES)
            if not paths:
                parser.error(f"--videos {args.videos}: no {', '.join(SUFFIXES)} in it")
        figures = measure(paths, Path(made), args.runs)
    videos = args.count if args.videos is None else args.videos.name
    write_results(RESULTS, facts() | {"videos": videos, "runs": args.runs, "cpu_seconds_per_video": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
