"""The contract every network keeps, and the few layers that families share."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from videobench.config import CfgNode


class VideoModel(nn.Module):
    """What trainer, tester and tools rely on, whatever the family.

    A subclass takes plain arguments, keeps its classifier in ``self.head`` (or says otherwise by overriding
    :meth:`reset_head`) and implements :meth:`forward_features`, :meth:`forward_head` and :meth:`layer_groups`.
    """

    #: Width of the features that the classifier takes.
    num_features: int
    #: Whether the family's published training heeds :meth:`no_weight_decay`.
    heeds_no_weight_decay = False

    def forward(self, clip: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits [N, num_classes] of a normalised clip [N, C, T, H, W]; networks with several heads return a dict.

        Raises:
            ValueError: when the clip's channels, frames or size are none the network can take.
        """
        return self.forward_head(self.forward_features(clip))

    def forward_features(self, clip: Tensor) -> Tensor:
        """Pooled features [N, num_features], the input of the classifier."""
        raise NotImplementedError(f"{type(self).__name__} has no forward_features")

    def forward_head(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits of pooled features."""
        return self.head(features)

    def reset_head(self, num_classes: int) -> None:
        """Put a new, freshly initialised classifier with ``num_classes`` outputs in place of the present one."""
        weight = self.head.weight
        self.head = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def is_head(self, name: str) -> bool:
        """Whether a parameter belongs to the classifier, which another number of classes replaces."""
        return name.startswith("head.")

    def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights in another published naming (or of the image network) as this network names and shapes them.

        What needs no change is handed on as the same tensor objects: from that the load report tells renamed from made
        tensors. Whatever the shapes alone explain (added axes, 2D kernels) is left to the loader.

        Raises:
            ValueError: when the weights are those of an image network that this network cannot be made of.
        """
        return state

    def clean_activation_buffers(self) -> None:
        """Forget the frames seen so far; nothing to do for networks that take every clip by itself."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that should not be decayed besides norms and biases."""
        return set()

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the classifier, one list per layer, each parameter exactly once."""
        raise NotImplementedError(f"{type(self).__name__} has no layer_groups")


def group_parameters(model: nn.Module, layer_of: Callable[[str], int]) -> list[list[str]]:
    """Names of a network's parameters gathered by layer number, in order; for :meth:`VideoModel.layer_groups`."""
    groups: dict[int, list[str]] = {}
    for name, _ in model.named_parameters():
        groups.setdefault(layer_of(name), []).append(name)
    return [groups[index] for index in sorted(groups)]


def check_clip(clip: Tensor, in_channels: int, *, dims: int = 5, min_frames: int = 1, min_size: int = 1) -> None:
    """Raise a ValueError that says what the network takes when ``clip`` is no such thing."""
    layout = "[N, C, T, H, W]" if dims == 5 else "[N, C, H, W]"
    if clip.dim() != dims:
        raise ValueError(f"the network takes a clip {layout}, got {clip.dim()} dimensions: {list(clip.shape)}")
    if not clip.is_floating_point():
        raise ValueError(f"the network takes a normalised floating-point clip, got {clip.dtype}")
    if clip.shape[1] != in_channels:
        raise ValueError(f"the network takes {in_channels} channels in {layout}, got {list(clip.shape)}")
    if dims == 5 and clip.shape[2] < min_frames:
        raise ValueError(f"the network takes at least {min_frames} frames, got {clip.shape[2]}")
    if min(clip.shape[-2:]) < min_size:
        raise ValueError(f"the network takes frames of at least {min_size}x{min_size}, got {list(clip.shape[-2:])}")


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., 2016): drops the branch, scales what is kept by 1 / keep rate."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"the rate of stochastic depth lies between 0 and 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep if keep > 0 else mask)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def checkpointed_blocks(counts: int | Sequence[int], depths: Sequence[int]) -> list[int]:
    """Leading blocks to recompute in each stage, from one number for all stages or one per stage; -1 means all.

    Raises:
        ValueError: when the numbers do not fit the stages.
    """
    per_stage = [counts] * len(depths) if isinstance(counts, int) else list(counts)
    if len(depths) == 1 and not any(per_stage[1:]):
        per_stage = per_stage[:1]  # the four-stage default handed to a network without stages
    if len(per_stage) != len(depths) or any(count < -1 for count in per_stage):
        raise ValueError(
            f"MODEL.CHECKPOINT_NUM wants one number for each of the {len(depths)} stages (-1 means all blocks), "
            f"got {counts}"
        )
    return [depth if count == -1 else min(count, depth) for count, depth in zip(per_stage, depths, strict=True)]


def checkpoint_counts(cfg: CfgNode) -> int | list[int]:
    """The ``checkpoint_blocks`` argument that the MODEL section asks for."""
    if cfg.MODEL.ACT_CHECKPOINT:
        return -1
    return cfg.MODEL.CHECKPOINT_NUM if cfg.MODEL.USE_CHECKPOINT else 0


def run_block(block: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """Run a block, either storing its activations or recomputing them in the backward pass (non-reentrant)."""
    if not (recompute and torch.is_grad_enabled()):
        return block(*inputs)
    if torch.compiler.is_compiling():
        return checkpoint(block, *inputs, use_reentrant=False)

    def contexts():
        return contextlib.nullcontext(), _frozen_batch_norm_statistics(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _frozen_batch_norm_statistics(block: nn.Module) -> Iterator[None]:
    # A recomputed forward pass would otherwise count its batch twice in the running statistics.
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    saved = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
