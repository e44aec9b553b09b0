"""One frame of a stream at a time: the same network with fewer and cheaper kernels."""

from itertools import chain
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from videobench.models.movinet_convolution import Convolution
from videobench.models.movinet_layers import Block, Piece, SqueezeExcitation, State, Unit


class FrameStep:
    """The layers of a causal (2+1)D network from a frame to its pooled features, for inference on CPUs.

    On one frame, kernels are so short that calling them takes as long as their work. Here norms and branch scales are
    folded into the weights once, frames are [N, H, W, C] throughout, and a temporal convolution is a weighted sum of
    the new frame and those kept, which need not be joined for it. Modules are read, not called.

    Args:
        network: a :class:`videobench.models.movinet.MoViNet` in eval mode. It is not changed.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module) -> None:
        layers = [network.conv1, network.blocks, network.conv7]
        tensors = chain.from_iterable(chain(layer.parameters(), layer.buffers()) for layer in layers)
        self._tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
        self._modules = [module for layer in layers for module in layer.modules()]
        self._version = self._count_changes()
        self._observed, self._handles = True, -1
        self.stem = _Spatial(network.conv1.conv_1)
        self.blocks = [_FrameBlock(block) for block in network.blocks.values()]
        self.head = _Pointwise(network.conv7.conv_1)
        self.pool = _RunningMean(network.cgap.key)

    @staticmethod
    def serves(network: nn.Module, frames: Tensor) -> bool:
        """Whether ``network`` may take ``frames`` [N, C, T, H, W] in this way now."""
        return (
            frames.shape[2] == 1
            and frames.device.type == "cpu"
            and network.style.two_plus_one
            and not (network.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
            and not network.conv7.conv_1.conv.weight.is_inference()  # which count no changes
        )

    def _count_changes(self) -> int:
        return sum(map(attrgetter("_version"), self._tensors))

    def is_current(self) -> bool:
        """Whether the network's weights are still those that were folded."""
        return self._count_changes() == self._version

    def is_observed(self) -> bool:
        """Whether hooks wait for a layer to be called, which does not happen here."""
        # Hundreds of modules are asked only if there was a hook, or a handle was given out to anybody since last time.
        if self._observed or self._handles != RemovableHandle.next_id:
            self._handles = RemovableHandle.next_id
            self._observed = any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)
        return self._observed

    def __call__(self, frame: Tensor, past: State) -> tuple[Tensor, State]:
        """Features [N, num_features] after ``frame`` [N, C, 1, H, W], and what :attr:`Piece.left` would hold."""
        piece = Piece(past, past["frames"][:, None])
        x = self.stem(frame.select(2, 0))
        for block in self.blocks:
            x = block(x, piece)
        x = self.head(x)
        return self.pool(_means(x), piece), {"frames": past["frames"] + 1, **piece.left}


def _means(x: Tensor) -> Tensor:
    """Spatial means of [N, H, W, C] as [N, C]."""
    return x.flatten(1, 2).mean(1)


class _Pointwise:
    """A unit without extent, on [..., C], with its branch scale if it has one."""

    def __init__(self, unit: Unit, scale: Tensor | None = None) -> None:
        weight, bias = unit.folded()
        if scale is not None:
            weight, bias = weight * scale, bias * scale
        self.weight, self.bias = weight.flatten(1), bias
        self.active = unit.activation is not None

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.hardswish(y, inplace=True) if self.active else y


class _Spatial:
    """A unit over space: images [N, C, H, W] in any order to [N, H, W, C]."""

    def __init__(self, unit: Unit) -> None:
        self.conv: Convolution = unit.conv
        self.weight, self.bias = unit.folded()

    def __call__(self, images: Tensor) -> Tensor:
        y = self.conv.convolve_images(images, self.weight, self.bias)
        return F.hardswish(y.permute(0, 2, 3, 1).contiguous(), inplace=True)


class _Temporal:
    """A causal depthwise unit over time: [N, H, W, C] and the frames before it to [N, H, W, C]."""

    def __init__(self, unit: Unit, key: str) -> None:
        weight, self.bias = unit.folded()
        self.weights = weight.flatten(1).t().contiguous().unbind()  # [C] for every frame, the newest last
        self.key = key

    def __call__(self, x: Tensor, piece: Piece) -> Tensor:
        kept = piece.earlier_frames(self.key, x.shape[1], x.shape[2])
        before = kept.to(x.dtype).permute(0, 2, 3, 4, 1)
        left = torch.cat([before[:, 1:], x.unsqueeze(1)], dim=1)
        piece.left[self.key] = left.permute(0, 4, 1, 2, 3).to(kept.dtype)
        earliest, *others = before.unbind(1)
        y = torch.addcmul(self.bias, earliest, self.weights[0])
        for frame, weight in zip(others, self.weights[1:-1], strict=True):
            y.addcmul_(frame, weight)
        return F.hardswish(y.addcmul_(x, self.weights[-1]), inplace=True)


class _RunningMean:
    """:meth:`videobench.models.movinet_layers.Piece.running_mean` of a single frame, [N, C] to [N, C]."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, means: Tensor, piece: Piece) -> Tensor:
        total = piece.left[self.key] = piece.past[self.key] + means
        return (total / piece.counts[:, 0]).to(means.dtype)


class _Excitation:
    """Gates from the running mean and the frame's own mean, applied in place to [N, H, W, C]."""

    def __init__(self, layer: SqueezeExcitation) -> None:
        self.fc1, self.fc2 = _Pointwise(layer.fc1.conv_1), _Pointwise(layer.fc2.conv_1)
        self.running_mean = _RunningMean(layer.key)
        self.gate, self.position_scale = layer.gate, layer.position_scale

    def __call__(self, x: Tensor, piece: Piece) -> Tensor:
        means = _means(x)
        squeezed = torch.cat([self.running_mean(means, piece), means], dim=1)
        if self.position_scale is not None:
            squeezed += self.position_scale * piece.position_encoding(squeezed.shape[1], squeezed.dtype)[:, 0]
        return x.mul_(self.gate(self.fc2(self.fc1(squeezed)))[:, None, None])


class _FrameBlock:
    """:class:`videobench.models.movinet_layers.Block` on [N, H, W, C]."""

    def __init__(self, block: Block) -> None:
        self.expand = _Pointwise(block.expand.conv_1)
        self.spatial = _Spatial(block.deep.conv_1)
        self.temporal = _Temporal(block.deep.conv_2, block.deep.key) if block.deep.conv_2 else None
        self.excitation = _Excitation(block.se)
        self.project = _Pointwise(block.project.conv_1, block.alpha)
        *self.pool, last = block.res or [None]
        self.shortcut = _Pointwise(last.conv_1) if last else None

    def __call__(self, x: Tensor, piece: Piece) -> Tensor:
        branch = self.spatial(self.expand(x).permute(0, 3, 1, 2))
        if self.temporal:
            branch = self.temporal(branch, piece)
        branch = self.project(self.excitation(branch, piece))
        for pool in self.pool:
            x = pool.pool_images(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return branch.add_(self.shortcut(x) if self.shortcut else x)
