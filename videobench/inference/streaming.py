"""Classes of a video while it comes in: frame by frame with a causal network, with a sliding window with others."""

import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.datasets.cropping import Box, crop_resize, image_test_window, test_crops
from videobench.inference.given import GivenVideos
from videobench.inference.network import Network
from videobench.inference.overlay import VideoWriter, labelled
from videobench.inference.sources import Picture, PictureSource

Shares = dict[str, np.ndarray]


class FrameCrop:
    """The centre crop of the network's test, one picture at a time."""

    def __init__(self, cfg: CfgNode) -> None:
        videos = GivenVideos.of(cfg, ())
        self.pictures, self.size, self.ratio = videos.pictures, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.VAL_CROP_RATIO
        self.short_side = cfg.DATA.TRAIN_JITTER_SCALES[0] if videos.crop_margin else self.size
        self.single, self.antialias = cfg.TEST.SINGLE_CROP, cfg.DATA.ANTIALIAS

    def __call__(self, picture: np.ndarray) -> Tensor:
        """Uint8 RGB [H, W, 3] to [3, size, size]."""
        frames = torch.from_numpy(np.ascontiguousarray(picture))[None]
        if not self.pictures:
            return test_crops(frames, self.short_side, self.size, 1, self.single, self.antialias)[0][0]
        size, box = image_test_window(*picture.shape[:2], self.size, self.ratio)
        resized = crop_resize(frames, Box(0, 0, *picture.shape[:2]), size, antialias=True, mode="bicubic")[0]
        return resized[:, int(box.y0) : int(box.y0) + self.size, int(box.x0) : int(box.x0) + self.size]


class Pace:
    """Which pictures the network takes: TARGET_FPS / SAMPLING_RATE per second, or all where the source has fewer."""

    def __init__(self, cfg: CfgNode) -> None:
        self.step = cfg.DATA.SAMPLING_RATE / float(cfg.DATA.TARGET_FPS)
        self._due: float | None = None

    def takes(self, picture: Picture) -> bool:
        """Whether the network takes this picture."""
        if picture.first or self._due is None:
            self._due = picture.time
        # Half a millisecond, for time stamps that are rounded to milliseconds.
        if picture.time < self._due - 5e-4:
            return False
        self._due = max(self._due + self.step, picture.time - self.step)
        return True


class RunningClasses:
    """Probabilities that follow a stream, in constant memory.

    A causal network takes every picture once and keeps its state (:meth:`MoViNet.stream`). Others take the last
    NUM_FRAMES pictures again and again, every ``hop`` pictures.

    Args:
        network: what predicts.
        hop: pictures between two predictions of a network that is not causal; a quarter of its clip unless given.
    """

    def __init__(self, network: Network, hop: int | None = None) -> None:
        self.network, data = network, network.cfg.DATA
        self.causal = bool(getattr(getattr(network.model, "style", None), "causal", False))
        self.hop = hop or max(1, data.NUM_FRAMES // 4)
        self._crop = FrameCrop(network.cfg)
        self._window: deque[Tensor] = deque(maxlen=1 if self.causal else data.NUM_FRAMES)
        self.restart()

    def restart(self) -> None:
        """Forget what came so far."""
        self._window.clear()
        self._count = 0
        self._state = self.network.model.stream_state(1) if self.causal else None

    def push(self, picture: np.ndarray) -> Shares | None:
        """Take the next picture, uint8 RGB [H, W, 3].

        Returns:
            Probabilities [classes] by head; None while a window fills, and between two hops.
        """
        self._window.append(self._crop(picture))
        self._count += 1
        if self.causal:
            return self._predict()
        full = len(self._window) == self._window.maxlen
        return self._predict() if full and (self._count - self._window.maxlen) % self.hop == 0 else None

    def finish(self) -> Shares | None:
        """Probabilities of a stream that was shorter than one window: its last picture is held; else None."""
        if self.causal or not 0 < self._count < self._window.maxlen:
            return None
        self._window.extend([self._window[-1]] * (self._window.maxlen - self._count))
        return self._predict()

    @torch.inference_mode()
    def _predict(self) -> Shares:
        cfg, model = self.network.cfg, self.network.model
        clip = self.network.inputs(torch.stack([*self._window])[None])
        if self.causal:
            logits, self._state = model.stream(clip, self._state)
        else:
            logits = model(clip)
        heads = logits if isinstance(logits, dict) else {"": logits}
        several = cfg.TEST.SCORES == "sigmoid"
        return {
            head: (part[0].double().sigmoid() if several else part[0].double().softmax(0)).cpu().numpy()
            for head, part in heads.items()
        }


@dataclass
class StreamReport:
    """What a stream came to.

    Attributes:
        pictures: that came and were not dropped.
        taken: of them by the network.
        dropped: because they were late.
        reopened: how often the source was opened again.
        seconds: from the first picture to the last prediction.
        latency: mean seconds from a picture to its prediction: from its arrival at a live source, else from when the
            network was free for it.
        shares: the last probabilities.
    """

    pictures: int = 0
    taken: int = 0
    dropped: int = 0
    reopened: int = 0
    seconds: float = 0.0
    latency: float = 0.0
    shares: Shares | None = None


def follow(
    source: PictureSource | Iterable[Picture],
    classes: RunningClasses,
    *,
    top: int = 3,
    every: float = 1.0,
    restart: float | None = None,
    show: str | Path | None = None,
    out: TextIO | None = None,
) -> StreamReport:
    """Follow a stream to its end and print its running classes.

    Args:
        source: where pictures come from.
        classes: what predicts.
        top: classes to print.
        every: seconds on the source's clock between two lines.
        restart: seconds after which a causal network begins anew, because its means run over everything since its
            beginning; 0 is never. Unless given, 10 for live sources and 0 for others.
        show: a video file to write, every picture with the classes over it.
        out: where to print; standard output unless given.

    Raises:
        VideoError: for a source that cannot be opened, breaks, or is given up.
    """
    out = out or sys.stdout
    report, pace = StreamReport(), Pace(classes.network.cfg)
    began = 0.0
    line_at = begun_at = shown_at = -float("inf")
    lines: list[tuple[str, float]] = []
    delays = 0.0
    writer: VideoWriter | None = None
    picture = None
    try:
        for picture in source:
            # In a file, pictures wait for the network; that is no delay.
            came = picture.arrived if getattr(source, "live", False) else time.perf_counter()
            if not report.pictures:
                began = time.perf_counter()
            report.pictures += 1
            live = getattr(source, "live", False)
            period = (10.0 if live else 0.0) if restart is None else restart
            if picture.first or (classes.causal and period and picture.time - begun_at >= period):
                classes.restart()
                begun_at = picture.time
            if picture.first:
                line_at = -float("inf")
            if pace.takes(picture) and (shares := classes.push(picture.pixels)) is not None:
                now = time.perf_counter()
                report.taken += 1
                delays += now - came
                report.latency, report.seconds = delays / report.taken, now - began
                report.shares = shares
                lines = top_lines(shares, classes.network.class_names, top)
                if picture.time - line_at >= every:
                    line_at = shown_at = picture.time
                    _print_line(out, picture.time, lines, report, source)
            if show:
                if writer is None:
                    fps = getattr(source, "fps", None) or Fraction(30)
                    writer = VideoWriter(show, fps, fragments=live)
                writer.write(labelled(picture.pixels, lines))
        if picture is not None and (shares := classes.finish()) is not None:
            report.shares, report.taken = shares, 1
            report.latency = report.seconds = time.perf_counter() - came
            lines = top_lines(shares, classes.network.class_names, top)
        if picture is not None and lines and picture.time != shown_at:
            _print_line(out, picture.time, lines, report, source)
    finally:
        if writer is not None:
            writer.close()
        report.dropped, report.reopened = getattr(source, "dropped", 0), getattr(source, "reopened", 0)
    return report


def top_lines(shares: Shares, class_names: dict[str, list[str]], top: int) -> list[tuple[str, float]]:
    """The likeliest classes of every head and their probabilities."""
    return [
        (class_names[head][i], float(part[i]))
        for head, part in shares.items()
        for i in np.argsort(-part, kind="stable")[:top]
    ]


def _print_line(out: TextIO, at: float, lines, report: StreamReport, source) -> None:
    rate = report.taken / report.seconds if report.seconds else 0.0
    named = "  ".join(f"{share:4.0%} {name}" for name, share in lines)
    late = f", {source.dropped} late" if getattr(source, "dropped", 0) else ""
    print(
        f"{at:8.2f} s  {named}  ({rate:.1f} predictions/s, latency {1000 * report.latency:.1f} ms{late})",
        file=out,
        flush=True,
    )
