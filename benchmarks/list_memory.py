"""Memory that a long list costs: python benchmarks/list_memory.py [--lines 1000000] [--workers 4].

A training loader over a list of so many lines is read for two batches. *Private* is what a process has for itself and
*proportional* its share of what it has together with others (PSS), both from Linux's smaps_rollup, in MiB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from corpus import write_original
from record import facts, write_results

import videobench
from videobench.datasets.loader import TrainingLoader

RESULTS = Path(__file__).parent / "results/list_memory.json"
# As long as the paths of Kinetics usually are.
NAME = "compress/train_256/riding_or_walking_with_horse/clip_{:02d}_000012_000022.mp4"


def memory(pid: int) -> dict[str, float]:
    """MiB of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {"private": sizes["Private_Clean"] + sizes["Private_Dirty"], "proportional": sizes["Pss"]}


def empty_process() -> dict[str, float]:
    """A Python process that has done nothing."""
    code = "print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
        process.stdout.readline()
        found = memory(process.pid)
        process.communicate(b"\n")
    return found


def loading(folder: Path, lines: int, workers: int) -> dict[str, dict[str, float]]:
    """The rank and its largest worker over a list of ``lines``."""
    names = [NAME.format(number) for number in range(50)]
    (folder / "train.csv").write_text("".join(f"{names[i % 50]} {i % 400}\n" for i in range(lines)))
    words = ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(folder), "DATA_LOADER.NUM_WORKERS", workers]
    words += ["TRAIN.BATCH_SIZE", 8, "DATA.NUM_FRAMES", 16, "DATA.SAMPLING_RATE", 4, "DATA.TRAIN_CROP_SIZE", 224]
    loader = TrainingLoader(videobench.load_config([], words))
    batches = loader.epoch(0)
    for _ in islice(batches, 2):
        pass
    each = [memory(worker.process.pid) for worker in loader._pool._workers]
    return {"rank": memory(os.getpid()), "worker": max(each, key=lambda found: found["private"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    found = {"empty process": empty_process()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(50):
            path = folder / NAME.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            if number == 0:
                first = path
                write_original(path, seed=0)
            else:
                path.symlink_to(first)
        for lines in (50, args.lines):
            found |= {f"{who}, {lines} lines": sizes for who, sizes in loading(folder, lines, args.workers).items()}
    for who, sizes in found.items():
        print(f"{who:<28}" + "".join(f"{key} {value:8.1f} MiB  " for key, value in sizes.items()))
    write_results(RESULTS, facts() | {"workers": args.workers, "MiB": found})


if __name__ == "__main__":
    main()
