"""Our networks against their plain forms, same weights, in turn: python benchmarks/model.py [ID ...] [--mode MODE].

Both give the same logits, or the script stops. On CPUs one thread works, its CPU seconds are counted, so that other
programs on the machine disturb little, and peak memory is what torch's allocator had handed out at most, beyond
parameters. On GPUs the device is waited for, and peak memory is the allocator's own figure.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter, read when torch is imported

import torch
import torch.nn.functional as F
from activation_memory import device_description, input_shape
from counting import cost_of
from plain import plain_form
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import videobench
from videobench.models import VideoModel
from videobench.models.layers import DropPath
from videobench.models.motionformer import Motionformer
from videobench.models.movinet import MoViNet
from videobench.models.zoo import zoo_row

DEFAULT = (
    "motionformer_k400_motionformer_224_16x4",
    "mvitv2_s_k400_16x4",
    "morphmlp_k400_mlp_s16x4",
    "uniformer_s16x4_k400",
    "movinet_a0_base_k600",
)
STREAMS = ("movinet_a0_stream_k600", "movinet_a2_stream_k600")
# Constructor arguments of --few: one block per stage, at the published clip.
FEW: dict[str, dict[str, Any]] = {
    "motionformer": {"depth": 1},
    "mvitv2_s": {
        "depth": 4,
        "dim_mul": [[1, 2.0], [2, 2.0], [3, 2.0]],
        "head_mul": [[1, 2.0], [2, 2.0], [3, 2.0]],
        "pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 2, 2], [3, 1, 2, 2]],
    },
    "morphmlp": {"depths": (1, 1, 1, 1)},
    "uniformer": {"depths": (1, 1, 1, 1)},
}
RESULTS = Path(__file__).parent / "results"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}  # of the largest logit
STREAMED_FRAMES = 8
MIB = 2**20
Step = Callable[[], Tensor]


class Clock:
    """Seconds and peak memory of steps on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, step: Callable[[], object]) -> float:
        if self.device.type == "cpu":
            started = time.process_time()
            step()
            return time.process_time() - started
        torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        step()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - started

    def peak_bytes(self, step: Callable[[], object]) -> int:
        """Most bytes that a step held at a time, beyond what was there before."""
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            return torch.cuda.max_memory_allocated(self.device) - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(changes, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak


def matrix_rate(clock: Clock, dtype: torch.dtype) -> float:
    """Operations a second in large matrix products: the most the device does in this precision."""
    size = 8192 if clock.device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=clock.device).to(dtype)
    torch.mm(a, b)
    return 2 * size**3 / statistics.median(clock.seconds(partial(torch.mm, a, b)) for _ in range(9))


def copy_rate(clock: Clock) -> float:
    """Bytes a second, read and written, in a copy of a tensor larger than caches."""
    source = torch.randn((256 if clock.device.type == "cuda" else 32) * MIB, device=clock.device)
    target = torch.empty_like(source)
    target.copy_(source)
    nbytes = 2 * source.numel() * source.element_size()
    return nbytes / statistics.median(clock.seconds(partial(target.copy_, source)) for _ in range(9))


def inference(model: nn.Module, clip: Tensor, autocast: Callable[[], Any]) -> Step:
    @torch.no_grad()
    def step() -> Tensor:
        if hasattr(model, "clean_activation_buffers"):
            model.clean_activation_buffers()
        with autocast():
            return model(clip)

    model.eval()
    return step


def training(model: nn.Module, clip: Tensor, autocast: Callable[[], Any]) -> Step:
    """Forward and backward pass; stochastic depth and dropout are off, the plain forms have none."""
    target = torch.zeros(len(clip), dtype=torch.int64, device=clip.device)

    def step() -> Tensor:
        if hasattr(model, "clean_activation_buffers"):
            model.clean_activation_buffers()
        model.zero_grad(set_to_none=True)
        with autocast():
            logits = model(clip)
        F.cross_entropy(logits.float(), target).backward()
        return logits.detach()

    model.train()
    return step


def streaming(model: nn.Module, clip: Tensor, autocast: Callable[[], Any]) -> Step:
    """The frames of a clip one by one, after a first one that makes the buffers."""
    frames = clip[:, :, : STREAMED_FRAMES + 1].split(1, dim=2)
    model.eval()
    if isinstance(model, MoViNet):
        start = model.stream_state(len(clip), clip.device, size=tuple(clip.shape[-2:]))

        @torch.no_grad()
        def step() -> Tensor:
            state = start
            with autocast():
                for frame in frames[1:]:
                    logits, state = model.stream(frame, state)
            return logits

        return step

    @torch.no_grad()
    def plain_step() -> Tensor:
        model.clean_activation_buffers()
        with autocast():
            for frame in frames[1:]:
                logits = model(frame)
        return logits

    return plain_step


STEPS = {"infer": inference, "train": training, "stream": streaming}


def networks(name: str, mode: str, few: bool, device: torch.device) -> dict[str, nn.Module]:
    """Our network and its plain form; for inference also ours with folded norms, where it can."""
    arguments = next((value for prefix, value in FEW.items() if name.startswith(prefix)), {}) if few else {}
    ours = with_lively_weights(videobench.create_model(name, **arguments)).to(device)
    for module in ours.modules():
        if isinstance(module, DropPath):
            module.rate = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    forms: dict[str, nn.Module] = {"plain": plain_form(ours), "ours": ours}
    if mode != "train" and isinstance(ours, MoViNet):
        folded = videobench.create_model(name, **arguments).to(device)
        folded.load_state_dict(ours.state_dict())
        folded.fold_norms()
        forms["folded"] = folded
    return forms


def with_lively_weights(model: VideoModel) -> VideoModel:
    """Fresh weights leave out what starts at zero (branches, position tables): give those numbers too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def check_equal(name: str, logits: dict[str, Tensor], tolerance: float) -> float:
    """Largest difference to the plain logits, in units of the largest of those.

    Raises:
        ValueError: when it is above the tolerance.
    """
    plain = logits["plain"].float()
    worst = max((other.float() - plain).abs().max().item() for other in logits.values()) / plain.abs().max().item()
    if not worst <= tolerance:
        raise ValueError(f"{name}: our logits are {worst:.1e} away from those of the plain form")
    return worst


def measure(name: str, args: argparse.Namespace, device: torch.device, clock: Clock) -> dict[str, Any]:
    """All numbers of one network."""
    torch.manual_seed(0)
    clip = torch.randn(args.batch, *input_shape(name), device=device)
    reduced = args.precision != "float32"
    autocast = partial(torch.autocast, device.type, TYPES[args.precision]) if reduced else nullcontext
    models = networks(name, args.mode, args.few, device)
    steps = {form: STEPS[args.mode](model, clip, autocast) for form, model in models.items()}
    difference = check_equal(name, {form: step() for form, step in steps.items()}, TOLERANCE[args.precision])
    repeats = STREAMED_FRAMES if args.mode == "stream" else 1
    result: dict[str, Any] = {
        "input": "x".join(map(str, clip.shape if args.mode != "stream" else (*clip.shape[:2], 1, *clip.shape[3:]))),
        "few_blocks": args.few,
        "largest_difference": difference,
        "peak_bytes": {form: clock.peak_bytes(step) for form, step in steps.items()},
    }
    for form, step in steps.items():
        cost = cost_of(step)
        counts = {"operations": cost.operations, "bytes_moved": cost.bytes_moved, "kernels": cost.kernels}
        result.setdefault("counted", {})[form] = {key: value // repeats for key, value in counts.items()}
    rounds = []
    for _ in range(args.rounds):
        rounds.append({form: clock.seconds(step) / repeats for form, step in steps.items()})
        rounds[-1]["matrix_rate"] = matrix_rate(clock, TYPES[args.precision])
    result["matrix_rate"] = statistics.median(each["matrix_rate"] for each in rounds)
    result["seconds"] = {form: statistics.median(each[form] for each in rounds) for form in steps}
    result["items_a_second"] = {form: args.batch / seconds for form, seconds in result["seconds"].items()}
    result["times_faster"] = {
        form: statistics.median(each["plain"] / each[form] for each in rounds) for form in steps if form != "plain"
    }
    result["share_of_matrix_rate"] = {
        form: result["counted"][form]["operations"] / seconds / result["matrix_rate"]
        for form, seconds in result["seconds"].items()
    }
    if attention := attention_memory(models, clip, args.mode, clock, autocast):
        result["attention_peak_bytes"] = attention
    return result


def attention_memory(models, clip: Tensor, mode: str, clock: Clock, autocast: Callable[[], Any]) -> dict[str, int]:
    """Peak of one trajectory attention alone, forward and when training backward too."""
    attentions = {
        form: next(module for name, module in model.named_modules() if name.endswith(".attn"))
        for form, model in models.items()
        if isinstance(models["ours"], Motionformer)
    }
    if not attentions:
        return {}
    attention = attentions["ours"]
    tokens = 1 + attention.frames * (clip.shape[3] // 16) * (clip.shape[4] // 16)
    x = torch.randn(len(clip), tokens, attention.proj.in_features, device=clip.device)

    def step(module: nn.Module) -> None:
        with torch.set_grad_enabled(mode == "train"), autocast():
            out = module(x)
        if mode == "train":
            out.sum().backward()
        module.zero_grad(set_to_none=True)

    return {form: clock.peak_bytes(partial(step, module)) for form, module in attentions.items()}


def show(name: str, result: dict[str, Any]) -> None:
    print(f"{name} {result['input']}, logits within {result['largest_difference']:.0e}")
    for form, seconds in result["seconds"].items():
        counted = result["counted"][form]
        print(
            f"  {form:7} {1000 * seconds:9.1f} ms {result['items_a_second'][form]:8.2f}/s "
            f"{result['peak_bytes'][form] / MIB:9.1f} MiB {counted['operations'] / 1e9:9.2f} Gop "
            f"{counted['bytes_moved'] / 1e9:8.2f} GB {counted['kernels']:6} kernels "
            f"{100 * result['share_of_matrix_rate'][form]:5.1f} % of {result['matrix_rate'] / 1e9:.0f} Gop/s "
            + (f"{result['times_faster'][form]:6.2f}x" if form != "plain" else ""),
            flush=True,
        )
    if attention := result.get("attention_peak_bytes"):
        sizes = {form: f"{size / MIB:.1f} MiB" for form, size in attention.items()}
        print(f"  one attention at its peak: {sizes}, {attention['plain'] / attention['ours']:.1f}x less", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ID", help="ids of videobench.list_models(), by default a few")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=list(TYPES), default="float32")
    parser.add_argument("--mode", choices=list(STEPS), default="infer", help="stream: frames one by one")
    parser.add_argument("--batch", type=int, default=1, help="clips per step (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each form; the median counts (default 5)")
    parser.add_argument("--few", action="store_true", help="one block per stage instead of the whole network")
    parser.add_argument("--output", type=Path, help="JSON file (default results/model_DEVICE.json)")
    args = parser.parse_args()
    if args.rounds < 5 or args.batch < 1:
        parser.error("--rounds is at least 5, --batch at least 1")
    torch.set_num_threads(1)
    device = torch.device(args.device)
    clock = Clock(device)
    facts = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "device": device_description(device),
        "precision": args.precision,
        "rounds": args.rounds,
        "copy_rate": copy_rate(clock),
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    output = args.output or RESULTS / f"model_{args.device}.json"
    results = json.loads(output.read_text()) if output.exists() else {}
    try:
        for name in args.names or (STREAMS if args.mode == "stream" else DEFAULT):
            result = measure(zoo_row(name).name, args, device, clock)
            show(name, result)
            results.setdefault(args.mode, {})[name] = {**result, **facts}
            output.write_text(json.dumps(results, indent=2) + "\n")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
