"""The sbatch scripts and the submitit launcher on a real Slurm, which is started for these tests."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden import SHARED, require

from videobench.engine.checkpoint import epoch_path
from videobench.models.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/demo/uniformer_tiny.yaml"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


@pytest.fixture(scope="module")
def slurm():
    """The environment of a client of a Slurm cluster of two machines, each with 8 make-believe GPUs."""
    start = require(SHARED / "slurm/start")
    state = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    os.chmod(state, 0o755)  # noqa: S103 (the daemons have users of their own)
    settings = {**os.environ, "SLURM_TEST_DIR": state, "SLURM_TEST_NODES": "2"}
    done = subprocess.run([start], env=settings, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"Slurm cannot be started here: {done.stderr.strip().splitlines()[-1]}")
    path = f"{state}/bin:{os.environ['PATH']}"
    environment = {"SLURM_CONF": f"{state}/etc/slurm.conf", "PATH": path, "PYTHON": sys.executable}
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    yield environment
    print("\n" + "\n".join(transcript(environment)))
    subprocess.run([start.with_name("stop")], env=settings, capture_output=True, timeout=120)
    shutil.rmtree(state, ignore_errors=True)


def slurm_says(environment: dict, *command) -> str:
    line = list(map(str, command))
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def transcript(environment: dict) -> Iterator[str]:
    """A line per job: what became of it."""
    shown = ("JobId", "JobName", "JobState", "Restarts", "ExitCode", "Partition", "NodeList", "StartTime", "EndTime")
    for line in slurm_says(environment, "scontrol", "show", "jobs", "--oneliner").splitlines():
        yield " ".join(word for word in line.split() if word.split("=")[0] in shown)


def state_of(environment: dict, job: str) -> dict[str, str]:
    text = slurm_says(environment, "scontrol", "show", "job", "--oneliner", job)
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def wait_until(condition, what: str, seconds: float = 900.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.5)
    return found


def submit(environment: dict, script: str, *words, log: Path, options: tuple = ()) -> str:
    resources = ["--parsable", "--cpus-per-task=2", f"--output={log}", *options]
    return slurm_says(environment, "sbatch", *resources, f"slurm_scripts/{script}", *words)


def wait_for_end(environment: dict, job: str, log: Path) -> str:
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL")
    state = wait_until(lambda: (s := state_of(environment, job)["JobState"]) in ended and s, f"the end of job {job}")
    return f"{state}\n{log.read_text() if log.exists() else ''}"


@pytest.fixture(scope="module")
def cpu_run(tiny) -> list[str]:
    return [*map(str, tiny), "NUM_GPUS", "0", "SOLVER.MAX_EPOCH", "1"]


def test_the_scripts_train_on_one_machine_and_on_two_and_test(slurm, cpu_run, tmp_path):
    single, multi = tmp_path / "single", tmp_path / "multi"
    words = [*cpu_run, "NUM_CPU_RANKS", "2"]
    logs = {name: tmp_path / f"{name}.log" for name in ("single", "multi", "test")}
    first = submit(slurm, "run_single_node_job.sh", RECIPE, single, *words, log=logs["single"])
    half = ["TRAIN.BATCH_SIZE", "4"]  # per machine
    second = submit(slurm, "run_multi_node_job.sh", RECIPE, multi, *words, *half, log=logs["multi"])
    for job, name in ((first, "single"), (second, "multi")):
        text = wait_for_end(slurm, job, logs[name])
        assert text.startswith("COMPLETED"), text
        assert "tools/run_net.py" in text  # what is run is printed
    assert "this command: rank 0 of 2 on machine 1 of 1" in logs["single"].read_text()
    assert "srun: rank 0 of 4 on machine 1 of 2" in logs["multi"].read_text()
    assert "node1: ranks [0, 1]; node2: ranks [2, 3]" in logs["multi"].read_text()
    third = submit(
        slurm, "test.sh", RECIPE, epoch_path(multi, 1), *cpu_run, "OUTPUT_DIR", tmp_path / "test", log=logs["test"]
    )
    text = wait_for_end(slurm, third, logs["test"])
    assert text.startswith("COMPLETED"), text
    results = [json.loads((folder / "test_results.json").read_text()) for folder in (single, multi, tmp_path / "test")]
    assert [r["videos"] for r in results] == [10, 10, 10]
    assert results[1]["top1"] == results[2]["top1"]


def test_a_script_that_fails_fails_its_job(slurm, cpu_run, tmp_path):
    log = tmp_path / "log"
    job = submit(slurm, "run_multi_node_job.sh", RECIPE, tmp_path / "out", *cpu_run, "MODEL.NO_KEY", "1", log=log)
    text = wait_for_end(slurm, job, log)
    assert text.startswith("FAILED"), text
    assert "MODEL.NO_KEY" in text


def test_a_job_on_two_machines_is_requeued_though_one_ends_later(slurm, tmp_path):
    """A command that saves and exits with status 75, on the second machine later, and is done when called again."""
    command, log = tmp_path / "command", tmp_path / "log"
    command.write_text('#!/bin/bash\n[ -z "$SLURM_RESTART_COUNT" ] || exit 0\nsleep "$SLURM_NODEID"\nexit 75\n')
    command.chmod(0o755)
    job = submit({**slurm, "PYTHON": str(command)}, "run_multi_node_job.sh", RECIPE, tmp_path / "out", log=log)
    text = wait_for_end(slurm, job, log)
    assert text.startswith("COMPLETED"), text
    assert int(state_of(slurm, job)["Restarts"]) == 1


def same_weights(one: Path, two: Path, epochs: int) -> bool:
    first, second = (read_checkpoint(epoch_path(folder, epochs))["model_state"] for folder in (one, two))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def uninterrupted(cpu_run, tmp_path_factory) -> tuple[Path, list[str]]:
    """A run of many short epochs in one process, and the words that make it."""
    output = tmp_path_factory.mktemp("uninterrupted")
    words = [*cpu_run, "SOLVER.MAX_EPOCH", "40", "TRAIN.EVAL_PERIOD", "40", "TRAIN.CHECKPOINT_PERIOD", "20"]
    command = [sys.executable, "tools/run_net.py", "--cfg", RECIPE, *words, "OUTPUT_DIR", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return output, words


def test_a_preempted_job_is_requeued_and_goes_on_exactly(slurm, uninterrupted, tmp_path):
    expected, words = uninterrupted
    output, log = tmp_path / "out", tmp_path / "log"
    job = submit(slurm, "run_single_node_job.sh", RECIPE, output, *words, log=log)
    wait_until(lambda: log.exists() and "train_iter" in log.read_text(), "training")
    urgent = slurm_says(
        slurm, "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 2"
    )
    text = wait_for_end(slurm, job, log)
    assert text.startswith("COMPLETED"), text
    assert int(state_of(slurm, job)["Restarts"]) >= 1
    assert state_of(slurm, urgent)["JobState"] == "COMPLETED"
    assert "saved" in text
    assert same_weights(expected, output, 40)


def test_submitit_trains_over_two_machines_and_goes_on_after_a_warning(slurm, uninterrupted, tmp_path):
    _, words = uninterrupted
    output = tmp_path / "out"
    command = [sys.executable, "run_with_submitit.py", "--cfg", RECIPE, "--job_dir", str(output), "--num_shards", "2"]
    command += ["--gpus_per_node", "0", "--cpus_per_task", "2", "--partition", "test", "--timeout", "30"]
    said = slurm_says(slurm, *command, *words, "TRAIN.BATCH_SIZE", "4")
    job = said.split()[1].rstrip(":")
    log = output / "slurm" / job / f"{job}_0_log.out"
    wait_until(lambda: log.exists() and "train_iter" in log.read_text(), "training")
    slurm_says(slurm, "scancel", "--signal=USR2", job)
    text = wait_for_end(slurm, job, log)
    assert text.startswith("COMPLETED"), text
    assert int(state_of(slurm, job)["Restarts"]) == 1
    assert "srun: rank 0 of 2 on machine 1 of 2" in text
    # The weights of both machines' halves of every batch, as one machine has them, are the business of another test.
    assert epoch_path(output, 40).exists()
