"""The training loop: epochs of steps, validation, checkpoints, resuming."""

import datetime
import logging
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from videobench.config import CfgNode
from videobench.datasets.annotations import read_class_names
from videobench.datasets.augment import normalise
from videobench.datasets.loader import TrainingLoader
from videobench.datasets.views import view_loader
from videobench.distributed.group import is_main, rank, sum_over_ranks, world_size
from videobench.engine.checkpoint import best_path, changed_keys, epoch_path, last_checkpoint, versions
from videobench.engine.metrics import StepClock, Window, gpu_memory, main_memory, topk_correct
from videobench.models import WeightsError, build_model, load_weights
from videobench.models.weights import read_checkpoint, write_checkpoint
from videobench.reporting.log import log_json_stats
from videobench.reporting.run_report import write_history
from videobench.reporting.tensorboard import Scalars
from videobench.solver.losses import training_loss
from videobench.solver.optimizer import build_optimizer
from videobench.solver.schedule import learning_rate, shard_scale

logger = logging.getLogger(__name__)

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains the network of a configuration on this rank's share of every batch."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        torch.manual_seed(cfg.RNG_SEED)
        self.model = build_model(cfg).to(device)
        always = cfg.SOLVER.NO_WEIGHT_DECAY == "always"
        exempt = self.model.no_weight_decay() if always or self.model.heeds_no_weight_decay else set()
        self.optimizer = build_optimizer(self.model, cfg, exempt)
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.TRAIN.PRECISION == "fp16")
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best_top1 = -1.0
        self._start_from_weights()
        pin = cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda"
        ranks = {"rank": rank(), "world_size": world_size(), "pin_memory": pin}
        self.loader = TrainingLoader(cfg, **ranks)
        self.val_loader = view_loader(cfg, "val", clips=1, crops=1, **ranks)
        self.forward = self.model
        if world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, device_ids=ids, gradient_as_bucket_view=True)
        events = Path(cfg.OUTPUT_DIR) / "tensorboard" if cfg.TENSORBOARD.ENABLE and is_main() else None
        self.scalars = Scalars(events)

    def run(self) -> None:
        """Train from where this run stands to SOLVER.MAX_EPOCH."""
        cfg = self.cfg
        self._log_recipe()
        if self.epoch >= cfg.SOLVER.MAX_EPOCH:
            logger.warning(
                "nothing to train: %s already has %d epochs and SOLVER.MAX_EPOCH is %d; raise it to go on, or name "
                "another OUTPUT_DIR to start afresh",
                *(cfg.OUTPUT_DIR, self.epoch, cfg.SOLVER.MAX_EPOCH),
            )
        while self.epoch < cfg.SOLVER.MAX_EPOCH:
            record = self.train_epoch(self.epoch)
            self.epoch += 1
            last = self.epoch == cfg.SOLVER.MAX_EPOCH
            if last or self.epoch % cfg.TRAIN.EVAL_PERIOD == 0:
                record.update(self.validate())
            self.history.append(record)
            if is_main():
                write_history(cfg.OUTPUT_DIR, self.history)
                self._save(last or self.epoch % cfg.TRAIN.CHECKPOINT_PERIOD == 0, record)
        self.scalars.close()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training videos; returns its averages."""
        cfg, solver = self.cfg, self.cfg.SOLVER
        steps = len(self.loader)
        # Dropout and stochastic depth: different on every rank and in every epoch, the same after a restart.
        torch.manual_seed(int(np.random.SeedSequence([cfg.RNG_SEED, epoch, rank()]).generate_state(1)[0]))
        clock = StepClock(cfg.LOG_PERIOD)
        window = {name: Window(cfg.LOG_PERIOD) for name in ("loss", "top1_err", "top5_err")}
        pending: list[Tensor] = []
        totals = torch.zeros(3, dtype=torch.float64)
        self.model.train()
        clock.start()
        for step, (clips, labels) in enumerate(self.loader.epoch(epoch)):
            clock.data_ready()
            lr = learning_rate(solver, epoch + step / steps, shard_scale(cfg))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            labels = labels.to(self.device, non_blocking=True)
            loss, logits, grad_norm = self._step(clips, labels)
            # Kept on the device: reading a number here would make every step wait for the GPU.
            pending.append(torch.stack([loss.detach(), *_errors(logits, labels)]))
            clock.step_done()
            if (step + 1) % cfg.LOG_PERIOD == 0 or step + 1 == steps:
                for values in torch.stack(pending).cpu().double():
                    totals += values
                    for name, value in zip(window, values.tolist(), strict=True):
                        window[name].add(value)
                pending.clear()
                self._check_losses(window["loss"].values, epoch, step)
                self._log_step(epoch, step, clock, window, lr, grad_norm)
        failed = torch.tensor(len(self.loader.failed), device=self.device)
        self.loader.check_failures(int(sum_over_ranks(failed)))
        loss, top1_err, top5_err = (sum_over_ranks(totals.to(self.device)) / (steps * world_size())).tolist()
        stats = {
            "_type": "train_epoch",
            "epoch": f"{epoch + 1}/{solver.MAX_EPOCH}",
            "dt": clock.step.median,
            "dt_data": clock.data.median,
            "dt_net": clock.net.median,
            "eta": self._eta(clock.total, epoch + 1),
            "loss": loss,
            "lr": lr,
            "gpu_mem": gpu_memory(),
            "RAM": main_memory(),
            "top1_err": top1_err,
            "top5_err": top5_err,
        }
        if is_main():
            log_json_stats(stats, cfg.OUTPUT_DIR)
        self.scalars.add({"train/epoch_loss": loss, "train/epoch_top1_err": top1_err}, (epoch + 1) * steps)
        return {"epoch": epoch + 1, "lr": lr, "train_loss": loss, "train_top1_err": top1_err, "seconds": clock.total}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Clip-level errors on the validation videos: one centre clip and one centre crop each, every video once."""
        cfg = self.cfg
        started = time.perf_counter()
        self.model.eval()
        counts = torch.zeros(4, dtype=torch.int64)
        batch_size = max(1, cfg.TRAIN.BATCH_SIZE // max(cfg.NUM_GPUS, 1))
        batches = -(-len(self.val_loader) // batch_size)
        for step, (clips, labels) in enumerate(_regroup(self.val_loader, batch_size, counts)):
            self.model.clean_activation_buffers()
            with self._autocast():
                logits = self.model(self._to_input(clips))
            top1, top5 = topk_correct(_single(logits).float().cpu(), labels, (1, 5))
            counts += torch.tensor([top1, top5, len(labels), 0])
            if (step + 1) % cfg.LOG_PERIOD == 0 and is_main():
                self._log_validation(step + 1, batches, time.perf_counter() - started, top1, top5, len(labels))
        top1, top5, videos, failed = sum_over_ranks(counts.to(self.device)).tolist()
        if failed:
            logger.warning("validation: %d unreadable videos are left out of the errors below", failed)
        errors = [100.0 * (1.0 - hits / videos) if videos else 100.0 for hits in (top1, top5)]
        seen = [record for record in self.history if "val_top1_err" in record]
        stats = {
            "_type": "val_epoch",
            "epoch": f"{self.epoch}/{cfg.SOLVER.MAX_EPOCH}",
            "time_diff": time.perf_counter() - started,
            "gpu_mem": gpu_memory(),
            "RAM": main_memory(),
            "top1_err": errors[0],
            "top5_err": errors[1],
            "min_top1_err": min([errors[0], *(r["val_top1_err"] for r in seen)]),
            "min_top5_err": min([errors[1], *(r["val_top5_err"] for r in seen)]),
        }
        if is_main():
            log_json_stats(stats, cfg.OUTPUT_DIR)
        self.scalars.add({"val/clip_top1_err": errors[0]}, self.epoch * len(self.loader))
        return {"val_top1_err": errors[0], "val_top5_err": errors[1]}

    def _log_validation(self, done: int, batches: int, seconds: float, top1: int, top5: int, videos: int) -> None:
        left = (batches - done) * seconds / done
        stats = {
            "_type": "val_iter",
            "epoch": f"{self.epoch}/{self.cfg.SOLVER.MAX_EPOCH}",
            "iter": f"{done}/{batches}",
            "time_diff": seconds / done,
            "eta": str(datetime.timedelta(seconds=round(left))),
            "gpu_mem": gpu_memory(),
            "top1_err": 100.0 * (1.0 - top1 / videos),
            "top5_err": 100.0 * (1.0 - top5 / videos),
        }
        log_json_stats(stats)

    def _step(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        self.model.clean_activation_buffers()
        with self._autocast():
            logits = self.forward(self._to_input(clips))
            loss = training_loss(self.cfg.MODEL.LOSS_FUNC, logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        grad_norm = None
        if self.cfg.SOLVER.CLIP_GRAD_L2NORM is not None:
            self.scaler.unscale_(self.optimizer)
            grad_norm = clip_grad_norm_(self.model.parameters(), self.cfg.SOLVER.CLIP_GRAD_L2NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, _single(logits), grad_norm

    def _to_input(self, clips: Tensor) -> Tensor:
        data = self.cfg.DATA
        clips = clips.to(self.device, non_blocking=True)
        return normalise(clips, data.MEAN, data.STD, reverse_channels=data.REVERSE_INPUT_CHANNEL)

    def _autocast(self) -> torch.autocast:
        dtype = _AUTOCAST.get(self.cfg.TRAIN.PRECISION)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _check_losses(self, losses: Iterable[float], epoch: int, step: int) -> None:
        if not all(map(math.isfinite, losses)):
            raise FloatingPointError(
                f"the loss is not a finite number in epoch {epoch + 1}, shortly before step {step + 1}; try a lower "
                "SOLVER.BASE_LR, a longer SOLVER.WARMUP_EPOCHS, SOLVER.CLIP_GRAD_L2NORM 1.0, or TRAIN.PRECISION bf16 "
                "or fp32 instead of fp16"
            )

    def _log_recipe(self) -> None:
        cfg, groups = self.cfg, self.optimizer.param_groups
        parameters = "; ".join(
            f"{sum(p.numel() for p in g['params']):,} {g['name']} (weight decay {g['weight_decay']:g})" for g in groups
        )
        scale = shard_scale(cfg)
        why = f" (times {scale:g} machines, SOLVER.BASE_LR_SCALE_NUM_SHARDS)" if scale != 1 else ""
        logger.info(
            "%s from epoch %d to %d: %d steps an epoch, %d videos a step on %d rank(s), learning rate %g%s, "
            "parameters: %s",
            "resuming" if self.epoch else "training",
            self.epoch + 1,
            cfg.SOLVER.MAX_EPOCH,
            len(self.loader),
            cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
            world_size(),
            cfg.SOLVER.BASE_LR * scale,
            why,
            parameters,
        )

    def _eta(self, epoch_seconds: float, epochs_done: float) -> str:
        left = (self.cfg.SOLVER.MAX_EPOCH - epochs_done) * epoch_seconds
        return str(datetime.timedelta(seconds=round(left)))

    def _log_step(self, epoch: int, step: int, clock: StepClock, window: dict, lr: float, grad_norm) -> None:
        if not is_main():
            return
        cfg, steps = self.cfg, len(self.loader)
        done = step + 1
        eta = self._eta(clock.total / done * steps, epoch + done / steps)
        stats = {
            "_type": "train_iter",
            "epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
            "iter": f"{done}/{steps}",
            "dt": clock.step.median,
            "dt_data": clock.data.median,
            "dt_net": clock.net.median,
            "eta": eta,
            "lr": lr,
            "gpu_mem": gpu_memory(),
            **{name: values.median for name, values in window.items()},
        }
        if grad_norm is not None:
            stats["grad_norm"] = float(grad_norm)
        log_json_stats(stats)
        clips = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * done / clock.total
        wait = 100.0 * clock.data_total / clock.total
        logger.info(
            "epoch %d/%d, step %d/%d: loss %.3f, %.1f clips/s, %.0f%% of the time waiting for data, %s to go",
            *(epoch + 1, cfg.SOLVER.MAX_EPOCH, done, steps, stats["loss"], clips, wait, eta),
        )
        scalars = {"train/loss": stats["loss"], "train/lr": lr, "train/clips_per_second": clips}
        scalars |= {"train/data_wait_percent": wait, "train/top1_err": stats["top1_err"]}
        if grad_norm is not None:
            scalars["train/grad_norm"] = stats["grad_norm"]
        self.scalars.add(scalars, epoch * steps + done)

    def _save(self, due: bool, record: dict[str, float]) -> None:
        top1 = 100.0 - record["val_top1_err"] if "val_top1_err" in record else -1.0
        better = top1 > self.best_top1
        self.best_top1 = max(self.best_top1, top1)
        if not (due or better):
            return
        content = self._content()
        if due:
            write_checkpoint(epoch_path(self.cfg.OUTPUT_DIR, self.epoch), content)
        if better:
            write_checkpoint(best_path(self.cfg.OUTPUT_DIR), content)

    def _content(self) -> dict[str, Any]:
        names = self.cfg.DATA.CLASS_NAMES
        content = {
            "epoch": self.epoch - 1,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "cfg": self.cfg.dump(),
            "class_names": read_class_names(names) if names else [],
            "history": self.history,
            "best_top1": self.best_top1,
            "versions": versions(),
        }
        if self.scaler.is_enabled():
            content["scaler_state"] = self.scaler.state_dict()
        return content

    def _start_from_weights(self) -> None:
        """Continue this run, or begin from TRAIN.CHECKPOINT_FILE_PATH, or from fresh weights."""
        train = self.cfg.TRAIN
        if train.AUTO_RESUME and (found := last_checkpoint(self.cfg.OUTPUT_DIR)) is not None:
            self._resume(*found)
        elif train.CHECKPOINT_FILE_PATH:
            path = Path(train.CHECKPOINT_FILE_PATH)
            content = read_checkpoint(path)
            if not train.CHECKPOINT_EPOCH_RESET and "optimizer_state" in content and "epoch" in content:
                self._resume(path, content)
            else:
                logger.info("%s", load_weights(self.model, path))

    def _resume(self, path: Path, content: dict[str, Any]) -> None:
        """Restore everything, and say which keys of the configuration are others than before."""
        advice = (
            "use another OUTPUT_DIR, and to begin with these weights name this file in TRAIN.CHECKPOINT_FILE_PATH with "
            "TRAIN.CHECKPOINT_EPOCH_RESET True"
        )
        report = load_weights(self.model, {"model_state": content["model_state"]})
        if not report.complete or report.unexpected:
            raise WeightsError(
                f"{path}: this checkpoint is of another network than the configuration describes; {advice}\n{report}"
            )
        self._restore_optimizer(path, content["optimizer_state"], advice)
        if changed := changed_keys(content.get("cfg", ""), self.cfg):
            logger.warning("going on with other settings than %s was made with: %s", path, "; ".join(changed))
        if self.scaler.is_enabled() and content.get("scaler_state"):
            self.scaler.load_state_dict(content["scaler_state"])
        self.epoch = content["epoch"] + 1
        self.history = list(content.get("history", []))
        self.best_top1 = content.get("best_top1", -1.0)
        logger.info("resuming after epoch %d from %s", self.epoch, path)

    def _restore_optimizer(self, path: Path, state: dict[str, Any], advice: str) -> None:
        # The moments come from the file, the options (weight decay, betas) from the configuration.
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            if ["betas" in group for group in state["param_groups"]] != ["betas" in group for group in options]:
                raise ValueError("it is of another SOLVER.OPTIMIZING_METHOD or has other parameter groups")
            self.optimizer.load_state_dict(state)
            for parameter, values in self.optimizer.state.items():
                # Moments are assigned by position, which torch does not check.
                if any(v.dim() and v.shape != parameter.shape for v in values.values() if isinstance(v, Tensor)):
                    raise ValueError("its tensors are in another order than this network's parameters")
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path}: the optimizer state does not fit ({error}); {advice}") from error
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)


def _single(logits: Tensor | dict[str, Tensor]) -> Tensor:
    """The logits that training errors are counted on: the only ones, or a dict's first."""
    return next(iter(logits.values())) if isinstance(logits, dict) else logits


def _errors(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Top-1 and top-5 error of a batch in percent, without leaving the device."""
    hits = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return [100.0 - 100.0 * hits[:, :k].any(1).float().mean() for k in (1, 5)]


def _regroup(loader, batch_size: int, counts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Single videos as batches; unreadable ones are logged and counted in the last place of ``counts``."""
    clips, labels = [], []
    for views, label, _, failure in loader:
        if failure is not None:
            logger.warning("unreadable validation video: %s: %s", failure.video, failure.cause)
            counts[3] += 1
            continue
        clips.append(views)
        labels.append(label)
        if len(clips) == batch_size:
            yield torch.cat(clips), torch.tensor(labels)
            clips, labels = [], []
    if clips:
        yield torch.cat(clips), torch.tensor(labels)


def train(cfg: CfgNode, device: torch.device) -> None:
    """Train the network of a configuration on this rank, from where OUTPUT_DIR stands to SOLVER.MAX_EPOCH."""
    Trainer(cfg, device).run()
