"""Batch norm over the batches of several ranks, on any device."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CpuSyncBatchNorm(_BatchNorm):
    """What torch.nn.SyncBatchNorm does on GPUs, for the CPU, where PyTorch has none."""

    process_group: dist.ProcessGroup | None = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm takes [N, C, ...], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, input.dim())]
        count = values.numel() // values.shape[1]
        summed = _Sum.apply(torch.cat([values.sum(axes), values.new_tensor([count])]), self.process_group)
        total = summed[-1].detach()
        mean = summed[:-1] / total
        shape = [1, -1] + [1] * (input.dim() - 2)
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes), self.process_group) / total
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        scale = (variance + self.eps).rsqrt()
        output = centred * (scale if self.weight is None else scale * self.weight).view(shape)
        return (output if self.bias is None else output + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_batch_norms(model: nn.Module, ranks_per_group: int = 0) -> nn.Module:
    """Let every batch norm of a network normalise over the clips of several ranks; parameters and names stay.

    Args:
        model: on its device; changed in place and returned (or its replacement, when it is a batch norm itself).
        ranks_per_group: neighbouring ranks that share their statistics (BN.NUM_SYNC_DEVICES); 0 means all of them.

    Raises:
        ValueError: when the ranks do not fall into such groups.
    """
    return _replace(model, _own_group(ranks_per_group))


def _own_group(ranks: int) -> dist.ProcessGroup | None:
    world = dist.get_world_size()
    if not ranks or ranks == world:
        return None
    if world % ranks:
        raise ValueError(f"{world} ranks do not fall into groups of {ranks} (BN.NUM_SYNC_DEVICES)")
    # Every rank takes part in making every group.
    groups = [dist.new_group(list(range(first, first + ranks))) for first in range(0, world, ranks)]
    return groups[dist.get_rank() // ranks]


def _replace(module: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    if isinstance(module, _BatchNorm):
        kind = nn.SyncBatchNorm if module.running_mean.is_cuda else CpuSyncBatchNorm
        norm = kind(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        norm.process_group = group
        norm.weight, norm.bias = module.weight, module.bias
        for name, buffer in module.named_buffers(recurse=False):
            setattr(norm, name, buffer)
        return norm.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _replace(child, group))
    return module


class _Sum(torch.autograd.Function):
    """The sum over ranks; gradients are summed, too, for every rank's loss depends on it."""

    @staticmethod
    def forward(context, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        context.group = group
        values = values.clone()
        dist.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        dist.all_reduce(gradient, group=context.group)
        return gradient, None
