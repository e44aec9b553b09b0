"""One optimizer step: forward and backward in pieces, what precision, clipping, and what happens to bad numbers.

Nothing here waits for a GPU: whether a step counts is decided on the device and read when lines are logged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from videobench.config import CfgNode
from videobench.distributed.parallel import gradients_exchanged, whole
from videobench.engine.arithmetic import autocast
from videobench.models import VideoModel
from videobench.solver.losses import training_loss

Targets = Tensor | dict[str, Tensor]


@dataclass
class StepResult:
    """What a step leaves on the device: nothing in it has been waited for.

    Attributes:
        loss: mean over the batch.
        grad_norm: of all gradients, before clipping.
        skipped: 1 when the loss or a gradient is not finite on any rank, and nothing has been changed; else 0.
        logits: of the whole batch, detached.
    """

    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor
    logits: Targets


class TrainingStep:
    """Applies one batch to the network.

    Args:
        cfg: precision, pieces, loss and clipping.
        model: the bare network.
        forward: what is called: the network itself, compiled, wrapped for several ranks, or both.
        optimizer: over the network's parameters.
        scaler: of the gradients, enabled for fp16.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: VideoModel,
        forward: Callable[[Tensor], Targets],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.model, self.forward, self.optimizer, self.scaler = model, forward, optimizer, scaler
        self.loss_name, self.smoothing = cfg.MODEL.LOSS_FUNC, cfg.SOLVER.SMOOTHING
        self.subclips = cfg.MOVINET.TRAIN_SUBCLIPS
        self.clip_norm, self.clip_value = cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.SOLVER.CLIP_GRAD_VAL
        self.precision = cfg.TRAIN.PRECISION
        #: Whether every pass writes its results, gradients too, over those of the one before (CUDA graphs).
        self.replayed = cfg.TRAIN.CUDA_GRAPHS
        #: Clips per forward pass; 0 is the whole batch.
        self.micro_batch = 0

    def __call__(self, inputs: Tensor, targets: Targets) -> StepResult:
        """Forward, backward and update with clips [N, C, T, H, W] and their targets."""
        statistics = _Statistics(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        loss, logits = self.backward(inputs, targets)
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = whole(get_total_norm(gradients))
        skipped = ~norm.isfinite()
        if self.clip_value is not None:
            clip_grad_value_([p for p in self.model.parameters() if p.grad is not None], self.clip_value)
        elif self.clip_norm is not None:
            clip_grads_with_norm_(list(self.model.parameters()), self.clip_norm, norm)
        self._update(skipped)
        statistics.restore_where(skipped)
        return StepResult(loss, norm, skipped, logits)

    def backward(self, inputs: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """Add the gradients of the batch's mean loss, piece by piece; returns that loss and all logits."""
        size = self.micro_batch or len(inputs)
        pieces = [slice(start, start + size) for start in range(0, len(inputs), size)]
        loss = torch.zeros((), device=inputs.device)
        collected: list[Targets] = []
        for piece in pieces:
            part, labels = inputs[piece], _rows(targets, piece)
            share = len(part) / len(inputs) / self.subclips
            self.model.clean_activation_buffers()
            for index, subclip in enumerate(part.chunk(self.subclips, dim=2)):
                final = piece is pieces[-1] and index == self.subclips - 1
                if self.replayed:
                    torch.compiler.cudagraph_mark_step_begin()
                with gradients_exchanged(self.forward, final), self.autocast(inputs.device):
                    logits = self.forward(subclip)
                    piece_loss = training_loss(self.loss_name, logits, labels, smoothing=self.smoothing) * share
                    self._add_gradients(piece_loss)
                loss = loss + piece_loss.detach()
            collected.append(_copied(logits))
            if self.replayed and piece is pieces[0] is not pieces[-1]:
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad = parameter.grad.clone()  # those of further pieces are added to it in place
        self.model.clean_activation_buffers()
        return loss, _joined(collected)

    def fits(self, inputs: Tensor, targets: Targets, size: int) -> bool:
        """Whether the memory holds a forward and backward pass over ``size`` clips at a time beside all that stays.

        Without the other ranks; gradients and statistics are as before afterwards.
        """
        statistics = _Statistics(self.model)
        forward, self.forward, before, self.micro_batch = self.forward, self.model, self.micro_batch, size
        pieces = slice(0, min(2 * size, len(inputs)))  # the second one finds the gradients of the first there
        try:
            # The optimizer makes its moments in the first step.
            moments = (
                [] if self.optimizer.state else [torch.empty_like(p) for p in self.model.parameters() for _ in "mv"]
            )
            self.backward(inputs[pieces], _rows(targets, pieces))
            del moments
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            self.forward, self.micro_batch = forward, before
            self.model.clean_activation_buffers()
            self.optimizer.zero_grad(set_to_none=True)
            statistics.restore_where(torch.ones((), dtype=torch.bool, device=inputs.device))
            if inputs.is_cuda:
                torch.cuda.empty_cache()

    def autocast(self, device: torch.device) -> torch.autocast:
        """The arithmetic of forward passes (TRAIN.PRECISION)."""
        return autocast(device, self.precision)

    def _add_gradients(self, loss: Tensor) -> None:
        # A loss that is no number makes all gradients none, so that every rank sees it in their norm.
        one = torch.where(loss.isfinite(), 1.0, torch.nan).to(loss.dtype)
        with torch.autocast(loss.device.type, enabled=False):
            self.scaler.scale(loss).backward(one)

    def _update(self, skipped: Tensor) -> None:
        fused = all(group.get("fused") for group in self.optimizer.param_groups)
        if fused and self.optimizer.state:
            # What GradScaler does too: the kernel leaves everything as it is when this is not zero.
            self.optimizer.found_inf = skipped.float()
            self.optimizer.step()
            del self.optimizer.found_inf
        elif not skipped.item():  # without a fused kernel, and in the first step, which makes the moments
            self.optimizer.step()
        self.scaler.update()


class _Statistics:
    """Batch-norm statistics before a step, to go back to when the step is skipped."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        self.buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self.counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self.before = [self._joined(tensors) for tensors in (self.buffers, self.counts)]

    def restore_where(self, skipped: Tensor) -> None:
        for tensors, before in zip((self.buffers, self.counts), self.before, strict=True):
            if tensors:
                kept = torch.where(skipped, before, self._joined(tensors))
                parts = kept.split([tensor.numel() for tensor in tensors])
                torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    @staticmethod
    def _joined(tensors: list[Tensor]) -> Tensor | None:
        return torch.cat([tensor.flatten() for tensor in tensors]) if tensors else None


def largest_micro_batch(clips: int, fits: Callable[[int], bool]) -> int:
    """The largest of ``clips``, ``clips / 2``, ``clips / 3``, ... (rounded up) that fits into memory.

    Args:
        clips: in the whole batch of a rank.
        fits: whether a forward and backward pass over so many clips succeeds; the same answer on every rank.

    Raises:
        torch.OutOfMemoryError: when not even one clip fits.
    """
    pieces = 1
    while not fits(-(-clips // pieces)):
        if pieces >= clips:
            raise torch.OutOfMemoryError("not even one clip fits into memory")
        pieces = min(2 * pieces, clips)
    too_few = pieces // 2  # the fewest pieces that fit are in (too_few, pieces]
    while pieces - too_few > 1:
        middle = (pieces + too_few) // 2
        if fits(-(-clips // middle)):
            pieces = middle
        else:
            too_few = middle
    return -(-clips // pieces)


def _rows(targets: Targets, rows: slice) -> Targets:
    return {name: head[rows] for name, head in targets.items()} if isinstance(targets, dict) else targets[rows]


def _copied(logits: Targets) -> Targets:
    if isinstance(logits, dict):
        return {name: head.detach().clone() for name, head in logits.items()}
    return logits.detach().clone()


def _joined(pieces: list[Targets]) -> Targets:
    if isinstance(pieces[0], dict):
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return torch.cat(pieces)
