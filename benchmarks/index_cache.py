"""What DATA.INDEX_CACHE saves: python benchmarks/index_cache.py [--videos FOLDER].

CPU seconds (and wall time, files in the page cache) of one 16x4 training clip with the frames of a file found anew, and
with their index read from the cache, entry look-up included. Files: 10 seconds as downloads come and as
`tools/prepare_data.py resize` leaves them, 10 minutes in one file as in EPIC-Kitchens, and a folder of one's own.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import torch
from corpus import prepared, write_original
from data import in_turn, ours, training_indices
from record import facts, write_results

from videobench.datasets.backends import VideoReader
from videobench.datasets.containers import VideoError
from videobench.datasets.cropping import Box, crop_resize
from videobench.datasets.decoding import Video
from videobench.datasets.index_cache import IndexCache

RESULTS = Path(__file__).parent / "results/index_cache.json"
CROP = 224


def repeat(path: Path, target: Path, times: int) -> Path:
    """The packets of a file several times over, one after the other."""
    with av.open(str(target), "w") as out, av.open(str(path)) as source:
        stream = out.add_stream_from_template(source.streams.video[0])
        length = source.streams.video[0].duration
        for turn in range(times):
            source.seek(0)
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.pts, packet.dts = packet.pts + turn * length, packet.dts + turn * length
                    packet.stream = stream
                    out.mux(packet)
    return target


def cached(reader: VideoReader, path: Path, indices: Sequence[int], box: Box) -> torch.Tensor:
    """A clip through a reader that keeps the indices of files: uint8 [T, 3, 224, 224]."""
    with reader.open(str(path)) as video:
        return crop_resize(video.decode(indices), box, CROP)


def measure(paths: Sequence[Path], folder: Path, runs: int) -> dict[str, Any]:
    """CPU and wall seconds of a clip by both ways, and the size of the cache file (``in_turn``).

    Raises:
        SystemExit: when the ways give different clips.
    """
    reader = VideoReader(cache=IndexCache(folder / "index"))
    ways = {"found anew": [], "cached": []}
    for seed, path in enumerate(paths):
        indices, box = training_indices(path, seed)
        ways["found anew"].append(partial(ours, path, indices, box))
        ways["cached"].append(partial(cached, reader, path, indices, box))
        if not torch.equal(ways["found anew"][-1](), ways["cached"][-1]()):
            raise SystemExit(f"{path}: the cached index gives another clip")
    reader.cache.flush()
    # What waits to be written would be found in memory.
    fresh = VideoReader(cache=IndexCache(folder / "index"))
    ways["cached"] = [partial(cached, fresh, *way.args[1:]) for way in ways["cached"]]
    result = in_turn(ways, runs)
    return result | {"bytes per entry": (folder / "index").stat().st_size / len(paths)}


def readable(path: Path) -> bool:
    """Whether a file holds more than a clip."""
    try:
        with Video(path) as video:
            return video.frames > 64
    except VideoError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--videos", type=Path, help="a folder of videos to measure as well")
    parser.add_argument("--files", type=int, default=8, help="files of the corpus")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = facts() | {"av": av.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = [folder / f"{seed}.mp4" for seed in range(arguments.files)]
        for seed, path in enumerate(originals):
            write_original(path, seed)
        corpora = {"as downloaded, 10 s": originals}
        for title, fast in (("prepared", False), ("prepared, fast decode", True)):
            (folder / title).mkdir()
            corpora[title] = [prepared(path, folder / title, fast) for path in originals]
        corpora["prepared, 10 min"] = [
            repeat(path, folder / f"long{path.name}", 60) for path in corpora["prepared"][:2]
        ]
        if arguments.videos:
            corpora["own folder"] = [path for path in sorted(arguments.videos.iterdir()) if readable(path)]
        for title, paths in corpora.items():
            places = folder / f"{title} cache"
            places.mkdir()
            results[title] = measure(paths, places, arguments.runs)
            print(title, json.dumps(results[title]))
    write_results(RESULTS, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
