"""Clip-level errors on the validation videos during training: one clip and one crop each, every video once."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.config.checks import local_ranks
from videobench.datasets.augment import normalise
from videobench.datasets.views import ViewLoader
from videobench.distributed.group import gather, is_main, rank, report_progress, world_size
from videobench.distributed.parallel import is_sharded
from videobench.engine.accuracy import average_precision, mean_average_precision
from videobench.engine.arithmetic import autocast, channels_last
from videobench.engine.metrics import gpu_memory, main_memory, training_errors
from videobench.engine.step_log import left_text
from videobench.engine.stopping import StopRequest
from videobench.models import VideoModel
from videobench.reporting.log import log_json_stats
from videobench.reporting.progress import Progress

logger = logging.getLogger(__name__)


class Validation:
    """Validates networks on this rank's share of the validation list.

    Args:
        cfg: the configuration.
        device: where the networks are.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.loader = ViewLoader(cfg, "val", rank=rank(), world_size=world_size())
        self.pin = cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda"
        self.videos = self.loader.videos
        self.batch_size = max(1, cfg.TRAIN.BATCH_SIZE // local_ranks(cfg))
        # As many on every rank, whatever cannot be read, so that all ask equally often whether to stop.
        self.batches = math.ceil(math.ceil(len(self.videos) / world_size()) / self.batch_size)
        self._blank = torch.zeros(1, cfg.DATA.NUM_FRAMES, 3, *[cfg.DATA.TRAIN_CROP_SIZE] * 2, dtype=torch.uint8)

    @torch.no_grad()
    def __call__(
        self, model: VideoModel, epoch: int, stop: StopRequest, best: Mapping[str, float], *, average: bool = False
    ) -> dict[str, float] | None:
        """Errors in percent (``top1_err``, ``top5_err``, and per head) of a network, which is left in eval mode.

        With several labels a clip is right when one of its k highest classes is among them, and ``map`` is the mean
        average precision.

        Args:
            model: the network.
            epoch: finished epochs, for the log.
            stop: asked after every batch.
            best: the smallest errors so far, for the log.
            average: whether these are the averaged weights, for the log.

        Returns:
            None when the run is to stop.
        """
        started = time.perf_counter()
        model.eval()
        sums: Counter[str] = Counter()
        self._scored: list[tuple[np.ndarray, np.ndarray]] = []
        label = f"{'average, ' * average}epoch {epoch}/{self.cfg.SOLVER.MAX_EPOCH}"
        batches = self._read(sums)
        with Progress(f"validation, {label}", self.batches, enabled=is_main()) as live:
            for step in range(1, self.batches + 1):
                if (batch := next(batches, None)) is not None:
                    errors = self._errors(model, *batch, sums)
                    sums.update({name: value * len(batch[0]) for name, value in errors.items()})
                    sums["videos"] += len(batch[0])
                    if step % self.cfg.LOG_PERIOD == 0 and is_main():
                        self._log_batch(label, step, time.perf_counter() - started, errors)
                elif is_sharded(model):
                    self._logits(model, self._blank)  # the others need this rank's part of the weights
                live.step()
                report_progress(f"at batch {step} of the validation after epoch {epoch}")
                if stop.agreed():
                    return None
        for _ in batches:  # nothing is left but unreadable videos
            pass
        model.clean_activation_buffers()
        return self._total(sums, label, time.perf_counter() - started, best)

    def _read(self, sums: Counter[str]) -> Iterator[tuple[Tensor, Tensor | dict[str, Tensor]]]:
        """Single videos as batches; unreadable ones are logged and counted."""
        clips: list[Tensor] = []
        indices: list[int] = []
        for views in self.loader:
            if views.failure is not None:
                logger.warning("unreadable validation video: %s: %s", views.failure.video, views.failure.cause)
                sums["failed"] += 1
                continue
            clips.append(views.clips())
            indices.append(views.index)
            if len(clips) == self.batch_size:
                yield torch.cat(clips), self._labels(indices)
                clips, indices = [], []
        if clips:
            yield torch.cat(clips), self._labels(indices)

    def _labels(self, indices: list[int]) -> Tensor | dict[str, Tensor]:
        labels, rows = self.videos.labels, np.array(indices)
        if isinstance(labels, dict):
            return {head: torch.from_numpy(np.asarray(column[rows])) for head, column in labels.items()}
        return torch.from_numpy(np.asarray(labels[rows]))

    def _errors(
        self, model: VideoModel, clips: Tensor, labels: Tensor | dict[str, Tensor], sums: Counter[str]
    ) -> dict[str, float]:
        """Errors of a batch; clips whose scores are no finite numbers are wrong, and counted."""
        logits = self._logits(model, clips)
        on_cpu = {k: v.float().cpu() for k, v in logits.items()} if isinstance(logits, dict) else logits.float().cpu()
        heads = list(on_cpu.values()) if isinstance(on_cpu, dict) else [on_cpu]
        finite = torch.cat(heads, dim=1).isfinite().all(1)
        sums["not_finite"] += int((~finite).sum())
        if not isinstance(labels, dict) and labels.is_floating_point():
            self._scored.append((on_cpu.where(finite[:, None], torch.finfo(torch.float32).min).numpy(), labels.numpy()))
        return {name: float(value) for name, value in training_errors(on_cpu, labels).items()}

    def _logits(self, model: VideoModel, clips: Tensor) -> Tensor | dict[str, Tensor]:
        data, train = self.cfg.DATA, self.cfg.TRAIN
        clips = (clips.pin_memory() if self.pin else clips).to(self.device, non_blocking=self.pin)
        inputs = normalise(clips, data.MEAN, data.STD, reverse_channels=data.REVERSE_INPUT_CHANNEL)
        model.clean_activation_buffers()
        with autocast(self.device, train.PRECISION):
            return model(channels_last(inputs) if train.CHANNELS_LAST else inputs)

    def _log_batch(self, label: str, step: int, seconds: float, errors: Mapping[str, float]) -> None:
        stats = {
            "_type": "val_iter",
            "epoch": label.removeprefix("average, ").removeprefix("epoch "),
            "iter": f"{step}/{self.batches}",
            "time_diff": seconds / step,
            "eta": left_text((self.batches - step) * seconds / step),
            "gpu_mem": gpu_memory(),
            **errors,
        }
        log_json_stats(stats, routine=True)

    def _total(self, sums: Counter[str], label: str, seconds: float, best: Mapping[str, float]) -> dict[str, float]:
        total: Counter[str] = Counter()
        for part in gather(dict(sums)):
            total.update(part)
        videos, failed, not_finite = (total.pop(name, 0) for name in ("videos", "failed", "not_finite"))
        if failed and is_main():
            logger.warning("validation: %d unreadable videos are left out of the errors below", failed)
        if not_finite and is_main():
            logger.warning(
                "validation: the network's scores of %d of %d clips are no finite numbers; they count as wrong "
                "(TRAIN.PRECISION is %s)",
                *(not_finite, videos, self.cfg.TRAIN.PRECISION),
            )
        errors = {name: total[name] / videos for name in total} if videos else {"top1_err": 100.0, "top5_err": 100.0}
        if parts := [part for scored in gather(self._scored) for part in scored]:
            scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
            errors["map"] = float(mean_average_precision(average_precision(scores, labels)))
        stats = {
            "_type": "val_ema_epoch" if label.startswith("average") else "val_epoch",
            "epoch": label.rpartition("epoch ")[2],
            "time_diff": seconds,
            "gpu_mem": gpu_memory(),
            "RAM": main_memory(),
            **errors,
            **{f"min_{name}": min(errors[name], best.get(name, 100.0)) for name in ("top1_err", "top5_err")},
        }
        if is_main():
            log_json_stats(stats, self.cfg.OUTPUT_DIR)
        return errors
