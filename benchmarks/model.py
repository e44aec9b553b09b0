"""Our networks against their plain forms, same weights, in turn: python benchmarks/model.py [ID ...] [--mode MODE].

Both give the same logits, or the script stops. On CPUs one thread works, its CPU seconds are counted, so that other
programs on the machine disturb little, and peak memory is what torch's allocator had handed out at most, beyond
parameters and gradients. On GPUs CUDA events measure the time, TF32 is off, peak memory is the allocator's figure, and
no form uses the 3D convolutions that the GPU's libraries get wrong, as in training (`engine/sound_convolutions.py`).

Every form makes one pass to be checked and counted, and one per round. For such a pass of both forms of all the default
networks, whole, a CPU takes about 30 seconds in inference and 100 in training, half of it for Motionformer.
"""

import argparse
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter, read when torch is imported

import torch
import torch.nn.functional as F
from activation_memory import DEFAULT, input_shape
from clock import MIB, Clock, copy_rate, matrix_rate, usable_device
from counting import Cost, cost_of
from plain import plain_form
from record import as_line, facts, read_results, write_results
from stages import bound, stages
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import videobench
from videobench.engine.arithmetic import autocast, channels_innermost, channels_last, tf32
from videobench.engine.sound_convolutions import avoid_unsound_convolutions
from videobench.models import VideoModel
from videobench.models.layers import DropPath
from videobench.models.motionformer import Motionformer
from videobench.models.movinet import MoViNet
from videobench.models.zoo import zoo_row

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
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}  # of the largest logit
STREAMED_FRAMES = 8
Step = Callable[[], Tensor]


def inference(model: nn.Module, clip: Tensor, in_precision: Callable[[], Any]) -> Step:
    @torch.no_grad()
    def step() -> Tensor:
        if hasattr(model, "clean_activation_buffers"):
            model.clean_activation_buffers()
        with in_precision():
            return model(clip)

    model.eval()
    return step


def training(model: nn.Module, clip: Tensor, in_precision: Callable[[], Any]) -> Step:
    """Forward and backward pass; stochastic depth and dropout are off, the plain forms have none."""
    target = torch.zeros(len(clip), dtype=torch.int64, device=clip.device)

    def step() -> Tensor:
        if hasattr(model, "clean_activation_buffers"):
            model.clean_activation_buffers()
        model.zero_grad(set_to_none=True)
        with in_precision():
            logits = model(clip)
        F.cross_entropy(logits.float(), target).backward()
        return logits.detach()

    model.train()
    return step


def streaming(model: nn.Module, clip: Tensor, in_precision: Callable[[], Any]) -> Step:
    """The frames of a clip one by one, after a first one that makes the buffers."""
    frames = clip[:, :, : STREAMED_FRAMES + 1].split(1, dim=2)
    model.eval()
    if isinstance(model, MoViNet):
        start = model.stream_state(len(clip), clip.device, size=tuple(clip.shape[-2:]))
        with torch.no_grad(), in_precision():
            model.stream(frames[0], start)  # prepares the weights, which is no part of a frame

        @torch.no_grad()
        def step() -> Tensor:
            state = start
            with in_precision():
                for frame in frames[1:]:
                    logits, state = model.stream(frame, state)
            return logits

        return step

    @torch.no_grad()
    def plain_step() -> Tensor:
        model.clean_activation_buffers()
        with in_precision():
            for frame in frames[1:]:
                logits = model(frame)
        return logits

    return plain_step


STEPS = {"infer": inference, "train": training, "stream": streaming}


def networks(name: str, args: argparse.Namespace) -> dict[str, nn.Module]:
    """Our network and its plain form, and ours in the further forms that were asked for or that it has."""
    arguments = next((value for prefix, value in FEW.items() if name.startswith(prefix)), {}) if args.few else {}
    ours = with_lively_weights(videobench.create_model(name, **arguments)).to(args.device)
    for module in ours.modules():
        if isinstance(module, DropPath):
            module.rate = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    forms: dict[str, nn.Module] = {"plain": plain_form(ours), "ours": ours}
    if args.mode != "train" and isinstance(ours, MoViNet):
        forms["folded"] = deepcopy(ours)
        forms["folded"].fold_norms()
    if args.channels_last:
        forms["last"] = deepcopy(ours)
        channels_innermost(forms["last"])
    for form in forms.values():
        avoid_unsound_convolutions(form, args.device, args.precision)
    if args.compile:
        torch.compiler.reset()  # what was compiled for other networks counts towards a limit
        forms["compiled"] = torch.compile(ours)
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


def look_at(step: Step, countable: bool, clock: Clock) -> tuple[Tensor, int, Cost | None]:
    """The logits of one step, the most bytes that it held at a time, and what it costs if that can be counted."""
    logits: list[Tensor] = []
    costs: list[Cost] = []

    def remembered() -> None:
        logits.append(step())

    peak = clock.peak_bytes((lambda: costs.append(cost_of(remembered))) if countable else remembered)
    return logits[0], peak, costs[0] if costs else None


def measure(name: str, args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """All numbers of one network."""
    torch.manual_seed(0)
    clip = torch.randn(args.batch, *input_shape(name), device=args.device)
    in_precision = partial(autocast, args.device, args.precision)
    models = networks(name, args)
    steps = {
        form: STEPS[args.mode](model, channels_last(clip) if form == "last" else clip, in_precision)
        for form, model in models.items()
    }
    repeats = STREAMED_FRAMES if args.mode == "stream" else 1
    logits: dict[str, Tensor] = {}
    result: dict[str, Any] = {
        "input": "x".join(map(str, clip.shape if args.mode != "stream" else (*clip.shape[:2], 1, *clip.shape[3:]))),
        "few_blocks": args.few,
        "batch": args.batch,
        "peak_bytes": {},
        "counted": {},
    }
    for form, step in steps.items():
        if args.mode == "train":
            for parameter in models[form].parameters():  # so that gradients are there before, as in any later step
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        if form == "compiled" or args.device.type == "cuda":
            step()  # compiles, loads libraries and takes their workspaces
        # What compiled kernels do cannot be counted.
        logits[form], result["peak_bytes"][form], cost = look_at(step, form != "compiled", clock)
        if cost:
            result["counted"][form] = {what: number // repeats for what, number in asdict(cost).items()}
    result["largest_difference"] = check_equal(name, logits, TOLERANCE[args.precision])
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
        form: result["counted"].get(form, result["counted"]["ours"])["operations"] / seconds / result["matrix_rate"]
        for form, seconds in result["seconds"].items()
    }
    if attention := attention_memory(models, clip, args.mode, clock, in_precision):
        result["attention_peak_bytes"] = attention
    result["attention_kernels"] = attention_kernels(steps["ours"])
    if args.stages:
        result["stages"] = stages(models["ours"], steps["ours"], clock.seconds, in_precision)
    return result


def attention_kernels(step: Step) -> dict[str, int]:
    """Calls in a step of each implementation behind ``scaled_dot_product_attention``."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    names = Counter(event.name for event in profiler.events() if event.name.startswith("aten::_scaled_dot_product"))
    return {name.removeprefix("aten::_scaled_dot_product_"): calls for name, calls in names.items()}


def attention_memory(
    models: dict[str, nn.Module], clip: Tensor, mode: str, clock: Clock, in_precision: Callable[[], Any]
) -> dict[str, int]:
    """Peak of one trajectory attention alone, forward and when training backward too."""
    if not isinstance(models["ours"], Motionformer):
        return {}
    attentions = {form: models[form].blocks[0].attn for form in ("plain", "ours")}
    attention = attentions["ours"]
    tokens = 1 + attention.frames * (clip.shape[3] // 16) * (clip.shape[4] // 16)
    x = torch.randn(len(clip), tokens, attention.proj.in_features, device=clip.device)

    def step(module: nn.Module) -> None:
        with torch.set_grad_enabled(mode == "train"), in_precision():
            out = module(x)
        if mode == "train":
            out.float().sum().backward()
        module.zero_grad(set_to_none=True)

    return {form: clock.peak_bytes(partial(step, module)) for form, module in attentions.items()}


def show(name: str, result: dict[str, Any], copies: float) -> None:
    print(f"{name} {result['input']}, logits within {result['largest_difference']:.0e}")
    for form, seconds in result["seconds"].items():
        counted = result["counted"].get(form)
        print(
            f"  {form:8} {1000 * seconds:9.1f} ms {result['items_a_second'][form]:8.2f}/s "
            f"{result['peak_bytes'][form] / MIB:9.1f} MiB "
            + (
                f"{counted['operations'] / 1e9:9.2f} Gop {counted['bytes_moved'] / 1e9:8.2f} GB "
                f"{counted['kernels']:6} kernels "
                if counted
                else f"{'not counted':>45} "
            )
            + f"{100 * result['share_of_matrix_rate'][form]:5.1f} % of {result['matrix_rate'] / 1e9:.0f} Gop/s "
            + (f"{result['times_faster'][form]:6.2f}x" if form != "plain" else ""),
            flush=True,
        )
    if attention := result.get("attention_peak_bytes"):
        sizes = {form: f"{size / MIB:.1f} MiB" for form, size in attention.items()}
        print(f"  one attention at its peak: {sizes}, {attention['plain'] / attention['ours']:.1f}x less", flush=True)
    if kernels := result["attention_kernels"]:
        print("  attention by " + ", ".join(f"{name} ({calls} calls)" for name, calls in kernels.items()), flush=True)
    for stage in result.get("stages", []):
        least, by = bound(stage, result["matrix_rate"], copies)
        print(
            f"  {stage['stage']:16} {stage['parts']:3} of {stage['output']:20} {1000 * stage['seconds']:9.2f} ms "
            f"{stage['operations'] / 1e9:8.2f} Gop {stage['bytes_moved'] / 1e9:7.3f} GB, "
            f"{100 * least / stage['seconds']:4.0f} % of the {by} bound",
            flush=True,
        )
    if parts := result.get("stages"):
        whole, found = result["seconds"]["ours"], sum(stage["seconds"] for stage in parts)
        print(f"  {'elsewhere':16} {'':27} {1000 * (whole - found):9.2f} ms", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ID", help="ids of videobench.list_models(), by default a few")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--precision", choices=list(TYPES), default="fp32")
    parser.add_argument("--mode", choices=list(STEPS), default="infer", help="stream: frames one by one")
    parser.add_argument("--batch", type=int, default=1, help="clips per step (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each form; the median counts (default 5)")
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile too")
    parser.add_argument("--channels-last", action="store_true", help="ours with channels innermost in memory too")
    parser.add_argument("--stages", action="store_true", help="each stage against its bound, with --mode infer")
    parser.add_argument("--few", action="store_true", help="one block per stage instead of the whole network")
    parser.add_argument("--output", type=Path, help="JSON file (default results/model_DEVICE.json)")
    args = parser.parse_args()
    if args.rounds < 5 or args.batch < 1:
        parser.error("--rounds is at least 5, --batch at least 1")
    if args.stages and args.mode != "infer":
        parser.error("--stages goes with --mode infer")
    if args.mode == "stream" and (args.compile or args.channels_last):
        parser.error("--mode stream has neither --compile nor --channels-last")
    torch.set_num_threads(1)
    clock = Clock(args.device)
    setting = facts(args.device) | {
        "precision": args.precision,
        "rounds": args.rounds,
        "copy_rate": copy_rate(clock),
    }
    if args.device.type == "cuda":
        setting["cudnn"] = torch.backends.cudnn.version()
    print(as_line(setting))
    output = args.output or RESULTS / f"model_{args.device.type}.json"
    results = read_results(output)
    status = 0
    try:
        for name in args.names or (STREAMS if args.mode == "stream" else DEFAULT):
            try:
                with tf32(False):
                    result = measure(zoo_row(name).name, args, clock)
            except torch.OutOfMemoryError as error:
                print(f"{name}: {args.batch} clips do not fit, give a smaller --batch ({error})", file=sys.stderr)
                status = 1
                continue
            show(name, result, setting["copy_rate"])
            results.setdefault(args.mode, {})[name] = {**result, **setting}
            write_results(output, results)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
