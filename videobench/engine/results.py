"""What a test leaves: test_results.json, predictions.npz and predictions.csv, in OUTPUT_DIR.

All metrics here are of videos (scores combined over their views), in percent; validation during training counts single
clips and has other names.
"""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videobench.config import CfgNode
from videobench.datasets.annotations import VideoList
from videobench.datasets.clips import Failure, Temporal
from videobench.datasets.views import short_side
from videobench.engine import accuracy
from videobench.engine.checkpoint import versions
from videobench.engine.class_names import class_names
from videobench.engine.metrics import gpu_memory
from videobench.engine.scores import Layout
from videobench.reporting.log import log_json_stats
from videobench.reporting.run_files import whole_file

logger = logging.getLogger(__name__)

# Data sets that DATA.STORED_AS speaks of.
_EITHER = ("sth", "hmdb", "ssv2", "epickitchens")
#: Classes of each video in predictions.csv.
CSV_CLASSES = 5


@dataclass(frozen=True)
class Evaluation:
    """What scores are worth.

    Attributes:
        metrics: percentages by name.
        intervals: their 95 % bootstrap intervals as [low, high], None where there are no videos.
        classes: per head, for every class its videos and its accuracy (None without videos).
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float] | None]
    classes: dict[str, list[dict[str, Any]]]


def write_results(
    cfg: CfgNode,
    videos: VideoList,
    rows: Mapping[int, np.ndarray],
    layout: Layout,
    failures: Sequence[Failure],
    *,
    weights: Path,
    sha256: str,
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    """Evaluate the scores of a test, write its files and log the final line.

    Args:
        cfg: the configuration.
        videos: the test list.
        rows: numbers of every video that could be read, by its number in the list.
        layout: what these numbers are.
        failures: the videos that could not be read.
        weights: the checkpoint that was tested.
        sha256: of that file.
        seconds: spent on scoring, in all attempts together.
        waited: share of the time that the network waited for frames.

    Raises:
        OutputError: when a file cannot be written; a file of that name is untouched.
    """
    order = sorted(rows)
    grids = layout.split(np.stack([rows[i] for i in order]) if order else np.empty((0, layout.length)))
    labels = label_columns(videos, order, [name for name, _ in layout.heads])
    names = {name: [] for name, _ in layout.heads} | class_names(cfg)
    output = Path(cfg.OUTPUT_DIR)
    for left in output.glob("predictions_*x*.npz"):
        left.unlink()
    sweep = []
    for number, ((clips, crops), heads) in enumerate(zip(layout.grids, grids, strict=True)):
        scores = {name: part for name, (part, _) in heads.items()}
        found = evaluate(scores, labels, kind=cfg.TEST.SCORES, views=clips * crops, ks=cfg.TEST.TOP_K, names=names)
        sweep.append({"clips": clips, "crops": crops, "views": clips * crops, **found.metrics})
        sweep[-1]["intervals"] = found.intervals
        if number == 0:
            headline = found
            with whole_file(output / "predictions.csv") as stream:
                _write_table(stream, videos, order, scores, labels, names)
        arrays = {"video": np.array([_called(videos, i) for i in order], np.str_), "index": np.array(order, np.int64)}
        for name, (part, agreement) in heads.items():
            prefix = name and f"{name}_"
            arrays |= {f"{prefix}label": labels[name], f"{prefix}scores": part, f"{prefix}agreement": agreement}
        file = f"predictions{f'_{clips}x{crops}' if number else ''}.npz"
        with whole_file(output / file) as stream:
            np.savez_compressed(stream, **arrays)
    clips, crops = layout.grids[0]
    results = {
        **headline.metrics,
        "level": "video",
        "intervals": headline.intervals,
        "videos": len(order),
        "views": clips * crops,
        "clips": clips,
        "crops": crops,
        "scores": cfg.TEST.SCORES,
        "ensemble": cfg.DATA.ENSEMBLE_METHOD,
        "protocol": protocol(cfg, videos),
        "sweep": sweep if len(sweep) > 1 else [],
        "seconds": round(seconds, 3),
        "videos_per_second": round(len(order) / seconds, 3) if seconds else None,
        "data_wait_percent": round(100.0 * waited, 1),
        "unlabelled": int((~_labelled(labels)).sum()),
        "failed": [{"video": f.video, "cause": f.cause} for f in failures],
        "checkpoint": str(weights),
        "checkpoint_sha256": sha256,
        "list": str(videos.source),
        "list_sha256": list_fingerprint(videos),
        "class_names": names.get("", []),
        "class_names_sha256": classes_fingerprint(class_names(cfg)),
        "classes": headline.classes,
        "versions": versions(),
    }
    with whole_file(output / "test_results.json") as stream:
        stream.write((json.dumps(results, indent=1) + "\n").encode())
    _log_final(cfg, headline, sweep)
    return results


def list_fingerprint(videos: VideoList) -> str:
    """SHA-256 of the names in a list, in their order."""
    digest = hashlib.sha256()
    for index in range(len(videos)):
        digest.update(videos.name(index).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def classes_fingerprint(names: Mapping[str, Sequence[str]]) -> str | None:
    """SHA-256 of class names per head; None without names."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest() if names else None


def protocol(cfg: CfgNode, videos: VideoList) -> dict[str, Any]:
    """What has to be said beside a test result for it to be repeated; None where a fact does not apply."""
    data, test, pictures = cfg.DATA, cfg.TEST, videos.pictures
    return {
        "dataset": test.DATASET,
        "frames": data.NUM_FRAMES,
        "stride": data.SAMPLING_RATE,
        "target_fps": data.TARGET_FPS,
        "stored_as": "pictures" if pictures else data.STORED_AS if test.DATASET.lower() in _EITHER else "videos",
        "sampling_rule": Temporal.from_config(cfg, videos).rule,
        "offset_sampling": data.USE_OFFSET_SAMPLING,
        "crop_size": data.TEST_CROP_SIZE,
        "short_side_one_crop": None if pictures else short_side(cfg, videos, 1),
        "crop_ratio": data.VAL_CROP_RATIO if pictures else None,
        "antialias": data.ANTIALIAS or pictures,
        "single_crop": test.SINGLE_CROP,
        "scores": test.SCORES,
        "ensemble": data.ENSEMBLE_METHOD,
        "channels": "BGR" if data.REVERSE_INPUT_CHANNEL else "RGB",
        "shuffled_frames": test.SHUFFLE_FRAMES,
        "weights": test.WEIGHTS,
        "precision": test.PRECISION,
        "tf32": test.TF32,
    }


def label_columns(videos: VideoList, indices: Sequence[int], heads: Sequence[str]) -> dict[str, np.ndarray]:
    """The labels of some videos for every head: class numbers [N], or 0 and 1 [N, classes]."""
    rows = np.asarray(indices, np.int64)
    if isinstance(videos.labels, dict):
        return {name: np.asarray(videos.labels[name], np.int64)[rows] for name in heads}
    column = videos.labels[rows]
    return {name: column if column.ndim == 1 else column.astype(np.uint8) for name in heads}


def evaluate(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    *,
    kind: str = "softmax",
    views: int = 1,
    ks: Sequence[int] = (1, 5),
    names: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Metrics of summed scores.

    One head: top-k and mean class accuracy; with 0/1 labels [N, classes] mean average precision (``map``) instead.
    Heads verb and noun (EPIC-Kitchens): all of that for each, and for the action ``action_top<k>``, right when the
    verb is among its top k and the noun among its top k (the published definition), ``action_joint_top<k>`` over the
    pairs themselves, and ``top<k>``, which is the action's. Videos with a negative label have none and do not count.

    Args:
        scores: per head, summed over the views [N, classes].
        labels: per head, [N] or [N, classes].
        kind: what was summed (TEST.SCORES).
        views: how many were summed.
        ks: the k of the top-k accuracies.
        names: class names per head.
    """
    found = Evaluation({}, {}, {})
    names = names or {}
    labelled = _labelled(labels)
    if len(labelled) and not labelled.any():
        return found
    scores = {name: part[labelled] for name, part in scores.items()}
    labels = {name: part[labelled] for name, part in labels.items()}
    ranks = {}
    for name, part in scores.items():
        if labels[name].ndim == 2:
            _evaluate_many(found, name, part, labels[name], names.get(name))
        else:
            ranks[name] = accuracy.label_ranks(part, labels[name])
            _evaluate_one(found, name, ranks[name], labels[name], part.shape[1], ks, names.get(name))
    if {"verb", "noun"} <= ranks.keys():
        # Both in their top k: the worse of the two ranks is below k.
        action = np.maximum(ranks["verb"], ranks["noun"])
        logs = [accuracy.log_probabilities(scores[name], kind, views) for name in ("verb", "noun")]
        joint = accuracy.pair_ranks(*logs, np.stack([labels["verb"], labels["noun"]], 1))
        for prefix, rank in (("action_", action), ("action_joint_", joint), ("", action)):
            for k in ks:
                _add_hits(found, f"{prefix}top{k}", rank < k)
    return found


def _labelled(labels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which videos have a label, bool [N]."""
    return np.all([part >= 0 if part.ndim == 1 else np.ones(len(part), bool) for part in labels.values()], axis=0)


def _add_hits(found: Evaluation, name: str, hits: np.ndarray) -> None:
    found.metrics[name] = 100.0 * float(hits.mean()) if len(hits) else 0.0
    found.intervals[name] = accuracy.mean_interval(hits)


def _evaluate_one(found: Evaluation, head: str, ranks, labels, classes: int, ks, names) -> None:
    prefix = head and f"{head}_"
    for k in ks:
        _add_hits(found, f"{prefix}top{k}", ranks < k)
    hits = ranks < 1
    share, videos = accuracy.class_accuracy(hits, labels, classes)
    found.metrics[f"{prefix}mean_class_accuracy"] = float(np.nanmean(share)) if len(hits) else 0.0
    found.intervals[f"{prefix}mean_class_accuracy"] = accuracy.class_mean_interval(hits, labels, classes)
    found.classes[head] = _class_rows("top1", share, videos, names)


def _evaluate_many(found: Evaluation, head: str, scores, labels, names) -> None:
    prefix = head and f"{head}_"
    precisions = accuracy.average_precision(scores, labels)
    known = labels.any()
    found.metrics[f"{prefix}map"] = float(accuracy.mean_average_precision(precisions)) if known else 0.0
    samples = accuracy.mean_average_precision_samples(scores, labels) if known else None
    value = found.metrics[f"{prefix}map"]
    found.intervals[f"{prefix}map"] = accuracy.centred_interval(samples, value) if known else None
    found.classes[head] = _class_rows("average_precision", precisions, labels.sum(0).astype(int), names)


def _class_rows(metric: str, values: np.ndarray, videos: np.ndarray, names: Sequence[str] | None) -> list[dict]:
    return [
        {
            "class": c,
            "name": names[c] if names else str(c),
            "videos": int(count),
            metric: float(value) if count else None,
        }
        for c, (value, count) in enumerate(zip(values, videos, strict=True))
    ]


def _called(videos: VideoList, index: int) -> str:
    """A video's path; the name of an action, where several are in one file or folder."""
    path, name = videos.path(index), videos.name(index)
    return path if path.endswith(name) else name


def _write_table(file, videos: VideoList, order: Sequence[int], scores, labels, names) -> None:
    """predictions.csv: per video its label and the classes with the largest scores, best first."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text, lineterminator="\n")
    head, columns = ["video"], []
    for name, part in scores.items():
        prefix = name and f"{name}_"
        count = min(CSV_CLASSES, part.shape[1])
        head += [f"{prefix}label"]
        head += [f"{prefix}{what}_{k}" for k in range(1, count + 1) for what in ("class", "score")]
        best = np.argsort(-part, axis=1, kind="stable")[:, :count]
        columns.append((labels[name], best, np.take_along_axis(part, best, 1), names[name]))
    writer.writerow(head)
    for row, index in enumerate(order):
        line = [_called(videos, index)]
        for label, best, score, known in columns:

            def say(c: int, known=known) -> str:
                return known[c] if known else str(c)

            own = np.flatnonzero(label[row]) if label.ndim == 2 else [c for c in [int(label[row])] if c >= 0]
            line.append("; ".join(say(int(c)) for c in own))
            for c, value in zip(best[row].tolist(), score[row].tolist(), strict=True):
                line += [say(c), f"{value:.6g}"]
        writer.writerow(line)
    text.flush()
    text.detach()


def _log_final(cfg: CfgNode, found: Evaluation, sweep: Sequence[Mapping[str, Any]]) -> None:
    def texts(metrics: Mapping[str, Any]) -> dict[str, str]:
        several = any(name.startswith("verb_") for name in metrics)
        final = {}
        for name, value in metrics.items():
            if name == "map":
                final["map"] = f"{value:.2f}"
            # With verbs and nouns the plain names are the action's once more.
            elif "top" in name and not (several and name.startswith("top")):
                final[f"{name}_acc"] = f"{value:.2f}"
                if cfg.TEST.DATASET.lower() == "imagenet":
                    final[f"{name}_err"] = f"{100 - value:.2f}"
        return final

    log_json_stats({"split": "test_final", "gpu_mem": gpu_memory(), **texts(found.metrics)})
    for entry in sweep if len(sweep) > 1 else ():
        metrics = {name: value for name, value in entry.items() if name in found.metrics}
        log_json_stats({"split": "test_sweep", "clips": entry["clips"], "crops": entry["crops"], **texts(metrics)})
