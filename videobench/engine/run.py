"""One command's work: load and check the configuration, start the ranks, train, test, report."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from videobench.config import CfgNode, ConfigError, load_config
from videobench.config.checks import check_config
from videobench.datasets.annotations import split_list
from videobench.datasets.loader import DataError
from videobench.datasets.workers import WorkerError
from videobench.distributed.group import is_main
from videobench.distributed.launch import finish_undisturbed, launch
from videobench.distributed.place import find_place, settle
from videobench.engine.checkpoint import CheckpointError, checkpoint_dir
from videobench.engine.class_names import class_names
from videobench.engine.continuation import keep_global_batch
from videobench.engine.report import write_report
from videobench.engine.tester import TestStopped, test, weights_to_test
from videobench.engine.trainer import OutOfMemory, train
from videobench.exit_status import BROKE_OFF, DONE, FAILED_VIDEOS, INTERRUPTED, STOPPED, WRONG_INPUT
from videobench.models import WeightsError, build_model
from videobench.reporting.log import setup_logging
from videobench.reporting.run_files import OutputError, RunFileError, read_from, whole_file
from videobench.reporting.run_report import result_table

#: What is said in one message without a traceback, because the reader of the message can mend it.
_STATUS = {
    **dict.fromkeys((ConfigError, DataError, WeightsError, RunFileError), WRONG_INPUT),
    **dict.fromkeys((FloatingPointError, OutOfMemory, CheckpointError, OutputError, WorkerError), BROKE_OFF),
    TestStopped: STOPPED,
}


def run(config_files: Sequence[str], overrides: Sequence[Any], init_method: str, *, strict: bool = False) -> int:
    """Train and test as the configuration says; what is wrong with its input is said in one message on stderr.

    Args:
        config_files, overrides, strict: see :func:`videobench.load_config`.
        init_method: where the processes of several machines meet.

    Returns:
        The exit status: 0 done, 1 broken off, 2 wrong configuration or input, 3 more unreadable test videos than
        TEST.ALLOW_FAILED, 75 stopped by a signal and saved, 130 interrupted.
    """
    setup_logging(None)
    try:
        cfg = load_config(config_files, overrides, strict=strict)
        place = find_place(cfg, init_method)
        settle(cfg, place)
        keep_global_batch(cfg)
        prepare(cfg)
        return launch(cfg, place, _work, _STATUS)
    except tuple(_STATUS) as error:
        print(f"error: {error}", file=sys.stderr)
        return next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def prepare(cfg: CfgNode) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ConfigError: for a configuration that cannot run, list files that cannot be used, class names that do not fit
            MODEL.NUM_CLASSES, clips that the network cannot take, and an OUTPUT_DIR that cannot be written.
        WeightsError: when only damaged checkpoints could be tested.
    """
    check_config(cfg)
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        raise ConfigError(
            "TRAIN.ENABLE and TEST.ENABLE are both False, so there is nothing to do; set one of them True"
        )
    class_names(cfg)
    for split in ["train", "val"] * cfg.TRAIN.ENABLE + ["test"] * cfg.TEST.ENABLE:
        split_list(cfg, split)
    output = Path(cfg.OUTPUT_DIR)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR: cannot write to {output}: {error.strerror}") from error
    if cfg.TEST.ENABLE and not cfg.TRAIN.ENABLE:
        weights_to_test(cfg)
    if cfg.TRAIN.ENABLE and not cfg.TRAIN.AUTO_RESUME and any(checkpoint_dir(output).glob("*.pyth")):
        raise ConfigError(
            f"{checkpoint_dir(output)} has checkpoints of an earlier run and TRAIN.AUTO_RESUME is False; name another "
            "OUTPUT_DIR, or move them away"
        )
    _try_network(cfg)


def _try_network(cfg: CfgNode) -> None:
    """Run the network once on meta tensors: clips it cannot take are a mistake in the configuration."""
    with torch.device("meta"), torch.no_grad():
        model = build_model(cfg).eval()
        for key in ["TRAIN_CROP_SIZE"] * cfg.TRAIN.ENABLE + ["TEST_CROP_SIZE"]:
            frames, size = cfg.DATA.NUM_FRAMES, cfg.DATA[key]
            try:
                model.clean_activation_buffers()
                model(torch.empty(1, 3, frames, size, size))
            except ValueError as error:
                raise ConfigError(
                    f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME} cannot take clips of DATA.NUM_FRAMES {frames} and "
                    f"DATA.{key} {size}: {error}"
                ) from error


def _work(cfg: CfgNode, device: torch.device) -> int:
    setup_logging(cfg.OUTPUT_DIR, main=is_main())
    config = Path(cfg.OUTPUT_DIR) / "config.yaml"
    before = None
    if is_main():
        if config.exists():
            with read_from(config, "mend or remove it"):
                before = config.read_bytes()
        with whole_file(config) as file:
            file.write(cfg.dump().encode())
    trained, results = False, None
    try:
        if cfg.TRAIN.ENABLE:
            if not train(cfg, device):
                return STOPPED
            trained = True
        if cfg.TEST.ENABLE:
            results = test(cfg, device)
    except (ConfigError, WeightsError):
        # A command that is refused must not describe the checkpoints of an earlier one as its own.
        if before is not None and not trained:
            with whole_file(config) as file:
                file.write(before)
        raise
    finish_undisturbed()
    if not is_main():
        return DONE
    print(result_table(cfg.OUTPUT_DIR, results), flush=True)  # first, because the page may not fit on the disk
    report = write_report(cfg.OUTPUT_DIR, with_test=results is not None, tensorboard=True)
    print(f"report: {report}", flush=True)
    return FAILED_VIDEOS if results and len(results["failed"]) > cfg.TEST.ALLOW_FAILED else DONE
