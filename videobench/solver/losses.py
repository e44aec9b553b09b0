"""Training losses."""

from torch import Tensor
from torch.nn import functional as F

from videobench.config import ConfigError

Logits = Tensor | dict[str, Tensor]

_LOSSES = {"cross_entropy": F.cross_entropy}


def check_loss(name: str) -> None:
    """Raise a ConfigError for a MODEL.LOSS_FUNC that does not exist."""
    if name not in _LOSSES:
        raise ConfigError(f"MODEL.LOSS_FUNC is one of {', '.join(_LOSSES)}, got {name!r}")


def training_loss(name: str, logits: Logits, labels: Tensor | dict[str, Tensor]) -> Tensor:
    """The loss of a batch, in float32 whatever the logits' precision.

    A network with several heads gives a dict of logits; its loss is the mean over the heads. ``labels`` is then a dict
    with the same names, or one tensor that serves every head.
    """
    if isinstance(logits, dict):
        parts = [
            training_loss(name, head, labels[key] if isinstance(labels, dict) else labels)
            for key, head in logits.items()
        ]
        return sum(parts) / len(parts)
    return _LOSSES[name](logits.float(), labels)
