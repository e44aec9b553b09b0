"""What is said of training steps: numbers are collected on the device and read together every LOG_PERIOD steps."""

import datetime
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList
from videobench.distributed.group import is_main
from videobench.engine.metrics import StepClock, Window, gpu_memory, memory_in_use
from videobench.engine.training_step import StepResult
from videobench.reporting.log import log_json_stats
from videobench.reporting.progress import ROUTINE
from videobench.reporting.tensorboard import Scalars

logger = logging.getLogger(__name__)

# Names in the message about a step without finite numbers.
_SOME = 8


def left_text(seconds: float) -> str:
    """A duration as ``1 day, 2:03:04``."""
    return str(datetime.timedelta(seconds=round(seconds)))


class StepLog:
    """The steps of a run on this rank.

    Args:
        cfg: the configuration.
        scalars: where curves go.
        videos: the training list, for names.
        clips: in a step of all ranks.

    Attributes:
        sums: over the steps of the epoch that count, of loss and errors, and how many ``steps``, ``skipped`` and
            ``seconds``.
    """

    def __init__(self, cfg: CfgNode, scalars: Scalars, videos: VideoList, clips: int) -> None:
        self.cfg, self.scalars, self.videos, self.clips = cfg, scalars, videos, clips
        self.sums: dict[str, float] = {}
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._names: list[str] = []
        self._windows: dict[str, Window] = {}
        self._skipped_in_a_row = 0

    def begin(self, before: Mapping[str, float]) -> None:
        """Begin an epoch; ``before``: :attr:`sums` of the part of it that is done already."""
        self.sums = {"steps": 0.0, "skipped": 0.0, "seconds": 0.0, **before}
        self._windows.clear()

    def add(self, keys: Tensor, result: StepResult, errors: Mapping[str, Tensor]) -> None:
        """Note a step; nothing is read from the device."""
        self._names = ["skipped", "grad_norm", "loss", *errors]
        numbers = [result.skipped, result.grad_norm, result.loss, *errors.values()]
        self._pending.append((keys, torch.stack([number.double() for number in numbers])))

    def read(self) -> None:
        """Take in the steps noted since the last time.

        Raises:
            FloatingPointError: after TRAIN.MAX_NONFINITE_STEPS skipped steps in a row.
        """
        if not self._pending:
            return
        rows = torch.stack([numbers for _, numbers in self._pending]).cpu().tolist()
        for (keys, _), row in zip(self._pending, rows, strict=True):
            numbers = dict(zip(self._names, row, strict=True))
            if numbers.pop("skipped"):
                self.sums["skipped"] += 1
                self._skipped_in_a_row += 1
                self._name_clips(keys, numbers)
                continue
            self._skipped_in_a_row = 0
            self.sums["steps"] += 1
            for name, number in numbers.items():
                self.sums[name] = self.sums.get(name, 0.0) + number
                self._windows.setdefault(name, Window(self.cfg.LOG_PERIOD)).add(number)
        self._pending.clear()
        if self._skipped_in_a_row >= self.cfg.TRAIN.MAX_NONFINITE_STEPS:
            raise FloatingPointError(
                f"{self._skipped_in_a_row} steps in a row had no finite loss or gradient "
                "(TRAIN.MAX_NONFINITE_STEPS); the weights are those before them. Try a lower SOLVER.BASE_LR, a longer "
                "SOLVER.WARMUP_EPOCHS, SOLVER.CLIP_GRAD_L2NORM 1.0, or TRAIN.PRECISION bf16 or fp32 instead of fp16, "
                "from the last checkpoint on; when it happens at once, look at the clips named above"
            )

    def write(self, epoch: int, step: int, steps: int, clock: StepClock, lr: float) -> str:
        """Log the last steps, the current one being ``step`` of ``steps``; returns what a live line says of them."""
        self.read()
        if not is_main():
            return ""
        solver = self.cfg.SOLVER
        medians = {name: window.median for name, window in self._windows.items()}
        left = clock.step.median * (steps - step + (solver.MAX_EPOCH - epoch - 1) * steps)
        stats = {
            "_type": "train_iter",
            "epoch": f"{epoch + 1}/{solver.MAX_EPOCH}",
            "iter": f"{step}/{steps}",
            "dt": clock.step.median,
            "dt_data": clock.data.median,
            "dt_net": clock.net.median,
            "eta": left_text(left),
            "lr": lr,
            "gpu_mem": gpu_memory(),
            **medians,
        }
        if self.sums["skipped"]:
            stats["skipped"] = int(self.sums["skipped"])
        log_json_stats(stats, routine=True)
        rate, wait = clock.rate(self.clips), 100.0 * clock.data_total / clock.total
        text = f"loss {medians['loss']:.3f}, " if "loss" in medians else ""
        text += f"{rate:.1f} clips/s, {wait:.0f}% of the time waiting for data, {left_text(left)} to go"
        logger.info("epoch %d/%d, step %d/%d: %s", epoch + 1, solver.MAX_EPOCH, step, steps, text, extra=ROUTINE)
        scalars = {f"train/{name}": value for name, value in medians.items()} | {
            "train/lr": lr,
            "train/clips_per_second": rate,
            "train/data_wait_percent": wait,
            "train/memory_gib": memory_in_use(),
            "train/skipped_steps": self.sums["skipped"],
        }
        self.scalars.add(scalars, epoch * steps + step)
        return text

    def _name_clips(self, keys: Tensor, numbers: Mapping[str, float]) -> None:
        bad_loss = not torch.isfinite(torch.tensor(numbers["loss"]))
        if not bad_loss and not is_main():
            return  # the rank whose loss it was says so
        indices = list(dict.fromkeys(keys[:, 1].tolist()))
        names = ", ".join(self.videos.name(index) for index in indices[:_SOME])
        more = f" and {len(indices) - _SOME} more" if len(indices) > _SOME else ""
        logger.warning(
            "step skipped: %s (loss %g, gradient norm %g); its videos: %s%s",
            "the loss is not finite" if bad_loss else "a gradient is not finite",
            *(numbers["loss"], numbers["grad_norm"], names, more),
        )
