"""Multi-view testing: every video decoded once, its views' scores combined, results written."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videobench.config import CfgNode, ConfigError
from videobench.datasets.annotations import read_class_names, split_list
from videobench.datasets.augment import normalise
from videobench.datasets.clips import Failure
from videobench.datasets.views import view_loader
from videobench.distributed.group import gather, is_main, rank, world_size
from videobench.engine.checkpoint import best_path, checkpoint_dir, last_checkpoint, versions
from videobench.engine.metrics import ensemble_scores, gpu_memory, topk_correct
from videobench.models import WeightsError, build_model, load_weights
from videobench.reporting.log import log_json_stats

logger = logging.getLogger(__name__)


def test(cfg: CfgNode, device: torch.device) -> dict[str, Any] | None:
    """Test the network of a configuration and write test_results.json and predictions.npz to OUTPUT_DIR.

    Returns:
        The results on the first rank, None on the others.

    Raises:
        ConfigError: when there are no weights to test.
        WeightsError: when they do not fill the network.
        FloatingPointError: when the network gives scores that are no finite numbers.
    """
    weights = weights_to_test(cfg)
    model = build_model(cfg)
    report = load_weights(model, weights)
    if not report.complete:
        raise WeightsError(f"{weights}: these weights do not fill the network that is to be tested\n{report}")
    logger.info("testing %s", report)
    model = model.to(device).eval()
    started = time.perf_counter()
    scores, labels, failures = _score_videos(cfg, model, device)
    seconds = time.perf_counter() - started
    parts = gather((scores, labels, failures))
    if not is_main():
        return None
    scores = {index: row for part, _, _ in parts for index, row in part.items()}
    labels = {index: label for _, part, _ in parts for index, label in part.items()}
    failures = sorted((f for _, _, part in parts for f in part), key=lambda f: f.index)
    return _write_results(cfg, weights, scores, labels, failures, seconds)


def weights_to_test(cfg: CfgNode) -> Path:
    """TEST.CHECKPOINT_FILE_PATH, else what training left in OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.

    Raises:
        ConfigError: when there is none of them.
    """
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return Path(cfg.TEST.CHECKPOINT_FILE_PATH)
    if cfg.TEST.CHECKPOINT == "best":
        if best_path(cfg.OUTPUT_DIR).exists():
            return best_path(cfg.OUTPUT_DIR)
        raise ConfigError(f"TEST.CHECKPOINT is best, but there is no {best_path(cfg.OUTPUT_DIR)}; use last")
    if (last := last_checkpoint(cfg.OUTPUT_DIR)) is not None:
        return last[0]
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    raise ConfigError(
        f"no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and {checkpoint_dir(cfg.OUTPUT_DIR)} has no checkpoint"
    )


@torch.no_grad()
def _score_videos(
    cfg: CfgNode, model: torch.nn.Module, device: torch.device
) -> tuple[dict[int, np.ndarray], dict[int, int], list[Failure]]:
    loader = view_loader(
        cfg,
        "test",
        clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        crops=cfg.TEST.NUM_SPATIAL_CROPS,
        rank=rank(),
        world_size=world_size(),
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda",
        shuffle_frames=cfg.TEST.SHUFFLE_FRAMES,
    )
    views_at_once = max(1, cfg.TEST.BATCH_SIZE // max(cfg.NUM_GPUS, 1))
    scores: dict[int, np.ndarray] = {}
    labels: dict[int, int] = {}
    failures: list[Failure] = []
    waiting: list[tuple[int, torch.Tensor]] = []
    started = time.perf_counter()

    def run_waiting() -> None:
        # Views of several videos share a batch, and a video's views may take several batches.
        if not waiting:
            return
        views = torch.cat([views for _, views in waiting])
        rows = []
        for clips in views.split(views_at_once):
            clips = normalise(
                clips.to(device, non_blocking=True),
                cfg.DATA.MEAN,
                cfg.DATA.STD,
                reverse_channels=cfg.DATA.REVERSE_INPUT_CHANNEL,
            )
            model.clean_activation_buffers()
            logits = model(clips).double()
            rows.append(logits.softmax(1) if cfg.TEST.SCORES == "softmax" else logits)
        per_video = torch.cat(rows).split([len(views) for _, views in waiting])
        for (index, _), part in zip(waiting, per_video, strict=True):
            if not part.isfinite().all():
                raise FloatingPointError(
                    f"the network's scores of {loader.dataset.videos.path(index)} are no finite numbers; "
                    "are these the right weights?"
                )
            scores[index] = ensemble_scores(part, cfg.DATA.ENSEMBLE_METHOD).cpu().numpy()
        waiting.clear()

    for step, (views, label, index, failure) in enumerate(loader, start=1):
        if failure is not None:
            logger.error("unreadable test video: %s: %s", failure.video, failure.cause)
            failures.append(failure)
            continue
        labels[index] = label
        waiting.append((index, views))
        if sum(len(v) for _, v in waiting) >= views_at_once:
            run_waiting()
        if step % cfg.LOG_PERIOD == 0 and is_main():
            elapsed = time.perf_counter() - started
            left = elapsed / step * (len(loader) - step)
            log_json_stats({"split": "test_iter", "cur_iter": step, "eta": f"{left:.0f}s", "time_diff": elapsed / step})
    run_waiting()
    return scores, labels, failures


def _write_results(
    cfg: CfgNode,
    weights: Path,
    scores: dict[int, np.ndarray],
    labels: dict[int, int],
    failures: list[Failure],
    seconds: float,
) -> dict[str, Any]:
    videos = split_list(cfg, "test")
    order = sorted(scores)
    score_rows = np.stack([scores[i] for i in order]) if order else np.empty((0, cfg.MODEL.NUM_CLASSES))
    label_rows = np.array([labels[i] for i in order], dtype=np.int64)
    ks = cfg.TEST.TOP_K
    hits = topk_correct(torch.from_numpy(score_rows), torch.from_numpy(label_rows), ks)
    accuracy = {f"top{k}": 100.0 * hit / len(order) if order else 0.0 for k, hit in zip(ks, hits, strict=True)}
    results = {
        **accuracy,
        "videos": len(order),
        "views": cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS,
        "clips": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "crops": cfg.TEST.NUM_SPATIAL_CROPS,
        "scores": cfg.TEST.SCORES,
        "ensemble": cfg.DATA.ENSEMBLE_METHOD,
        "seconds": round(seconds, 3),
        "failed": [{"video": f.video, "cause": f.cause} for f in failures],
        "checkpoint": str(weights),
        "class_names": read_class_names(cfg.DATA.CLASS_NAMES) if cfg.DATA.CLASS_NAMES else [],
        "versions": versions(),
    }
    output = Path(cfg.OUTPUT_DIR)
    np.savez_compressed(
        output / "predictions.npz",
        video=np.array([videos.path(i) for i in order], dtype=np.str_),
        label=label_rows,
        scores=score_rows,
    )
    (output / "test_results.json").write_text(json.dumps(results, indent=1) + "\n")
    final = {f"{name}_acc": f"{value:.2f}" for name, value in accuracy.items()}
    log_json_stats({"split": "test_final", "gpu_mem": gpu_memory(), **final})
    return results
