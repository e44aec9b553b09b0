"""The moving average of a network's weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from videobench.config import CfgNode


class ExponentialMovingAverage:
    """An average of parameters and floating-point buffers over the steps; other buffers are copied (timm's ModelEmaV3).

    Make it once the network has its initial weights and is on its device, before it is compiled or wrapped, and call
    :meth:`update` with the bare network after every optimizer step. ``module`` is the averaged network, in eval mode:
    validate and save it beside the trained one.

    Args:
        model: the network to follow; it is copied.
        decay: share of the average that a step keeps.
        warmup: let the decay grow as 1 - (1 + step) ** (-2/3) until it reaches ``decay``, so that an average over few
            steps does not hang on the initial weights.
        device: where the average is kept; None means beside the network.
        sharded: whether parameters, but not buffers, will be split among ranks, which then cannot be updated together.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float = 0.9999,
        warmup: bool = False,
        device: torch.device | str | None = None,
        sharded: bool = False,
    ) -> None:
        from timm.utils import ModelEmaV3

        place = None if device is None else torch.device(device)
        self._average = ModelEmaV3(model, decay=decay, use_warmup=warmup, device=place, foreach=not sharded)
        self._average.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> "ExponentialMovingAverage | None":
        """The average that TRAIN.EMA asks for, or None."""
        train = cfg.TRAIN
        if not train.EMA:
            return None
        options = {"warmup": train.EMA_WARMUP, "device": train.EMA_DEVICE or None, "sharded": train.SHARD}
        return cls(model, decay=train.EMA_DECAY, **options)

    @property
    def module(self) -> nn.Module:
        """The averaged network, in eval mode."""
        return self._average.module

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[nn.Module]:
        """The averaged network on a device for a while, wherever it is kept; its tensors move where that differs."""
        home = next(self.module.parameters()).device
        try:
            yield self.module.to(device)
        finally:
            self.module.to(home)

    def decay(self, step: int) -> float:
        """The share of the average that the update after ``step`` optimizer steps keeps; 0 at the first: a copy."""
        return self._average.get_decay(step)

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after an optimizer step.

        Args:
            model: the bare network that the average was made of.
            step: optimizer steps done since the run began, this one included (1 at the first), resumed runs too.
        """
        self._average.update(model, step)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors under the network's own names: what a checkpoint keeps, and what can be tested."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average.

        Raises:
            RuntimeError: when it is of another network.
        """
        self.module.load_state_dict(state)
