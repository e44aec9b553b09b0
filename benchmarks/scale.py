"""A paper estimate for 8 machines of 8 GPUs: what every published recipe sends per step and decodes per second.

    python benchmarks/scale.py --tflops 150 --network-gbytes 25 > benchmarks/results/scale.md

Measured: parameters and GFLOPs (MODEL_ZOO.md), and the CPU seconds of a clip (results/data.json). Of the recipes:
batch size and clips. Assumed: what a GPU does (``--tflops``) and what its share of the network carries (``--network-
gbytes``); that a training step is three forward passes of two operations per multiply-add, two of them the backward
pass; that gradients are float32, and all but the last bucket of 25 MB are sent while the backward pass runs; that
decoding costs in proportion to the frames from the first to the last of a clip; and the length of Something-
Something's videos.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from videobench.config import CfgNode, load_config
from videobench.models.zoo import zoo_row

ROOT = Path(__file__).resolve().parents[1]
RANKS = 64
BUCKET = 25 * 2**20
# The measured clip: 16 frames, every fourth.
MEASURED_SPAN = 64
# Segments cover a whole video: about 4 seconds of 12 frames.
SEGMENTED_SPAN = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=150.0, help="operations a GPU does per second, in 1e12")
    parser.add_argument("--network-gbytes", type=float, default=25.0, help="bytes a second between GPUs, in 1e9")
    args = parser.parse_args()
    clips = json.loads((ROOT / "benchmarks/results/data.json").read_text())["corpus"]["clips"]
    seconds = [clips[f"{files}: ours"]["cpu"] for files in ("original", "prepared, fastdecode")]
    print(f"8 x 8 GPUs of {args.tflops:g} Top/s, {args.network_gbytes:g} GB/s between GPUs; see scale.py.\n")
    print("| clips per GPU | step, ms | MB sent | sending, ms | not hidden, ms | cores per GPU | prepared | recipes |")
    print("|--:|--:|--:|--:|--:|--:|--:|---|")
    rows: dict[str, list[str]] = {}
    for name, parameters, gflops, cfg in recipes():
        videos = cfg.TRAIN.BATCH_SIZE / cfg.NUM_GPUS
        samples = videos * cfg.AUG.NUM_SAMPLE
        step = samples * gflops * 1e9 * 2 * 3 / (args.tflops * 1e12)
        sent, per_byte = all_reduced(4 * parameters), 1 / (args.network_gbytes * 1e9)
        left = max(sent * per_byte - step * 2 / 3, all_reduced(min(BUCKET, 4 * parameters)) * per_byte)
        cores = [videos / (step + left) * cost * span(cfg) / MEASURED_SPAN for cost in seconds]
        times = f"{1e3 * step:.0f} | {sent / 1e6:.0f} | {1e3 * sent * per_byte:.0f} | {1e3 * left:.1f}"
        row = f"{samples:g} | {times} | {cores[0]:.1f} | {cores[1]:.1f}"
        rows.setdefault(row, []).append(name)
    for row, names in rows.items():
        print(f"| {row} | {', '.join(names)} |")


def recipes() -> Iterator[tuple[str, int, float, CfgNode]]:
    """Published rows that are trained on videos: id, parameters, GFLOPs of a clip, recipe."""
    for line in (ROOT / "MODEL_ZOO.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not line.startswith("| ") or not re.fullmatch(r"[\d,]+", cells[1]):
            continue
        cfg = load_config([str(ROOT / "configs" / zoo_row(cells[0]).config)])
        if cfg.DATA.NUM_FRAMES > 1 and cfg.TRAIN.ENABLE:
            yield cells[0], int(cells[1].replace(",", "")), float(cells[2]), cfg


def all_reduced(size: float) -> float:
    """Bytes a rank sends so that all have the sum of ``size`` bytes (ring)."""
    return 2 * (RANKS - 1) / RANKS * size


def span(cfg: CfgNode) -> float:
    """Frames of the file that have to be decoded for a clip."""
    if cfg.DATA.SAMPLING_RULE.startswith("segments"):
        return SEGMENTED_SPAN
    return cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE


if __name__ == "__main__":
    main()
