"""How long commands take to begin: python benchmarks/startup.py.

Wall seconds of `tools/run_net.py --help` beside those of an empty interpreter, and of the demo's training command until
its first step is logged, in turn, median of the rounds. The demo data set is made before.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import as_line, facts, write_results

from videobench.datasets.demo import write_demo_dataset

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results/startup.json"
AIMS = {"help": 1.0, "first step": 15.0}


def seconds_until(command: list[str], sign: str) -> float:
    """Wall seconds from the start of a command to a line of its output that holds ``sign``; the command ends there.

    Raises:
        SystemExit: when it ends without that line.
    """
    started, seen = time.perf_counter(), []
    joined = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, text=True, **joined) as process:  # noqa: S603
        for line in process.stdout:
            seen.append(line)
            if sign in line:
                found = time.perf_counter() - started
                process.terminate()
                process.stdout.read()
                return found
    raise SystemExit(f"{' '.join(command)} ended without {sign!r}:\n{''.join(seen)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file, written anew")
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error("--rounds is at least 5")
    run_net = [sys.executable, "tools/run_net.py"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_demo_dataset(data)
        demo = [
            *(*run_net, "--cfg", "configs/demo/uniformer_tiny.yaml", "LOG_PERIOD", "1"),
            *("DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(data)),
            *("DATA.CLASS_NAMES", str(data / "classes.txt")),
        ]
        found: dict[str, list[float]] = {"interpreter": [], "help": [], "first step": []}
        for number in range(args.rounds):
            output = ["OUTPUT_DIR", str(Path(folder) / f"run_{number}")]
            found["interpreter"].append(seconds_until([sys.executable, "-c", "print('begun')"], "begun"))
            found["help"].append(seconds_until([*run_net, "--help"], "usage:"))
            found["first step"].append(seconds_until([*demo, *output], "step 1/"))
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    setting = facts() | {"rounds": args.rounds}
    print(as_line(setting))
    for name, seconds in medians.items():
        print(f"{name:12} {seconds:6.2f} s" + (f" (at most {AIMS[name]:.0f} s wanted)" if name in AIMS else ""))
    write_results(args.output, {**setting, "seconds": medians})
    return 0


if __name__ == "__main__":
    sys.exit(main())
