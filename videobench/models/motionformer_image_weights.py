"""Weights of image ViTs for Motionformer, and its position table for other grids."""

from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from videobench.models.layers import VideoModel


def resize_grid(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Square position table [1, side * side, C] to [1, rows * columns, C], bicubic with half-pixel centres."""
    side = isqrt(grid.shape[1])
    if (rows, columns) == (side, side):
        return grid
    image = grid.transpose(1, 2).unflatten(2, (side, side))
    return interpolate(image, size=(rows, columns), mode="bicubic").flatten(2).transpose(1, 2)


def inflate_image_weights(state: dict[str, Tensor], model: VideoModel) -> dict[str, Tensor]:
    """An image ViT's weights as weights of ``model``: all that fits, in the names and shapes of its state dict.

    The 2D patch kernel becomes the middle frame (number ``tube // 2``) of a 3D kernel that is zero elsewhere, so that a
    tube starts as that frame's patch. ``st_embed`` is the position table repeated over time. A table of another grid
    is resized; one that is no square behind one class token is left out. What an image network has no weights for
    stays as it is in ``model``: ``proj_q``, ``proj_kv``, ``timeattn``, ``norm3``, ``temp_embed``, ``pre_logits``, and
    classifiers of another size.

    Args:
        state: state dict in timm's names (``vit_base_patch16_224``, ``vit_large_patch16_224``).
        model: the Motionformer the weights are meant for; it is not changed.

    Raises:
        ValueError: when ``state`` is no ViT with the patch size and width of ``model``.
    """
    wanted = model.state_dict()
    kernel, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    kernel_shape = wanted["patch_embed.proj.weight"].shape
    if kernel is None or positions is None or kernel.shape != kernel_shape:
        found = "none" if kernel is None else list(kernel.shape)
        raise ValueError(
            "the network takes weights of an image ViT with pos_embed and a patch_embed.proj.weight of "
            f"{list(kernel_shape)}, got {found}"
        )
    side = isqrt(wanted["pos_embed"].shape[1] - 1)
    class_token, grid = positions.split([1, positions.shape[1] - 1], dim=1)
    if grid.shape[1] == isqrt(grid.shape[1]) ** 2:
        grid = resize_grid(grid, side, side)
    tube = kernel.new_zeros(wanted["patch_embed_3d.proj.weight"].shape)
    tube[:, :, model.tube // 2] = kernel
    inflated = state | {
        "pos_embed": torch.cat((class_token, grid), dim=1),
        "st_embed": torch.cat((class_token, grid.repeat(1, model.temporal_resolution, 1)), dim=1),
        "patch_embed_3d.proj.weight": tube,
    }
    if (bias := state.get("patch_embed.proj.bias")) is not None:
        inflated["patch_embed_3d.proj.bias"] = bias.clone()
    return {name: value for name, value in inflated.items() if name in wanted and value.shape == wanted[name].shape}
