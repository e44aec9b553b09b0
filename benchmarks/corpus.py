"""Videos to measure with: made ones, real ones, and both as `tools/prepare_data.py resize` leaves them."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videobench.datasets.containers import VideoError
from videobench.datasets.decoding import probe
from videobench.datasets.preparation.encoding import Encoding, Job, encode


def moving_pictures(seed: int, frames: int = 300, width: int = 340, height: int = 256) -> np.ndarray:
    """Textured patches in front of each other that turn, drift and come closer: uint8 [frames, height, width, 3].

    Encoded, ten seconds are as large as a Kinetics clip of this size, 600 to 700 kB.
    """
    rng = np.random.default_rng(seed)
    layers = []
    for cells in (8, 7, 9):
        texture = F.interpolate(_noise(rng, 4, cells), (256, 256), mode="bicubic")
        grain = F.interpolate(_noise(rng, 1, 128), (256, 256), mode="bilinear")
        texture[:, :3] = 118 + 30 * texture[:, :3] + 10 * grain
        layers.append((texture, rng.uniform(-1, 1, 6).tolist()))
    pictures = np.empty((frames, height, width, 3), np.uint8)
    for i in range(frames):
        picture, moment = torch.zeros(1), i / 75
        for texture, (turn, sway, pace, phase, x, y) in layers:
            angle = turn * moment + 0.5 * math.sin(2 * sway * moment)
            zoom = math.exp(0.3 * math.sin(1.5 * pace * moment + phase))
            across, along = zoom * math.cos(angle), zoom * math.sin(angle)
            where = [[across, -along, math.sin(2 * x * moment)], [along, across, math.sin(2 * y * moment)]]
            grid = F.affine_grid(torch.tensor([where]), [1, 4, height, width], align_corners=False)
            patch = F.grid_sample(texture, grid, padding_mode="reflection", align_corners=False)[0]
            cover = (patch[3:] * 8 - 5).clamp(0, 1) if picture.numel() > 1 else 1.0
            picture = picture + (patch[:3] - picture) * cover
        noise = rng.standard_normal((height, width, 1), np.float32) * 4
        pictures[i] = (picture.permute(1, 2, 0).numpy() + noise).clip(0, 255)
    return pictures


def _noise(rng: np.random.Generator, channels: int, cells: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((1, channels, cells, cells), np.float32))


def write_original(path: Path, seed: int) -> None:
    """A clip as downloads come: 30 frames per second, key frames where x264 puts them by itself."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"threads": "1"})
        pictures = moving_pictures(seed)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def real_videos(folder: Path, side: int = 224) -> list[Path]:
    """Sound H.264 files of a folder that hold a clip and a crop of ``side`` pixels, the smallest first."""
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_size):
        if path.suffix in (".mp4", ".mkv", ".mov"):
            try:
                info = probe(path)
            except VideoError as error:
                print(f"left out: {error}")
                continue
            if info.codec == "h264" and not info.damage and min(info.width, info.height) >= side and info.duration > 3:
                found.append(path)
    return found


def prepared(path: Path, folder: Path, fast_decode: bool) -> Path:
    """The file as `resize` leaves it."""
    target = folder / path.with_suffix(".mp4").name
    result = encode(Job(str(path), str(target), Encoding(fast_decode=fast_decode)), lambda: None)
    if result.cause:
        raise SystemExit(f"{path}: {result.cause}")
    return target
