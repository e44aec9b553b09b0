"""The embedded data set: short H.264 videos of a textured object whose motion is the class.

Position, size and angle of the object have the same distribution in every frame of every class (position lives on a
torus: what leaves on one side enters on the other; the size runs in a cycle: an object that has come closest starts
again far away), so no single frame, and no frame at a known time, says anything about the class. Only time does.
"""

import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from videobench.config import ConfigError

CLASSES = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "approaching",
    "receding",
    "turning clockwise",
    "turning counter-clockwise",
)
SPLITS = {"train": 400, "val": 120}
SEED = 2024
FRAMES = 60
FPS = 25
SIZE = 96
# Object radius in pixels, smallest and largest.
RADII = (18.0, 44.0)
_FORMAT = 4


def write_demo_dataset(
    folder: str | Path,
    *,
    splits: dict[str, int] | None = None,
    seed: int = SEED,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write videos, list files (train.csv, val.csv, test.csv: ``path label``) and classes.txt into ``folder``.

    Args:
        folder: where to write; created when missing.
        splits: number of videos per split; classes take turns.
        seed: the same seed gives the same videos.
        workers: processes that render; None means one per core.
        progress: called with (videos written, videos in all).

    Returns:
        False when the folder already holds this data set, complete; nothing is written then.

    Raises:
        ConfigError: for a folder with lists of something else.
    """
    folder = Path(folder)
    splits = SPLITS if splits is None else splits
    description = {"format": _FORMAT, "seed": seed, "splits": splits}
    stamp = folder / "demo.json"
    jobs = [(split, index) for split, count in splits.items() for index in range(count)]
    lists = {"classes.txt": "".join(f"{name}\n" for name in CLASSES)}
    for split, count in splits.items():
        lists[f"{split}.csv"] = "".join(f"{_video_name(split, i)} {i % len(CLASSES)}\n" for i in range(count))
    if "val" in splits:
        lists["test.csv"] = lists["val.csv"]
    complete = all((folder / name).exists() for name in [*lists, *(_video_name(*job) for job in jobs)])
    if complete and stamp.exists() and stamp.read_text() == json.dumps(description):
        return False
    for name, text in () if stamp.exists() else lists.items():
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode():
            raise ConfigError(f"{folder / name} is not of the demo data set and would be lost; name another folder")
    # Gone while files are missing: the data set counts as complete only once everything is there.
    stamp.unlink(missing_ok=True)
    for split in splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
    write = partial(_write_job, folder, seed)
    with ProcessPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(write, jobs, chunksize=4), start=1):
            if progress:
                progress(done, len(jobs))
    for name, text in lists.items():
        (folder / name).write_text(text)
    stamp.write_text(json.dumps(description))
    return True


def render_clip(label: int, rng: np.random.Generator) -> np.ndarray:
    """Frames of one video of a class: uint8 [FRAMES, SIZE, SIZE, 3]."""
    time = np.arange(FRAMES) / 40  # in units of 1.6 seconds
    # Where the object is on its torus, how far through its size cycle, and its angle: uniform at every moment.
    x, y, zoom, angle = rng.random(4)[:, None] + np.zeros(FRAMES)
    sway = 0.03 * np.sin(2 * math.pi * (time * rng.uniform(0.5, 2.0, (2, 1)) + rng.random((2, 1))))
    speed = rng.uniform(0.7, 1.1) * time
    x, y = x + sway[0], y + sway[1]
    name = CLASSES[label]
    if name in ("moving left", "moving right"):
        x = x + (speed if name == "moving right" else -speed)
    elif name in ("moving up", "moving down"):
        y = y + (speed if name == "moving down" else -speed)
    elif name in ("approaching", "receding"):
        zoom = zoom + 0.8 * (speed if name == "approaching" else -speed)
    else:
        angle = angle + 0.9 * (speed if name == "turning clockwise" else -speed)
    radius = RADII[0] * (RADII[1] / RADII[0]) ** (zoom % 1.0)

    # The object is lighter or darker than the background, with a tint of its own, and longer than wide.
    sign = -1.0 if rng.random() < 0.5 else 1.0
    background = np.clip(0.5 - sign * 0.15 + _texture(rng, SIZE * 2, cells=14, contrast=0.3), 0, 1)
    texture = np.clip(0.5 + sign * 0.25 + _texture(rng, 64, cells=5, contrast=0.5), 0, 1)
    lobes, depth, phase = int(rng.integers(2, 4)), rng.uniform(0.2, 0.3), rng.random()
    drift = rng.uniform(-0.15, 0.15, 2) * SIZE
    start = rng.uniform(0, SIZE, 2)
    noise = rng.uniform(0.0, 0.04)

    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    # Python numbers: a NumPy float64 scalar would turn every float32 image below into float64.
    moments = zip(*(values.tolist() for values in (time, x % 1.0, y % 1.0, radius, angle)), strict=True)
    for i, (moment, centre_x, centre_y, size, turns) in enumerate(moments):
        columns, rows = (start + drift * moment)[:, None].astype(np.float32) + grid
        frame = _sample(background, columns[None, :], rows[:, None])
        # Offsets from the object's centre on the torus, in [-SIZE/2, SIZE/2).
        dx = (grid[None, :] - centre_x * SIZE + SIZE / 2) % SIZE - SIZE / 2
        dy = (grid[:, None] - centre_y * SIZE + SIZE / 2) % SIZE - SIZE / 2
        cosine, sine = math.cos(2 * math.pi * turns) / size, math.sin(2 * math.pi * turns) / size
        u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
        distance = np.hypot(u, v)
        inside = distance < 1 + 1 / size  # the outline lies within radius 1; outside is background alone
        u, v, distance = u[inside], v[inside], distance[inside]
        outline = 1.0 - depth * (1 + np.cos(lobes * np.arctan2(v, u) + 2 * math.pi * phase))
        cover = np.clip((outline - distance) * size + 0.5, 0, 1)[:, None]
        frame[inside] += (_sample(texture, (u + 1) * 32, (v + 1) * 32) - frame[inside]) * cover
        frame += noise * rng.standard_normal(frame.shape, dtype=np.float32)
        frames[i] = np.clip(frame * 255 + 0.5, 0, 255)
    return frames


def _texture(rng: np.random.Generator, size: int, cells: int, contrast: float) -> np.ndarray:
    """Smooth random light and shade with a tint, around zero, repeating at the edges: float32 [size, size, 3]."""
    coarse = rng.uniform(-0.5, 0.5, (cells, cells, 1)) + rng.uniform(-0.15, 0.15, (cells, cells, 3))
    coarse = (coarse * contrast + rng.uniform(-0.12, 0.12, 3)).astype(np.float32)
    steps = np.arange(size) * cells / size
    return _sample(coarse, steps[None, :], steps[:, None])


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear look-up with wrap-around."""
    height, width = image.shape[:2]
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    fx, fy = (x - x0).astype(np.float32)[..., None], (y - y0).astype(np.float32)[..., None]
    x0, y0, x1, y1 = x0 % width, y0 % height, (x0 + 1) % width, (y0 + 1) % height
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def encode_h264(path: str | Path, frames: np.ndarray, fps: int = FPS) -> None:
    """Write uint8 frames [T, H, W, 3] as an H.264 mp4 file."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # The same frames give the same bytes: one thread, and no macroblock tree, which is not repeatable with AVX-512.
        params = "keyint=16:mbtree=0"
        stream.options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": params}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _video_name(split: str, index: int) -> str:
    return f"{split}/{index:04d}.mp4"


def _write_job(folder: Path, seed: int, job: tuple[str, int]) -> None:
    split, index = job
    rng = np.random.default_rng([seed, sorted(SPLITS).index(split) if split in SPLITS else 99, index])
    encode_h264(folder / _video_name(split, index), render_clip(index % len(CLASSES), rng))
