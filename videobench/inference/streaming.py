"""Classes of a video while it comes in: frame by frame with a causal network, with a sliding window with others."""

import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from videobench.config import CfgNode
from videobench.datasets.cropping import Box, crop_resize, image_test_window, test_crops
from videobench.engine.arithmetic import autocast, tf32
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
        with tf32(cfg.TEST.TF32), autocast(self.network.device, cfg.TEST.PRECISION):
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
        taken: predictions.
        dropped: pictures that were late.
        reopened: how often the source was opened again.
        seconds: from the first picture to the last prediction.
        waited: sum of the seconds from a picture to its prediction: from its arrival at a live source, else from when
            the network was free for it.
        shares: the last probabilities.
        began: when the first picture came, on the clock of `time.perf_counter`.
    """

    pictures: int = 0
    taken: int = 0
    dropped: int = 0
    reopened: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    shares: Shares | None = None
    began: float = 0.0

    def add(self, shares: Shares, came: float) -> None:
        """Count a prediction for a picture that came at a moment of `time.perf_counter`."""
        now = time.perf_counter()
        self.taken += 1
        self.waited += now - came
        self.seconds = now - self.began
        self.shares = shares

    @property
    def latency(self) -> float:
        """Mean seconds from a picture to its prediction."""
        return self.waited / self.taken if self.taken else 0.0


def follow(
    source: PictureSource,
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
    report, pace, names = StreamReport(), Pace(classes.network.cfg), classes.network.class_names
    lines: list[tuple[str, float]] = []
    begun_at = due = 0.0
    printed_at = writer = None
    with ExitStack() as stack:
        for picture in source:
            # In a file, pictures wait for the network; that is no delay.
            came = picture.arrived if source.live else time.perf_counter()
            if not report.pictures:
                report.began = time.perf_counter()
                period = (10.0 if source.live else 0.0) if restart is None else restart
                writer = stack.enter_context(VideoWriter(show, source.fps, fragments=source.live)) if show else None
            report.pictures += 1
            if picture.first:
                due = picture.time
            if picture.first or (classes.causal and period and picture.time - begun_at >= period):
                classes.restart()
                begun_at = picture.time
            if pace.takes(picture) and (shares := classes.push(picture.pixels)) is not None:
                report.add(shares, came)
                lines = top_lines(shares, names, top)
                if picture.time >= due:
                    due, printed_at = picture.time + every, picture.time
                    _print_line(out, picture.time, lines, report, source.dropped)
            if writer:
                writer.write(labelled(picture.pixels, lines))
    if report.pictures and (shares := classes.finish()) is not None:
        report.add(shares, came)
        lines = top_lines(shares, names, top)
    if lines and picture.time != printed_at:
        _print_line(out, picture.time, lines, report, source.dropped)
    report.dropped, report.reopened = source.dropped, source.reopened
    return report


def top_lines(shares: Shares, class_names: dict[str, list[str]], top: int) -> list[tuple[str, float]]:
    """The likeliest classes of every head and their probabilities."""
    return [
        (class_names[head][i], float(part[i]))
        for head, part in shares.items()
        for i in np.argsort(-part, kind="stable")[:top]
    ]


def _print_line(out: TextIO, at: float, lines: list[tuple[str, float]], report: StreamReport, dropped: int) -> None:
    rate = report.taken / report.seconds if report.seconds else 0.0
    named = "  ".join(f"{share:4.0%} {name}" for name, share in lines)
    late = f", {dropped} late" if dropped else ""
    print(
        f"{at:8.2f} s  {named}  ({rate:.1f} predictions/s, latency {1000 * report.latency:.1f} ms{late})",
        file=out,
        flush=True,
    )
