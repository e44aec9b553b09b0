"""A tiny network that servers use."""

import pytest

import videobench


@pytest.fixture(scope="module")
def predictor(weights) -> videobench.Predictor:
    return videobench.Predictor(weights, device="cpu", batch_size=8)
