"""Training losses."""

from torch import Tensor
from torch.nn import functional as F

Logits = Tensor | dict[str, Tensor]

LOSSES = {"cross_entropy": F.cross_entropy}


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
    return LOSSES[name](logits.float(), labels)
