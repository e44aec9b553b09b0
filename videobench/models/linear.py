"""Linear layers and MLPs that make the most of a CPU, with the names and shapes of the stock ones.

On AVX-512 processors oneDNN multiplies tokens and weights 10 to 15 % faster than MKL, the library behind ``F.linear``,
which chooses older instructions on AMD. An MLP walks through its tokens in pieces, so that the hidden units, several
times as many as its inputs, stay in the caches. Other devices, lower precision, compilers and tracers get stock layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

# Tokens of a piece for each thread: few enough for the caches, many enough to pay for rearranging the weights.
PIECE = 2048

# The operator that torch's own compiler uses; it has no gradient formula, and not every build has it.
_one_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
    _one_dnn = None
if _one_dnn is not None:

    @register_flop_formula(_one_dnn)
    def _operations(x_shape, weight_shape, *_, out_shape=None, **__) -> int:
        return 2 * x_shape.numel() * weight_shape[0]


class Linear(nn.Linear):
    """Linear layer over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        if not _by_hand(x) or x.dtype != torch.float32:
            return super().forward(x)
        if torch.is_grad_enabled():
            return _LinearGradient.apply(x, self.weight, self.bias)
        return _product(x, self.weight, self.bias)


class Mlp(nn.Module):
    """Linear, GELU, linear over the last axis: [..., dim] to [..., out_dim].

    For the backward pass the inputs and the hidden units before the GELU are kept; after it, they are computed again.
    """

    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        if not _by_hand(x):
            return self.fc2(F.gelu(self.fc1(x)))
        weights = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        tokens = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled():
            out = _MlpGradient.apply(tokens, *weights)
        else:
            out = _joined([_second_layer(_product(piece, *weights[:2]), *weights[2:]) for piece in _pieces(tokens)])
        return out.view(*x.shape[:-1], self.fc2.out_features)


def _by_hand(x: Tensor) -> bool:
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not (traced or torch.is_autocast_enabled("cpu"))
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` where no gradient is recorded."""
    if _one_dnn is not None and x.dtype == torch.float32 and torch.backends.mkldnn.enabled:
        return _one_dnn(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _second_layer(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _product(F.gelu(hidden), weight, bias)


def _pieces(tokens: Tensor) -> tuple[Tensor, ...]:
    return tokens.split(PIECE * torch.get_num_threads())


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class _LinearGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            _product(gradient, weight.t()) if for_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


class _MlpGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = [_product(piece, weight1, bias1) for piece in _pieces(x)]
        ctx.save_for_backward(x, weight1, weight2, *hidden)
        return _joined([_second_layer(piece, weight2, bias2) for piece in hidden])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, weight2, *hidden = ctx.saved_tensors
        for_x = []
        for_weight1, for_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
        for_bias1 = weight1.new_zeros(len(weight1))
        for inputs, before_gelu, outward in zip(_pieces(x), hidden, _pieces(gradient), strict=True):
            for_weight2 = torch.addmm(for_weight2, outward.t(), F.gelu(before_gelu))
            for_hidden = torch.ops.aten.gelu_backward(_product(outward, weight2.t()), before_gelu)
            for_weight1 = torch.addmm(for_weight1, for_hidden.t(), inputs)
            for_bias1 = for_bias1 + for_hidden.sum(0)
            if ctx.needs_input_grad[0]:
                for_x.append(_product(for_hidden, weight1.t()))
        return _joined(for_x) if for_x else None, for_weight1, for_bias1, for_weight2, gradient.sum(0)
