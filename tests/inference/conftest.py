"""Trained networks in the files that people have."""

from pathlib import Path

import pytest
import yaml
from tiny_checkpoints import tiny_config


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, weights) -> Path:
    """The folder of a run that was trained for an epoch."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/checkpoint_epoch_00001.pyth").write_bytes(weights.read_bytes())
    (folder / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(tiny_config().dump())))
    return folder
