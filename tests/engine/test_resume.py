"""A run that is killed or stopped at any instant goes on bit for bit: real processes, real signals."""

import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import STEP, start, start_two

from videobench.engine.checkpoint import checkpoints, epoch_path, step_path
from videobench.engine.run import DONE, STOPPED
from videobench.models.weights import read_checkpoint

# Everything random at once: three epochs of three steps in pieces of three clips, with workers and a checkpoint a step.
EVERYTHING = [
    *("SOLVER.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_STEPS", 1, "TRAIN.MICRO_BATCH", 3, "DATA_LOADER.NUM_WORKERS", 2),
    *("UNIFORMER.DROP_DEPTH_RATE", 0.5, "TRAIN.EMA", True, "TRAIN.EMA_DECAY", 0.9, "TEST.ENABLE", False),
    *("AUG.ENABLE", True, "AUG.AA_TYPE", "rand-m5-n2-mstd0.5-inc1", "AUG.RE_PROB", 0.5, "TENSORBOARD.ENABLE", False),
    *("MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "soft_cross_entropy", "TRAIN.EVAL_PERIOD", 3),
]
PATIENCE = 600
STEP_LINE = re.compile(r'"_type": "train_iter"')


@pytest.fixture(scope="module")
def words(tiny, demo_data, tmp_path_factory) -> list:
    """Three epochs of three steps of four videos."""
    folder = tmp_path_factory.mktemp("lists")
    for split, count in (("train", 12), ("val", 4)):
        lines = (demo_data / f"{split}.csv").read_text().splitlines()[:count]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return [*tiny, *EVERYTHING, "DATA.PATH_TO_DATA_DIR", str(folder), "TRAIN.BATCH_SIZE", 4]


def begin(words, output, *more, interruption=None):
    """A process that trains."""
    return start([*words, *more, "OUTPUT_DIR", str(output)], interruption=interruption)


def finish(words, output, *more, interruption=None) -> int:
    """Train to the end; the exit status."""
    process = begin(words, output, *more, interruption=interruption)
    process.join(PATIENCE)
    return process.exitcode


def steps_logged(output: Path) -> int:
    log = output / "stdout.log"
    return len(STEP_LINE.findall(log.read_text())) if log.exists() else 0


def kill_after(process, output: Path, files: int, pause: float) -> int:
    """Kill a process some time after its newest checkpoint has changed so often; its exit status."""
    newest, until = checkpoints(output)[-1:], time.monotonic() + PATIENCE
    while files and process.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
        if (found := checkpoints(output)[-1:]) != newest:
            newest, files = found, files - 1
    time.sleep(pause)
    process.kill()
    process.join(PATIENCE)
    return process.exitcode


def same(first, second, path="") -> None:
    """Equal to the last bit, whatever is nested how."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            same(*pair, f"{path}/{index}")
    elif isinstance(first, float) and not math.isclose(first, second, rel_tol=1e-12):
        raise AssertionError(f"{path}: {first} and {second}")


def assert_same_run(one: Path, two: Path, epochs: int = 3) -> None:
    first, second = (read_checkpoint(epoch_path(folder, epochs)) for folder in (one, two))
    for part in ("model_state", "optimizer_state", "ema_state", "best"):
        same(first[part], second[part], part)
    for content in (first, second):
        for record in content["history"]:
            record.pop("seconds")
    same(first["history"], second["history"], "history")


@pytest.fixture(scope="module")
def uninterrupted(words, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    assert finish(words, output) == DONE
    return output


def test_a_run_killed_again_and_again_ends_with_the_same_weights(words, uninterrupted, tmp_path):
    """SIGKILL at three random points, each time with more steps behind it than before."""
    rng = np.random.default_rng()
    for files in (2, 1, 2):
        status = kill_after(begin(words, tmp_path), tmp_path, files, pause=rng.uniform(0, 0.3))
        # Done where this process waited so long for the processor that the other one reached its end.
        assert status in (-signal.SIGKILL, DONE)
    # As if the disk had lost the end of the newest file.
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[: int(rng.integers(newest.stat().st_size))])
    assert finish(words, tmp_path) == DONE
    log = (tmp_path / "stdout.log").read_text()
    assert "trying the checkpoint before it" in log
    assert "resuming after epoch" in log
    assert_same_run(uninterrupted, tmp_path)


def test_a_run_asked_to_stop_saves_and_goes_on(words, uninterrupted, tmp_path):
    """SIGTERM, then SIGUSR1, without other checkpoints within epochs than those they ask for."""
    for number, steps in ((signal.SIGTERM, 2), (signal.SIGUSR1, 3)):
        assert finish(words, tmp_path, "TRAIN.CHECKPOINT_STEPS", 0, interruption=(number, steps, STEP)) == STOPPED
        assert f"stopped by {number.name}: saved" in (tmp_path / "stdout.log").read_text()
        # Every step that was done is in it: none is done twice.
        done, last = steps_logged(tmp_path), checkpoints(tmp_path)[-1]
        content = read_checkpoint(last)
        assert 3 * (content["epoch"] + 1) + content["step"] == done
        assert content["sums"]["steps"] == content["step"] > 0
        assert last == step_path(tmp_path, content["epoch"] + 1, content["step"])
    assert finish(words, tmp_path, "TRAIN.CHECKPOINT_STEPS", 0) == DONE
    assert steps_logged(tmp_path) == 9
    assert_same_run(uninterrupted, tmp_path)


def test_checkpoints_within_epochs_go_when_they_are_superseded(uninterrupted):
    assert [path.name for path in checkpoints(uninterrupted)] == [
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
        "checkpoint_epoch_00002_step_0000002.pyth",
        "checkpoint_epoch_00003.pyth",
    ]


def test_all_ranks_stop_at_the_same_step(words, tmp_path):
    """One of two ranks is asked to stop."""
    several = [*words, "DATA_LOADER.NUM_WORKERS", 0, "TRAIN.CHECKPOINT_STEPS", 0, "SOLVER.MAX_EPOCH", 2]
    whole = start_two([*several, "OUTPUT_DIR", str(tmp_path / "whole")])
    cut = start_two([*several, "OUTPUT_DIR", str(tmp_path / "cut")], second_interrupted=(signal.SIGTERM, 2, STEP))
    for process in cut:
        process.join(PATIENCE)
        assert process.exitcode == STOPPED
    assert checkpoints(tmp_path / "cut")
    for process in [*whole, *start_two([*several, "OUTPUT_DIR", str(tmp_path / "cut")])]:
        process.join(PATIENCE)
        assert process.exitcode == DONE
    assert steps_logged(tmp_path / "cut") == 6
    assert_same_run(tmp_path / "whole", tmp_path / "cut", epochs=2)


@pytest.mark.parametrize("function", ["run.setup_logging", "trainer.write_history"])
def test_a_signal_before_training_or_after_its_last_step_is_heeded(words, tmp_path, function):
    """The second call of either: a rank begins its work, the last epoch is over and its checkpoint not yet written."""
    more = ["SOLVER.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_STEPS", 0, "DATA_LOADER.NUM_WORKERS", 0, "TEST.ENABLE", True]
    assert finish(words, tmp_path, *more, interruption=(signal.SIGUSR1, 2, function)) == STOPPED
    saved = [epoch_path(tmp_path, 1), epoch_path(tmp_path, 2)] if function == "trainer.write_history" else []
    assert checkpoints(tmp_path) == saved
    assert not (tmp_path / "test_results.json").exists()
    # When everything is there but the report, stopping would only repeat the test.
    assert finish(words, tmp_path, *more, interruption=(signal.SIGTERM, 1, "run.result_table")) == DONE
    assert (tmp_path / "report.html").exists()
    assert steps_logged(tmp_path) == 6


SECOND_SIGNAL = """
import os, signal, time
from videobench.engine import stopping
stopping.SAME_REQUEST = 600
with stopping.StopRequest() as stop:
    assert not stop.agreed()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)   # the scheduler and the launcher both tell it
    assert stop.agreed()
    assert stop.name == "SIGUSR1"
    stopping.SAME_REQUEST = 0
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_a_second_signal_ends_the_process_at_once():
    done = subprocess.run([sys.executable, "-c", SECOND_SIGNAL], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGTERM, done.stderr  # it would end by itself with status 0
    assert done.stdout == "still here\n"
