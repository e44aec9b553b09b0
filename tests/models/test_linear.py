"""Linear layers and MLPs done by hand on CPUs: the numbers and gradients of the stock layers, in pieces too."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videobench.models import linear
from videobench.models.linear import Linear, Mlp


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(linear, "PIECE", 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class StockMlp(Mlp):
    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


def pair(kind: str, dtype: torch.dtype, **arguments) -> tuple[nn.Module, nn.Module]:
    """A layer of ours and the stock layer with the same weights."""
    torch.manual_seed(0)
    ours, stock = (Linear, nn.Linear) if kind == "linear" else (Mlp, StockMlp)
    sizes = (6, 4) if kind == "linear" else (6, 9, 4)
    ours, stock = ours(*sizes, **arguments).to(dtype), stock(*sizes, **arguments).to(dtype)
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
    return [out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("kind", "arguments"), [("linear", {}), ("linear", {"bias": False}), ("mlp", {})])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 6), (0, 6)])
def test_numbers_and_gradients_are_those_of_the_stock_layer(kind, arguments, shape, dtype, tolerance):
    ours, stock = pair(kind, dtype, **arguments)
    x = torch.randn(shape, dtype=dtype)
    expected = gradients(stock, x)
    for own, reference in zip(gradients(ours, x), expected, strict=True):
        torch.testing.assert_close(own, reference, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected[0], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_tokens_in_another_memory_order(kind):
    ours, stock = pair(kind, torch.float32)
    x = torch.randn(6, 3, 4).permute(2, 1, 0)
    for own, reference in zip(gradients(ours, x), gradients(stock, x), strict=True):
        torch.testing.assert_close(own, reference)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_frozen_weights_and_fixed_inputs_get_no_gradient(kind):
    ours, _ = pair(kind, torch.float32)
    x = torch.randn(7, 6)
    ours(x).sum().backward()
    assert x.grad is None
    assert all(parameter.grad is not None for parameter in ours.parameters())
    ours.requires_grad_(False)
    assert not ours(x).requires_grad
    x.requires_grad_()
    ours(x).sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_without_onednn(kind, monkeypatch):
    monkeypatch.setattr(linear, "_one_dnn", None)
    ours, stock = pair(kind, torch.float32)
    x = torch.randn(7, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), stock(x))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_autocast_and_tracers_get_the_stock_layer(kind):
    ours, stock = pair(kind, torch.float32)
    x = torch.randn(7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        assert torch.equal(ours(x), stock(x))
    with torch.no_grad():
        assert "_linear_pointwise" not in str(torch.jit.trace(ours, x).inlined_graph)


def test_an_mlp_keeps_its_hidden_units_once():
    def kept(layer):
        tensors = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.append(t) or t, lambda t: t):
            out = layer(x)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        assert out.requires_grad
        weights = {parameter.data_ptr() for parameter in layer.parameters()}
        return sum(size for pointer, size in storages.items() if pointer not in weights)

    ours, stock = pair("mlp", torch.float32)
    x = torch.randn(40, 6)
    assert kept(stock) - kept(ours) == 40 * 9 * 4
