"""Decoding with torchcodec, held to the same frames as PyAV: what it cannot do exactly is refused, with the reason."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videobench.config import ConfigError
from videobench.datasets.containers import VideoError
from videobench.datasets.decoding import Video
from videobench.datasets.packets import KEY, MARKED
from videobench.datasets.pictures import Take

_INSTEAD = "use DATA.DECODING_BACKEND pyav"


def load_decoder() -> type:
    """torchcodec's decoder.

    Raises:
        ConfigError: when it is not installed, or finds no FFmpeg.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ConfigError(
            f"DATA.DECODING_BACKEND is torchcodec, which is not installed ({error}): "
            "pip install 'videobench[torchcodec]'"
        ) from error
    except (RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"DATA.DECODING_BACKEND is torchcodec, which does not load here ({first}); it needs the shared libraries "
            f"of FFmpeg and a matching PyTorch. Or {_INSTEAD}"
        ) from error
    return VideoDecoder


class TorchcodecVideo(Video):
    """An open video whose frames torchcodec decodes, in one thread and with exact seeking.

    Facts about the file come from its packets, as for PyAV. Every file's first key frame in use is decoded both ways:
    other colours, orientations or frames are noticed.
    """

    def decode(self, indices: Sequence[int]) -> Tensor:
        """The frames with the given numbers, as `Video.decode`.

        Raises:
            VideoError: when not all of these frames can be had, or torchcodec does not give them exactly.
        """
        index = self.index
        if not index.timed:
            raise self._refusal("the frames of this kind of file have to be counted")
        if (index.kind & (KEY | MARKED) == MARKED).any():
            raise self._refusal("the file marks frames as key frames that are none")
        asked = list(map(int, indices))
        if not asked or not all(0 <= i < index.frames for i in asked):
            return super().decode(asked)
        earlier = index.key_frames[index.key_frames <= min(asked)]
        first = int(earlier[-1]) if len(earlier) else 0
        plain = super().decode([first])
        if not self.index.timed:
            raise self._refusal("its packets announce other frames than there are")
        try:
            decoder = load_decoder()(
                self._source,
                stream_index=self._stream.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="exact",
            )
            if len(decoder) != index.frames:
                raise self._refusal(f"it finds {len(decoder)} frames, and there are {index.frames}")
            frames = decoder.get_frames_at([first, *asked])
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._refusal(str(error).strip().splitlines()[0]) from error
        times = index.pts[index.order[[first, *asked]]] * float(self._stream.time_base)
        if np.abs(frames.pts_seconds.numpy() - times).max() > float(self._stream.time_base) / 2:
            raise self._refusal("it gives frames of other times")
        if frames.data.shape[1:] != plain.shape[1:] or not torch.equal(frames.data[0], plain[0]):
            raise self._refusal("its pictures have other colours or another orientation")
        return frames.data[1:]

    def decode_parts(self, indices: Sequence[int], take: Take) -> None:
        """As `Video.decode_parts`, but with all frames in memory at once."""
        take(list(range(len(indices))), self.decode(indices))

    def _refusal(self, reason: str) -> VideoError:
        return VideoError(self.path, f"torchcodec does not decode it exactly: {reason}; {_INSTEAD}")
