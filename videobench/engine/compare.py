"""Two tests on the same videos, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videobench.engine import accuracy
from videobench.reporting.run_files import RunFileError, read_test

# Lines of each list in the text.
_SHOWN = 10


class CompareError(ValueError):
    """Two runs that cannot be compared."""


@dataclass(frozen=True)
class Target:
    """One thing that both runs predict: the class, or verb, noun and action.

    Attributes:
        name: what it is.
        metric: top1, or map for several labels per video.
        first: the first run's value in percent.
        second: the second run's.
        interval: 95 % bootstrap interval of second minus first, over videos, paired.
        classes: name, number of videos and both values of every class that differs, the greatest gain first.
        changed: the videos that one run has right and the other wrong, with their labels and both predictions; none for
            actions, whose verbs and nouns have them, and for map, where no video is right or wrong.
    """

    name: str
    metric: str
    first: float
    second: float
    interval: list[float]
    classes: list[dict[str, Any]]
    changed: list[dict[str, str]]


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds: folders, the number of videos compared, videos that only one run has scores of."""

    runs: tuple[str, str]
    videos: int
    left_out: list[str]
    targets: list[Target]


def compare(first: str | Path, second: str | Path) -> Comparison:
    """Compare the results in two output folders.

    Raises:
        CompareError: when a folder has no results, or the runs tested other lists or other labels.
    """
    one, two = _Run(Path(first)), _Run(Path(second))
    if one.results["list_sha256"] != two.results["list_sha256"]:
        raise CompareError(
            f"{one.folder} and {two.folder} tested different lists: {one.results['list']} and {two.results['list']}; "
            f"{len(set(one.videos) & set(two.videos))} of {len(one.videos)} and {len(two.videos)} paths are the same. "
            "Test both with the same list"
        )
    if one.heads != two.heads:
        raise CompareError(f"{one.folder} and {two.folder} predict different things: {one.heads} and {two.heads}")
    # A video that one run could not read is left out of both.
    common, rows_one, rows_two = np.intersect1d(one.index, two.index, return_indices=True)
    if not len(common):
        raise CompareError(f"{one.folder} and {two.folder} have no video in common")
    unread = sorted(
        str(run.videos[row]) for run in (one, two) for row in np.flatnonzero(~np.isin(run.index, common)).tolist()
    )
    one.keep(rows_one)
    two.keep(rows_two)
    hits: dict[str, list[np.ndarray]] = {}
    targets = []
    for head in one.heads:
        _check_labels(one, two, head)
        if one.labels[head].ndim == 2:
            targets.append(_several_labels(one, two, head))
        else:
            hits[head] = [accuracy.label_ranks(run.scores[head], run.labels[head]) < 1 for run in (one, two)]
            targets.append(_one_label(one, two, head, *hits[head]))
    if {"verb", "noun"} <= hits.keys():
        both = [verb & noun for verb, noun in zip(hits["verb"], hits["noun"], strict=True)]
        interval = accuracy.difference_interval(*both)
        targets.insert(0, Target("action", "top1", *(100.0 * float(h.mean()) for h in both), interval, [], []))
    return Comparison((str(one.folder), str(two.folder)), len(common), unread, targets)


def comparison_text(found: Comparison) -> str:
    """A comparison in lines of text: accuracies, classes gained and lost, videos that changed."""
    lines = [f"A: {found.runs[0]}", f"B: {found.runs[1]}", f"{found.videos} videos"]
    if found.left_out:
        more = f" and {len(found.left_out) - _SHOWN} more" if len(found.left_out) > _SHOWN else ""
        lines[-1] += f"; left out, because only one run could read them: {', '.join(found.left_out[:_SHOWN])}{more}"
    for target in found.targets:
        low, high = target.interval
        sure = "" if low <= 0 <= high else ": more than chance"
        lines.append(
            f"\n{target.name} {target.metric}: A {target.first:.2f} %, B {target.second:.2f} %, B - A "
            f"{target.second - target.first:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}{sure}"
        )
        if target.name == "action":  # what changed is said of verbs and nouns
            continue
        for title, classes in (
            ("classes gained", [c for c in target.classes if c["second"] > c["first"]]),
            ("classes lost", [c for c in target.classes[::-1] if c["second"] < c["first"]]),
        ):
            rows = [f"{c['name']}: {c['first']:.1f} -> {c['second']:.1f} % of {c['videos']}" for c in classes]
            lines += _listed(title, rows)
        for right, wrong in ("BA", "AB") if target.metric == "top1" else ():
            rows = [
                f"{c['video']}: {c['label']}; A says {c['first']}, B says {c['second']}"
                for c in target.changed
                if c["right"] == right
            ]
            lines += _listed(f"videos that {right} got right and {wrong} wrong", rows)
    return "\n".join(lines)


def _listed(title: str, rows: Sequence[str]) -> list[str]:
    more = [f"    ... and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    return [f"  {title}: {len(rows)}", *(f"    {row}" for row in rows[:_SHOWN]), *more]


class _Run:
    """Results and predictions of one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.results, content = read_test(folder)
        except RunFileError as error:
            raise CompareError(f"{folder}: no test results to read there: {error}") from error
        if "list_sha256" not in self.results:
            raise CompareError(f"{folder}: results of a version that did not record its list; test again")
        self.videos, self.index = content["video"], content["index"]
        self.heads = [name.removesuffix("scores").removesuffix("_") for name in content if name.endswith("scores")]
        self.scores = {head: content[f"{head}_scores" if head else "scores"] for head in self.heads}
        self.labels = {head: content[f"{head}_label" if head else "label"] for head in self.heads}
        for part in [part for part in self.labels.values() if part.ndim == 1]:
            if (part < 0).any():
                raise CompareError(f"{folder}: {int((part < 0).sum())} videos have no label")

    def keep(self, rows: np.ndarray) -> None:
        """Forget all videos but those in some rows."""
        self.videos, self.index = self.videos[rows], self.index[rows]
        self.scores = {head: part[rows] for head, part in self.scores.items()}
        self.labels = {head: part[rows] for head, part in self.labels.items()}

    def names(self, head: str) -> np.ndarray:
        """Class names, or class numbers as text."""
        return np.array([entry["name"] for entry in self.results["classes"][head]])


def _check_labels(one: _Run, two: _Run, head: str) -> None:
    """Two networks may number their classes differently; the names of the labels must agree."""
    if one.labels[head].shape != two.labels[head].shape:
        raise CompareError(f"{one.folder} and {two.folder} have labels of different kinds or numbers of classes")
    if one.labels[head].ndim == 2:
        same = (one.labels[head] == two.labels[head]).all(1) & (one.names(head) == two.names(head)).all()
    else:
        same = one.names(head)[one.labels[head]] == two.names(head)[two.labels[head]]
    if not same.all():
        row = int(np.flatnonzero(~same)[0])
        raise CompareError(
            f"{one.folder} and {two.folder} give {int((~same).sum())} videos other labels, {one.videos[row]} for one; "
            "give both runs the class names of their own numbering (DATA.CLASS_NAMES), or the same list"
        )


def _one_label(one: _Run, two: _Run, head: str, right_one: np.ndarray, right_two: np.ndarray) -> Target:
    names = one.names(head)
    labels = one.labels[head]
    shares = [accuracy.class_accuracy(right, labels, len(names)) for right in (right_one, right_two)]
    said = [run.names(head)[run.scores[head].argmax(1)] for run in (one, two)]
    changed = [
        {
            "video": str(one.videos[row]),
            "label": str(names[labels[row]]),
            "first": str(said[0][row]),
            "second": str(said[1][row]),
            "right": "B" if right_two[row] else "A",
        }
        for row in np.flatnonzero(right_one != right_two).tolist()
    ]
    return Target(
        head or "class",
        "top1",
        100.0 * float(right_one.mean()),
        100.0 * float(right_two.mean()),
        accuracy.difference_interval(right_one, right_two),
        _differing(names, shares[0][0], shares[1][0], shares[0][1]),
        changed,
    )


def _several_labels(one: _Run, two: _Run, head: str) -> Target:
    labels = one.labels[head]
    precisions = [accuracy.average_precision(run.scores[head], labels) for run in (one, two)]
    samples = [accuracy.mean_average_precision_samples(run.scores[head], labels) for run in (one, two)]
    first, second = (float(accuracy.mean_average_precision(part)) for part in precisions)
    return Target(
        head or "class",
        "map",
        first,
        second,
        accuracy.centred_interval(samples[1] - samples[0], second - first),
        _differing(one.names(head), *precisions, labels.sum(0).astype(int)),
        [],
    )


def _differing(names: Sequence[str], first: np.ndarray, second: np.ndarray, videos: np.ndarray) -> list[Mapping]:
    gains = np.where(videos > 0, second - first, 0.0)
    return [
        {"name": str(names[c]), "videos": int(videos[c]), "first": float(first[c]), "second": float(second[c])}
        for c in np.argsort(-gains, kind="stable").tolist()
        if gains[c]
    ]
