"""Which library gives exactly the frames of a plain decode: python benchmarks/exactness.py [--videos FOLDER].

A table of files and backends. Every frame of every file is asked for three ways: all in order, one by one in steps of
five, and in a scattered order. "exact" means equal to the bit to a decode from the first packet to the last; anything
else is what the backend says in its refusal, or WRONG. Files are of the kinds that the tests generate, and those of a
folder of one's own.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from videobench.config import ConfigError
from videobench.datasets.containers import VideoError
from videobench.datasets.decoding import Video

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import video_fixtures

# The plain decode turns pictures by quarter turns only; the tests compare mirrored files with their unmirrored twins.
_MIRRORED = {"h264_mirror", "h264_transpose"}


def backends() -> dict[str, type[Video]]:
    """The libraries that can be used here."""
    found = {"pyav": Video}
    try:
        from videobench.datasets.torchcodec_backend import TorchcodecVideo, load_decoder

        load_decoder()
        found["torchcodec"] = TorchcodecVideo
    except ConfigError as error:
        print(f"without torchcodec: {error}\n")
    return found


def judge(backend: type[Video], path: Path, reference: np.ndarray) -> str:
    """What a backend makes of a file: exact, its refusal, or WRONG."""
    count = len(reference)
    scattered = np.random.default_rng(0).integers(0, count, 12).tolist()
    refusals = []
    asked = [list(range(count)), scattered, *([i] for i in range(0, count, max(5, count // 20)))]
    for indices in asked:
        try:
            with backend(str(path)) as video:
                frames = video.decode(indices).numpy()
        except VideoError as error:
            refusals.append(error.cause)
            continue
        if not np.array_equal(frames, reference[indices]):
            return "WRONG"
    if not refusals:
        return "exact"
    cause = refusals[0].removeprefix("torchcodec does not decode it exactly: ").partition("; use ")[0]
    return f"refused: {cause}" if len(refusals) == len(asked) else f"exact or refused: {cause}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--videos", type=Path, help="a folder of videos to judge as well")
    arguments = parser.parse_args()
    libraries = backends()
    print("| file | frames | " + " | ".join(libraries) + " |\n|---|--:|" + "---|" * len(libraries))
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for kind in sorted(set(video_fixtures.KINDS) - _MIRRORED):
            place = Path(folder) / kind
            place.mkdir()
            paths[kind] = video_fixtures.KINDS[kind](place)
        if arguments.videos:
            paths |= {
                path.name: path for path in sorted(arguments.videos.iterdir()) if path.suffix not in (".json", ".md")
            }
        for name, path in paths.items():
            try:
                reference = video_fixtures.reference(path)
            except Exception as error:  # PyAV has many kinds of errors, and the file is left out of the table.
                print(f"| {name} | | left out: a plain decode fails ({error}) |")
                continue
            verdicts = [judge(backend, path, reference) for backend in libraries.values()]
            wrong += "WRONG" in verdicts
            print(f"| {name} | {len(reference)} | " + " | ".join(verdicts) + " |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
