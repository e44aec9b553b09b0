"""The training loop: epochs of steps, validation, checkpoints, stopping and going on."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.config.checks import local_ranks
from videobench.datasets.augment import Augmentation
from videobench.datasets.clips import Failure
from videobench.datasets.loader import TrainingBatch, TrainingLoader
from videobench.datasets.mixing import Mixing
from videobench.distributed.group import barrier, gather, is_main, rank, report_progress, sum_over_ranks, world_size
from videobench.distributed.parallel import replicate, share_buffers
from videobench.distributed.sync_batch_norm import synchronise_batch_norms
from videobench.engine.arithmetic import channels_innermost, channels_last, tf32
from videobench.engine.checkpoint import CheckpointWriter, best_path, epoch_path, main_memory_copy, step_path
from videobench.engine.continuation import note_restart
from videobench.engine.metrics import StepClock, gpu_memory, main_memory, training_errors
from videobench.engine.recipe import describe_recipe
from videobench.engine.sound_convolutions import avoid_unsound_convolutions
from videobench.engine.step_log import StepLog, left_text
from videobench.engine.stopping import StopRequest
from videobench.engine.training_state import TrainingState
from videobench.engine.training_step import TrainingStep, largest_micro_batch
from videobench.engine.validation import Validation
from videobench.models import VideoModel, build_model
from videobench.reporting.curves import write_history
from videobench.reporting.log import log_json_stats
from videobench.reporting.progress import Progress
from videobench.reporting.tensorboard import Scalars
from videobench.solver.batch_norm import recompute_statistics, training_mode
from videobench.solver.ema import ExponentialMovingAverage
from videobench.solver.optimizer import build_optimizer, freeze_layers, set_learning_rate
from videobench.solver.schedule import learning_rate, shard_scale

logger = logging.getLogger(__name__)

# Streams of random numbers besides those of the clips: (seed, stream, epoch, step, ...).
_NETWORK, _MIXING = 101, 102
# Sums of an epoch that are no means over its steps.
_COUNTS = ("steps", "skipped", "seconds")


class OutOfMemory(RuntimeError):
    """The network and its batch do not fit into the memory of the device."""


class Trainer:
    """Trains the network of a configuration on this rank's share of every batch."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        torch.manual_seed(cfg.RNG_SEED)
        model = build_model(cfg).to(device)
        if cfg.BN.NORM_TYPE == "sync_batchnorm" and world_size() > 1:
            model = synchronise_batch_norms(model, cfg.BN.NUM_SYNC_DEVICES)
        if cfg.SOLVER.FREEZE_LAYERS:
            freeze_layers(model, cfg.SOLVER.FREEZE_LAYERS)
        if cfg.TRAIN.CHANNELS_LAST:
            channels_innermost(model)
        avoid_unsound_convolutions(model, device, cfg.TRAIN.PRECISION)
        scaler = torch.amp.GradScaler(device.type, enabled=cfg.TRAIN.PRECISION == "fp16")
        ema = ExponentialMovingAverage.from_config(cfg, model)
        self.state = TrainingState(model, build_optimizer(model, cfg), scaler, ema)
        self.continued = self.state.start(cfg)

        pin = cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda"
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.loader = TrainingLoader(cfg, rank=rank(), world_size=world_size(), pin_memory=pin)
        self.augmentation, self.mixing = Augmentation.from_config(cfg), Mixing.from_config(cfg)
        self.validation = Validation(cfg, device)

        forward = model
        if cfg.TRAIN.SHARD and world_size() == 1:
            logger.warning("TRAIN.SHARD has nothing to do: this run has one rank")
        elif cfg.TRAIN.SHARD:
            self.state.shard(device)
        elif world_size() > 1:
            forward = replicate(model, device, static_graph=self._passes_once())
        if cfg.TRAIN.COMPILE:
            forward = torch.compile(forward, mode="reduce-overhead" if cfg.TRAIN.CUDA_GRAPHS else None)
        self.step = TrainingStep(cfg, model, forward, self.state.optimizer, scaler)

        events = Path(cfg.OUTPUT_DIR) / "tensorboard" if cfg.TENSORBOARD.ENABLE and is_main() else None
        self.scalars = Scalars(events, self._steps_done())
        clips = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * cfg.AUG.NUM_SAMPLE
        self.log = StepLog(cfg, self.scalars, self.loader.videos, clips)
        self.writer = CheckpointWriter(cfg.OUTPUT_DIR, cfg.TRAIN.KEEP_CHECKPOINTS)

    def run(self) -> bool:
        """Train from where this run stands to SOLVER.MAX_EPOCH.

        Returns:
            False when the run was asked to stop before; what is needed to go on is saved then.

        Raises:
            DataError: for more unreadable videos than allowed.
            FloatingPointError: after TRAIN.MAX_NONFINITE_STEPS steps in a row without a finite loss and gradient.
            OutOfMemory: when a micro-batch does not fit.
            CheckpointError: when a checkpoint cannot be written.
        """
        cfg, state = self.cfg, self.state
        if state.epoch >= cfg.SOLVER.MAX_EPOCH:
            logger.warning(
                "nothing to train: %s already has %d epochs and SOLVER.MAX_EPOCH is %d; raise it to go on, or name "
                "another OUTPUT_DIR to start afresh",
                *(cfg.OUTPUT_DIR, state.epoch, cfg.SOLVER.MAX_EPOCH),
            )
        elif self.continued is not None and is_main():
            note_restart(cfg, self.continued, state.epoch, state.step)
        with StopRequest() as self.stop, tf32(cfg.TRAIN.TF32):
            with self._closing():
                while (going := state.epoch < cfg.SOLVER.MAX_EPOCH) and self._train_epoch() and self._finish_epoch():
                    pass
            barrier()  # a signal that ended another rank now would take the last checkpoint, which the first one writes
        if going:
            logger.warning("stopped by %s: saved, the same command goes on", self.stop.name)
        return not going

    def _train_epoch(self) -> bool:
        """The steps of the epoch at hand from where it stands; False when the run is to stop."""
        cfg, state, epoch, steps = self.cfg, self.state, self.state.epoch, len(self.loader)
        training_mode(state.model, frozen_statistics=cfg.MODEL.FROZEN_BN)
        self.clock, log = StepClock(cfg.LOG_PERIOD), self.log
        # What a checkpoint has of this epoch counts once, on the first rank.
        failed = [Failure(*fields) for fields in state.failed] if is_main() else []
        log.begin(state.sums if is_main() else {})
        live = Progress(f"epoch {epoch + 1}/{cfg.SOLVER.MAX_EPOCH}", steps, state.step, enabled=is_main())
        with live:
            self.clock.start()
            for batch in self.loader.epoch(epoch, state.step, failed):
                self.clock.data_ready()
                lr = learning_rate(cfg.SOLVER, epoch + state.step / steps, shard_scale(cfg))
                set_learning_rate(state.optimizer, lr)
                inputs, targets = self._prepare(batch)
                if not self.step.micro_batch:
                    self._choose_micro_batch(inputs, targets)
                self._seed_network()
                with self._memory_advice():
                    result = self.step(inputs, targets)
                if state.ema is not None:
                    state.ema.update(state.model, self._steps_done() + 1)
                # All of it stays on the device: reading a number here would make every step wait for the GPU.
                log.add(batch.keys, result, training_errors(result.logits, targets))
                self.clock.step_done()
                state.step += 1
                live.step()
                report_progress(f"at epoch {epoch + 1}, step {state.step}")
                if state.step % cfg.LOG_PERIOD == 0 or state.step == steps:
                    live.say(log.write(epoch, state.step, steps, self.clock, lr))
                stop = self.stop.agreed()
                due = cfg.TRAIN.CHECKPOINT_STEPS and state.step % cfg.TRAIN.CHECKPOINT_STEPS == 0
                if stop or (due and state.step < steps):
                    self._save_within_epoch()
                if stop:
                    return False
        return True

    def _finish_epoch(self) -> bool:
        """Averages, statistics, validation and checkpoints after the last step; False when the run is to stop."""
        cfg, state, steps = self.cfg, self.state, len(self.loader)
        sums = self._sums_of_all_ranks()
        self.loader.check_failures(sum(gather(len(self.loader.failed))))
        done = state.epoch + 1
        last = done == cfg.SOLVER.MAX_EPOCH
        evaluate = last or done % cfg.TRAIN.EVAL_PERIOD == 0
        due = last or done % cfg.TRAIN.CHECKPOINT_PERIOD == 0
        if cfg.BN.USE_PRECISE_STATS and (evaluate or due):
            self._recompute_batch_norms()
        record = self._log_epoch(sums)
        if evaluate:
            errors = self._validate()
            if errors is None:
                self._save_within_epoch()
                return False
            record |= errors
        state.epoch, state.step, state.sums, state.failed = done, 0, {}, []
        state.history.append(record)
        score = state.score(record)
        better = score > state.best
        state.best = score if better else state.best
        if cfg.TENSORBOARD.ENABLE and cfg.TENSORBOARD.HISTOGRAMS:
            self.scalars.add_histograms(main_memory_copy(dict(state.model.named_parameters())), done * steps)
        if is_main():
            write_history(cfg.OUTPUT_DIR, state.history)
        if paths := [epoch_path(cfg.OUTPUT_DIR, done)] * due + [best_path(cfg.OUTPUT_DIR)] * better:
            self.writer.write(paths, state.content(cfg))
        return True

    def _prepare(self, batch: TrainingBatch) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Network inputs [N, C, T, H, W] and their targets."""
        state = self.state
        batch = batch.to(self.device, self.copies)
        clips = batch.clips if self.augmentation.in_workers else self.augmentation.pixels(batch.clips, batch.keys)
        inputs = self.augmentation.finish(clips, batch.keys)
        rng = np.random.default_rng([self.cfg.RNG_SEED, _MIXING, state.epoch, state.step, rank()])
        inputs, targets = self.mixing(inputs, batch.labels, rng)
        return channels_last(inputs) if self.cfg.TRAIN.CHANNELS_LAST else inputs, targets

    def _seed_network(self) -> None:
        # Dropout and stochastic depth: others in every step and on every rank, the same ones after a restart.
        key = [self.cfg.RNG_SEED, _NETWORK, self.state.epoch, self.state.step, rank()]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))

    def _choose_micro_batch(self, inputs: Tensor, targets: Tensor | dict[str, Tensor]) -> None:
        """Settle TRAIN.MICRO_BATCH with the first batch, and say what the run comes to."""
        wanted, clips = self.cfg.TRAIN.MICRO_BATCH, len(inputs)
        if wanted != "auto":
            self.step.micro_batch = min(wanted or clips, clips)
        elif self.device.type == "cuda":
            with self._memory_advice():
                self.step.micro_batch = largest_micro_batch(
                    clips, lambda size: self._everywhere(self.step.fits(inputs, targets, size))
                )
        else:
            self.step.micro_batch = clips
        if is_main():
            facts = {"videos": len(self.loader.videos), "steps": len(self.loader), "ranks": world_size()}
            logger.info(
                "%s", describe_recipe(self.cfg, self.state.optimizer, **facts, micro_batch=self.step.micro_batch)
            )

    def _everywhere(self, fits: bool) -> bool:
        return int(sum_over_ranks(torch.tensor(int(fits), device=self.device))) == world_size()

    @contextlib.contextmanager
    def _memory_advice(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            cfg = self.cfg
            raise OutOfMemory(
                f"out of memory with {self.step.micro_batch or 1} clips of {cfg.DATA.NUM_FRAMES} frames at a time on "
                f"{self.device}: {str(error).splitlines()[0]}\nWhat helps: a smaller TRAIN.MICRO_BATCH (or auto: the "
                "most that fit; the batch stays as it is), MODEL.ACT_CHECKPOINT True, TRAIN.PRECISION bf16, a smaller "
                "TRAIN.BATCH_SIZE, DATA.NUM_FRAMES or DATA.TRAIN_CROP_SIZE"
            ) from error

    def _recompute_batch_norms(self) -> None:
        cfg, state = self.cfg, self.state
        count = min(cfg.BN.NUM_BATCHES_PRECISE, len(self.loader))
        training_mode(state.model, frozen_statistics=cfg.MODEL.FROZEN_BN)
        self._seed_network()
        kept = contextlib.nullcontext() if state.ema is None else state.ema.on(self.device)
        with self.step.autocast(self.device), kept as average:
            recompute_statistics(
                state.model,
                self._independent_clips(count, [state.model] + [average] * (average is not None)),
                count,
                mean_over_ranks=lambda tensor: sum_over_ranks(tensor) / world_size(),
                average=average,
            )

    def _independent_clips(self, batches: int, models: Sequence[VideoModel]) -> Iterator[Tensor]:
        """Inputs of the first batches of the epoch at hand; networks remember nothing of one batch for the next."""
        for batch in islice(self.loader.epoch(self.state.epoch), batches):
            yield self._prepare(batch)[0]
            for model in models:
                model.clean_activation_buffers()

    def _validate(self) -> dict[str, float] | None:
        """Errors by name of the network and of its average, or None when the run is to stop."""
        state = self.state
        errors: dict[str, float] = {}
        models = {"val_clip_": contextlib.nullcontext(state.model)}
        if state.ema is not None:
            models["val_clip_ema_"] = state.ema.on(self.device)
        for prefix, place in models.items():
            best = {
                name: min((r[prefix + name] for r in state.history if prefix + name in r), default=100.0)
                for name in ("top1_err", "top5_err")
            }
            with place as model:
                share_buffers(model)
                found = self.validation(model, state.epoch + 1, self.stop, best, average=model is not state.model)
            if found is None:
                return None
            errors |= {prefix + name: value for name, value in found.items()}
        scalars = {f"val/{name[4:]}": value for name, value in errors.items()}
        self.scalars.add(scalars, (state.epoch + 1) * len(self.loader))
        return errors

    def _sums_of_all_ranks(self) -> dict[str, float]:
        self.log.read()
        own = self.log.sums | {"seconds": self.log.sums["seconds"] + self.clock.total}
        total: dict[str, float] = {}
        for sums in gather(own):
            for name, value in sums.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def _save_within_epoch(self) -> None:
        own = [(failure.index, failure.video, failure.cause) for failure in self.loader.failed.values()]
        self.state.failed = [failure for failures in gather(own) for failure in failures]
        self.state.sums = self._sums_of_all_ranks()
        path = step_path(self.cfg.OUTPUT_DIR, self.state.epoch, self.state.step)
        self.writer.write([path], self.state.content(self.cfg))

    def _log_epoch(self, sums: dict[str, float]) -> dict[str, float]:
        """Log the averages over an epoch; returns what history.csv has of them."""
        cfg, state, steps = self.cfg, self.state, len(self.loader)
        done = state.epoch + 1
        counted = max(sums["steps"], 1.0)
        means = {name: value / counted for name, value in sums.items() if name not in _COUNTS}
        seconds = sums["seconds"] / world_size()
        lr = learning_rate(cfg.SOLVER, state.epoch + (steps - 1) / steps, shard_scale(cfg))
        stats = {
            "_type": "train_epoch",
            "epoch": f"{done}/{cfg.SOLVER.MAX_EPOCH}",
            "dt": self.clock.step.median if self.clock.steps else 0.0,
            "dt_data": self.clock.data.median if self.clock.steps else 0.0,
            "dt_net": self.clock.net.median if self.clock.steps else 0.0,
            "eta": left_text((cfg.SOLVER.MAX_EPOCH - done) * seconds),
            "lr": lr,
            "gpu_mem": gpu_memory(),
            "RAM": main_memory(),
            **means,
        }
        skipped = int(sums["skipped"] / world_size())
        if skipped:
            stats["skipped"] = skipped
            logger.warning("epoch %d: %d of %d steps were skipped for want of finite numbers", done, skipped, steps)
        if is_main():
            log_json_stats(stats, cfg.OUTPUT_DIR)
        self.scalars.add({f"train/epoch_{name}": value for name, value in means.items()}, done * steps)
        record = {"epoch": done, "lr": lr, "seconds": seconds}
        return record | {f"train_{name}": value for name, value in means.items() if name != "grad_norm"}

    def _passes_once(self) -> bool:
        """Whether every step is one forward and one backward pass through a network that is not compiled."""
        train = self.cfg.TRAIN
        share = train.BATCH_SIZE * self.cfg.AUG.NUM_SAMPLE // local_ranks(self.cfg)
        pieces = train.MICRO_BATCH == "auto" or 0 < train.MICRO_BATCH < share or self.cfg.MOVINET.TRAIN_SUBCLIPS > 1
        return not pieces and not train.COMPILE

    def _steps_done(self) -> int:
        return self.state.epoch * len(self.loader) + self.state.step

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """End the loader and wait for the last checkpoint, also when the run breaks off."""
        with contextlib.ExitStack() as stack:  # each of them, whatever becomes of the others; the last one first
            for part in (self.writer, self.scalars, self.loader):
                stack.callback(part.close)
            yield


def train(cfg: CfgNode, device: torch.device) -> bool:
    """Train the network of a configuration on this rank, from where OUTPUT_DIR stands to SOLVER.MAX_EPOCH.

    Returns:
        False when the run was asked to stop before (SIGTERM, SIGUSR1); see :meth:`Trainer.run`.
    """
    return Trainer(cfg, device).run()
