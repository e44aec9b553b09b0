"""Accuracy of summed scores, and how sure it is; arrays in, numbers out.

Intervals are 95 % percentile intervals of the bootstrap over videos (Efron, 1979). A statistic of counts needs no
resampled videos: how often each kind of video is drawn is a multinomial number.
"""

from collections.abc import Sequence

import numpy as np

#: Bootstrap samples, and the seed they are drawn with.
SAMPLES, SEED = 2000, 0


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label of each row, int64 [N]; rank < k is a top-k hit.

    Of equal scores the lower class number comes first.

    Args:
        scores: [N, classes].
        labels: class numbers [N].
    """
    own = np.take_along_axis(scores, labels[:, None], 1)
    lower = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & lower)).sum(1)


def pair_ranks(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many pairs (a, b) have a larger sum ``first[a] + second[b]`` than the pair of labels, int64 [N].

    Args:
        first: [N, A], for example log-probabilities of verbs.
        second: [N, B], of nouns.
        labels: int64 [N, 2].
    """
    ranks = []
    for a, b, (label_a, label_b) in zip(first, second, labels, strict=True):
        ranks.append(np.count_nonzero(a[:, None] + b > a[label_a] + b[label_b]))
    return np.array(ranks, np.int64)


def log_probabilities(scores: np.ndarray, kind: str, views: int) -> np.ndarray:
    """Summed scores [N, classes] as logarithms of (unnormalised) probabilities, on the scale of one view.

    Args:
        scores: summed over the views.
        kind: what was summed: ``softmax`` or ``logits``.
        views: how many were summed.
    """
    if kind == "logits":
        return scores / views
    with np.errstate(divide="ignore"):
        return np.log(scores / views)


def class_accuracy(hits: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Percent of each class's videos that are hits (NaN where there are none), and the number of its videos."""
    totals = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, weights=hits, minlength=classes)
    with np.errstate(invalid="ignore"):
        return 100.0 * right / totals, totals


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of every class in percent [..., classes], NaN for a class without positives.

    The area under the step curve of precision over recall, sum of (R_n - R_(n-1)) P_n over the distinct scores, as
    scikit-learn and SlowFast have it.

    Args:
        scores: [N, classes].
        labels: 0 or 1 [N, classes].
        weights: how often each row counts, [..., N].
    """
    weights = np.ones(len(scores)) if weights is None else weights
    result = np.full((*weights.shape[:-1], scores.shape[1]), np.nan)
    for c in range(scores.shape[1]):
        order = np.argsort(-scores[:, c], kind="stable")
        drawn = weights[..., order]
        seen, found = drawn.cumsum(-1), (drawn * labels[order, c]).cumsum(-1)
        # Rows with the same score come together.
        ends = np.append(np.flatnonzero(np.diff(scores[order, c])), len(order) - 1)
        seen, found = seen[..., ends], found[..., ends]
        precision = found / np.maximum(seen, 1e-300)
        gained = np.diff(found, axis=-1, prepend=0.0)
        with np.errstate(invalid="ignore"):
            result[..., c] = 100.0 * (gained * precision).sum(-1) / found[..., -1]
    return result


def mean_average_precision(precisions: np.ndarray) -> np.ndarray:
    """The mean over the classes that have positives, of [..., classes]."""
    there = ~np.isnan(precisions)
    with np.errstate(invalid="ignore"):
        return np.where(there, precisions, 0.0).sum(-1) / there.sum(-1)


def mean_interval(hits: np.ndarray) -> list[float] | None:
    """Interval of the percentage of hits; None without videos."""
    count = len(hits)
    if not count:
        return None
    drawn = np.random.default_rng(SEED).binomial(count, hits.mean(), SAMPLES)
    return interval(100.0 * drawn / count)


def class_mean_interval(hits: np.ndarray, labels: np.ndarray, classes: int) -> list[float] | None:
    """Interval of the mean over classes of the percentage of hits; None without videos."""
    if not len(hits):
        return None
    kinds = np.bincount(2 * labels + hits, minlength=2 * classes)
    drawn = np.random.default_rng(SEED).multinomial(len(hits), kinds / len(hits), SAMPLES).reshape(-1, classes, 2)
    totals = drawn.sum(2)
    shares = drawn[:, :, 1] / np.maximum(totals, 1)
    return interval(100.0 * shares.sum(1) / (totals > 0).sum(1))


def mean_average_precision_samples(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Bootstrap samples of the mean average precision; large lists get fewer, 200 at least.

    Lists of the same length and number of classes are resampled alike, so that differences of samples are paired.
    """
    count = len(scores)
    rng = np.random.default_rng(SEED)
    samples = int(np.clip(2e8 / scores.size, 200, SAMPLES))
    # A few at a time, so that memory does not grow with the number of samples.
    at_once = max(1, int(2e7 // count))
    drawn = []
    for start in range(0, samples, at_once):
        weights = rng.multinomial(count, np.full(count, 1 / count), min(at_once, samples - start)).astype(np.float64)
        drawn.append(mean_average_precision(average_precision(scores, labels, weights)))
    return np.concatenate(drawn)


def difference_interval(first: np.ndarray, second: np.ndarray) -> list[float] | None:
    """Interval of the difference (second minus first) in percent points of two hit rates on the same videos."""
    count = len(first)
    if not count:
        return None
    gained, lost = (second & ~first).sum(), (first & ~second).sum()
    shares = np.array([gained, lost, count - gained - lost]) / count
    drawn = np.random.default_rng(SEED).multinomial(count, shares, SAMPLES)
    return interval(100.0 * (drawn[:, 0] - drawn[:, 1]) / count)


def interval(samples: Sequence[float] | np.ndarray) -> list[float]:
    """The middle 95 % of some numbers, those that are not numbers left out, as [low, high]."""
    return np.nanpercentile(samples, [2.5, 97.5]).tolist()


def centred_interval(samples: np.ndarray, value: float) -> list[float]:
    """The spread of samples around a value: their middle 95 %, moved so that their mean is the value.

    A video that is drawn twice raises average precision, so samples of it lie above the value they are made from.
    """
    return interval(samples - np.nanmean(samples) + value)
