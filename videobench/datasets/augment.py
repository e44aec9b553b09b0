"""Whole batches of clips on the device: from uint8 frames to what the network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(clips: Tensor, mean: Sequence[float], std: Sequence[float], *, reverse_channels: bool = False) -> Tensor:
    """Uint8 clips [N, T, C, H, W] as float32 network input [N, C, T, H, W]: ``(x / 255 - mean) / std`` per channel.

    Args:
        clips: RGB frames.
        mean: per channel, in the range [0, 1], in the order of the frames' channels.
        std: divisor per channel.
        reverse_channels: hand the channels over in BGR order; this happens last, so mean and std stay in RGB order.
    """
    clips = clips.transpose(1, 2)
    shape = (1, -1, 1, 1, 1)
    scale = (1.0 / (255.0 * torch.tensor(std, dtype=torch.float32))).to(clips.device).view(shape)
    shift = (torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)).to(clips.device)
    clips = torch.addcmul(-shift.view(shape), clips.float(), scale)
    return clips.flip(1) if reverse_channels else clips
