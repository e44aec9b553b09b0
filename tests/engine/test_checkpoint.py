"""Checkpoint files: atomic, safe, found again, damaged ones passed over."""

import os
import pickle
import re
import subprocess
import sys
import threading

import pytest
import torch

from videobench.engine import checkpoint
from videobench.engine.checkpoint import (
    CheckpointWriter,
    best_path,
    checkpoint_dir,
    checkpoints,
    epoch_path,
    last_checkpoint,
    step_path,
)
from videobench.models import WeightsError
from videobench.models.weights import read_checkpoint, write_checkpoint


def content(epoch):
    return {
        "epoch": epoch,
        "model_state": {"w": torch.full((3,), float(epoch))},
        "cfg": "A: 1\n",
        "history": [{"a": 1.5}],
    }


def test_the_last_readable_checkpoint_is_found(tmp_path, caplog):
    for epochs in (1, 2, 3):
        write_checkpoint(epoch_path(tmp_path, epochs), content(epochs - 1))
    path, found = last_checkpoint(tmp_path)
    assert (path.name, found["epoch"]) == ("checkpoint_epoch_00003.pyth", 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level("WARNING", logger="videobench"):
        path, found = last_checkpoint(tmp_path)
    assert found["epoch"] == 1
    assert "checkpoint_epoch_00003.pyth" in caplog.text


def test_only_damaged_checkpoints_stop_the_run(tmp_path):
    epoch_path(tmp_path, 1).parent.mkdir()
    epoch_path(tmp_path, 1).write_bytes(b"")
    with pytest.raises(WeightsError, match="none of its 1 checkpoints can be read"):
        last_checkpoint(tmp_path)


def test_no_checkpoint_is_none(tmp_path):
    assert last_checkpoint(tmp_path) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = epoch_path(tmp_path, 1)
    write_checkpoint(path, content(0))

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, content(5))
    assert read_checkpoint(path)["epoch"] == 0
    assert os.listdir(path.parent) == [path.name]


class Malicious:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pyth").write_bytes(pickle.dumps({"model_state": Malicious()}))
    torch.save({"model_state": Malicious()}, tmp_path / "evil2.pyth")
    for name in ("evil.pyth", "evil2.pyth"):
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(name)
    assert not (tmp_path / "owned").exists()


def test_checkpoints_within_an_epoch_follow_the_epoch_s(tmp_path):
    paths = [epoch_path(tmp_path, 1), step_path(tmp_path, 1, 5), step_path(tmp_path, 1, 10), epoch_path(tmp_path, 2)]
    for number, path in enumerate(reversed(paths)):
        write_checkpoint(path, content(number))
    write_checkpoint(best_path(tmp_path), content(9))
    assert checkpoints(tmp_path) == paths
    # Code bases that take the last name in sorted order find the same one.
    assert sorted(p.name for p in checkpoint_dir(tmp_path).glob("checkpoint*")) == [
        "checkpoint_best.pyth",
        *(path.name for path in paths),
    ]
    epoch_path(tmp_path, 2).write_bytes(b"half of a checkp")
    assert last_checkpoint(tmp_path)[0] == step_path(tmp_path, 1, 10)


def test_the_writer_keeps_what_it_was_asked_to(tmp_path):
    left_over = checkpoint_dir(tmp_path) / ".checkpoint_epoch_00007.pyth.123.tmp"
    left_over.parent.mkdir()
    left_over.write_bytes(b"cut off by a kill")
    writer = CheckpointWriter(tmp_path, keep=3)
    assert not left_over.exists()
    for epoch in range(6):
        for step in (10, 20, 30):
            writer.write([step_path(tmp_path, epoch, step)], content(epoch))
        writer.write([epoch_path(tmp_path, epoch + 1), *[best_path(tmp_path)] * (epoch == 2)], content(epoch))
    writer.write([step_path(tmp_path, 6, 10)], content(6))
    writer.close()
    names = [path.name for path in checkpoints(tmp_path)]
    assert names == [
        *(f"checkpoint_epoch_0000{epoch}.pyth" for epoch in (4, 5, 6)),
        "checkpoint_epoch_00006_step_0000010.pyth",
    ]
    assert read_checkpoint(best_path(tmp_path))["epoch"] == 2


def test_the_state_is_copied_before_training_goes_on(tmp_path, monkeypatch):
    """The file holds what was there at the call, whatever changes while it is written."""
    begin = threading.Event()
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda *a: begin.wait(10) and write_checkpoint(*a))
    writer = CheckpointWriter(tmp_path)
    state = content(4)
    writer.write([epoch_path(tmp_path, 5)], state)
    state["model_state"]["w"].zero_()
    state["history"].append({"b": 1.0})
    assert not epoch_path(tmp_path, 5).exists()
    begin.set()
    writer.close()
    saved = read_checkpoint(epoch_path(tmp_path, 5))
    assert saved["model_state"]["w"].tolist() == [4.0, 4.0, 4.0]
    assert saved["history"] == [{"a": 1.5}]


FULL_DISK = """
import resource, signal, sys, torch
from videobench.engine.checkpoint import CheckpointError, CheckpointWriter, epoch_path
writer = CheckpointWriter(sys.argv[1])
writer.write([epoch_path(sys.argv[1], 1)], {"epoch": 0, "model_state": {"w": torch.ones(1000)}})
writer.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
writer.write([epoch_path(sys.argv[1], 2)], {"epoch": 1, "model_state": {"w": torch.ones(500_000)}})
try:
    writer.close()
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    message = done.stdout
    assert str(epoch_path(tmp_path, 2)) in message
    assert "it takes 2.00 MB" in message
    assert re.search(r"[\d.]+ [GM]B are free there", message)
    assert "it goes on from checkpoint_epoch_00001.pyth" in message
    assert os.listdir(checkpoint_dir(tmp_path)) == ["checkpoint_epoch_00001.pyth"]
    assert last_checkpoint(tmp_path)[1]["epoch"] == 0
