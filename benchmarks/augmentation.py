"""RandAugment on whole clips against Pillow frame by frame: python benchmarks/augmentation.py [POLICY ...].

Both ways apply the same operations with the same arguments to the same uint8 clip, on one thread. Pillow's way is that
of the published loaders: every frame becomes an image, timm's operation is called on each, and the images become a
tensor again. CPU seconds of the process, the two ways in turn, median of the rounds.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
from clock import cpu_seconds
from PIL import Image
from record import as_line, facts, write_results
from timm.data import auto_augment
from torch import Tensor

from videobench.datasets import pixel_ops
from videobench.datasets.geometry import INTERPOLATIONS
from videobench.datasets.pixel_ops import Sampling
from videobench.datasets.rand_augment import OPERATIONS, Frame, Policy

DEFAULT = ("rand-m7-n4-mstd0.5-inc1", "original")
RESULTS = Path(__file__).parent / "results/augmentation.json"
FILL = (128, 128, 128)
# Our name of an operation -> timm's function on one image.
ON_IMAGES = {ours: auto_augment.NAME_TO_OP[name] for name, (ours, _) in OPERATIONS.items() if name != "Desaturate"}
ON_IMAGES["translate_x"], ON_IMAGES["translate_y"] = auto_augment.translate_x_abs, auto_augment.translate_y_abs
ON_IMAGES["gaussian_blur"] = auto_augment.gaussian_blur

Draws = list[tuple[str, float | None]]


def example(frames: int, size: int) -> Tensor:
    """A clip uint8 [T, 3, H, W] with structure at all scales."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(frames, 3, size, size)
    for cells in (2, 7, 28, size):
        noise = torch.rand(frames, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(noise, (size, size), mode="bilinear") / 4
    return (total * 255).byte()


def with_interpolation(draws: Draws, interpolation: str) -> Iterator[tuple[str, float | None, str]]:
    """Every operation with its argument and interpolation; ``random`` is the same at every call."""
    seed = int(1e6 * sum(abs(value or 0) for _, value in draws))
    drawn = np.random.default_rng(seed).integers(len(INTERPOLATIONS), size=len(draws))
    for (name, value), number in zip(draws, drawn, strict=True):
        yield name, value, INTERPOLATIONS[number] if interpolation == "random" else interpolation


def on_clip(clip: Tensor, draws: Draws, interpolation: str) -> Tensor:
    """The operations on a whole clip uint8 [T, 3, H, W]."""
    for name, value, kernel in with_interpolation(draws, interpolation):
        clip = pixel_ops.apply(name, clip, value, Sampling(FILL, kernel))
    return clip


def on_frames(clip: Tensor, draws: Draws, interpolation: str) -> Tensor:
    """The same, frame by frame through Pillow images."""
    images = [Image.fromarray(frame) for frame in clip.permute(0, 2, 3, 1).contiguous().numpy()]
    for name, value, kernel in with_interpolation(draws, interpolation):
        options = {"resample": getattr(Image, kernel.upper()), "fillcolor": FILL}
        arguments = () if value is None else (value,)
        images = [ON_IMAGES[name](image, *arguments, **options) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2)


def compare(clip: Tensor, batch: list[Draws], interpolation: str, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU per clip of both ways, for a batch of drawn operations."""
    far = int((on_clip(clip, batch[0], interpolation).int() - on_frames(clip, batch[0], interpolation)).abs().max())
    times: dict[str, list[float]] = {"clip": [], "frames": []}
    for _ in range(rounds):
        for way, function in (("clip", on_clip), ("frames", on_frames)):
            times[way].append(cpu_seconds(lambda f=function: [f(clip, draws, interpolation) for draws in batch]))
    medians = {way: 1000 * statistics.median(values) / len(batch) for way, values in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["clip"], times["frames"], strict=True))
    return {"clip_ms": medians["clip"], "frames_ms": medians["frames"], "ratio": ratio, "levels_apart": far}


def report(name: str, result: dict[str, float]) -> None:
    print(f"{name:40} {result['frames_ms']:11.2f} ms {result['clip_ms']:9.2f} ms {result['ratio']:7.1f}x", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", metavar="POLICY", default=DEFAULT, help="in timm's grammar")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clips", type=int, default=100, help="draws of a policy per round (default 100)")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file, written anew")
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error("--rounds is at least 5")
    torch.set_num_threads(1)
    setting = facts() | {
        "pillow": PIL.__version__,
        "clip": f"{args.frames}x{args.size}x{args.size}",
        "rounds": args.rounds,
    }
    print(as_line(setting))
    print(f"{'':40} {'frame by frame':>14} {'whole clip':>12} {'ratio':>8}")
    clip = example(args.frames, args.size)
    results: dict = {"facts": setting, "policies": {}, "operations": {}}
    for text in args.policies:
        policy = Policy.parse(text)
        for interpolation in ("bicubic", "bilinear", "random"):
            rng = np.random.default_rng(0)
            batch = [policy.draw(Frame(args.size, args.size, rng)) for _ in range(args.clips)]
            name = f"{text}, {interpolation}"
            results["policies"][name] = compare(clip, batch, interpolation, args.rounds)
            report(name, results["policies"][name])
    rng = np.random.default_rng(0)
    for (step,) in Policy.parse("rand-m7-n1-p1-inc1").chains:
        for interpolation in ("bicubic", "bilinear"):
            drawn = step.draw(Frame(args.size, args.size, rng))
            geometric = drawn[0] in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
            if interpolation == "bilinear" and not geometric:
                continue
            name = f"{drawn[0]}, {interpolation}" if geometric else drawn[0]
            results["operations"][name] = compare(clip, [[drawn]], interpolation, args.rounds)
            report(name, results["operations"][name])
    write_results(args.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
