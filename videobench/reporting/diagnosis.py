"""What the scores of a test say beyond accuracies: confidence, calibration, confusions, agreement and mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Head:
    """The predictions of one head of a network for N videos that have a label.

    Attributes:
        name: of the head; empty where there is only one.
        classes: names of its classes.
        scores: [N, classes], combined over the views of a video.
        labels: class numbers [N], or 0 and 1 [N, classes] for several labels a video.
        agreement: share of a video's views that agree with its scores, [N].
        videos: paths of the videos.
        index: numbers of the videos in the test list.
        kind: what was combined: ``softmax``, ``sigmoid`` or ``logits``.
        summed: how many views a score is the sum of; 1 for the maximum over views.
    """

    name: str
    classes: Sequence[str]
    scores: np.ndarray
    labels: np.ndarray
    agreement: np.ndarray
    videos: Sequence[str]
    index: np.ndarray
    kind: str
    summed: int

    @property
    def one_label(self) -> bool:
        """Whether a video has exactly one label."""
        return self.labels.ndim == 1

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class with the largest score, [N]."""
        return self.scores.argmax(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether that class is the label, or one of the labels; bool [N]."""
        if self.one_label:
            return self.predicted == self.labels
        return np.take_along_axis(self.labels, self.predicted[:, None], 1)[:, 0] > 0

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, [N]."""
        return self.probability(self.predicted)

    def probability(self, classes: np.ndarray) -> np.ndarray:
        """Probability of one class for every video, [N]: the mean over views, or the softmax of the mean logits."""
        own = np.take_along_axis(self.scores, classes[:, None], 1)[:, 0] / self.summed
        return own if self.kind != "logits" else np.exp(own - self._log_sums)

    @cached_property
    def _log_sums(self) -> np.ndarray:
        logits = self.scores / self.summed
        largest = logits.max(1)
        return largest + np.log(np.exp(logits - largest[:, None]).sum(1))


def confusion_cells(head: Head) -> np.ndarray:
    """The cells of the confusion matrix that are not empty, int64 [cells, 3]: true class, predicted class, videos."""
    count = head.scores.shape[1]
    cells, videos = np.unique(head.labels.astype(np.int64) * count + head.predicted, return_counts=True)
    return np.stack([cells // count, cells % count, videos], 1)


def calibration(head: Head, bins: int = 10) -> tuple[list[dict[str, Any]], float]:
    """How often videos are right that the network is equally sure of.

    Returns:
        Per bin of confidence its bounds, and of the videos in it their number, mean confidence and accuracy (percent,
        None without videos); and the expected calibration error in percent points (Guo et al., 2017, equation 3).
    """
    place = np.clip((head.confidence * bins).astype(int), 0, bins - 1)
    rows, error = [], 0.0
    for number in range(bins):
        there = place == number
        row = {"low": 100 * number / bins, "high": 100 * (number + 1) / bins, "videos": int(there.sum())}
        row |= {"confidence": None, "accuracy": None}
        if there.any():
            row["confidence"] = 100.0 * float(head.confidence[there].mean())
            row["accuracy"] = 100.0 * float(head.right[there].mean())
            error += there.mean() * abs(row["accuracy"] - row["confidence"])
        rows.append(row)
    return rows, float(error)


def agreement_levels(head: Head, bins: int = 10) -> list[dict[str, Any]]:
    """Videos and their accuracy by the share of views that agree with the combined scores.

    Every level is a row of its own where there are no more than ``bins``, otherwise levels are taken together.
    """
    percent = np.round(100.0 * head.agreement, 6)
    levels = np.unique(percent)
    if len(levels) > bins:
        width = 100.0 / bins
        groups = np.minimum(np.floor(percent / width), bins - 1)
        names = {g: f"{g * width:.0f} to {(g + 1) * width:.0f} %" for g in np.unique(groups)}
    else:
        groups, names = percent, {level: f"{level:.0f} %" for level in levels}
    return [
        {"views": name, "videos": int((groups == g).sum()), "accuracy": 100.0 * float(head.right[groups == g].mean())}
        for g, name in names.items()
    ]


def mistakes(head: Head, count: int = 12) -> dict[str, list[dict[str, Any]]]:
    """Some videos that are wrong: the ``confident`` ones, and the ``worst``, whose label comes last in their scores.

    Each is a row of the head with the label, the prediction, their probabilities in percent (``label_percent`` is None
    for several labels) and the ``rank`` of the label, 1 for the first.
    """
    wrong = np.flatnonzero(~head.right)
    found = {"confident": wrong[np.argsort(-head.confidence[wrong], kind="stable")[:count]]}
    ranks, own = np.zeros(len(head.index), int), None
    if head.one_label and len(wrong):
        own = head.probability(head.labels)
        labels = np.take_along_axis(head.scores[wrong], head.labels[wrong, None], 1)
        ranks[wrong] = 1 + (head.scores[wrong] > labels).sum(1)
        found["worst"] = wrong[np.lexsort((own[wrong], -ranks[wrong]))[:count]]
    return {kind: [_mistake(head, row, ranks, own) for row in rows.tolist()] for kind, rows in found.items()}


def _mistake(head: Head, row: int, ranks: np.ndarray, own: np.ndarray | None) -> dict[str, Any]:
    labels = [int(head.labels[row])] if head.one_label else np.flatnonzero(head.labels[row]).tolist()
    return {
        "video": str(head.videos[row]),
        "index": int(head.index[row]),
        "label": "; ".join(head.classes[c] for c in labels) or "none",
        "predicted": head.classes[head.predicted[row]],
        "percent": 100.0 * float(head.confidence[row]),
        "label_percent": None if own is None else 100.0 * float(own[row]),
        "rank": int(ranks[row]) or None,
    }


def read_heads(results: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[Head]:
    """The heads in predictions.npz (``arrays``) of a test with some results; videos without a label are left out."""
    names = [name.removesuffix("scores").removesuffix("_") for name in arrays if name.endswith("scores")]
    labels = {name: arrays[f"{name}_label" if name else "label"] for name in names}
    labelled = np.all([part >= 0 if part.ndim == 1 else np.ones(len(part), bool) for part in labels.values()], axis=0)
    heads = []
    for name in names:
        prefix = name and f"{name}_"
        scores = arrays[f"{prefix}scores"]
        known = results["classes"].get(name)
        heads.append(
            Head(
                name=name,
                classes=[row["name"] for row in known] if known else [str(c) for c in range(scores.shape[1])],
                scores=scores[labelled],
                labels=labels[name][labelled],
                agreement=arrays[f"{prefix}agreement"][labelled],
                videos=arrays["video"][labelled],
                index=arrays["index"][labelled],
                kind=results["scores"],
                summed=results["views"] if results["ensemble"] == "sum" else 1,
            )
        )
    return [head for head in heads if len(head.index)]
