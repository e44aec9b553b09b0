"""Multiply-adds of a network, counted by fvcore with the operators it does not know by itself."""

from math import prod
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Two matrix products of scaled_dot_product_attention: [*, L, E] x [*, S, E] and [*, L, S] x [*, S, Ev]."""
    query, key, value = (list(i.type().sizes()) for i in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def giga_macs(model: nn.Module, *shape: int) -> float:
    """Multiply-adds in 1e9 of one forward pass in eval mode on zeros of ``shape``."""
    model.eval()
    with torch.no_grad():
        analysis = FlopCountAnalysis(model, torch.zeros(*shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
        return analysis.total() / 1e9
