"""Videos that somebody names, instead of a list: files, bytes, frames in memory."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.config.checks import PICTURES
from videobench.datasets.annotations import READERS
from videobench.datasets.containers import VideoError, name_of
from videobench.datasets.decoding import Video
from videobench.datasets.packets import counted_index
from videobench.datasets.picture_files import PictureFiles
from videobench.datasets.preparation.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from videobench.datasets.preparation.files import find_files as files_below
from videobench.datasets.records import Frames

#: A path, a file's content, or frames: uint8 RGB [T, H, W, 3].
Source = str | Path | bytes | np.ndarray | Tensor

# What the readers of the data sets set in their records: sampling rule and margin around a single crop.
_RECORDS = {
    "sth": ("segments_sth", False),
    "hmdb": ("native", False),
    "ssv2": ("segments_ssv2", False),
    "epickitchens": ("epic", False),
    "imagenet": ("native", True),
    "image_folder": ("native", True),
}


class HeldFrames:
    """Frames in memory with the face of an open video.

    Args:
        frames: uint8 RGB [T, H, W, 3].
        fps: their rate.

    Raises:
        ValueError: for anything else.
    """

    path = "<frames>"

    def __init__(self, frames: np.ndarray | Tensor, fps: float) -> None:
        # torch takes no turned arrays (negative strides), as BGR made RGB is.
        frames = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[3] != 3 or not frames.numel():
            raise ValueError(
                f"frames are uint8 RGB [T, H, W, 3], got {frames.dtype} {list(frames.shape)}; a normalised clip "
                "[N, C, T, H, W] goes to the network itself (Predictor.network.model)"
            )
        self._frames, self.fps = frames.cpu(), Fraction(fps).limit_denominator(1001)
        self.index = counted_index(len(frames), (), "")

    def __enter__(self) -> "HeldFrames":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self._frames)

    def decode(self, indices: Sequence[int]) -> Tensor:
        """See `decoding.Video.decode`."""
        return self._frames[list(indices)]


@dataclass(frozen=True)
class GivenVideos:
    """Sources with the face of `records.VideoList`, as test views read it.

    Attributes:
        sources: what was named.
        rule: the sampling rule of the data set that the network was trained on.
        crop_margin: see `records.VideoList`.
        pictures: whether the network takes single pictures.
        fps: rate of frames in memory.
    """

    sources: Sequence[Source]
    rule: str = "time"
    crop_margin: bool = True
    pictures: bool = False
    fps: float = field(default=30.0, kw_only=True)

    @classmethod
    def of(cls, cfg: CfgNode, sources: Sequence[Source], fps: float = 30.0) -> "GivenVideos":
        """Sources to be read as the videos of TEST.DATASET are."""
        name = cfg.TEST.DATASET.lower()
        if name not in READERS:
            raise ValueError(f"TEST.DATASET {cfg.TEST.DATASET} is unknown; known: {', '.join(READERS)}")
        rule, crop_margin = _RECORDS.get(name, ("time", True))
        return cls(sources, rule, crop_margin, name in PICTURES, fps=fps)

    def __len__(self) -> int:
        return len(self.sources)

    def path(self, index: int) -> str:
        """What a source is called."""
        source = self.sources[index]
        return name_of(source) if isinstance(source, (str, bytes, Path)) else HeldFrames.path

    def open(self, index: int) -> Frames:
        """A source, opened; use as a context manager.

        Raises:
            VideoError: for a file that is no video, or no picture where the network takes pictures.
        """
        source = self.sources[index]
        if not isinstance(source, (str, bytes, Path)):
            return HeldFrames(source, self.fps)
        if not self.pictures:
            return Video(source)
        return PictureFiles(
            name_of(source), lambda _: io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source), 1
        )


def find_files(names: Sequence[str], pictures: bool = False) -> list[str]:
    """The files that paths, folders and shell patterns name, in the order of their names.

    A folder stands for all videos (by their suffix) in it and below.

    Args:
        names: what was named; a file keeps its name whatever its suffix.
        pictures: look for pictures in folders instead.

    Raises:
        VideoError: for a folder or a pattern without any.
    """
    suffixes = IMAGE_SUFFIXES if pictures else VIDEO_SUFFIXES
    found: list[str] = []
    for name in names:
        path = Path(name)
        if name and path.is_dir():  # an empty name is no folder, though its path is the current one
            files = [os.path.join(name, file) for file in files_below(path, suffixes)]
        elif any(sign in name for sign in "*?[") and not path.exists():
            pattern = path.relative_to(path.anchor) if path.is_absolute() else path
            files = [str(file) for file in Path(path.anchor or ".").glob(str(pattern)) if file.is_file()]
        else:
            files = [name]
        if not files:
            raise VideoError(name, "no videos in it" if path.is_dir() else "no file matches")
        found += sorted(files)
    return list(dict.fromkeys(found))
