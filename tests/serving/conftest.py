"""A tiny network that servers use."""

from pathlib import Path

import pytest
from tiny_checkpoints import checkpoint, tiny_config

import videobench


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A checkpoint of a tiny UniFormer that says everything about itself."""
    return checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth", tiny_config())


@pytest.fixture(scope="module")
def predictor(weights) -> videobench.Predictor:
    return videobench.Predictor(weights, device="cpu")
