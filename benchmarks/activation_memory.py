"""What activation checkpointing of every block saves and costs: python benchmarks/activation_memory.py [ID ...].

Bytes kept for the backward pass are counted, not sampled: every tensor that autograd saves in the forward pass, each
storage once, without parameters and buffers, which exist anyway. While the backward pass runs, a checkpointed network
holds the activations of one block at a time on top of that.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import torch
import torch.nn.functional as F
from clock import MIB, Clock, finish_queued, usable_device
from record import as_line, facts, read_results, write_results
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import videobench
from videobench.engine.arithmetic import tf32
from videobench.models import VideoModel, zoo_config
from videobench.models.zoo import zoo_row

# One network per family.
DEFAULT = (
    "uniformer_s16x4_k400",
    "morphmlp_k400_mlp_s16x4",
    "mvitv2_s_k400_16x4",
    "motionformer_k400_motionformer_224_16x4",
    "movinet_a0_base_k600",
)
RESULTS = Path(__file__).parent / "results/activation_memory.json"
FORMS = {"stored": 0, "recomputed": -1}


@dataclass(eq=False)
class Saved:
    """A tensor in the graph; it lives as long as the graph holds it."""

    tensor: Tensor


def loss_of(model: VideoModel, clip: Tensor) -> Tensor:
    """The loss of clips [N, C, T, H, W], all of class 0, as the mean over the heads."""
    model.clean_activation_buffers()
    logits = model(clip)
    heads = logits.values() if isinstance(logits, dict) else [logits]
    target = torch.zeros(len(clip), dtype=torch.int64, device=clip.device)
    return torch.stack([F.cross_entropy(head, target) for head in heads]).mean()


def kept_for_backward(model: VideoModel, clip: Tensor) -> tuple[int, Tensor]:
    """Bytes that the graph of a training step holds after the forward pass, and the loss."""
    kept: WeakSet[Saved] = WeakSet()

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor.detach())
        kept.add(saved)
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = loss_of(model, clip)
    storages = {s.data_ptr(): s.nbytes() for s in (saved.tensor.untyped_storage() for saved in kept)}
    exist_anyway = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    return sum(size for pointer, size in storages.items() if pointer not in exist_anyway), loss


def seconds_of_step(model: VideoModel, clip: Tensor) -> float:
    """Wall seconds of a forward and a backward pass."""
    finish_queued(clip.device)
    started = time.perf_counter()
    loss_of(model, clip).backward()
    finish_queued(clip.device)
    return time.perf_counter() - started


def input_shape(name: str) -> tuple[int, ...]:
    """Channels and size of the published input of a network."""
    cfg = zoo_config(name)
    is_image = cfg.MODEL.MODEL_NAME == "MViT" and len(cfg.MVIT.PATCH_KERNEL) == 2
    frames = () if is_image else (cfg.DATA.NUM_FRAMES,)
    return (cfg.DATA.INPUT_CHANNEL_NUM[0], *frames, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)


def measure(name: str, batch: int, steps: int, device: torch.device) -> dict:
    """All numbers of one network; ``steps`` of 0 leaves the time out."""
    torch.manual_seed(0)
    clip = torch.randn(batch, *input_shape(name), device=device)
    models = {form: videobench.create_model(name, checkpoint_blocks=count) for form, count in FORMS.items()}
    result: dict = {"input": "x".join(map(str, clip.shape)), "kept_bytes": {}}
    for form, model in models.items():
        model.to(device).train()
        result["kept_bytes"][form], loss = kept_for_backward(model, clip)
        if steps or device.type == "cuda":
            loss.backward()  # makes the gradients, and warms up
        del loss
        if device.type == "cuda":
            peak = Clock(device).peak_bytes(lambda m=model: loss_of(m, clip).backward())
            result.setdefault("peak_bytes", {})[form] = peak
    if steps:
        # Taken in turn, so that whatever else the machine does meets both alike.
        seconds = [{form: seconds_of_step(model, clip) for form, model in models.items()} for _ in range(steps)]
        result["step_seconds"] = {form: statistics.median(pair[form] for pair in seconds) for form in models}
        result["step_ratio"] = statistics.median(pair["recomputed"] / pair["stored"] for pair in seconds)
    return result


HEADER = ("network", "input", "kept, MiB", "checkpointed, MiB", "ratio", "step, s", "checkpointed", "ratio")


def cells(name: str, result: dict) -> list[str]:
    kept = result["kept_bytes"]
    sizes = [f"{kept[form] / MIB:.1f}" for form in FORMS]
    row = [name, result["input"], *sizes, f"{kept['stored'] / kept['recomputed']:.1f}x"]
    if "step_seconds" not in result:
        return [*row, "-", "-", "-"]
    return [*row, *(f"{result['step_seconds'][form]:.3f}" for form in FORMS), f"{result['step_ratio']:.2f}x"]


def table_line(row: Sequence[str]) -> str:
    widths = (42, 18, 10, 18, 7, 8, 13, 6)
    return " ".join(
        cell.ljust(n) if i < 2 else cell.rjust(n) for i, (cell, n) in enumerate(zip(row, widths, strict=True))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="ID", help="ids of videobench.list_models(); one per family if none"
    )
    parser.add_argument("--batch", type=int, default=1, help="clips per step (default 1)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each form; the median counts (default 5)")
    parser.add_argument("--no-time", action="store_true", help="count memory only")
    parser.add_argument("--device", type=usable_device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="JSON file; entries of these networks are replaced"
    )
    args = parser.parse_args()
    if args.steps < 5 or args.batch < 1:
        parser.error("--steps is at least 5, --batch at least 1")
    try:
        names = [zoo_row(name).name for name in args.names or DEFAULT]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    setting = facts(args.device) | {"precision": "float32", "steps": 0 if args.no_time else args.steps}
    print(as_line(setting))
    print(table_line(HEADER))
    results = read_results(args.output)
    for name in names:
        with tf32(False):
            result = measure(name, args.batch, setting["steps"], args.device)
        print(table_line(cells(name, result)), flush=True)
        if "peak_bytes" in result:
            peaks = ", ".join(f"{form} {size / MIB:.1f} MiB" for form, size in result["peak_bytes"].items())
            print(f"  peak of a step beyond parameters and gradients: {peaks}", flush=True)
        results.setdefault(args.device.type, {})[name] = {**result, **setting}
        write_results(args.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
