"""3D convolutions whose library cannot be trusted are noticed and done without it."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.engine import sound_convolutions
from videobench.engine.sound_convolutions import (
    ProductConv3d,
    SinglePrecisionConv3d,
    avoid_unsound_convolutions,
    fault_of,
    replace,
)

GPU = torch.device("cuda")


def wrong(x: Tensor, weight: Tensor) -> Tensor:
    out = F.conv3d(x, weight)
    return out if x.dtype == torch.float32 else out.flip(2)


def wrong_backward(x: Tensor, weight: Tensor) -> Tensor:
    out = F.conv3d(x, weight)
    return out if x.dtype == torch.float32 else out + (out - out.detach())


def not_finite(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv3d(x, weight) * (1.0 if x.dtype == torch.float32 else float("nan"))


def fault(convolve, slow: bool = False) -> str | None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 4, 4, 6, 6, generator=generator), torch.randn(8, 4, 3, 3, 3, generator=generator) / 10
    times = iter([9.0, 1.0] if slow else [1.0, 1.0])
    return fault_of(convolve, x, weight, torch.bfloat16, lambda computation: next(times))


def test_a_sound_convolution_is_left_alone():
    assert fault(F.conv3d) is None


@pytest.mark.parametrize(
    ("convolve", "slow", "message"),
    [
        (wrong, False, "wrong results"),
        (not_finite, False, "wrong results"),
        (wrong_backward, False, "wrong gradients"),
        (F.conv3d, True, "9 times slower"),
    ],
)
def test_an_unsound_convolution_is_noticed(convolve, slow, message):
    assert message in fault(convolve, slow)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 4, (3, 4, 4), (2, 4, 4), (1, 0, 0)), nn.Conv3d(4, 5, (1, 2, 2), (1, 2, 2), bias=False)
    )


def test_what_takes_its_place_computes_the_same():
    model = network()
    clip = torch.randn(2, 3, 6, 20, 28)  # 5 x 7 after the first layer: the second leaves a row and a column out
    expected = model(clip)
    names, forms = list(model.state_dict()), (SinglePrecisionConv3d, ProductConv3d)
    for layer in model:
        replace(layer)
    assert tuple(type(layer) for layer in model) == forms
    torch.testing.assert_close(model(clip), expected)
    torch.testing.assert_close(copy.deepcopy(model)(clip), expected)
    assert list(model.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        out = model(clip)
        assert model[0](clip).dtype == out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    out.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_network_is_mended_once_and_said_so(monkeypatch, caplog):
    monkeypatch.setattr(sound_convolutions, "_fault_on", lambda *_: "with wrong results (by 90%)")
    model = network()
    with caplog.at_level(logging.WARNING):
        avoid_unsound_convolutions(model, GPU, "bf16")
        avoid_unsound_convolutions(model, GPU, "bf16")
    assert [type(layer) for layer in model] == [SinglePrecisionConv3d, ProductConv3d]
    assert "2 with wrong results" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("device", "precision"), [(GPU, "fp32"), (torch.device("cpu"), "bf16")])
def test_single_precision_and_processors_need_no_trial(device, precision, monkeypatch):
    monkeypatch.setattr(sound_convolutions, "_fault_on", lambda *_: pytest.fail("tried"))
    model = network()
    avoid_unsound_convolutions(model, device, precision)
    assert {type(layer) for layer in model} == {nn.Conv3d}


def test_the_trial_of_a_layer(monkeypatch):
    monkeypatch.setattr(sound_convolutions, "_seconds", lambda device, computation: 1.0)  # CUDA events otherwise
    monkeypatch.setattr(sound_convolutions, "TRIAL", (2, 3, 3))
    trial = sound_convolutions._fault_on.__wrapped__
    for layer in network():
        assert trial(torch.device("cpu"), torch.bfloat16, *sound_convolutions._form_of(layer)) is None
