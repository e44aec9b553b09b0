"""Videos with what the network says, and where it looked, drawn over them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn import functional as F

from videobench.datasets.containers import VideoError, cause_of, name_of, open_video
from videobench.datasets.pictures import upright
from videobench.inference.given import GivenVideos, HeldFrames, Source
from videobench.inference.network import Network

if TYPE_CHECKING:
    from videobench.inference.predictor import Prediction, Predictor

# Smallest short side of the videos written here, so that letters can be read, and the longest side that this makes of
# narrow ones.
_SHORT_SIDE, _LONG_SIDE = 224, 4096
# The longest side that the encoder takes.
_ENCODED_SIDE = 16384


def check_target(target: str | Path, taken: Sequence[str | Path] = ()) -> None:
    """Look at where a video is to be written, before any work; folders to it are made.

    Args:
        target: the file.
        taken: files that it must not replace.

    Raises:
        ValueError: for a place where no file can be, and for one of those files.
    """
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written: {cause_of(error)}") from error
    if Path(target).is_dir():
        raise ValueError(f"{target}: is a folder; name a file to write")
    if os.path.realpath(target) in map(os.path.realpath, taken):
        raise ValueError(f"{target}: is read or written already; name another file to write")


class VideoWriter:
    """Writes uint8 RGB pictures [H, W, 3] as an H.264 mp4 file; use as a context manager.

    Args:
        path: the file.
        fps: pictures per second.
        fragments: what was written stays readable when the process is killed, but for the last two seconds; for
            recordings without an end.

    Raises:
        OSError: when the file cannot be written; so do the methods.
    """

    def __init__(self, path: str | Path, fps: Fraction | float, *, fragments: bool = False) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not os.path.exists(path) or os.path.isfile(path):
            # On a full disk: when not even a header can be written, PyAV brings the process down.
            with open(path, "wb") as file:
                file.write(bytes(4096))
            os.truncate(path, 0)
        options = {"movflags": "empty_moov+default_base_moof", "frag_duration": "2000000", "flush_packets": "1"}
        self._container = av.open(os.fspath(path), "w", format="mp4", container_options=options if fragments else {})
        self._fps = Fraction(fps).limit_denominator(1001)
        self._stream: VideoStream | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def write(self, picture: np.ndarray) -> None:
        """Append a picture; all have the size of the first one."""
        # H.264 in its common form wants even sides.
        picture = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._fps)
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"preset": "veryfast", "crf": "20"}
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


def labelled(picture: np.ndarray, lines: Sequence[tuple[str, float]]) -> np.ndarray:
    """A picture [H, W, 3] with names and probabilities in its top left corner; enlarged where it is small, and made
    smaller where it could not be encoded.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    scale = max(1.0, min(_SHORT_SIDE / min(image.size), _LONG_SIDE / max(image.size)))
    scale = min(scale, _ENCODED_SIDE / max(image.size))
    # The shape must not depend on the frame: encoders want one size, and two pixels at least.
    image = image.resize([max(2, round(side * scale)) for side in image.size])
    draw = ImageDraw.Draw(image, "RGBA")
    size = max(11, min(image.size) // 18)
    row, bar, margin = round(1.7 * size), max(2, size // 6), size // 3
    font = ImageFont.load_default(size)
    for number, (name, share) in enumerate(lines):
        y, text = number * row, f"{share:4.0%} {name}"
        draw.rectangle((0, y, draw.textlength(text, font=font) + 2 * margin, y + row - 1), (0, 0, 0, 150))
        draw.rectangle((0, y + row - bar, share * image.width, y + row - 1), (80, 200, 120, 255))
        draw.text((margin, y + (row - bar) / 2), text, (255, 255, 255, 255), font=font, anchor="lm")
    return np.asarray(image)


def write_labelled(
    path: str | Path, predictor: "Predictor", source: Source, prediction: "Prediction", top: int = 5
) -> None:
    """Write a video, or a picture as a video of one second, with its likeliest classes over it.

    Raises:
        VideoError: for a video with a damaged part; what comes before it is written.
    """
    lines = [line for head in prediction.probabilities for line in prediction.top(top, head)]
    frames, fps = _all_frames(GivenVideos.of(predictor.cfg, [source]))
    with VideoWriter(path, fps) as video:
        for picture in frames:
            video.write(labelled(picture, lines))


def _all_frames(videos: GivenVideos) -> tuple[Iterable[np.ndarray], Fraction]:
    """Every frame, one at a time, and their rate."""
    if videos.pictures:
        with videos.open(0) as opened:
            return opened.decode([0]).numpy(), Fraction(1)
    (source,) = videos.sources
    if not isinstance(source, (str, bytes, Path)):
        held = HeldFrames(source, 30)
        return held.decode(range(held.frames)).numpy(), held.fps
    container, stream = open_video(source)

    def frames() -> Iterator[np.ndarray]:
        try:
            with container:
                for frame in container.decode(stream):
                    yield upright(frame.to_ndarray(format="rgb24"), frame)[0]
        except av.FFmpegError as error:
            raise VideoError(name_of(source), cause_of(error)) from error

    return frames(), stream.average_rate or Fraction(30)


def heat(network: Network, clip: Tensor, number: int, head: str = "") -> Tensor:
    """Where a change of the picture changes a class's score most: float [T, H, W] between 0 and 1.

    The gradient of the logit with respect to the network's input (Simonyan et al., 2014), its absolute value summed
    over the channels and averaged over a neighbourhood of a sixteenth of the picture; 1 is the 99th percentile.

    Args:
        network: what predicts.
        clip: uint8 [1, T, C, H, W].
        number: the class.
        head: whose class it is.
    """
    model, clip = network.model, network.inputs(clip)
    model.clean_activation_buffers()
    with torch.enable_grad():
        clip.requires_grad_(True)
        logits = model(clip)
        logit = (logits[head] if isinstance(logits, dict) else logits)[0, number]
        (gradient,) = torch.autograd.grad(logit, clip)
    model.clean_activation_buffers()
    strength = gradient.abs().sum(1)[0]
    size = max(1, strength.shape[-1] // 16) | 1
    for _ in range(2):
        strength = F.avg_pool2d(strength[:, None], size, 1, size // 2, count_include_pad=False)[:, 0]
    flat = strength.flatten()
    high = flat.kthvalue(max(1, round(0.99 * flat.numel()))).values
    return (strength / high.clamp_min(torch.finfo(strength.dtype).tiny)).clamp(0, 1).cpu()


def heated(picture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] in grey with a strength [H, W] between 0 and 1 over it, blue to red."""
    grey = picture.mean(-1, keepdims=True)
    colour = np.stack([strength, 1 - (2 * strength - 1) ** 2, 1 - strength], -1) * 255
    share = 0.15 + 0.55 * strength[..., None]
    return ((1 - share) * grey + share * colour).round().astype(np.uint8)


def write_heatmap(
    path: str | Path, predictor: "Predictor", source: Source, prediction: "Prediction", top: int = 5
) -> None:
    """Write the clips of a video's views one after the other, as the network saw them, with the heat of its top class.

    A network with several heads shows that of the first one.
    """
    views, head = predictor.views(source), next(iter(prediction.probabilities))
    number = int(prediction.probabilities[head].argmax())
    with VideoWriter(path, 8) as video:
        for view in range(len(views)):
            clip = views.clips(view, view + 1)
            strength = heat(predictor.network, clip, number, head).numpy()
            pictures = clip[0].permute(0, 2, 3, 1).numpy()
            for picture, where in zip(pictures, strength, strict=True):
                video.write(labelled(heated(picture, where), prediction.top(top, head)))
