"""Layers of MoViNet, and how a causal one continues a stream."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.models.movinet_convolution import Convolution, as_clips, as_images, layout

State = dict[str, Tensor]


@dataclass(frozen=True)
class Style:
    """What the published networks differ in besides size: base is 3d and not causal, stream 2plus1d and causal."""

    causal: bool
    two_plus_one: bool
    tf_like: bool

    def activation(self, x: Tensor) -> Tensor:
        """Of a tensor that nobody else reads: it may be overwritten."""
        return (F.hardswish if self.two_plus_one else F.silu)(x, inplace=_may_overwrite(x))

    def gate(self, x: Tensor) -> Tensor:
        # TensorFlow's hard sigmoid; PyTorch's has slope 1/6.
        return (0.2 * x + 0.5).clamp(0, 1) if self.two_plus_one else x.sigmoid()


class Piece:
    """The frames of one call, read as the continuation of the frames that left ``past`` behind.

    ``past`` is never written; what the next call needs is gathered in ``left``, cut from the graph (truncated
    back-propagation, as published). Layers name their entries.

    Args:
        past: see :meth:`videobench.models.movinet.MoViNet.stream_state`.
        positions: index of every frame since the start of its stream, [N, T].
    """

    def __init__(self, past: State, positions: Tensor) -> None:
        self.past = past
        self.positions = positions
        self.counts = (positions + 1)[..., None]
        self.left: State = {}

    @cached_property
    def frames_so_far(self) -> Tensor:
        """Frames of every stream up to the first one of this piece, [N, 1], in the type of the sums."""
        return self.counts[:, 0].to(self.past["head"].dtype)

    def earlier_frames(self, key: str, height: int, width: int) -> Tensor:
        """The frames [N, C, K - 1, H, W] before the first one of this piece; before all of them there is zero."""
        before = self.past[key]
        if before.shape[-2:] == (height, width):
            return before
        if before.shape[-2:] == (1, 1):
            return before.expand(-1, -1, -1, height, width)  # a fresh state that was not told its size
        raise ValueError(
            f"the stream began with other frame sizes ({key} holds {list(before.shape[-2:])}, the new frames give "
            f"{[height, width]}): take a new stream_state, or call clean_activation_buffers()"
        )

    def with_earlier_frames(self, key: str, x: Tensor) -> Tensor:
        """``x`` [N, C, T, H, W] with the frames before it in front, of which the last are left for the next piece."""
        before = self.earlier_frames(key, *x.shape[-2:])
        if before.shape == self.past[key].shape:
            joined = torch.cat([before.to(x.dtype).contiguous(memory_format=layout(x)), x], dim=2)
        else:
            joined = F.pad(x, (0, 0, 0, 0, before.shape[2], 0))  # zeros that need not be written first
        tail = joined.detach()[:, :, -before.shape[2] :].to(self.past[key].dtype)
        self.left[key] = tail.clone(memory_format=layout(x))  # not a view, which would keep the whole piece alive
        return joined

    def running_mean(self, key: str, x: Tensor) -> Tensor:
        """Mean of ``x`` [N, T, C] over all frames of the stream up to and including each one."""
        total = self.past[key]
        sums = total[:, None] + x.cumsum(1, dtype=total.dtype)
        self.left[key] = sums[:, -1].detach().clone()
        return (sums / self.counts).to(x.dtype)

    def position_encoding(self, width: int, dtype: torch.dtype) -> Tensor:
        """Sines, then cosines, of the frames' positions at ``width`` / 2 wavelengths: [N, T, width]."""
        exact = torch.promote_types(dtype, torch.float32)
        steps = torch.arange(0, width, 2, device=self.positions.device, dtype=exact) / width
        angles = self.positions[..., None].to(exact) * 10000.0**-steps
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


def _may_overwrite(x: Tensor) -> bool:
    """Whether working in place is allowed, and not the cause of slow layouts: slices are better copied on the way."""
    return not torch.is_grad_enabled() and x.is_contiguous(memory_format=layout(x))


def frame_vectors(x: Tensor) -> Tensor:
    """Spatial means of [N, C, T, H, W] as [N, T, C]."""
    # Averaging one flattened axis is many times faster than two when channels lie innermost.
    return x.movedim(1, -1).flatten(2, 3).mean(2)


def _as_clip(vectors: Tensor) -> Tensor:
    """[N, T, C] as [N, C, T, 1, 1], without a copy."""
    return vectors.movedim(-1, 1)[..., None, None]


class Unit(nn.Module):
    """Convolution, batch norm (optional), activation (optional).

    Where no gradient is wanted in eval mode, the norm acts through the weights of the convolution: they are small, the
    clip is not.
    """

    #: Do the norm by itself in any case, as counters of operations want it.
    plain = False

    def __init__(self, conv: Convolution, norm: bool, activation: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self._conv_name = f"conv{conv.weight.dim() - 2}d"
        self.add_module(self._conv_name, conv)
        self.norm = nn.BatchNorm3d(len(conv.weight), eps=1e-3) if norm else None
        self.activation = activation

    @property
    def conv(self) -> Convolution:
        return getattr(self, self._conv_name)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            x = self.conv(x)
        elif self.training or self.plain or torch.is_grad_enabled() or torch.compiler.is_compiling():
            x = self.norm(self.conv(x))
        else:
            x = self.conv.convolve(x, *self.folded())
        return x if self.activation is None else self.activation(x)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a convolution that includes the norm, as it acts in eval mode."""
        if self.norm is None:
            return self.conv.weight, self.conv.bias
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        weight = self.conv.weight * scale.view(-1, *[1] * (self.conv.weight.dim() - 1))
        return weight, self.norm.bias - self.norm.running_mean * scale

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Make the norm part of the convolution for good."""
        if self.norm is None:
            return
        weight, bias = self.folded()
        self.conv.weight.copy_(weight)
        self.conv.bias = nn.Parameter(bias)
        self.norm = None


class ConvLayer(nn.Module):
    """One convolution of the tables: a unit, or in (2+1)D a spatial unit and a temporal one.

    A causal layer over time takes the frames before the piece from the piece's past, under the name ``key``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: Style,
        *,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        norm: bool = True,
        activation: bool = True,
        key: str = "",
    ) -> None:
        super().__init__()
        self.earlier_frames = kernel[0] - 1 if style.causal else 0
        self.key = key
        length, *sides = kernel
        time_padding = 0 if style.causal else length // 2
        if not style.tf_like and padding is None:
            padding = sides[0] // 2
        act = style.activation if activation else None
        split = style.two_plus_one and length > 1
        conv = Convolution(
            in_channels,
            out_channels,
            (1, *sides) if split else kernel,
            stride=stride,
            groups=groups,
            padding=padding,
            time_padding=0 if split else time_padding,
            flat=style.two_plus_one,
            bias=not norm,
        )
        self.conv_1 = Unit(conv, norm, act)
        self.conv_2 = None
        if split:
            over_time = Convolution(
                out_channels, out_channels, (length, 1, 1), groups=groups, time_padding=time_padding, flat=True
            )
            self.conv_2 = Unit(over_time, norm, act)

    def forward(self, x: Tensor, piece: Piece | None = None) -> Tensor:
        if self.conv_2 is None:
            return self.conv_1(self._continued(x, piece))
        return self.conv_2(self._continued(self.conv_1(x), piece))

    def _continued(self, x: Tensor, piece: Piece | None) -> Tensor:
        return piece.with_earlier_frames(self.key, x) if self.earlier_frames else x


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean of the clip or, causal, from the running mean and each frame's own mean."""

    def __init__(self, channels: int, style: Style, key: str, positional_encoding: bool) -> None:
        super().__init__()
        hidden = _round_to_eight(channels / (2 if style.causal else 4))
        inputs = 2 * channels if style.causal else channels
        self.fc1 = ConvLayer(inputs, hidden, style, norm=False)
        self.fc2 = ConvLayer(hidden, channels, style, norm=False, activation=False)
        self.gate = style.gate
        self.key = key
        self.position_scale = nn.Parameter(torch.zeros(())) if positional_encoding else None

    def forward(self, x: Tensor, piece: Piece | None = None) -> Tensor:
        means = frame_vectors(x)
        if piece is None:
            squeezed = means.mean(1, keepdim=True)
        else:
            squeezed = torch.cat([piece.running_mean(self.key, means), means], dim=-1)
            if self.position_scale is not None:
                encoding = piece.position_encoding(squeezed.shape[-1], squeezed.dtype)
                squeezed = squeezed + self.position_scale * encoding
        return x * self.gate(self.fc2(self.fc1(_as_clip(squeezed))))


def _round_to_eight(width: float) -> int:
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class RunningPool(nn.Module):
    """Mean over space and over the stream up to each frame: [N, C, T, H, W] to [N, C, T, 1, 1]."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor, piece: Piece) -> Tensor:
        return _as_clip(piece.running_mean(self.key, frame_vectors(x)))


class ShortcutPool(nn.Module):
    """Average pool 1x3x3 with spatial stride 2; ``padding`` None is TensorFlow's "same", which leaves zeros out."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        # Pools of frames, along whichever axes merge without a copy: the 3-D pool is slow, and lacks bfloat16 on CPUs.
        if x.is_contiguous():
            return self.pool_images(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        return as_clips(self.pool_images(as_images(x)), x.shape[2])

    def pool_images(self, x: Tensor) -> Tensor:
        """Of [N, C, H, W]."""
        if self.padding is not None:
            return F.avg_pool2d(x, 3, 2, self.padding)
        # Even sides want one more pixel at the end only: that is what rounding the size up does.
        odd = [size % 2 for size in x.shape[-2:]]
        return F.avg_pool2d(x, 3, 2, odd, ceil_mode=True, count_include_pad=False)

    def extra_repr(self) -> str:
        return f"padding={'same' if self.padding is None else self.padding}"


class Block(nn.Module):
    """Expand, depthwise convolution, squeeze-excitation, project; scaled by ``alpha`` and added to the shortcut."""

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        style: Style,
        *,
        stride: int,
        padding: int | None,
        pool_padding: int,
        key: str,
        positional_encoding: bool,
    ) -> None:
        super().__init__()
        self.expand = ConvLayer(in_channels, expanded, style)
        self.deep = ConvLayer(
            expanded,
            expanded,
            style,
            kernel=kernel,
            stride=stride,
            padding=None if style.tf_like else padding,
            groups=expanded,
            key=f"{key}.deep",
        )
        self.se = SqueezeExcitation(expanded, style, f"{key}.se", positional_encoding)
        self.project = ConvLayer(expanded, out_channels, style, activation=False)
        self.res = None
        if stride > 1 or in_channels != out_channels:
            pool = [ShortcutPool(None if style.tf_like else pool_padding)] if stride > 1 else []
            self.res = nn.Sequential(*pool, ConvLayer(in_channels, out_channels, style, activation=False))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, piece: Piece | None = None) -> Tensor:
        branch = self.project(self.se(self.deep(self.expand(x), piece), piece))
        shortcut = x if self.res is None else self.res(x)
        alpha = self.alpha.to(branch.dtype)
        if not torch.is_grad_enabled():
            return (branch * alpha).add_(shortcut)  # addcmul is slow with a scalar, and saves only what is kept
        return torch.addcmul(shortcut, branch, alpha)
