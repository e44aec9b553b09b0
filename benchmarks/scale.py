"""A paper estimate for 8 machines of 8 GPUs: what every published recipe sends per step and decodes per second.

    python benchmarks/scale.py --tflops 150 --network-gbytes 25

Parameters and GFLOPs come from MODEL_ZOO.md, batch sizes and clips from the recipes, the cost of decoding from
results/data.json. A training step counts three forward passes of two operations per multiply-add. What a GPU really
does (``--tflops``) and what its share of the network carries (``--network-gbytes``) are assumptions, not measurements.
"""

import argparse
import json
import re
from pathlib import Path

from videobench.config import load_config
from videobench.models.zoo import zoo_row

ROOT = Path(__file__).resolve().parents[1]
RANKS = 64
# The measured clip: 16 frames, every fourth.
MEASURED_SPAN = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=150.0, help="operations a GPU does per second, in 1e12")
    parser.add_argument("--network-gbytes", type=float, default=25.0, help="bytes a second between GPUs, in 1e9")
    args = parser.parse_args()
    clips = json.loads((ROOT / "benchmarks/results/data.json").read_text())["corpus"]["clips"]
    seconds = {name: clips[f"{name}: ours"]["cpu"] for name in ("original", "prepared, fastdecode")}
    print("| recipe | clips per GPU | step, s | MB sent per step | sending, s | cores per GPU | with prepared files |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for line in (ROOT / "MODEL_ZOO.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not line.startswith("| ") or not re.fullmatch(r"[\d,]+", cells[1]):
            continue
        cfg = load_config([str(ROOT / "configs" / zoo_row(cells[0]).config)])
        if cfg.DATA.NUM_FRAMES == 1 or not cfg.TRAIN.ENABLE:
            continue
        videos = cfg.TRAIN.BATCH_SIZE / cfg.NUM_GPUS
        samples = videos * cfg.AUG.NUM_SAMPLE
        step = samples * float(cells[2]) * 1e9 * 2 * 3 / (args.tflops * 1e12)
        sent = 2 * (RANKS - 1) / RANKS * int(cells[1].replace(",", "")) * 4
        span = cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE / MEASURED_SPAN
        cores = [videos / step * cost * span for cost in seconds.values()]
        times = f"{samples:g} | {step:.2f} | {sent / 1e6:.0f} | {sent / (args.network_gbytes * 1e9):.3f}"
        print(f"| {cells[0]} | {times} | {cores[0]:.1f} | {cores[1]:.1f} |")


if __name__ == "__main__":
    main()
