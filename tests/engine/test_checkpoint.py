"""Checkpoint files: atomic, safe, found again, damaged ones passed over."""

import os
import pickle

import pytest
import torch

from videobench.engine.checkpoint import epoch_path, last_checkpoint
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
