"""Class names and scores of videos, as a test of the same network gives them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videobench.datasets.containers import VideoError
from videobench.datasets.views import Grid, VideoViews, Views
from videobench.datasets.workers import WorkerPool
from videobench.engine.arithmetic import tf32
from videobench.engine.tester import Scorer
from videobench.inference.given import GivenVideos, Source
from videobench.inference.network import load_network


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video.

    Attributes:
        source: what the video is called.
        scores: by head (``""`` where there is one only), float64 [classes]: the numbers that a test writes to
            predictions.npz, summed over the views.
        probabilities: the same between 0 and 1: mean softmax of the views (sigmoid where a video has several
            labels; the largest of the views, which need not add up to 1, with DATA.ENSEMBLE_METHOD max).
        class_names: by head.
    """

    source: str
    scores: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    class_names: dict[str, list[str]]

    def top(self, count: int = 5, head: str = "") -> list[tuple[str, float]]:
        """The likeliest classes of a head, best first, and their probabilities.

        Raises:
            ValueError: for a head that the network has not.
        """
        if head not in self.probabilities:
            raise ValueError(f"the heads of this network are {', '.join(map(repr, self.probabilities))}, not {head!r}")
        probabilities = self.probabilities[head]
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.class_names[head][i], float(probabilities[i])) for i in order]

    def listed(self, count: int = 5) -> list[dict[str, Any]] | dict[str, list[dict[str, Any]]]:
        """The likeliest classes for JSON: a list, or one per head where there are several."""
        heads = {
            head: [{"class": name, "probability": share} for name, share in self.top(count, head)]
            for head in self.probabilities
        }
        # One head needs no name.
        return heads.get("", heads)


def probabilities_of(scores: np.ndarray, kind: str, views: int) -> np.ndarray:
    """Scores [..., classes] summed over views as probabilities.

    Args:
        scores: sums over the views.
        kind: what was summed, TEST.SCORES.
        views: how many (1 for a maximum over them).
    """
    mean = torch.from_numpy(np.asarray(scores, np.float64)) / views
    return (mean.softmax(-1) if kind == "logits" else mean).numpy()


class Predictor:
    """Predicts the classes of videos with a trained network.

    Everything it needs is read from the weights: the network, its class names, which frames a clip takes, crop and
    normalisation.

    Args:
        weights: the folder of a run, a checkpoint, or published weights.
        model: what published weights are of: an id of :func:`videobench.list_models`, or a YAML file.
        views: clips and crops per video, as ``4x1``; those of the network's own test unless given.
        device: ``cpu``, ``cuda``, ...; ``auto`` takes a GPU where there is one.
        batch_size: views that go through the network together; 8 on a GPU and 1 on a CPU unless given.
        workers: processes that decode ahead when there are several videos; 0 decodes in this one.
        timeout: seconds that a worker may take for one video; 0 means any time.

    Raises:
        ConfigError: when nothing says what the weights are of.
        WeightsError: when the weights cannot be read or do not fill the network.
        ValueError: for an unknown id, and views that are none.
    """

    def __init__(
        self,
        weights: str | Path,
        model: str | Path | None = None,
        views: str | None = None,
        device: str = "auto",
        *,
        batch_size: int | None = None,
        workers: int = 0,
        timeout: float = 60.0,
    ) -> None:
        settings: dict[str, Any] = {} if batch_size is None else {"TEST.BATCH_SIZE": batch_size}
        if views is not None:
            clips, crops = parse_views(views)
            settings |= {"TEST.NUM_ENSEMBLE_VIEWS": clips, "TEST.NUM_SPATIAL_CROPS": crops}
        self.network = load_network(weights, model, device=device, settings=settings)
        self.cfg, self.class_names = self.network.cfg, self.network.class_names
        self.scorer = Scorer(self.cfg, self.network.model, self.network.device)
        self.workers, self.timeout = workers, timeout

    @property
    def grid(self) -> Grid:
        """Clips per video and crops per clip."""
        return self.scorer.grids[0]

    def predict(self, source: Source | Sequence[Source], *, fps: float = 30.0) -> Prediction | list[Prediction]:
        """What a video shows; a list of what each of them shows for a list or tuple.

        Args:
            source: a path, the content of a file, or frames as uint8 RGB [T, H, W, 3] (tensor or array).
            fps: rate of such frames.

        Raises:
            VideoError: for a file that cannot be read.
        """
        single = not isinstance(source, (list, tuple))
        found = []
        for prediction in self.predict_each([source] if single else source, fps=fps):
            if isinstance(prediction, VideoError):
                raise prediction
            found.append(prediction)
        return found[0] if single else found

    def predict_each(self, sources: Sequence[Source], *, fps: float = 30.0) -> Iterator[Prediction | VideoError]:
        """What each of many videos shows, in their order, as soon as it is known; an error for those without frames."""
        videos = GivenVideos.of(self.cfg, sources, fps)
        unreadable: dict[int, VideoError] = {}

        def readable() -> Iterator[Views]:
            for views in self._decoded(videos):
                if views.failure is None:
                    yield views
                else:
                    unreadable[views.index] = VideoError(views.failure.video, views.failure.cause)

        done = 0
        for index, prediction in self.predict_views(readable(), videos.path):
            yield from (unreadable.pop(number) for number in range(done, index))
            yield prediction
            done = index + 1
        yield from (unreadable.pop(number) for number in range(done, len(sources)))

    @torch.inference_mode()
    def predict_views(self, videos: Iterable[Views], name: Callable[[int], str]) -> Iterator[tuple[int, Prediction]]:
        """(number, what it shows) of decoded videos, as soon as each is known; their views share batches.

        Args:
            videos: as :meth:`views` gives them, each with a number (`Views.index`) of its own.
            name: what a video is called, by its number.
        """
        with tf32(self.cfg.TEST.TF32):
            for index, row in self.scorer.score(videos):
                yield index, self._prediction(name(index), row)

    def views(self, source: Source, *, fps: float = 30.0) -> Views:
        """The views of one video, as they are fed to the network.

        Raises:
            VideoError: for a file that cannot be read.
        """
        views = VideoViews(self.cfg, GivenVideos.of(self.cfg, [source], fps), self.scorer.grids)[0]
        if views.failure is not None:
            raise VideoError(views.failure.video, views.failure.cause)
        return views

    def _decoded(self, videos: GivenVideos) -> Iterator[Views]:
        pool = WorkerPool(
            VideoViews(self.cfg, videos, self.scorer.grids).__getitem__,
            workers=max(0, min(self.workers, len(videos) - 1)),
            videos=len(videos),
            path=videos.path,
            timeout=self.timeout,
        )
        try:
            for (views,) in pool.groups(range(len(videos))):
                yield views
        finally:
            pool.close()

    def _prediction(self, source: str, row: np.ndarray) -> Prediction:
        (heads,) = self.scorer.layout.split(row[None])
        scores = {head: part[0] for head, (part, _) in heads.items()}
        clips, crops = self.grid
        views = clips * crops if self.cfg.DATA.ENSEMBLE_METHOD == "sum" else 1
        shares = {head: probabilities_of(part, self.cfg.TEST.SCORES, views) for head, part in scores.items()}
        return Prediction(source, scores, shares, self.class_names)


def parse_views(text: str) -> Grid:
    """Clips and crops from ``4x1``.

    Raises:
        ValueError: for anything else.
    """
    clips, _, crops = text.lower().partition("x")
    if not (clips.isdecimal() and int(clips) and crops in ("1", "3")):
        raise ValueError(f"views are CLIPSxCROPS with 1 or 3 crops, as 4x1 or 10x3, got {text!r}")
    return int(clips), int(crops)
