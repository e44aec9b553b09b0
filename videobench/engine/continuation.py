"""Going on with a run: from which checkpoint, with the same batch on another number of machines, and a note of it."""

import csv
import datetime
import logging
import os
import time
from pathlib import Path
from typing import Any

import yaml

from videobench.config import CfgNode, ConfigError
from videobench.config.checks import local_ranks
from videobench.engine.checkpoint import last_checkpoint
from videobench.models.weights import read_checkpoint
from videobench.reporting.run_files import written_to

logger = logging.getLogger(__name__)

#: What a checkpoint needs for training to go on from it; other files only have weights to begin with.
CONTINUED = ("epoch", "model_state", "optimizer_state")
#: Columns of restarts.csv: when (UTC), the Slurm job and how often Slurm restarted it, the checkpoint, finished epochs
#: and steps of the next one in it, its age (the time that was lost), and the ranks and videos per step from now on.
RESTART_COLUMNS = (
    *("time", "slurm_job", "slurm_restarts", "checkpoint", "epochs", "steps", "lost_seconds", "ranks", "batch"),
)


def checkpoint_to_continue(cfg: CfgNode, *, mmap: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that this run goes on from, and what it holds; None when it begins.

    Args:
        cfg: OUTPUT_DIR with TRAIN.AUTO_RESUME, TRAIN.CHECKPOINT_FILE_PATH without TRAIN.CHECKPOINT_EPOCH_RESET.
        mmap: leave tensors on the disk until they are used.

    Raises:
        WeightsError: when there are checkpoints and none can be read.
    """
    train = cfg.TRAIN
    if train.AUTO_RESUME and (found := last_checkpoint(cfg.OUTPUT_DIR, mmap=mmap)) is not None:
        return found
    if train.CHECKPOINT_FILE_PATH and not train.CHECKPOINT_EPOCH_RESET:
        path = Path(train.CHECKPOINT_FILE_PATH)
        content = read_checkpoint(path, mmap=mmap)
        if all(name in content for name in CONTINUED):
            return path, content
    return None


def keep_global_batch(cfg: CfgNode) -> None:
    """Keep a run's batch over all machines, and its learning rates, when it goes on with another number of machines.

    Where TRAIN.BATCH_SIZE is as before, every machine takes its share of the batch as it was; a TRAIN.BATCH_SIZE that
    was changed counts as it stands. The number of machines that SOLVER.BASE_LR_SCALE_NUM_SHARDS counts stays the first
    one (SOLVER.BASE_LR_NUM_SHARDS). Ranks per machine share TRAIN.BATCH_SIZE anyhow. :func:`batch_kept` says so once
    the run has a log.

    Args:
        cfg: with the number of machines that there are; it is changed.

    Raises:
        ConfigError: when the batch does not divide by the number of machines.
        WeightsError: when there are checkpoints and none can be read.
    """
    source = cfg.TRAIN.CHECKPOINT_FILE_PATH
    if not cfg.TRAIN.ENABLE or (source and not Path(source).exists()):
        return
    if (found := checkpoint_to_continue(cfg, mmap=True)) is None:
        return
    path, before = found[0], _sizes(found[1].get("cfg", ""))
    if before is None:
        return
    size, shards, counted, _ = before
    batch, asked = size * shards, cfg.TRAIN.BATCH_SIZE
    # What each machine took in the beginning: what the same command asks for after a first change of their number.
    as_before = asked in (size, batch / counted)
    if not as_before and asked * cfg.NUM_SHARDS != batch:
        return
    if batch % cfg.NUM_SHARDS:
        raise ConfigError(
            f"{path} was made with batches of {batch} videos (TRAIN.BATCH_SIZE {size} on each of {shards} machines), "
            f"which {cfg.NUM_SHARDS} machines cannot share evenly; use another number of machines, or set "
            "TRAIN.BATCH_SIZE to what each of them is to take"
        )
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.TRAIN.BATCH_SIZE = batch // cfg.NUM_SHARDS
    if counted != cfg.NUM_SHARDS and not cfg.SOLVER.BASE_LR_NUM_SHARDS:
        cfg.SOLVER.BASE_LR_NUM_SHARDS = counted
    if frozen:
        cfg.freeze()


def batch_kept(before: str, cfg: CfgNode) -> str:
    """What there is to say when a run goes on with another number of ranks and the same batch; empty otherwise.

    Args:
        before: the configuration text of the checkpoint.
        cfg: the configuration that goes on, after :func:`keep_global_batch`.
    """
    sizes = _sizes(before)
    if sizes is None:
        return ""
    size, shards, counted, ranks = sizes
    batch = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    if (shards, ranks) == (cfg.NUM_SHARDS, local_ranks(cfg)) or batch != size * shards:
        return ""
    scaled = cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS
    return (
        f"{cfg.NUM_SHARDS} machine(s) with {local_ranks(cfg)} rank(s) go on where {shards} with {ranks} were: a batch "
        f"stays {batch} videos, TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE} (was {size})"
        + f"; learning rates stay those of {counted} machine(s)"
        * scaled
    )


def finished_steps(steps: int, before: str, cfg: CfgNode) -> int:
    """Finished steps of an epoch, counted in this run's batches where those of the checkpoint had another size.

    Batches follow one order of the videos, so that none is left out and less than a batch of them comes again.

    Args:
        steps: as the checkpoint counts them.
        before: its configuration text.
        cfg: the configuration that goes on.
    """
    sizes = _sizes(before)
    return steps if sizes is None else steps * sizes[0] * sizes[1] // (cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS)


def _sizes(text: str) -> tuple[int, int, int, int] | None:
    """Of a checkpoint: videos per machine, machines, machines that learning rates count, and ranks per machine."""
    try:
        cfg = yaml.safe_load(text)
        size, shards = cfg["TRAIN"]["BATCH_SIZE"], cfg["NUM_SHARDS"]
        ranks = cfg["NUM_GPUS"] or cfg.get("NUM_CPU_RANKS", 1)
        return size, shards, cfg["SOLVER"].get("BASE_LR_NUM_SHARDS", 0) or shards, ranks
    except (yaml.YAMLError, AttributeError, TypeError, KeyError):  # of another code base
        return None


def note_restart(cfg: CfgNode, checkpoint: Path, epochs: int, steps: int) -> None:
    """Add a line to restarts.csv and to the log: from where a run goes on, what was lost since then, and its ranks.

    Raises:
        OutputError: when restarts.csv cannot be written.
    """
    ranks, batch = cfg.NUM_SHARDS * local_ranks(cfg), cfg.NUM_SHARDS * cfg.TRAIN.BATCH_SIZE
    now, lost = datetime.datetime.now(datetime.timezone.utc), max(0.0, time.time() - checkpoint.stat().st_mtime)
    job, count = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    path = Path(cfg.OUTPUT_DIR) / "restarts.csv"
    with written_to(path), path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if not stream.tell():
            writer.writerow(RESTART_COLUMNS)
        when = now.isoformat(timespec="seconds")
        writer.writerow([when, job, count, checkpoint, epochs, steps, round(lost, 1), ranks, batch])
    under = f" (Slurm job {job}, restart {count or 0})" if job else ""
    logger.info(
        "going on%s with epoch %d, step %d, from %s, which is %.0f s old",
        *(under, epochs + 1, steps + 1, checkpoint.name, lost),
    )
