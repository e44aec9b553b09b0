"""How many clips a training step takes on a GPU, with and without recomputed activations.

    python benchmarks/largest_batch.py [ID ...] [--precision bf16]

A step is forward and backward pass and AdamW, without TF32. The batch doubles until the memory does not suffice, then
the gap is halved down to an eighth of it; the step that fitted is timed.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from activation_memory import DEFAULT, FORMS, input_shape, loss_of
from clock import Clock
from model import TYPES
from record import as_line, facts, read_results, write_results

import videobench
from videobench.engine.arithmetic import autocast, tf32
from videobench.engine.sound_convolutions import avoid_unsound_convolutions
from videobench.models.zoo import zoo_row

RESULTS = Path(__file__).parent / "results/largest_batch.json"


def largest(fits: Callable[[int], bool]) -> int:
    """The largest batch that fits, to an eighth of it; 0 when not even one clip does."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measure(name: str, recomputed: int, precision: str, device: torch.device) -> dict[str, Any]:
    """The largest batch of a network and its clips a second; ``recomputed`` as ``checkpoint_blocks`` takes it."""
    model = videobench.create_model(name, checkpoint_blocks=recomputed).to(device).train()
    avoid_unsound_convolutions(model, device, precision)  # as in training
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    shape = input_shape(name)

    def step(batch: int) -> None:
        clip = torch.randn(batch, *shape, device=device)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = loss_of(model, clip)
        loss.backward()
        optimizer.step()

    def fits(batch: int) -> bool:
        try:
            step(batch)
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            fitted = False
        except RuntimeError as error:  # of kernels whose 32-bit numbers do not reach over so much
            print(f"{name}: no step with {batch} clips: {str(error).partition(chr(10))[0]}", file=sys.stderr)
            fitted = False
        else:
            fitted = True
        # After the exception is gone, and with it the frames that hold the activations.
        optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        return fitted

    batch = largest(fits)
    result: dict[str, Any] = {"batch": batch}
    if batch:
        clock = Clock(device)
        step(batch)
        result["clips_a_second"] = batch / min(clock.seconds(lambda: step(batch)) for _ in range(5))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="ID", help="ids of videobench.list_models(); one per family if none"
    )
    parser.add_argument("--precision", choices=list(TYPES), default="bf16")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="JSON file; entries of these networks are replaced"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here")
    device = torch.device("cuda")
    setting = facts(device) | {
        "gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1),
        "precision": args.precision,
    }
    print(as_line(setting))
    results = read_results(args.output)
    for name in args.names or DEFAULT:
        with tf32(False):
            found = {form: measure(zoo_row(name).name, count, args.precision, device) for form, count in FORMS.items()}
        print(
            f"{name:42} "
            + ", ".join(f"{form}: {r['batch']} clips, {r.get('clips_a_second', 0):.1f}/s" for form, r in found.items()),
            flush=True,
        )
        results[name] = {**found, **setting}
        write_results(args.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
