"""The accuracy that a file made from a network costs, on a list of videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videobench.datasets.annotations import VideoList, read_list
from videobench.datasets.views import VideoViews, Views
from videobench.engine.accuracy import difference_interval, label_ranks
from videobench.engine.tester import Scorer
from videobench.inference.export_facts import ExportError
from videobench.inference.network import Network
from videobench.inference.onnx_file import OnnxFile


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy of a network and of a file made from it, on the same views of the same videos.

    Attributes:
        videos: how many the list has.
        views: clips and crops per video.
        before, after: percent of them whose best class is the right one, with the network and with the file.
        interval: 95 % interval of the difference in percent points (bootstrap over videos).
        agreement: percent of them for which both have the same best class.
    """

    videos: int
    views: tuple[int, int]
    before: float
    after: float
    interval: list[float]
    agreement: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"top-1 {self.before:.2f} % before, {self.after:.2f} % after ({self.after - self.before:+.2f}, 95 % "
            f"interval {low:+.2f} to {high:+.2f}; {self.videos} videos, {self.views[0]}x{self.views[1]} views); the "
            f"same best class for {self.agreement:.2f} %"
        )


def accuracy_change(network: Network, file: OnnxFile, path: str | Path) -> AccuracyChange:
    """How often a network and a file made from it are right about the videos of a list, with the views of its test.

    Raises:
        ConfigError: for a list that cannot be read.
        ExportError: for a video that cannot be read, and networks that have more than one class per video.
    """
    if len(network.class_names) > 1 or network.cfg.DATA.MULTI_LABEL:
        raise ExportError(f"{network.weights}: a change of accuracy is measured where a video has one class")
    videos = _videos(network, path)
    scores = []
    for one in (network, replace(network, model=file, device=torch.device("cpu"))):
        scorer = Scorer(one.cfg, one.model, one.device)
        views = VideoViews(one.cfg, videos, scorer.grids)
        with torch.inference_mode():
            rows = dict(scorer.score(_readable(views, range(len(videos)))))
        heads = scorer.layout.split(np.stack([rows[number] for number in range(len(videos))]))
        scores.append(heads[0][""][0])
    before, after = (label_ranks(one, videos.labels) == 0 for one in scores)
    return AccuracyChange(
        videos=len(videos),
        views=scorer.grids[0],
        before=100.0 * float(before.mean()),
        after=100.0 * float(after.mean()),
        interval=difference_interval(before, after),
        agreement=100.0 * float((scores[0].argmax(1) == scores[1].argmax(1)).mean()),
    )


def clips_of(network: Network, path: str | Path, count: int) -> Iterator[Tensor]:
    """Normalised clips [1, C, T, H, W], one of each of ``count`` videos that are evenly spread over a list.

    Raises:
        ConfigError: for a list that cannot be read.
        ExportError: for a video that cannot be read.
    """
    videos = _videos(network, path)
    numbers = np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int)
    for views in _readable(VideoViews(network.cfg, videos), numbers.tolist()):
        yield network.inputs(views.clips(0, 1))


def _videos(network: Network, path: str | Path) -> VideoList:
    """Paths of the list are below DATA.PATH_PREFIX, or below the list's folder where there is none."""
    cfg = network.cfg
    prefix = cfg.DATA.PATH_PREFIX or str(Path(path).parent)
    return read_list(
        path,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=prefix,
        num_classes=len(network.class_names.get("", [])) or None,
    )


def _readable(views: VideoViews, numbers: Iterable[int]) -> Iterator[Views]:
    for number in numbers:
        found = views[number]
        if found.failure is not None:
            raise ExportError(f"{found.failure.video}: {found.failure.cause}; take it out of the list")
        yield found
