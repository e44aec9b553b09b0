"""The moving average of weights."""

import copy

import pytest
import torch
from tiny_networks import sample, tiny
from torch import nn

from videobench.config import load_config
from videobench.solver.ema import ExponentialMovingAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(32, 2))


def train_a_step(model: nn.Module) -> None:
    model.train()
    model(torch.randn(4, 3, 2, 2, 2)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
            parameter.grad = None


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_follows_its_formula(warmup):
    model = network()
    average = ExponentialMovingAverage(model, decay=0.6, warmup=warmup)
    want = None
    for step in range(1, 8):
        train_a_step(model)
        average.update(model, step)
        state = {name: tensor.double() for name, tensor in model.state_dict().items()}
        grown = 1 - step ** (-2 / 3) if warmup else 0.6
        keep = min(grown, 0.6) if step > 1 else 0.0
        assert average.decay(step) == pytest.approx(keep)
        want = state if want is None else {n: keep * want[n] + (1 - keep) * t for n, t in state.items()}
    counts = [name for name in want if name.endswith("num_batches_tracked")]
    assert [average.state_dict()[name].item() for name in counts] == [7]
    for name in want.keys() - set(counts):
        torch.testing.assert_close(average.state_dict()[name].double(), want[name], rtol=1e-6, atol=1e-7)


def test_a_restored_average_goes_on_bit_for_bit():
    model = network()
    average = ExponentialMovingAverage(model, decay=0.9)
    states = []
    for step in range(1, 9):
        train_a_step(model)
        average.update(model, step)
        states.append(copy.deepcopy((model.state_dict(), average.state_dict())))
    again = network()
    again.load_state_dict(states[3][0])
    restored = ExponentialMovingAverage(again, decay=0.9)
    restored.load_state_dict(states[3][1])
    for step in range(5, 9):
        again.load_state_dict(states[step - 1][0])
        restored.update(again, step)
    assert all(torch.equal(restored.state_dict()[name], tensor) for name, tensor in states[-1][1].items())
    with pytest.raises(RuntimeError, match="Missing key"):
        restored.load_state_dict({})


def test_the_average_is_a_network_of_its_own():
    model = tiny("movinet_stream").train()
    average = ExponentialMovingAverage(model, decay=0.5)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    clip = sample("movinet_stream")
    before = average.module(clip)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.module.clean_activation_buffers()
    assert torch.equal(average.module(clip), before)
    assert list(average.state_dict()) == list(model.state_dict())


def test_keys_ask_for_it():
    model = network()
    assert ExponentialMovingAverage.from_config(load_config(), model) is None
    words = ["TRAIN.EMA", True, "TRAIN.EMA_DECAY", 0.7, "TRAIN.EMA_DEVICE", "cpu"]
    average = ExponentialMovingAverage.from_config(load_config([], words), model)
    assert average.decay(5) == 0.7
    train_a_step(model)
    average.update(model, 1)
    assert all(torch.equal(average.state_dict()[n], t) for n, t in model.state_dict().items())
    warm = ExponentialMovingAverage.from_config(load_config([], [*words, "TRAIN.EMA_WARMUP", True]), model)
    assert warm.decay(2) < 0.7
