"""What reading clips costs: python benchmarks/data.py [--videos FOLDER].

The corpus is made first: textured things that move, 340x256, 10 seconds, H.264 as downloads come (x264's defaults), and
the same files as `tools/prepare_data.py resize` leaves them. All ways of reading take turns, clip by clip, so that
whatever else the machine does meets them alike; a figure is the median over the runs of what all clips of a run cost.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from corpus import prepared, real_videos, write_original
from record import as_line, facts, write_results
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videobench.datasets.cropping import Box, crop_resize, random_short_side_box, test_crops, window
from videobench.datasets.decoding import Video
from videobench.datasets.packets import VideoIndex
from videobench.datasets.sampling import clip_indices

RESULTS = Path(__file__).parent / "results/data.json"
CROP, SCALES = 224, (256, 320)
#: Frame indices of a 16x4 clip by time.
CLIP = partial(clip_indices, "time", num_frames=16, stride=4, target_fps=30.0, use_offset=False)
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
Way = Callable[[], Any]


# Ways of reading a training clip.


def training_indices(path: Path, seed: int) -> tuple[list[int], Box]:
    """Frames of a clip of a video, and the box to cut."""
    rng = np.random.default_rng(seed)
    with Video(path) as video:
        indices = CLIP(frames=video.frames, fps=video.fps, draw=rng)
        return indices, random_short_side_box(video.info.height, video.info.width, SCALES, CROP, rng)


def ours(path: Path, indices: Sequence[int], box: Box, index: VideoIndex | None = None) -> Tensor:
    """Scan, decode what is needed, cut and resize in one pass: uint8 [T, 3, 224, 224]."""
    with Video(path, index) as video:
        return crop_resize(video.decode(indices), box, CROP)


def span_of_frames(path: Path, indices: Sequence[int], convert_all: bool = True) -> Tensor:
    """The plain way: seek to the key frame, decode on through the last wanted frame, convert every frame to RGB.

    Loaders that decode with a library's reader, or turn frames into arrays as they come, convert all that is decoded.
    SlowFast's leaves out the frames before the span: so does this where ``convert_all`` is False, for a little less.
    """
    first, last = min(indices), max(indices)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        gap = 1 / (stream.average_rate * stream.time_base)
        begin = (stream.start_time or 0) + int(first * gap)
        end = (stream.start_time or 0) + int(last * gap)
        container.seek(begin, stream=stream)
        frames = []
        for frame in container.decode(stream):
            if convert_all or frame.pts >= begin:
                picture = torch.from_numpy(frame.to_ndarray(format="rgb24", threads=1))
            if frame.pts >= begin:
                frames.append(picture)
            if frame.pts >= end:
                break
    span = torch.stack(frames)
    return span[[min(i - first, len(span) - 1) for i in indices]]


def as_float(frames: Tensor) -> Tensor:
    """[T, H, W, 3] -> normalised float32 [3, T, H, W]."""
    frames = (frames.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return frames.permute(3, 0, 1, 2)


def with_short_side(frames: Tensor, side: int) -> Tensor:
    """Float frames [3, T, H, W] scaled so that the shorter of H and W is ``side``."""
    scale = side / min(frames.shape[2:])
    size = [int(length * scale) for length in frames.shape[2:]]
    return F.interpolate(frames, size, mode="bilinear", align_corners=False)


def plain(
    path: Path, indices: Sequence[int], short_side: int, offset: tuple[float, float], convert_all: bool = True
) -> Tensor:
    """The plain way (`span_of_frames`), then as float: scale the short side, cut: float32 [3, T, 224, 224]."""
    frames = with_short_side(as_float(span_of_frames(path, indices, convert_all)), short_side)
    y, x = (int(share * (side - CROP)) for share, side in zip(offset, frames.shape[2:], strict=True))
    return frames[:, :, y : y + CROP, x : x + CROP]


def torchcodec_way() -> Callable[[Path, Sequence[int], Box], Tensor] | None:
    """The same clip through torchcodec, where it is installed."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError):
        return None

    def read(path: Path, indices: Sequence[int], box: Box) -> Tensor:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        return crop_resize(decoder.get_frames_at(list(indices)).data, box, CROP)

    return read


# Ways of reading all views of a test video.


def view_clips(path: Path, clips: int) -> list[list[int]]:
    """Frames of every clip of a test."""
    with Video(path) as video:
        return [CLIP(frames=video.frames, fps=video.fps, view=k, views=clips) for k in range(clips)]


def views_once(path: Path, clips: list[list[int]], crops: int) -> Tensor:
    """Decoded once, resized once."""
    wanted = sorted({i for clip in clips for i in clip})
    with Video(path) as video:
        cut = test_crops(video.decode(wanted), 256, CROP, crops)
    place = {frame: row for row, frame in enumerate(wanted)}
    return torch.stack([crop[[place[i] for i in clip]] for clip in clips for crop in cut])


def views_one_by_one(path: Path, clips: list[list[int]], crops: int, read: Callable[..., Tensor]) -> list[Tensor]:
    """A decode for every view, as the published loaders do it."""
    return [read(path, clip, position) for clip in clips for position in range(crops)]


def plain_view(path: Path, indices: Sequence[int], position: int) -> Tensor:
    """The plain way (`span_of_frames`) to one of three crops: float32 [3, T, 224, 224]."""
    frames = with_short_side(as_float(span_of_frames(path, indices)), 256)
    y, x, _, _ = window(*frames.shape[2:], CROP, position)
    return frames[:, :, y : y + CROP, x : x + CROP]


def our_view(path: Path, indices: Sequence[int], position: int) -> Tensor:
    """One of three crops with our decoder: uint8 [T, 3, 224, 224]."""
    with Video(path) as video:
        return test_crops(video.decode(indices), 256, CROP, 3)[position]


# Measuring.


def in_turn(ways: dict[str, Sequence[Way]], runs: int) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of one call of every way: medians over the runs, of means over the calls of a run."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for calls in ways.values():
        calls[0]()  # imports, first pages
    for run in range(runs):
        total = {name: [0.0, 0.0] for name in ways}
        for number in range(len(next(iter(ways.values())))):
            order = list(ways) if (run + number) % 2 else list(ways)[::-1]
            for name in order:
                cpu, wall = time.process_time(), time.perf_counter()
                ways[name][number]()
                total[name][0] += time.process_time() - cpu
                total[name][1] += time.perf_counter() - wall
        for name, (cpu, wall) in total.items():
            calls = len(ways[name])
            spent[name].append((cpu / calls, wall / calls))
    return {
        name: {"cpu": statistics.median(cpu for cpu, _ in runs), "wall": statistics.median(wall for _, wall in runs)}
        for name, runs in spent.items()
    }


def measure_clips(corpora: dict[str, list[Path]], runs: int, per_video: int) -> dict[str, dict[str, float]]:
    """One training clip, 16x4 to 224, by every way from every form of the corpus."""
    codec = torchcodec_way()
    ways: dict[str, list[Way]] = {}
    for number in range(len(corpora["original"])):
        for k in range(per_video):
            seed = 100 * number + k
            rng = np.random.default_rng(seed)
            short_side, offset = int(rng.integers(SCALES[0], SCALES[1] + 1)), tuple(rng.random(2))
            for form, paths in corpora.items():
                # Prepared files have the same frames, so the clip is the same.
                indices, box = training_indices(paths[number], seed)
                call = partial(plain, paths[number], indices, short_side, offset)
                ways.setdefault(f"{form}: plain", []).append(call)
                ways.setdefault(f"{form}: plain, span converted", []).append(partial(call, convert_all=False))
                ways.setdefault(f"{form}: ours", []).append(partial(ours, paths[number], indices, box))
                # As with DATA.INDEX_CACHE: no pass over the packets.
                with Video(paths[number]) as video:
                    known = partial(ours, paths[number], indices, box, video.index)
                ways.setdefault(f"{form}: ours, index known", []).append(known)
                if codec:
                    ways.setdefault(f"{form}: torchcodec", []).append(partial(codec, paths[number], indices, box))
    return in_turn(ways, runs)


def measure_views(paths: Sequence[Path], runs: int) -> dict[str, dict[str, float]]:
    """All views of a video."""
    result = {}
    for clips, crops in ((4, 3), (10, 3)):
        ways: dict[str, list[Way]] = {}
        for path in paths:
            wanted = view_clips(path, clips)
            for name, call in (
                ("once", partial(views_once, path, wanted, crops)),
                ("plain, per view", partial(views_one_by_one, path, wanted, crops, plain_view)),
                ("ours, per view", partial(views_one_by_one, path, wanted, crops, our_view)),
            ):
                ways.setdefault(f"{clips}x{crops}: {name}", []).append(call)
        result |= in_turn(ways, runs)
    return result


class Clips(Dataset):
    """Training clips as uint8, or as the float32 that published loaders send."""

    def __init__(self, calls: list[Way], as_float32: bool) -> None:
        self.calls, self.as_float32 = calls, as_float32

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, number: int) -> Tensor:
        clip = self.calls[number]()
        return as_float(clip.permute(0, 2, 3, 1)).contiguous() if self.as_float32 else clip


def measure_loader(paths: Sequence[Path], runs: int, clips: int = 24) -> dict[str, dict[str, float]]:
    """Batches of 8 clips through two worker processes."""
    calls = []
    for k in range(clips):
        path = paths[k % len(paths)]
        calls.append(partial(ours, path, *training_indices(path, k)))
    spent: dict[str, list[tuple[float, float]]] = {"uint8": [], "float32": []}
    size = {}
    for run in range(runs):
        for kind in list(spent)[:: 1 if run % 2 else -1]:
            before, wall = os.times(), time.perf_counter()
            loader = DataLoader(Clips(calls, kind == "float32"), batch_size=8, num_workers=2)
            for batch in loader:
                size[kind] = batch.nbytes // len(batch)
            wall = time.perf_counter() - wall
            del loader
            after = os.times()
            spent[kind].append((sum(after[:4]) - sum(before[:4]), wall))
    return {
        kind: {
            "bytes": size[kind],
            "cpu": statistics.median(cpu for cpu, _ in runs) / clips,
            "wall": statistics.median(wall for _, wall in runs) / clips,
        }
        for kind, runs in spent.items()
    }


# The result.

FORMS = {"originals": "original", "prepared": "prepared", "prepared, fastdecode": "prepared, fastdecode"}
WAYS = ("plain", "plain, span converted", "torchcodec", "ours", "ours, index known")
#: What is aimed at: CPU seconds of the first divided by those of the second.
AIMS = {
    ("original: plain", "original: ours"): 2.0,
    ("original: torchcodec", "original: ours"): 1.0,
    ("original: plain", "prepared, fastdecode: ours"): 8.0,
    ("prepared, fastdecode: plain", "prepared, fastdecode: ours"): 4.0,
    ("4x3: plain, per view", "4x3: once"): 6.0,
    ("10x3: plain, per view", "10x3: once"): 15.0,
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in [head, *rows]]
    return "\n".join([lines[0], f"|---{'|--:' * (len(head) - 1)}|", *lines[1:]])


def show(result: dict) -> None:
    """The tables of benchmarks/README.md."""
    clips, views, loader = result["clips"], result["views"], result["loader"]

    def ms(cost: dict[str, float], kind: str = "cpu") -> str:
        return f"{cost[kind] * 1e3:.1f}"

    def times(slow: dict[str, float], fast: dict[str, float]) -> str:
        return f"{slow['cpu'] / fast['cpu']:.1f}x"

    forms = FORMS.values()
    rows = [[way, *(ms(clips[f"{form}: {way}"]) for form in forms)] for way in WAYS if f"original: {way}" in clips]
    ours = [clips[f"{form}: ours"] for form in forms]
    against = {"plain on originals": [clips["original: plain"]] * 3}
    against["plain on the same files"] = [clips[f"{form}: plain"] for form in forms]
    if "original: torchcodec" in clips:
        against["torchcodec on the same files"] = [clips[f"{form}: torchcodec"] for form in forms]
    for name, costs in against.items():
        rows.append([f"{name} against ours", *(times(*pair) for pair in zip(costs, ours, strict=True))])
    print(f"\n{table(['CPU ms a clip', *FORMS], rows)}")

    shapes = ("4x3", "10x3")
    rows = [
        [f"{way}, a decode per view", *(ms(views[f"{s}: {way}, per view"]) for s in shapes)]
        for way in ("plain", "ours")
    ]
    once = [
        f"{ms(views[f'{s}: once'])} ({times(views[f'{s}: plain, per view'], views[f'{s}: once'])} less than plain)"
        for s in shapes
    ]
    rows.append(["ours, decoded once", *once])
    print(f"\n{table(['all views of a test video, CPU ms', '4 clips x 3 crops', '10 clips x 3 crops'], rows)}")

    rows = [[kind, f"{cost['bytes'] / 2**20:.2f} MiB", ms(cost), ms(cost, "wall")] for kind, cost in loader.items()]
    head = ["two loader processes, batches of 8", "bytes a clip", "CPU ms a clip", "wall ms a clip"]
    print(f"\n{table(head, rows)}\n")

    costs = clips | views
    for (slow, fast), aim in AIMS.items():
        if slow in costs:
            print(f"{slow} against {fast}: {times(costs[slow], costs[fast])}, aim {aim:g}x")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="the smallest H.264 files in it are measured, too")
    parser.add_argument("--count", type=int, default=2, help="videos in each corpus (default 2)")
    parser.add_argument("--runs", type=int, default=5, help="at least 5 (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file")
    args = parser.parse_args()
    if args.runs < 5:
        parser.error("--runs is at least 5")
    torch.set_num_threads(1)
    results = {
        **facts(),
        # Processes that wanted a core when the run began: above the number of cores, the machine was shared.
        "load": round(os.getloadavg()[0], 1),
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
    }
    if torchcodec_way():
        import torchcodec

        results["torchcodec"] = torchcodec.__version__
    print(as_line(results))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        originals = []
        for number in range(args.count):
            originals.append(made / f"{number}.mp4")
            write_original(originals[-1], number)
        corpora = {"corpus": originals}
        if args.videos:
            corpora["real files"] = real_videos(args.videos)[: args.count]
        for name, paths in corpora.items():
            forms = {"original": paths}
            for form, fast in (("prepared", False), ("prepared, fastdecode", True)):
                (inner := made / name / form).mkdir(parents=True)
                forms[form] = [prepared(path, inner, fast) for path in paths]
            result = {
                "videos": len(paths),
                "kilobytes": {form: sum(p.stat().st_size for p in f) // 1000 for form, f in forms.items()},
                "clips": measure_clips(forms, args.runs, per_video=3),
                "views": measure_views(paths[:1], args.runs),
                "loader": measure_loader(forms["prepared, fastdecode"], args.runs),
            }
            results[name] = result
            print(f"\n## {name}: {len(paths)} videos, {result['kilobytes']} kilobytes")
            show(result)
    write_results(args.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
