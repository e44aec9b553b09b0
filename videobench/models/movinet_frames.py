"""One frame of a stream at a time: the same network with fewer and cheaper kernels."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula
from torch.utils.hooks import RemovableHandle

from videobench.models.movinet_convolution import Convolution
from videobench.models.movinet_layers import Block, ConvLayer, Piece, SqueezeExcitation, State, Unit

# The layers between features and logits that are known here; others may have been put in their place.
CLASSIFIER = [ConvLayer, nn.SiLU, nn.Dropout, ConvLayer]

# The operator that torch's own compiler uses; not every build has it.
_fused_convolution = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
if not torch.backends.mkldnn.is_available():
    _fused_convolution = None
if _fused_convolution is not None:

    @register_flop_formula(_fused_convolution)
    def _operations(x_shape, weight_shape, *_, out_shape=None, **__) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight_shape[1:])


# Without gradients, too, each operator is called through autograd's wrapper of it: 4 % of the time of a frame.
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)


class FrameStep:
    """The layers of a causal (2+1)D network from a frame to its logits, for inference on CPUs.

    On one frame, kernels are so short that calling them takes as long as their work. Here norms and branch scales are
    folded into the weights once, frames are tokens [N * H * W, C] throughout, spatial convolutions have their weights
    in oneDNN's order and the activation built in, and a temporal convolution is a weighted sum of the new frame and
    those kept, which need not be joined for it. Modules are read, not called.

    Args:
        network: a :class:`videobench.models.movinet.MoViNet` in eval mode. It is not changed.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module) -> None:
        layers = [network.conv1, network.blocks, network.conv7, network.cgap, network.classifier]
        # Whatever replaces the weights of a network counts here too; to ask hundreds of them takes 5 % of the time.
        self._watched = [*network.conv1.parameters(), *network.classifier.parameters()]
        self._modules = [module for layer in layers for module in layer.modules()]
        self._version = self._count_changes()
        self._observed, self._handles = True, -1
        self.stem = _Spatial(network.conv1.conv_1)
        self.blocks = [_FrameBlock(block) for block in network.blocks.values()]
        self.head = _Pointwise(network.conv7.conv_1)
        self.pool = _RunningMean(network.cgap.key)
        self.classifier = list(network.classifier.children())
        self.hidden, self.last = (_Pointwise(layer.conv_1) for layer in self.classifier[::3])

    @staticmethod
    def serves(network: nn.Module, frames: Tensor, past: State) -> bool:
        """Whether ``network`` may take ``frames`` [N, C, T, H, W] after ``past`` in this way now."""
        return (
            frames.shape[2] == 1
            and frames.device.type == "cpu"
            and all(kept.dtype == frames.dtype for kept in past.values() if kept.dim() == 5)
            and network.style.two_plus_one
            and [type(layer) for layer in network.classifier.children()] == CLASSIFIER
            and not (network.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
            and len(frames) > 0
            # Inference tensors count no changes; a head may have been replaced alone.
            and not any(layer.conv_1.conv.weight.is_inference() for layer in (network.conv7, network.classifier[3]))
        )

    def _count_changes(self) -> int:
        return sum(map(attrgetter("_version"), self._watched))

    def is_current(self, network: nn.Module) -> bool:
        """Whether the weights and the classifier of ``network`` are still those that were folded."""
        return (
            network.conv1.conv_1.conv.weight is self._watched[0]  # load_state_dict(assign=True) brings other tensors
            and self._count_changes() == self._version
            and list(network.classifier.children()) == self.classifier
        )

    def is_observed(self) -> bool:
        """Whether hooks wait for a layer to be called, which does not happen here."""
        # Hundreds of modules are asked only if there was a hook, or a handle was given out to anybody since last time.
        if self._observed or self._handles != RemovableHandle.next_id:
            self._handles = RemovableHandle.next_id
            self._observed = any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)
        return self._observed

    def __call__(self, frame: Tensor, past: State) -> tuple[Tensor, State]:
        """Logits [N, num_classes] after ``frame`` [N, C, 1, H, W], and the new state."""
        with _below_autograd():
            return self._step(frame, past)

    def _step(self, frame: Tensor, past: State) -> tuple[Tensor, State]:
        piece = Piece(past, past["frames"][:, None])
        images = self.stem(frame.select(2, 0))
        grid, x = images.shape[:3], images.flatten(0, 2)
        for block in self.blocks:
            x, grid = block(x, grid, piece)
        features = self.pool(self.head(x).view(grid[0], -1, self.head.width).mean(1), piece)
        logits = self.last(F.silu(self.hidden(features), inplace=True))
        return logits, {"frames": past["frames"] + 1, **piece.left}


class _Pointwise:
    """A unit without extent: tokens [M, C] to [M, C']. Its weight may be multiplied by a ``scale``."""

    def __init__(self, unit: Unit, scale: Tensor | float = 1.0) -> None:
        weight, bias = unit.folded()
        weight, self.bias = (weight * scale).flatten(1), bias * scale
        self.width = len(weight)
        # A single token is multiplied fastest by rows in memory that are the longer ones.
        self.weight = weight.t() if weight.shape[1] > self.width else weight.t().contiguous()
        self.active = unit.activation is not None

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x, self.weight)
        return F.hardswish(y, inplace=True) if self.active else y


class _Spatial:
    """A unit over space: images [N, C, H, W], best with channels innermost, to [N, H', W', C']."""

    def __init__(self, unit: Unit) -> None:
        self.conv: Convolution = unit.conv
        weight, self.bias = unit.folded()
        self.weight = weight.view(*self.conv.full_shape[:2], *self.conv.kernel[1:])
        self.prepared: _Prepared | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if _fused_convolution is None or images.dtype != torch.float32 or not torch.backends.mkldnn.enabled:
            y = self.conv.convolve_images(images, self.weight, self.bias).permute(0, 2, 3, 1)
            return F.hardswish(y.contiguous(), inplace=True)
        ready = self.prepared
        if ready is None or ready.shape != images.shape:
            ready = self.prepared = _Prepared(self.conv, self.weight, images.shape)
        y = _fused_convolution.default(images, ready.weight, self.bias, *ready.geometry, "hardswish", [], "")
        y = y.permute(0, 2, 3, 1)
        return (y if ready.skip == (0, 0) else y[:, ready.skip[0] :, ready.skip[1] :]).contiguous()


class _Prepared:
    """A spatial convolution for images of one shape: its weight in oneDNN's order."""

    def __init__(self, conv: Convolution, weight: Tensor, shape: torch.Size) -> None:
        self.shape = shape
        padding, self.skip = zip(*map(conv.padding_of, shape[-2:]), strict=True)
        self.geometry = padding, [conv.stride] * 2, [1, 1], conv.groups
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *self.geometry, shape)


class _Temporal:
    """A causal depthwise unit over time: [N, H, W, C] and the frames before it to [N, H, W, C]."""

    def __init__(self, unit: Unit, key: str) -> None:
        weight, self.bias = unit.folded()
        self.weights = weight.flatten(1).t().contiguous().unbind()  # [C] for every frame, the newest last
        self.key = key

    def __call__(self, x: Tensor, piece: Piece) -> Tensor:
        before = piece.earlier_frames(self.key, *x.shape[1:3]).permute(0, 2, 3, 4, 1)
        left = torch.cat([before[:, 1:], x.unsqueeze(1)], dim=1)
        piece.left[self.key] = left.permute(0, 4, 1, 2, 3)
        y = torch.addcmul(self.bias, x, self.weights[-1])  # in the order of the new frame, whatever the others have
        for frame, weight in zip(before.unbind(1), self.weights[:-1], strict=True):
            y.addcmul_(frame, weight)
        return F.hardswish(y, inplace=True)


class _RunningMean:
    """:meth:`videobench.models.movinet_layers.Piece.running_mean` of a single frame, [N, C] to [N, C]."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, means: Tensor, piece: Piece) -> Tensor:
        total = piece.left[self.key] = piece.past[self.key] + means
        return (total / piece.frames_so_far).to(means.dtype)


class _Excitation:
    """Gates [N, C] from the running mean and the mean of the frame's own tokens [N, H * W, C]."""

    def __init__(self, layer: SqueezeExcitation) -> None:
        # TensorFlow's hard sigmoid is PyTorch's, which rises by 1/6, of 1.2 times as much.
        self.fc1, self.fc2 = _Pointwise(layer.fc1.conv_1), _Pointwise(layer.fc2.conv_1, 1.2)
        self.running_mean = _RunningMean(layer.key)
        self.position_scale = layer.position_scale

    def __call__(self, x: Tensor, piece: Piece) -> Tensor:
        means = x.mean(1)
        squeezed = torch.cat([self.running_mean(means, piece), means], dim=1)
        if self.position_scale is not None:
            squeezed += self.position_scale * piece.position_encoding(squeezed.shape[1], squeezed.dtype)[:, 0]
        return F.hardsigmoid(self.fc2(self.fc1(squeezed)))


class _FrameBlock:
    """:class:`videobench.models.movinet_layers.Block` on tokens of a grid (N, H, W)."""

    def __init__(self, block: Block) -> None:
        self.expand = _Pointwise(block.expand.conv_1)
        self.spatial = _Spatial(block.deep.conv_1)
        self.temporal = _Temporal(block.deep.conv_2, block.deep.key) if block.deep.conv_2 else None
        self.excitation = _Excitation(block.se)
        self.project = _Pointwise(block.project.conv_1, block.alpha)
        *self.pool, last = block.res or [None]
        self.shortcut = _Pointwise(last.conv_1) if last else None

    def __call__(self, x: Tensor, grid: Sequence[int], piece: Piece) -> tuple[Tensor, Sequence[int]]:
        """Tokens and their grid to tokens and their grid; ``x`` may be overwritten."""
        branch = self.spatial(self.expand(x).view(*grid, self.expand.width).permute(0, 3, 1, 2))
        if self.temporal:
            branch = self.temporal(branch, piece)
        new_grid = branch.shape[:3]
        branch = branch.view(grid[0], -1, self.expand.width)
        gates = self.excitation(branch, piece)
        for pool in self.pool:
            pooled = pool.pool_images(x.view(*grid, -1).permute(0, 3, 1, 2))
            x = pooled.permute(0, 2, 3, 1).reshape(-1, pooled.shape[1])
        x = (self.shortcut(x) if self.shortcut else x).add_(self.project.bias)
        if grid[0] > 1:
            branch, weight = branch.mul_(gates[:, None]), self.project.weight
        else:
            weight = self.project.weight * gates.t()  # smaller than the frame
        return torch.addmm(x, branch.view(-1, self.expand.width), weight, out=x), new_grid
