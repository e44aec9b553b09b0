"""Statistics of batch norms: recomputed over many batches (precise), or kept as they are (frozen)."""

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

logger = logging.getLogger(__name__)


def training_mode(model: nn.Module, *, frozen_statistics: bool = False) -> None:
    """``model.train()``, with batch norms left in eval mode where their statistics are not to change.

    Args:
        model: the network.
        frozen_statistics: normalise with the running statistics and leave them alone (MODEL.FROZEN_BN); scales and
            shifts are trained all the same. Without it only batch norms whose parameters are not trained are treated
            so (SOLVER.FREEZE_LAYERS): statistics that move would change a layer that is meant to stay as it is.
    """
    model.train()
    for norm in _batch_norms(model):
        parameters = list(norm.parameters(recurse=False))
        if frozen_statistics or (parameters and not any(p.requires_grad for p in parameters)):
            norm.eval()


def recompute_statistics(
    model: nn.Module,
    inputs: Iterable[Any],
    num_batches: int,
    *,
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    average: nn.Module | None = None,
) -> int:
    """Replace the running statistics of batch norms by those of whole batches under the present weights (precise BN).

    Mean and variance are those of all values of the batches taken together, in place of averages that lag behind the
    weights (Wu and Johnson, 2021, Rethinking "Batch" in BatchNorm, section 3); where they are no finite numbers, the
    running ones stay. The global random states are as before when this returns, so that no later step depends on it.

    Args:
        model: the bare network, in training mode (:func:`training_mode`); batch norms in eval mode stay as they are.
        inputs: training clips as ``model(clips)`` takes them, on its device; at least ``num_batches`` of them.
        num_batches: batches to take (BN.NUM_BATCHES_PRECISE, or what an epoch has).
        mean_over_ranks: the mean of a tensor over all ranks, each of which passes as many clips as the others.
        average: the moving average of the network, whose batch norms get their own statistics from the same batches;
            it is left in eval mode. What the network gets does not depend on it.

    Returns:
        How many batch norms of ``model`` are in training mode; nothing is drawn where there are none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about functions of fvcore.nn that are not used here
        from fvcore.nn.precise_bn import update_bn_stats

    own = [norm for norm in _batch_norms(model) if norm.training and norm.track_running_stats]
    if not own:
        return 0
    both = _Both(model, average)
    norms = [norm for norm in _batch_norms(both) if norm.training and norm.track_running_stats]
    buffers = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    before = [(mean.clone(), var.clone(), norm.num_batches_tracked.clone()) for norm, mean, var in buffers]
    with torch.random.fork_rng(devices={mean.device.index for _, mean, _ in buffers if mean.is_cuda}):
        update_bn_stats(both, inputs, num_batches)
    kept = 0
    for (norm, mean, var), (mean_before, var_before, count) in zip(buffers, before, strict=True):
        own_mean = norm.running_mean.double()
        all_mean = mean_over_ranks(own_mean)
        all_square = mean_over_ranks(norm.running_var.double() + own_mean.square())
        # In place: what synchronises or averages the buffers holds on to these tensors.
        norm.running_mean, norm.running_var = mean, var
        finite = bool((all_mean + all_square).isfinite().all())
        mean.copy_(all_mean if finite else mean_before)
        var.copy_(all_square - all_mean.square() if finite else var_before)
        kept += not finite
        norm.num_batches_tracked.copy_(count)  # counts steps of the training, which these batches are none of
    if kept:
        logger.warning(
            "%d of %d batch norms keep their statistics: those of the batches (BN.USE_PRECISE_STATS) are no finite "
            "numbers",
            *(kept, len(norms)),
        )
    if average is not None:
        average.eval()
    return len(own)


class _Both(nn.Module):
    """A network and its average, in the same mode, fed the same clips one after the other."""

    def __init__(self, model: nn.Module, average: nn.Module | None) -> None:
        super().__init__()
        self.model, self.average = model, average
        if average is not None:
            for one, other in zip(model.modules(), average.modules(), strict=True):
                other.training = one.training

    def forward(self, clips: Any) -> None:
        self.model(clips)
        if self.average is not None:
            with torch.random.fork_rng(devices={p.device.index for p in self.average.parameters() if p.is_cuda}):
                self.average(clips)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
