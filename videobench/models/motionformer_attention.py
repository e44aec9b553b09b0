"""The three ways in which Motionformer's tokens attend to each other (Patrick et al., NeurIPS 2021).

Tokens are [N, 1 + S, C]: a class token, then S = F * P patches in the order frame, row, column. Queries, keys and
values are [N, heads, tokens, head channels], here called D for the channels of one head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint


class SpaceTimeAttention(nn.Module):
    """What the three share: one projection to queries, keys and values, and one of the result.

    Args:
        dim: channels of the tokens (C).
        num_heads: attention heads; ``dim`` is a multiple of it.
        frames: time positions of the patches (F).
        qkv_bias: biases in the query, key and value projections.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the result.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        frames: int,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.frames = frames
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [N, 1 + F * P, C] to the same shape."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj_drop(self.proj(self.attend(q, k, v)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values [N, heads, 1 + F * P, D] to mixed values with merged heads, [N, 1 + F * P, C]."""
        raise NotImplementedError(f"{type(self).__name__} has no attend")

    def weigh(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention [N, heads, tokens, D] with dropout; heads are merged to [N, tokens, C]."""
        drop = self.attn_drop if self.training else 0.0
        return _merge_heads(scaled_dot_product_attention(q, k, v, dropout_p=drop))


class JointAttention(SpaceTimeAttention):
    """Every token attends to every token."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.weigh(q, k, v)


class DividedAttention(SpaceTimeAttention):
    """A patch attends to the class token and to its group; the class token attends to everything.

    With ``axis`` ``"time"`` the group is the same place in every frame, with ``"space"`` it is the patch's own frame.
    """

    def __init__(self, *args, axis: str, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.axis = axis

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, class_and_patches = q.shape[0], [1, q.shape[2] - 1]
        class_q, patch_q = q.split(class_and_patches, dim=2)
        query = self._grouped(patch_q)
        key, value = (self._grouped(*x.split(class_and_patches, dim=2)[::-1]) for x in (k, v))
        groups = patch_q.shape[2] // query.shape[2]
        patches = self.weigh(query, key, value).unflatten(0, (batch, groups))
        if self.axis == "time":
            patches = patches.transpose(1, 2)
        return torch.cat((self.weigh(class_q, k, v), patches.flatten(1, 2)), dim=1)

    def _grouped(self, patches: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Patches [N, heads, F * P, D] to [N * groups, heads, group size, D], behind the class token if given."""
        x = patches.transpose(1, 2).unflatten(1, (self.frames, -1))
        if self.axis == "time":
            x = x.transpose(1, 2)
        if class_token is not None:
            shared = class_token.transpose(1, 2).unsqueeze(1).expand(-1, x.shape[1], -1, -1, -1)
            x = torch.cat((shared, x), dim=2)
        return x.flatten(0, 1).transpose(1, 2)


class TrajectoryAttention(SpaceTimeAttention):
    """Attention along the probabilistic path of every patch through the frames (equations 3 to 6 of the paper).

    First every patch looks for itself in each frame: a softmax over that frame's patches gives F trajectory tokens per
    patch. Then it attends over its own F trajectory tokens. The class token attends to all tokens as usual and takes
    no part in either step; patches never see it.

    The second step needs keys and values that are linear maps of the trajectory tokens y[s, f]. They are never formed:
    q . (W y + b) is (W^T q) . y plus the same number for every frame, and the weighted sum of W y + b is W (sum of y)
    + b, because the weights of a softmax add up to one. That is S*C*C multiply-adds for each map instead of S*F*C*C.

    Args:
        project_values: sum the projected values, as the paper says. The published code, and so the published weights,
            sum the trajectory tokens themselves (False): the value half of ``proj_kv`` then has no effect.
    """

    def __init__(self, dim: int, *args, qkv_bias: bool = True, project_values: bool = False, **kwargs) -> None:
        super().__init__(dim, *args, qkv_bias=qkv_bias, **kwargs)
        self.project_values = project_values
        self.scale = (dim // self.num_heads) ** -0.5
        self.proj_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj_kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        if qkv_bias and not project_values:
            # A key bias drops out of the softmax, so here nothing can be learned; distributed training wants to know.
            self.proj_kv.bias.requires_grad_(False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        class_and_patches = [1, q.shape[2] - 1]
        (class_q, patch_q), (_, patch_k), (_, patch_v) = (x.split(class_and_patches, dim=2) for x in (q, k, v))
        queries, *keys_and_values = (x.unflatten(2, (self.frames, -1)) for x in (patch_q, patch_k, patch_v))
        by_frame = list(zip(*(x.unbind(2) for x in keys_and_values), strict=True))
        done = [_merge_heads(scaled_dot_product_attention(class_q, k, v))]
        together = _frames_together(q.device, self.frames)
        for group, some in enumerate(queries.split(together, dim=2)):
            frames = range(group * together, group * together + some.shape[2])
            trajectories = [self.weigh(some.flatten(2, 3), *frame) for frame in by_frame]
            # The second step is cheap to do again, and what its backward pass would need is larger than all the rest.
            done.append(
                checkpoint(self.along_time, trajectories, frames, use_reentrant=False, preserve_rng_state=False)
                if torch.is_grad_enabled()
                else self.along_time(trajectories, frames)
            )
        return torch.cat(done, dim=1)

    def along_time(self, trajectories: Sequence[Tensor], frames: range) -> Tensor:
        """Second step for the patches of some ``frames``: their tokens of each of F frames, [N, S, C], to [N, S, C]."""
        places = trajectories[0].shape[1] // len(frames)
        # What a patch found in its own frame asks the question.
        found = [trajectories[frame].split(places, dim=1)[index] for index, frame in enumerate(frames)]
        own = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        dim = own.shape[2]
        query = self.proj_q(own).flatten(0, 1) * self.scale
        key_map, value_map = self.proj_kv.weight.unflatten(0, (2, self.num_heads, -1)).unbind(0)  # [heads, D, C] each

        y = torch.stack(trajectories, dim=2).flatten(0, 1)  # [N * S, F, C]
        folded = query.unflatten(-1, (self.num_heads, -1)).transpose(0, 1) @ key_map
        weights = (folded.transpose(0, 1) @ y.transpose(1, 2)).softmax(dim=-1)  # [N * S, heads, F]
        if self.project_values:
            summed = (weights @ y).transpose(0, 1) @ value_map.transpose(1, 2)
            out = summed.transpose(0, 1).flatten(1)
            if self.proj_kv.bias is not None:
                out = out + self.proj_kv.bias[dim:]
        else:
            weights = weights.transpose(1, 2).unsqueeze(-1).to(y.dtype)
            out = (weights * y.unflatten(-1, (self.num_heads, -1))).sum(dim=1).flatten(1)
        return out.view(own.shape)


# PyTorch 2.6 does not tell export and compilation apart.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _frames_together(device: torch.device, frames: int) -> int:
    if _exporting() or torch.jit.is_tracing():
        return frames  # unrolled, the graph would keep ONNX's optimizer busy for hours
    # The trajectories of one frame's patches stay in a CPU's caches; GPUs want few and large kernels.
    return 1 if device.type == "cpu" else -(-frames // 2)
