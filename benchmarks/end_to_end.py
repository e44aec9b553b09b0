"""Videos on a disk to trained steps: python benchmarks/end_to_end.py [ID ...] [--videos FOLDER].

The real trainer with the row's own recipe (augmentation, mixing, optimizer, clipping) against a plain loop: the plain
form of the network, frames decoded from the key frame on and augmented one by one as Pillow images, batches of float32
from torch's DataLoader, AdamW, and the loss read in every step. Both train on the same videos with as many loader
processes, in turn. The first step of a round, which starts processes and makes the moments, is left out, and
the median of the rounds counts. The plain loop neither mixes nor erases. A further run says where the time goes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from augmentation import on_frames
from clock import finish_queued, usable_device
from corpus import real_videos, write_original
from data import as_float, span_of_frames
from plain import plain_form
from record import as_line, facts, read_results, write_results
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import videobench
from videobench.config import CfgNode
from videobench.datasets.decoding import probe
from videobench.datasets.rand_augment import Frame, Policy
from videobench.engine.arithmetic import autocast, tf32
from videobench.engine.sound_convolutions import avoid_unsound_convolutions
from videobench.engine.trainer import Trainer
from videobench.models import build_model
from videobench.models.zoo import zoo_row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results/end_to_end.json"
DEFAULT = ("morphmlp_k400_mlp_s16x4", "uniformer_s16x4_k400")
# --few: one block per stage.
FEW = {
    "morphmlp": ["MORPH.LAYERS", [1, 1, 1, 1]],
    "uniformer": ["UNIFORMER.DEPTH", [1, 1, 1, 1]],
    "motionformer": ["VIT.DEPTH", 1],
}
PHASES = ("wait", "augment", "forward", "backward", "optimizer")


class Phases:
    """Seconds that the calls of a step's parts took, call by call, on a clock: the wall's or this process's."""

    def __init__(self, device: torch.device, enabled: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.enabled, self.clock = device, enabled, clock
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if not self.enabled:
            yield
            return
        finish_queued(self.device)
        started = self.clock()
        yield
        finish_queued(self.device)
        self.seconds.setdefault(name, []).append(self.clock() - started)

    def around(self, name: str, call: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return call(*args, **kwargs)

        return timed

    def per_step(self, steps: int) -> dict[str, float]:
        """Mean seconds of a step but for the first one."""
        return {
            name: sum(calls[len(calls) // steps :]) / (steps - 1)
            for name, calls in self.seconds.items()
            if len(calls) % steps == 0
        }


def readable(folder: Path, count: int = 2) -> list[Path]:
    """The smallest real files that the plain loop can read, too: it gives up at the first damaged packet."""
    found: list[Path] = []
    for path in real_videos(folder):
        if len(found) < count:
            info = probe(path)
            try:
                span_of_frames(path, [0, int(info.duration * info.fps) - 1])
                found.append(path)
            except av.FFmpegError as error:
                print(f"left out: {error}")
    return found


def configuration(name: str, folder: Path, output: Path, args: argparse.Namespace) -> CfgNode:
    """The row's recipe on the lists in a folder."""
    few = next((keys for prefix, keys in FEW.items() if name.startswith(prefix)), None) if args.few else []
    if few is None:
        raise ValueError(f"{name}: --few knows {', '.join(FEW)}; for others give sizes after --opts")
    precision = "fp32" if args.device.type == "cpu" else "bf16"
    return videobench.load_config(
        [ROOT / "configs" / zoo_row(name).config],
        [
            *("DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", "", "DATA.PATH_LABEL_SEPARATOR", ","),
            *("OUTPUT_DIR", str(output), "NUM_GPUS", int(args.device.type != "cpu"), "TRAIN.PRECISION", precision),
            *("TRAIN.CHECKPOINT_FILE_PATH", "", "TRAIN.BATCH_SIZE", args.batch, "AUG.NUM_SAMPLE", 1),
            *("TEST.BATCH_SIZE", 1, "SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0.0, "LOG_PERIOD", args.steps),
            *("DATA_LOADER.NUM_WORKERS", args.workers, "TENSORBOARD.ENABLE", False, *few, *args.opts),
        ],
    )


def train_ours(cfg: CfgNode, device: torch.device, phases: Phases) -> list[float]:
    """Seconds of every step of an epoch; on a GPU, which steps run ahead of, only the sum without the first counts."""
    trainer = Trainer(cfg, device)
    ends, note = iter(range(1, len(trainer.loader) + 1)), trainer.log.add

    def note_and_finish(*args: Any) -> None:
        note(*args)
        if next(ends) in (1, len(trainer.loader)):
            finish_queued(device)

    trainer.log.add = note_and_finish  # the last thing in the time of a step
    if phases.enabled:
        augmentation, step, optimizer = trainer.augmentation, trainer.step, trainer.state.optimizer
        trainer.augmentation = SimpleNamespace(
            in_workers=augmentation.in_workers,
            pixels=phases.around("augment", augmentation.pixels),
            finish=phases.around("augment", augmentation.finish),
        )
        trainer.mixing = phases.around("mix", trainer.mixing)
        step.forward = phases.around("forward", step.forward)
        step.backward = phases.around("forward and backward", step.backward)
        optimizer.step = phases.around("optimizer", optimizer.step)
    trainer.run()
    phases.seconds["wait"] = list(trainer.clock.data.values)
    return list(trainer.clock.step.values)


class PlainClips(Dataset):
    """Training clips float32 [3, T, H, W] as published loaders make them."""

    def __init__(self, cfg: CfgNode, videos: list[tuple[str, int]], phases: Phases) -> None:
        self.cfg, self.videos, self.phases = cfg, videos, phases
        self.policy = Policy.parse(cfg.AUG.AA_TYPE) if cfg.AUG.ENABLE and cfg.AUG.AA_TYPE else None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        data, rng = self.cfg.DATA, np.random.default_rng(number)
        path, label = Path(self.videos[number][0]), self.videos[number][1]
        info = probe(path)
        span = (data.NUM_FRAMES - 1) * data.SAMPLING_RATE + 1
        first = int(rng.integers(max(int(info.duration * info.fps) - span, 0) + 1))
        with self.phases("decode"):
            frames = span_of_frames(path, [first + data.SAMPLING_RATE * i for i in range(data.NUM_FRAMES)])
        with self.phases("augment"):
            if self.policy:
                draws = self.policy.draw(Frame(frames.shape[1], frames.shape[2], rng))
                frames = on_frames(frames.permute(0, 3, 1, 2), draws, "bicubic").permute(0, 2, 3, 1)
            clip = as_float(frames)
            side = data.TRAIN_CROP_SIZE
            scale = rng.uniform(1.15, 1.4) * side / min(clip.shape[2:])
            size = [int(length * scale) for length in clip.shape[2:]]
            clip = F.interpolate(clip, size, mode="bilinear", align_corners=False)
            y, x = (int(rng.integers(length - side + 1)) for length in clip.shape[2:])
            return clip[:, :, y : y + side, x : x + side].contiguous(), label


def train_plain(cfg: CfgNode, device: torch.device, phases: Phases, videos: list[tuple[str, int]]) -> list[float]:
    """Seconds of every step of an epoch."""
    torch.manual_seed(0)
    model = plain_form(build_model(cfg).to(device)).train()
    avoid_unsound_convolutions(model, device, cfg.TRAIN.PRECISION)  # or it may learn nothing
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
    loader = DataLoader(
        PlainClips(cfg, videos, Phases(device, False)),
        batch_size=cfg.TRAIN.BATCH_SIZE,
        shuffle=True,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        pin_memory=device.type == "cuda",
    )
    steps, started = [], time.perf_counter()
    for clips, labels in loader:
        phases.seconds.setdefault("wait", []).append(time.perf_counter() - started)
        with phases("forward"), autocast(device, cfg.TRAIN.PRECISION):
            loss = F.cross_entropy(model(clips.to(device, non_blocking=True)).float(), labels.to(device))
        with phases("backward"):
            optimizer.zero_grad()
            loss.backward()
        if cfg.SOLVER.CLIP_GRAD_L2NORM:
            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.CLIP_GRAD_L2NORM)
        with phases("optimizer"):
            optimizer.step()
        loss.item()
        steps.append(time.perf_counter() - started)
        started = time.perf_counter()
    return steps


def reading(cfg: CfgNode, device: torch.device, videos: list[tuple[str, int]], clips: int) -> dict[str, Any]:
    """CPU seconds of a clip in a loader process: decoding with the cut, and augmentation."""
    trainer = Trainer(cfg, device)
    dataset, augmentation = trainer.loader.dataset, trainer.augmentation
    ours, plain = (Phases(torch.device("cpu"), True, time.process_time) for _ in range(2))
    plain_clips = PlainClips(cfg, videos, plain)
    for number in range(clips + 1):
        with ours("decode"):
            item = dataset[(0, number % len(videos))]
        with ours("augment"):
            if augmentation.in_workers:
                augmentation.pixels(item.clips, [(0, item.index, 0)])
        plain_clips[number % len(videos)]
    return {"ours": ours.per_step(clips + 1), "plain": plain.per_step(clips + 1)}


def shares(phases: Phases, steps: list[float]) -> dict[str, float]:
    """Shares of the time of all steps but the first."""
    seconds = phases.per_step(len(steps))
    if "forward and backward" in seconds:
        seconds["backward"] = seconds.pop("forward and backward") - seconds["forward"]
        seconds["augment"] += seconds.pop("mix")
    total = sum(steps[1:]) / (len(steps) - 1)
    found = {name: seconds.get(name, 0.0) / total for name in PHASES}
    return found | {"rest": 1 - sum(found.values())}


def measure(name: str, paths: list[Path], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one row."""
    device = args.device
    lists = folder / name
    lists.mkdir()
    videos = [(str(paths[i % len(paths)]), i % 2) for i in range(args.batch * args.steps)]
    for split, count in (("train", len(videos)), ("val", 1)):
        (lists / f"{split}.csv").write_text("".join(f"{path},{label}\n" for path, label in videos[:count]))

    def round_of(number: int, form: str, phases: Phases) -> list[float]:
        output = lists / f"run_{number}_{form}"
        output.mkdir()
        cfg = configuration(name, lists, output, args)
        if form == "ours":
            return train_ours(cfg, device, phases)
        with tf32(cfg.TRAIN.TF32):
            return train_plain(cfg, device, phases, videos)

    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(args.rounds):
        for form, found in rates.items():
            steps = round_of(number, form, Phases(device, False))
            found.append(args.batch * (len(steps) - 1) / sum(steps[1:]))
        print(f"  round {number + 1}: plain {rates['plain'][-1]:.3f}, ours {rates['ours'][-1]:.3f} clips/s", flush=True)
    where = {}
    for form in rates:
        phases = Phases(device, True)
        where[form] = shares(phases, round_of(args.rounds, form, phases))
    cfg = configuration(name, lists, lists / "run", args)
    return {
        "clip": f"{cfg.DATA.NUM_FRAMES}x{cfg.DATA.SAMPLING_RATE}, {cfg.DATA.TRAIN_CROP_SIZE}",
        "few_blocks": args.few,
        "batch": args.batch,
        "workers": args.workers,
        "clips_a_second": {form: statistics.median(found) for form, found in rates.items()},
        "times_faster": statistics.median(b / a for a, b in zip(rates["plain"], rates["ours"], strict=True)),
        "shares": where,
        "reading_seconds_a_clip": reading(cfg, device, videos, clips=8),
    }


def show(name: str, result: dict[str, Any]) -> None:
    print(f"{name} {result['clip']}: {result['times_faster']:.2f}x")
    for form, rate in result["clips_a_second"].items():
        parts = ", ".join(f"{part} {100 * share:.1f} %" for part, share in result["shares"][form].items())
        read = ", ".join(f"{part} {1000 * s:.0f} ms" for part, s in result["reading_seconds_a_clip"][form].items())
        print(f"  {form:6} {rate:7.3f} clips/s: {parts}; in loader processes, a clip: {read}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ID", help="ids of videobench.list_models(), by default two")
    parser.add_argument("--videos", type=Path, help="train on the two smallest H.264 files in it, not on made-up ones")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--few", action="store_true", help="one block per stage instead of the whole network")
    parser.add_argument("--batch", type=int, default=2, help="videos per step (default 2)")
    parser.add_argument("--steps", type=int, default=4, help="steps per round, the first left out (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 (default 5)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="of the training process on a CPU (default 1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file; these rows are replaced in it")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="of the configuration"
    )
    args = parser.parse_args()
    if args.rounds < 5 or args.steps < 2:
        parser.error("--rounds is at least 5, --steps at least 2")
    torch.set_num_threads(args.threads)
    setting = facts(args.device) | {"rounds": args.rounds, "steps": args.steps}
    print(as_line(setting))
    results = read_results(args.output)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        paths = readable(args.videos) if args.videos else [folder / f"{number}.mp4" for number in range(2)]
        for number, path in enumerate([] if args.videos else paths):
            write_original(path, number)
        try:
            for name in args.names or DEFAULT:
                result = measure(zoo_row(name).name, paths, folder, args)
                show(name, result)
                results.setdefault(args.device.type, {})[name] = {**result, **setting, "videos": len(paths)}
                write_results(args.output, results)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
