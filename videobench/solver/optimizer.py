"""Parameter groups and optimizers."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from videobench.config import CfgNode, ConfigError
from videobench.config.checks import METHODS

_KINDS = ("batch_norm", "decayed", "not_decayed")


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """The trained parameters of a network (a :class:`~videobench.models.VideoModel`) by weight decay and layer.

    Batch norms have BN.WEIGHT_DECAY; with SOLVER.ZERO_WD_1D_PARAM one-dimensional parameters (norm scales, biases,
    layer scales) have none, and neither have the parameters that the network names, where SOLVER.NO_WEIGHT_DECAY heeds
    them; all others have SOLVER.WEIGHT_DECAY. With a SOLVER.LAYER_DECAY below 1 every layer of ``layer_groups()`` has
    groups of its own: the last has the scheduled learning rate, each one before it LAYER_DECAY times that of the next
    (Clark et al., 2020, ELECTRA, as in BEiT and MViTv2). Groups and their parameters stand in SlowFast's order.

    Returns:
        Dicts with ``name``, ``params``, ``weight_decay`` and ``lr_scale``, without empty ones.

    Raises:
        ConfigError: when no parameter is trained.
    """
    solver = cfg.SOLVER
    decays = dict(zip(_KINDS, (cfg.BN.WEIGHT_DECAY, solver.WEIGHT_DECAY, 0.0), strict=True))
    layered = solver.LAYER_DECAY < 1
    layers = model.layer_groups() if layered else [[]]
    layer_of = {name: number for number, names in enumerate(layers) for name in names}
    groups: dict[tuple[int, str], dict[str, Any]] = {} if layered else {(0, kind): {"params": []} for kind in _KINDS}
    exempt = _exempt_names(model, cfg)
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{prefix}.{leaf}".lstrip(".")
            if isinstance(module, _BatchNorm):
                kind = "batch_norm"
            elif (solver.ZERO_WD_1D_PARAM and parameter.dim() <= 1) or name in exempt:
                kind = "not_decayed"
            else:
                kind = "decayed"
            groups.setdefault((layer_of.get(name, 0), kind), {"params": []})["params"].append(parameter)
    if not seen:
        raise ConfigError("no parameter of the network is trained; lower SOLVER.FREEZE_LAYERS")
    return [
        {
            "name": f"layer {layer}, {kind}" if layered else kind,
            "weight_decay": decays[kind],
            "lr_scale": solver.LAYER_DECAY ** (len(layers) - 1 - layer),
            **group,
        }
        for (layer, kind), group in groups.items()
        if group["params"]
    ]


def _exempt_names(model: nn.Module, cfg: CfgNode) -> set[str]:
    if cfg.SOLVER.NO_WEIGHT_DECAY == "always":
        return model.no_weight_decay()
    if not model.heeds_no_weight_decay:
        return set()
    # With layer decay the published code finds only whole names in its list: tables inside blocks are decayed.
    names = model.no_weight_decay()
    return {name for name in names if "." not in name} if cfg.SOLVER.LAYER_DECAY < 1 else names


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """The optimizer of SOLVER.OPTIMIZING_METHOD over the groups of :func:`parameter_groups`.

    On a GPU one kernel updates many parameters (``fused``); elsewhere the multi-tensor form is used, whose results
    equal those of the plain loop bit for bit. ``rmsprop`` is TensorFlow's form as MoViNet's training has it (epsilon
    under the root, learning rate inside the momentum; Kondratyuk et al., 2021), taken from timm, where the mean of
    squares begins at one.

    Raises:
        ConfigError: when the method is unknown, or no parameter is trained.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(model, cfg)
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    options: dict[str, Any] = {"lr": solver.BASE_LR, **({"fused": True} if on_gpu else {"foreach": True})}
    match solver.OPTIMIZING_METHOD:
        case "sgd":
            momentum = {"momentum": solver.MOMENTUM, "dampening": solver.DAMPENING, "nesterov": solver.NESTEROV}
            return torch.optim.SGD(groups, **options, **momentum)
        case "adam":
            return torch.optim.Adam(groups, **options, betas=tuple(solver.BETAS))
        case "adamw" | "mt_adamw":
            return torch.optim.AdamW(groups, **options, betas=tuple(solver.BETAS))
        case "rmsprop":
            from timm.optim.rmsprop_tf import RMSpropTF

            means = {"alpha": solver.RMSPROP_RHO, "eps": solver.RMSPROP_EPSILON}
            return RMSpropTF(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, **means)
    raise ConfigError(f"SOLVER.OPTIMIZING_METHOD is one of {', '.join(METHODS)}, got {solver.OPTIMIZING_METHOD!r}")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the scheduled learning rate times its ``lr_scale`` (SOLVER.LAYER_DECAY)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def describe_groups(groups: Iterable[Mapping[str, Any]]) -> str:
    """One line: what is trained with which weight decay, and how far SOLVER.LAYER_DECAY spreads the learning rates."""
    groups = list(groups)
    counts: dict[tuple[str, float], int] = {}
    for group in groups:
        kind = (group["name"].rpartition(", ")[2], group["weight_decay"])
        counts[kind] = counts.get(kind, 0) + sum(parameter.numel() for parameter in group["params"])
    text = "; ".join(f"{count:,} {kind} (weight decay {decay:g})" for (kind, decay), count in counts.items())
    lowest = min(group["lr_scale"] for group in groups)
    return text + (f"; learning rates from {lowest:.3g} times the scheduled one to all of it" if lowest < 1 else "")


def freeze_layers(model: nn.Module, count: int) -> list[str]:
    """Take the leading layers of a network out of training; call it before the optimizer is built.

    Args:
        model: the network; its ``layer_groups()`` count.
        count: how many of them from the input on; -1 means all of them, in which case the classifier alone is trained
            (the parameters that ``is_head`` names are never frozen).

    Returns:
        The names of the frozen parameters.

    Raises:
        ConfigError: when the network has fewer layers.
    """
    layers = model.layer_groups()
    if not -1 <= count <= len(layers):
        raise ConfigError(f"SOLVER.FREEZE_LAYERS is {count}; this network has {len(layers)} layers (-1: all of them)")
    chosen = layers if count == -1 else layers[:count]
    frozen = {name for names in chosen for name in names if not model.is_head(name)}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return sorted(frozen)
