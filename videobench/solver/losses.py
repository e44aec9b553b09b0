"""Training losses: of class numbers, of soft targets, of several labels at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

Logits = Tensor | dict[str, Tensor]

SINGLE_LABEL = ("cross_entropy", "soft_cross_entropy")
# SlowFast's two names: there, bce expects that the network ends in a sigmoid, which is part of the loss here.
MULTI_LABEL = ("bce", "bce_logit")


def training_loss(name: str, logits: Logits, targets: Logits, *, smoothing: float = 0.0) -> Tensor:
    """The loss of a batch, in float32 (or float64, if the logits are) whatever the logits' precision.

    A network with several heads gives a dict of logits; its loss is the mean over the heads. ``targets`` is then a dict
    with the same names, or one tensor that serves every head.

    Args:
        name: ``cross_entropy`` of class numbers; ``soft_cross_entropy``, the mean over the batch of
            ``-sum(target * log_softmax)``; ``bce`` or ``bce_logit``, the mean over batch and classes of the binary
            cross entropy of sigmoids. Class numbers stand for one-hot targets in all of them.
        logits: [N, classes].
        targets: class numbers int64 [N], or soft or multi-hot targets float [N, classes].
        smoothing: share of the target that ``cross_entropy`` spreads evenly over all classes (Szegedy et al., 2016).

    Raises:
        ValueError: for soft or multi-hot targets with ``cross_entropy``, and smoothing with any other loss.
    """
    if isinstance(logits, dict):
        parts = [
            training_loss(name, head, targets[key] if isinstance(targets, dict) else targets, smoothing=smoothing)
            for key, head in logits.items()
        ]
        return sum(parts) / len(parts)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    soft = targets.is_floating_point()
    if name not in SINGLE_LABEL + MULTI_LABEL:
        raise ValueError(f"there is no loss {name!r}; use {', '.join(SINGLE_LABEL + MULTI_LABEL)}")
    if smoothing and name != "cross_entropy":
        raise ValueError(f"label smoothing (SOLVER.SMOOTHING) is part of cross_entropy, not of {name}")
    if soft and name == "cross_entropy":
        raise ValueError("cross_entropy takes class numbers; use soft_cross_entropy or bce for floating-point targets")
    if name in MULTI_LABEL:
        targets = targets if soft else F.one_hot(targets, logits.shape[1])
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    return F.cross_entropy(logits, targets.to(logits.dtype) if soft else targets, label_smoothing=smoothing)
