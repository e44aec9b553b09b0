"""How the videos of a list are opened: with which library, and with the frames found before."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from videobench.config import CfgNode
from videobench.datasets.containers import VideoError, cause_of
from videobench.datasets.decoding import Video
from videobench.datasets.index_cache import IndexCache


@dataclass(frozen=True)
class VideoReader:
    """Opens the videos of a list.

    Attributes:
        backend: what opens a file: `Video`, or a class with its face.
        cache: where the frames of files are kept from run to run.
    """

    backend: type[Video] = Video
    cache: IndexCache | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, source: Path) -> "VideoReader":
        """What DATA.DECODING_BACKEND and DATA.INDEX_CACHE ask for.

        Args:
            source: the list file.

        Raises:
            ConfigError: for a library that is not there, and a place for the cache that cannot be written to.
        """
        backend = Video
        if cfg.DATA.DECODING_BACKEND == "torchcodec":
            from videobench.datasets.torchcodec_backend import TorchcodecVideo, load_decoder

            load_decoder()
            backend = TorchcodecVideo
        return cls(backend, IndexCache.from_config(cfg, source))

    def open(self, path: str) -> Video:
        """The video, opened; use as a context manager.

        Raises:
            VideoError: here and in every method of the video, for whatever is wrong with the file.
        """
        if self.cache is None:
            return self.backend(path)
        # The state before anything is read: a file that changes meanwhile will not fit its entry.
        status = _status(path)
        return self.backend(path, self.cache.get(path, status), partial(self.cache.put, path, status))


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except (OSError, ValueError) as error:
        raise VideoError(path, cause_of(error)) from error
