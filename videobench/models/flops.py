"""Multiply-adds of a network, in the convention of fvcore, counted without computing anything."""

import copy
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def giga_macs(model: nn.Module, *shape: int) -> float:
    """Multiply-adds in 1e9 of one forward pass in eval mode on an input of ``shape``.

    As fvcore counts, whose numbers published tables print: convolutions, matrix products and attention, and per
    element 5 for a layer norm and 2 for a batch norm. The forward pass runs on the meta device, so that a network of
    any size takes seconds; the network itself is neither moved nor switched to eval mode.
    """
    # A copy that shares nothing and holds no numbers: every tensor is taken for one without data.
    without_data: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in model.parameters()}
    without_data |= {id(b): b.to("meta") for b in model.buffers()}
    model = copy.deepcopy(model, without_data).eval()
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten.native_layer_norm: lambda shape, *_, **__: 2 * 5 * prod(shape),
            torch.ops.aten.native_batch_norm: lambda shape, *_, **__: 2 * 2 * prod(shape),
            torch.ops.aten._native_batch_norm_legit_no_training: lambda shape, *_, **__: 2 * 2 * prod(shape),
        },
    )
    for module in model.modules():
        if hasattr(module, "plain"):
            module.plain = True  # the padding for fused kernels is no arithmetic of the network
    with torch.no_grad(), counter:
        model(torch.zeros(*shape, device="meta"))
    return counter.get_total_flops() / 2e9
