"""Output folders of made-up runs: files as a test and a training leave them, without a network."""

import json
from pathlib import Path

import dataset_fixtures
import numpy as np

from videobench.config import CfgNode
from videobench.datasets.annotations import split_list
from videobench.engine.results import evaluate, list_fingerprint
from videobench.reporting.curves import write_history
from videobench.reporting.log import format_json_stats


def write_training(folder: Path, epochs: int = 12) -> Path:
    """history.csv, json_stats.log and config.yaml of a training."""
    folder.mkdir(parents=True, exist_ok=True)
    history, lines = [], []
    for epoch in range(1, epochs + 1):
        record = {"epoch": epoch, "lr": 0.001 / epoch, "seconds": 3.0, "train_loss": 3.0 / epoch}
        record |= {"train_top1_err": 90.0 / epoch}
        record |= {"val_clip_top1_err": 80.0 / epoch, "val_clip_top5_err": 40.0 / epoch} if epoch % 2 == 0 else {}
        history.append(record)
        stats = {"_type": "train_epoch", "epoch": f"{epoch}/{epochs}", "dt": 0.125, "dt_data": 0.025, "dt_net": 0.1}
        lines.append(format_json_stats(stats))
    write_history(folder, history)
    (folder / "json_stats.log").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text("DATA:\n  PATH_TO_DATA_DIR: nowhere\n")
    return folder


def write_test(
    folder: Path,
    scores: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    names: dict[str, list[str]],
    *,
    videos: list[str] | None = None,
    kind: str = "softmax",
    views: int = 4,
    failed: int = 0,
) -> Path:
    """test_results.json and predictions.npz of a test with some scores, summed over the views, per head."""
    folder.mkdir(parents=True, exist_ok=True)
    found = evaluate(scores, labels, kind=kind, views=views, names=names)
    count = len(next(iter(scores.values())))
    results = {
        **found.metrics,
        "intervals": found.intervals,
        "classes": found.classes,
        "videos": count,
        "views": views,
        "clips": views,
        "crops": 1,
        "scores": kind,
        "ensemble": "sum",
        "sweep": [
            {"clips": clips, "crops": 1, "views": clips, **found.metrics, "intervals": found.intervals}
            for clips in (views, 1)
        ],
        "seconds": 100.0,
        "videos_per_second": count / 100,
        "data_wait_percent": 12.5,
        "unlabelled": 0,
        "failed": [{"video": f"broken/{i}.mp4", "cause": "not a video <file>"} for i in range(failed)],
        "checkpoint": "checkpoint.pyth",
        "list_sha256": "none",
    }
    (folder / "test_results.json").write_text(json.dumps(results))
    rng = np.random.default_rng(1)
    arrays = {
        "video": np.array(videos or [f"videos/a_longer_folder_name/{i:06d}.mp4" for i in range(count)]),
        "index": np.arange(count),
    }
    for head, part in scores.items():
        prefix = head and f"{head}_"
        agreement = rng.integers(1, views + 1, count) / views
        arrays |= {f"{prefix}scores": part, f"{prefix}label": labels[head], f"{prefix}agreement": agreement}
    np.savez(folder / "predictions.npz", **arrays)
    return folder


def made_up_scores(videos: int, classes: int, seed: int = 0, views: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Sums of softmax scores [videos, classes] that are right for about three quarters of the labels [videos]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, videos)
    logits = rng.normal(size=(videos, classes))
    logits[np.arange(videos), labels] += rng.normal(4.5, 2.0, videos)
    scores = np.exp(logits)
    return views * scores / scores.sum(1, keepdims=True), labels


def write_test_of_videos(folder: Path, cfg: CfgNode, names: list[str]) -> Path:
    """A test of the videos that a configuration lists; all of them are taken for the last of eight classes."""
    videos = split_list(cfg, "test")
    scores = np.tile(np.linspace(0.2, 0.8, 8), (len(videos), 1))
    write_test(folder, {"": scores}, {"": np.arange(len(videos)) % 8}, {"": names})
    (folder / "config.yaml").write_text(cfg.dump())
    results = json.loads((folder / "test_results.json").read_text())
    (folder / "test_results.json").write_text(json.dumps(results | {"list_sha256": list_fingerprint(videos)}))
    return folder


def write_videos(folder: Path, count: int) -> CfgNode:
    """Some videos and a list of them; the configuration that reads it."""
    for number in range(count):
        dataset_fixtures.write_video(folder / f"{number}.mp4", 8)
    (folder / "test.csv").write_text("".join(f"{number}.mp4 0\n" for number in range(count)))
    return dataset_fixtures.config("kinetics", folder, "NUM_GPUS", 0, "DATA.NUM_FRAMES", 8)
