"""Several processes on one machine, and the sbatch scripts as far as they go without Slurm."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import RECIPE

from videobench.engine.checkpoint import epoch_path
from videobench.engine.run import DONE, run
from videobench.models.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def words(overrides: dict) -> list[str]:
    return [str(word) for pair in overrides.items() for word in pair]


def options(tiny, **more) -> dict:
    return dict(zip(tiny[::2], tiny[1::2], strict=True)) | {k.replace("__", "."): v for k, v in more.items()}


def two_shards(overrides: dict) -> list[subprocess.CompletedProcess]:
    """Run the same command as two machines would, each with one process, on this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "tools/run_net.py", "--cfg", RECIPE, *words(overrides)]
    command += ["--num_shards", "2", "--init_method", f"tcp://127.0.0.1:{port}", "--shard_id"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([*command, str(i)], cwd=ROOT, env=environment, **pipes) for i in range(2)]
    return [subprocess.CompletedProcess(p.args, *_finish(p)) for p in running]


def _finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """One epoch of a network without batch norm in one process."""
    output = tmp_path_factory.mktemp("one")
    overrides = options(tiny, **SMALL_MVIT, OUTPUT_DIR=output, SOLVER__MAX_EPOCH=1)
    assert run([RECIPE], words(overrides), "") == DONE
    return output


SMALL_MVIT = {
    "MODEL__MODEL_NAME": "MViT",
    "MODEL__DROPOUT_RATE": 0.0,
    "MVIT__DEPTH": 2,
    "MVIT__EMBED_DIM": 16,
    "MVIT__DROPPATH_RATE": 0.0,
    "MVIT__PATCH_PADDING": [1, 3, 3],
}


def test_two_processes_train_like_one(tiny, trained, tmp_path):
    # Half of the batch on each machine: the same videos in every step.
    overrides = options(tiny, **SMALL_MVIT, OUTPUT_DIR=tmp_path, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=4)
    for done in two_shards(overrides):
        assert done.returncode == 0, done.stderr
    one, two = (read_checkpoint(epoch_path(folder, 1))["model_state"] for folder in (trained, tmp_path))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)
    first, second = (json.loads((folder / "test_results.json").read_text()) for folder in (trained, tmp_path))
    assert first["videos"] == second["videos"] == 10


def test_two_processes_test_every_video_once(tiny, trained, tmp_path):
    weights = str(epoch_path(trained, 1))
    test_only = {"TRAIN__ENABLE": False, "TEST__CHECKPOINT_FILE_PATH": weights, "OUTPUT_DIR": tmp_path}
    for done in two_shards(options(tiny, **SMALL_MVIT, **test_only)):
        assert done.returncode == 0, done.stderr
    one, two = (np.load(folder / "predictions.npz") for folder in (trained, tmp_path))
    assert one["video"].tolist() == two["video"].tolist()
    np.testing.assert_allclose(one["scores"], two["scores"], atol=1e-6)


@pytest.mark.parametrize("script", ["run_single_node_job.sh", "run_multi_node_job.sh", "test.sh"])
def test_sbatch_scripts_say_how_they_are_used(script):
    done = subprocess.run(["bash", f"slurm_scripts/{script}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["MODEL.NO_KEY", "1"], "error: the command line: unknown key MODEL.NO_KEY"),
        (["--opts", "NUM_GPUS", "0", "--num_shards", "2"], "unknown option --num_shards"),
    ],
)
def test_a_mistake_is_told_before_a_job_is_submitted(tmp_path, more, message):
    command = [sys.executable, "tools/run_with_submitit.py", "--cfg", RECIPE, "--job_dir", str(tmp_path / "job"), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        pytest.param("exit 0", 0, id="done"),
        pytest.param("exit 3", 3, id="failed"),
        pytest.param("exit 138", 138, id="killed by others"),
        pytest.param("exit 75", 75, id="saved"),
        pytest.param("trap 'exit 75' USR1; while kill -TERM $PPID; do :; done", 75, id="saved when told"),
        pytest.param("trap '' USR1; kill -USR1 $PPID; exit 75", 75, id="saved as the signal came"),
        pytest.param("while kill -TERM $PPID; do :; done", 75, id="not ready to be told"),
    ],
)
def test_a_command_that_slurm_asks_to_stop_is_requeued(command, status):
    """As the sbatch scripts run it, with a make-believe scontrol."""
    script = "set -euo pipefail; source slurm_scripts/requeue.sh; sleep() { :; }; scontrol() { echo $*; }"
    script += '; code=0; run_and_requeue sh -c "$1" || code=$?; echo "status $code"'
    environment = {**os.environ, "SLURM_JOB_ID": "12"}
    line = ["bash", "-c", script, "bash", command]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines() == ["requeue 12"] * (status == 75) + [f"status {status}"]


def test_single_node_scripts_run(tiny, tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    more = words(options(tiny, SOLVER__MAX_EPOCH=1))
    command = ["bash", "slurm_scripts/run_single_node_job.sh", RECIPE, str(tmp_path / "job"), *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    checkpoint = epoch_path(tmp_path / "job", 1)
    command = ["bash", "slurm_scripts/test.sh", RECIPE, str(checkpoint), *more, "OUTPUT_DIR", str(tmp_path / "test")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("job", "test")]
    assert results[0]["top1"] == results[1]["top1"]


def test_a_mistake_in_the_input_of_a_spawned_rank_is_one_message(tiny, trained, tmp_path):
    """Found by a rank while it works, not before."""
    weights = read_checkpoint(epoch_path(trained, 1))
    weights["model_state"].pop("norm.weight")
    torch.save(weights, tmp_path / "cut.pyth")
    more = {"TRAIN__ENABLE": False, "TEST__CHECKPOINT_FILE_PATH": tmp_path / "cut.pyth", "OUTPUT_DIR": tmp_path / "out"}
    for done in two_shards(options(tiny, **SMALL_MVIT, **more)):
        assert done.returncode == 2, done.stderr
        assert "error: " in done.stderr
        assert "do not fill the network" in done.stderr
        assert "Traceback" not in done.stderr
