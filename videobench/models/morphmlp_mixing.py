"""The mixing layers of MorphMLP: linear layers over chunks of tokens, channels and frames (Zhang et al., ECCV 2022).

The weights of the branches depend on the mean of their sum over all tokens. As the branches are linear, that is the sum
of the branches of the mean chunk, and is known before the branches themselves: no second pass over them is needed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videobench.models.linear import Linear, Mlp

# Tokens that are mixed at a time where no gradient is wanted, for each thread: what they become stays in the caches.
PIECE = 2048


def _tile(height: int, width: int, length: int) -> tuple[int, int] | None:
    """Rows and columns of the rectangle that ``length`` tokens in reading order fill, None when they fill none."""
    if width % length == 0:
        return 1, length
    if length % width == 0 and height % (length // width) == 0:
        return length // width, width
    return None


def _to_chunks(x: Tensor, length: int) -> Tensor:
    """Cut maps [N, H, W, C] in reading order into chunks of ``length`` tokens, and channels into ``length`` groups.

    Returns [N, H * W / length, length, C]: chunk, group, and in the last axis the group's C / length channels of the
    chunk's tokens one after another.
    """
    maps, height, width, dim = x.shape
    tile = _tile(height, width, length)
    if tile is None:  # a chunk that ends within a row after beginning in another: read the map as one long row
        return _to_chunks(x.reshape(maps, 1, height * width, dim), length)
    rows, columns = tile
    x = x.unflatten(3, (length, -1)).unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(maps, height * width // length, length, dim)


def _from_chunks(chunks: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`_to_chunks`: maps [N, height, width, C]."""
    maps, _, length, dim = chunks.shape
    tile = _tile(height, width, length)
    if tile is None:
        return _from_chunks(chunks, 1, height * width).view(maps, height, width, dim)
    rows, columns = tile
    tokens = chunks.view(maps, height // rows, width // columns, length, rows, columns, dim // length)
    return tokens.permute(0, 1, 4, 2, 5, 3, 6).reshape(maps, height, width, dim)


def _mean_of_branch(layer: Linear, maps: Tensor, length: int) -> Tensor:
    """Mean over all tokens [N, C] of a chunk layer's results for maps [N, H, W, C]."""
    weight, bias = (None if p is None else p.unflatten(0, (length, -1)).mean(0) for p in (layer.weight, layer.bias))
    return F.linear(_to_chunks(maps, length).mean(1), weight, bias).flatten(1)


def _branch_shares(scores: Tensor, branches: int) -> tuple[Tensor, ...]:
    """Softmax over the branches of scores [N, C * branches], branch index fastest: one [N, C] per branch."""
    shares = scores.unflatten(1, (-1, branches)).softmax(-1)
    return shares.to(scores.dtype).unbind(-1)  # autocast's float32 softmax would widen every token it multiplies


class _ChunkMixing(nn.Module):
    """Branches over the same frames, added up with weights that each clip and channel has of its own.

    A subclass adds ``reweight``, ``proj`` and the layers of its branches, in the published order.
    """

    length: int
    branches: int

    def forward(self, x: Tensor) -> Tensor:
        """Mix clips [B, T, H, W, C]."""
        time, height, width = x.shape[1:4]
        shares = _branch_shares(self.reweight(self._mean(x.mean(1))), self.branches)
        shares = [share.repeat_interleave(time, 0)[:, None, None] for share in shares]
        frames = x.flatten(0, 1)
        parts = [(frames, *shares)]
        # Compilers and tracers would make the number of parts, and so that of clips, a constant.
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            size = max(PIECE * torch.get_num_threads() // (height * width), 1)
            parts = zip(frames.split(size), *(share.split(size) for share in shares), strict=True)
        mixed = [self.proj(self._weighted_sum(*part)) for part in parts]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).view(x.shape)

    def _mean(self, maps: Tensor) -> Tensor:
        """Mean over all tokens of the sum of the branches [B, C], of maps [B, H, W, C] that are means over frames."""
        raise NotImplementedError

    def _weighted_sum(self, frames: Tensor, *shares: Tensor) -> Tensor:
        """Sum of the branches of frames [N, H, W, C], weighted by their shares [N, 1, 1, C]."""
        raise NotImplementedError


class SpatialMixing(_ChunkMixing):
    """MorphFC_s of stages 1 to 3: chunks along columns, chunks along rows, and channels.

    Args:
        dim: channels, a multiple of ``length``.
        length: tokens per chunk.
        bias: bias of the mixing layers.
    """

    branches = 3

    def __init__(self, dim: int, length: int, bias: bool = True) -> None:
        super().__init__()
        self.length = length
        self.mlp_h = Linear(dim, dim, bias=bias)
        self.mlp_w = Linear(dim, dim, bias=bias)
        self.mlp_c = Linear(dim, dim, bias=bias)
        self.reweight = Mlp(dim, dim // 4, 3 * dim)
        self.proj = Linear(dim, dim)

    def _mean(self, maps: Tensor) -> Tensor:
        columns = _mean_of_branch(self.mlp_h, maps.transpose(1, 2), self.length)
        rows = _mean_of_branch(self.mlp_w, maps, self.length)
        return columns + rows + F.linear(maps.mean((1, 2)), self.mlp_c.weight, self.mlp_c.bias)

    def _weighted_sum(self, frames: Tensor, share_h: Tensor, share_w: Tensor, share_c: Tensor) -> Tensor:
        height, width = frames.shape[1:3]
        mixed = self.mlp_c(frames) * share_c
        rows = self.mlp_w(_to_chunks(frames, self.length))
        mixed = torch.addcmul(mixed, _from_chunks(rows, height, width), share_w)
        columns = self.mlp_h(_to_chunks(frames.transpose(1, 2), self.length))
        return torch.addcmul(mixed, _from_chunks(columns, width, height).transpose(1, 2), share_h)


class GlobalMixing(_ChunkMixing):
    """MorphFC_s of stage 4: chunks of tokens H * W / length apart (all tokens, at the published size), and channels.

    Arguments as for :class:`SpatialMixing`.
    """

    branches = 2

    def __init__(self, dim: int, length: int, bias: bool = True) -> None:
        super().__init__()
        self.length = length
        self.mlp_c = Linear(dim, dim, bias=bias)
        self.mlp_h = Linear(dim, dim, bias=bias)
        self.reweight = Mlp(dim, dim // 4, 2 * dim)
        self.proj = Linear(dim, dim)

    def _mean(self, maps: Tensor) -> Tensor:
        tokens = _mean_of_branch(self.mlp_h, self._strided(maps), self.length)
        return tokens + F.linear(maps.mean((1, 2)), self.mlp_c.weight, self.mlp_c.bias)

    def _weighted_sum(self, frames: Tensor, share_h: Tensor, share_c: Tensor) -> Tensor:
        strided = self._strided(frames)
        tokens = _from_chunks(self.mlp_h(_to_chunks(strided, self.length)), *strided.shape[1:3])
        return torch.addcmul(self.mlp_c(frames) * share_c, tokens.transpose(1, 2).reshape(frames.shape), share_h)

    def _strided(self, maps: Tensor) -> Tensor:
        """Tokens that share a chunk as the rows of maps."""
        return maps.flatten(1, 2).unflatten(1, (self.length, -1)).transpose(1, 2)


class TemporalMixing(nn.Module):
    """MorphFC_t: a linear layer over all frames of each location and channel group.

    Args:
        dim: channels, a multiple of ``groups``.
        time: frames of the tokens, fixed by the layer's width ``time * dim / groups``.
        groups: groups of neighbouring channels that share the layer.
        bias: bias of the mixing layer.
    """

    def __init__(self, dim: int, time: int, groups: int, bias: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.mlp_t = Linear(time * dim // groups, time * dim // groups, bias=bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix clips [B, T, H, W, C]."""
        time = x.shape[1]
        lines = x.unflatten(4, (self.groups, -1)).permute(0, 2, 3, 4, 1, 5).flatten(4)
        lines = self.mlp_t(lines).unflatten(4, (time, -1))
        return self.proj(lines.permute(0, 4, 1, 2, 3, 5).flatten(4))
