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
from videobench.engine.checkpoint import last_checkpoint
from videobench.models.weights import read_checkpoint

logger = logging.getLogger(__name__)

#: Columns of restarts.csv: when (UTC), the Slurm job and how often Slurm restarted it, the checkpoint, finished epochs
#: and steps of the next one in it, and its age: the time that was lost.
RESTART_COLUMNS = ("time", "slurm_job", "slurm_restarts", "checkpoint", "epochs", "steps", "lost_seconds")


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
        if "optimizer_state" in content and "epoch" in content:
            return path, content
    return None


def keep_global_batch(cfg: CfgNode, *, speak: bool = True) -> None:
    """Keep a run's batch over all machines, and its learning rates, when it goes on with another number of machines.

    Where TRAIN.BATCH_SIZE is as before, every machine takes its share of the batch as it was; a TRAIN.BATCH_SIZE that
    was changed counts as it stands. The number of machines that SOLVER.BASE_LR_SCALE_NUM_SHARDS counts stays the first
    one (SOLVER.BASE_LR_NUM_SHARDS). Ranks per machine share TRAIN.BATCH_SIZE anyhow.

    Args:
        cfg: with the number of machines that there are; it is changed.
        speak: say so in the log; one process does.

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
    size, shards, counted = before
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
    if speak and asked != cfg.TRAIN.BATCH_SIZE:
        rates = f"; learning rates stay those of {counted}" if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else ""
        logger.info(
            "machines: %d, and %d when %s was made; TRAIN.BATCH_SIZE %d becomes %d, so that a batch stays %d videos%s",
            *(cfg.NUM_SHARDS, shards, path, asked, cfg.TRAIN.BATCH_SIZE, batch, rates),
        )


def _sizes(text: str) -> tuple[int, int, int] | None:
    """Of the configuration in a checkpoint: videos per machine, machines, and machines that learning rates count."""
    try:
        cfg = yaml.safe_load(text)
        size, shards = cfg["TRAIN"]["BATCH_SIZE"], cfg["NUM_SHARDS"]
        return size, shards, cfg["SOLVER"].get("BASE_LR_NUM_SHARDS", 0) or shards
    except (yaml.YAMLError, TypeError, KeyError):  # of another code base
        return None


def note_restart(output_dir: str | Path, checkpoint: Path, epochs: int, steps: int) -> None:
    """Add a line to restarts.csv and to the log: from where a run goes on, and what was lost since then."""
    now, lost = datetime.datetime.now(datetime.timezone.utc), max(0.0, time.time() - checkpoint.stat().st_mtime)
    job, count = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    path = Path(output_dir) / "restarts.csv"
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if not stream.tell():
            writer.writerow(RESTART_COLUMNS)
        writer.writerow([now.isoformat(timespec="seconds"), job, count, checkpoint, epochs, steps, round(lost, 1)])
    under = f" (Slurm job {job}, restart {count or 0})" if job else ""
    logger.info(
        "going on%s with epoch %d, step %d, from %s, which is %.0f s old",
        *(under, epochs + 1, steps + 1, checkpoint.name, lost),
    )
