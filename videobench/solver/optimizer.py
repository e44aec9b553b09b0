"""Parameter groups and optimizers."""

from collections.abc import Set

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from videobench.config import CfgNode, ConfigError


def parameter_groups(model: nn.Module, cfg: CfgNode, exempt: Set[str] = frozenset()) -> list[dict]:
    """The groups ``batch_norm``, ``decayed`` and ``not_decayed`` (empty ones left out), each with its weight decay.

    Batch norms have BN.WEIGHT_DECAY; with SOLVER.ZERO_WD_1D_PARAM one-dimensional parameters (norm scales, biases,
    layer scales) have none, and neither have the parameters named in ``exempt``.
    """
    solver = cfg.SOLVER
    groups = {
        "batch_norm": {"weight_decay": cfg.BN.WEIGHT_DECAY, "params": []},
        "decayed": {"weight_decay": solver.WEIGHT_DECAY, "params": []},
        "not_decayed": {"weight_decay": 0.0, "params": []},
    }
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, _BatchNorm):
                name = "batch_norm"
            elif (solver.ZERO_WD_1D_PARAM and parameter.dim() <= 1) or f"{prefix}.{leaf}".lstrip(".") in exempt:
                name = "not_decayed"
            else:
                name = "decayed"
            groups[name]["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]


def build_optimizer(model: nn.Module, cfg: CfgNode, exempt: Set[str] = frozenset()) -> torch.optim.Optimizer:
    """The optimizer of SOLVER.OPTIMIZING_METHOD over the groups of :func:`parameter_groups`.

    Raises:
        ConfigError: when the method is unknown.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(model, cfg, exempt)
    match solver.OPTIMIZING_METHOD:
        case "sgd":
            return torch.optim.SGD(
                groups,
                lr=solver.BASE_LR,
                momentum=solver.MOMENTUM,
                dampening=solver.DAMPENING,
                nesterov=solver.NESTEROV,
            )
        case "adam":
            return torch.optim.Adam(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS))
        case "adamw":
            return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS))
    raise ConfigError(f"SOLVER.OPTIMIZING_METHOD is one of sgd, adam, adamw, got {solver.OPTIMIZING_METHOD!r}")
