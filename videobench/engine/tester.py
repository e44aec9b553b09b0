"""Multi-view testing: every video decoded once, its views' scores combined, unfinished tests continued."""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from videobench.config import CfgNode, ConfigError
from videobench.config.checks import local_ranks
from videobench.datasets.annotations import split_list
from videobench.datasets.augment import normalise
from videobench.datasets.clips import Failure
from videobench.datasets.epic_kitchens import NOUNS, VERBS
from videobench.datasets.views import Grid, ViewLoader, Views, spread, video_bytes
from videobench.distributed.group import gather, is_main, rank, report_progress, world_size
from videobench.engine.arithmetic import autocast, channels_innermost, channels_last, tf32
from videobench.engine.checkpoint import best_path, checkpoint_dir, last_checkpoint, versions
from videobench.engine.class_names import class_names
from videobench.engine.class_order import match_classes
from videobench.engine.results import classes_fingerprint, list_fingerprint, write_results
from videobench.engine.scores import Layout, ScoreStore
from videobench.engine.sound_convolutions import avoid_unsound_convolutions
from videobench.engine.stopping import StopRequest
from videobench.models import VideoModel, WeightsError, build_model, load_weights
from videobench.reporting.log import log_json_stats

logger = logging.getLogger(__name__)

# Clips that SlowFast goes through when TEST.NUM_ENSEMBLE_VIEWS is -1.
_SLOWFAST_SWEEP = (10, 1, 3, 5, 7)
# Batches that a group of videos fills at most; the last one of a group may be smaller.
_GROUP_BATCHES = 16
# Keys and sections that change no score of a video, besides what the list's fingerprint covers.
_HARMLESS = (
    *("OUTPUT_DIR", "LOG_PERIOD", "NUM_GPUS", "NUM_CPU_RANKS", "NUM_SHARDS", "SHARD_ID", "DIST", "DATA_LOADER"),
    *("TRAIN", "SOLVER", "TENSORBOARD", "AUG", "MIXUP", "BN", "SLURM", "DATA.PATH_TO_DATA_DIR"),
    *(
        "DATA.MAX_FAILED_FRACTION",
        "DATA.INDEX_CACHE",
        "TEST.ENABLE",
        "TEST.BATCH_SIZE",
        "TEST.CHECKPOINT",
        "TEST.CHECKPOINT_FILE_PATH",
    ),
    *("TEST.TOP_K", "TEST.ALLOW_FAILED", "TEST.NUM_ENSEMBLE_VIEWS", "TEST.NUM_SPATIAL_CROPS", "TEST.VIEW_SWEEP"),
)


class TestStopped(RuntimeError):
    """A test that was asked to stop; the scores so far are on the disk."""

    __test__ = False  # no tests for pytest


def test(cfg: CfgNode, device: torch.device) -> dict[str, Any] | None:
    """Test the network of a configuration; results are written to OUTPUT_DIR (see `engine.results`).

    A test that was stopped goes on with the videos that are left; unreadable videos are tried again.

    Returns:
        The results on the first rank, None on the others.

    Raises:
        ConfigError: when there are no weights to test.
        WeightsError: when they do not fill the network, or have no average for TEST.WEIGHTS ema.
        FloatingPointError: when the network gives scores that are no finite numbers.
        TestStopped: after SIGTERM or SIGUSR1.
    """
    weights = weights_to_test(cfg)
    model = build_model(cfg)
    report = load_weights(model, weights, average=cfg.TEST.WEIGHTS == "ema")
    if not report.complete:
        raise WeightsError(f"{weights}: these weights do not fill the network that is to be tested\n{report}")
    logger.info("testing %s", report)
    match_classes(model, report, cfg, required=True)
    model = model.to(device).eval()
    if cfg.TRAIN.CHANNELS_LAST:
        channels_innermost(model)
    avoid_unsound_convolutions(model, device, cfg.TEST.PRECISION)
    videos, grids = split_list(cfg, "test"), view_grids(cfg)
    # The first rank reads what is there and tells the others, so that all skip the same videos.
    facts, done = None, None
    if is_main():
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        facts = {"weights": sha256, "list": list_fingerprint(videos), "views": grids, "versions": versions()}
        # The classifier is put into the order of the class names.
        facts["classes"] = classes_fingerprint(class_names(cfg))
        store = ScoreStore(cfg.OUTPUT_DIR, facts | _protocol_keys(cfg))
        done = store.read()
        store.prepare()
        if done.rows:
            logger.info("%d of %d videos were scored before (%s)", len(done.rows), len(videos), store.folder)
    facts, scored, attempt = gather((facts, done and sorted(done.rows), done and done.attempts + 1))[0]
    store = ScoreStore(cfg.OUTPUT_DIR, facts | _protocol_keys(cfg))

    started = time.perf_counter()
    share = _share(cfg, videos, sum(clips * crops for clips, crops in grids), set(scored))
    with StopRequest() as stop:  # also while it waits for others: its end would end them within a group of videos
        with tf32(cfg.TEST.TF32):
            own = _score_share(cfg, model, device, share, store, attempt, stop)
        parts = gather((own, time.perf_counter() - started))
    if not is_main():
        return None
    rows, layout = dict(done.rows), done.layout
    for part, _ in parts:
        rows |= part.rows
        layout = part.layout or layout
    if layout is None:  # no video could be read, so the network has not said what it gives
        heads = {"verb": VERBS, "noun": NOUNS} if isinstance(videos.labels, dict) else {"": cfg.MODEL.NUM_CLASSES}
        layout = Layout(grids, tuple(heads.items()))
    failures = sorted((f for part, _ in parts for f in part.failures), key=lambda f: f.index)
    results = write_results(
        cfg,
        videos,
        rows,
        layout,
        failures,
        weights=weights,
        sha256=facts["weights"],
        seconds=done.seconds + max(seconds for _, seconds in parts) * any(part.rows for part, _ in parts),
        waited=max(part.waited / seconds for part, seconds in parts),
    )
    if not failures:
        store.remove()
    return results


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
        "; name one, or train first (TRAIN.ENABLE True)"
    )


def view_grids(cfg: CfgNode) -> tuple[Grid, ...]:
    """(clips, crops) of everything to evaluate: first what the headline numbers are of, then TEST.VIEW_SWEEP."""
    test = cfg.TEST
    clips = _SLOWFAST_SWEEP if test.NUM_ENSEMBLE_VIEWS == -1 else (test.NUM_ENSEMBLE_VIEWS,)
    grids = [(count, test.NUM_SPATIAL_CROPS) for count in clips] + [tuple(grid) for grid in test.VIEW_SWEEP]
    return tuple(dict.fromkeys(grids))


def ensemble_scores(scores: Tensor, method: str) -> Tensor:
    """Scores [views, classes] of one video as [classes]: their ``sum``, or their ``max`` (of negative numbers too)."""
    return scores.sum(0) if method == "sum" else scores.max(0).values


def video_groups(videos: int, views: int, batch_size: int) -> list[range]:
    """The list cut into groups of videos whose views are batched together.

    Which views share a batch depends on the list alone, not on ranks or on where an earlier attempt stopped: that
    keeps scores the same to the last bit. Groups fill whole batches where a few videos can do that.
    """
    size = next((n for n in range(1, batch_size + 1) if n * views % batch_size == 0), 1)
    size = min(size, max(1, _GROUP_BATCHES * batch_size // views))
    return [range(start, min(start + size, videos)) for start in range(0, videos, size)]


def _protocol_keys(cfg: CfgNode) -> dict[str, Any]:
    """The keys of the configuration that scores depend on; keys that nobody thought of here count too."""

    def flat(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in node.items():
            key = prefix + name
            if key not in _HARMLESS:
                yield from flat(value, key + ".") if isinstance(value, dict) else [(key, value)]

    return dict(flat(yaml.safe_load(cfg.dump())))


def _share(cfg: CfgNode, videos, views: int, scored: set[int]) -> list[range]:
    """This rank's groups of videos; a group that is not complete is scored again as a whole."""
    batch_size = cfg.TEST.BATCH_SIZE // local_ranks(cfg)
    groups = [g for g in video_groups(len(videos), views, max(1, batch_size)) if not scored.issuperset(g)]
    if world_size() == 1:
        return groups
    # Every rank looks at its part of the files.
    sizes = [video_bytes(videos, group).sum() for group in groups[rank() :: world_size()]]
    costs = np.zeros(len(groups))
    for number, part in enumerate(gather(sizes)):
        costs[number :: world_size()] = part
    return [groups[job] for job in spread(costs, world_size())[rank()]]


@dataclass
class _Scored:
    """What a rank has scored."""

    rows: dict[int, np.ndarray] = field(default_factory=dict)
    layout: Layout | None = None
    failures: list[Failure] = field(default_factory=list)
    waited: float = 0.0


@torch.inference_mode()
def _score_share(
    cfg: CfgNode,
    model: VideoModel,
    device: torch.device,
    groups: list[range],
    store: ScoreStore,
    attempt: int,
    stop: StopRequest,
) -> _Scored:
    """Score groups of videos and write every group to the store as soon as it is complete."""
    scored, scorer = _Scored(), Scorer(cfg, model, device)
    indices = [index for group in groups for index in group]
    loader = ViewLoader(cfg, "test", scorer.grids, indices=indices, shuffle_frames=cfg.TEST.SHUFFLE_FRAMES)
    started = time.perf_counter()
    count = 0

    def readable(items: Iterator[Views], number: int) -> Iterator[Views]:
        nonlocal count
        for _ in range(number):
            asked = time.perf_counter()
            views = next(items)
            scored.waited += time.perf_counter() - asked
            if views.failure is None:
                yield views
            else:
                logger.error("unreadable test video: %s: %s", views.failure.video, views.failure.cause)
                scored.failures.append(views.failure)
            count += 1
            report_progress(f"after {count} of {len(indices)} test videos")
            if count % cfg.LOG_PERIOD == 0 and is_main():
                each = (time.perf_counter() - started) / count
                eta = f"{each * (len(indices) - count):.0f}s"
                log_json_stats({"split": "test_iter", "cur_iter": count, "eta": eta, "time_diff": each})

    with store.writer(attempt, rank()) as shard:
        items = iter(loader)
        for group in groups:
            rows = dict(scorer.score(readable(items, len(group))))
            for index, row in rows.items():
                if not np.isfinite(row).all():
                    raise FloatingPointError(
                        f"the network's scores of {loader.videos.path(index)} are no finite numbers; "
                        f"are these the right weights? (TEST.PRECISION is {cfg.TEST.PRECISION})"
                    )
            if rows:
                scored.layout = scorer.layout
                shard.append(scorer.layout, rows, time.perf_counter() - started)
            scored.rows |= rows
            if stop.signal is not None:
                raise TestStopped(
                    f"stopped by {stop.signal.name} after {count} of {len(indices)} test videos; the same command goes "
                    "on with those that are left"
                )
    return scored


class Scorer:
    """Runs views through a network in batches that do not care where a video begins and ends."""

    def __init__(self, cfg: CfgNode, model: VideoModel, device: torch.device) -> None:
        self.cfg, self.model, self.device = cfg, model, device
        self.grids = view_grids(cfg)
        self.batch_size = max(1, cfg.TEST.BATCH_SIZE // local_ranks(cfg))
        self.pin = cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda"
        self.layout: Layout | None = None

    def score(self, videos: Iterable[Views]) -> Iterator[tuple[int, np.ndarray]]:
        """(number in the list, row of numbers as `layout` has it) of videos, each as soon as its last view is done."""
        waiting: list[tuple[Views, int, int]] = []
        parts: dict[int, list[Tensor]] = {}
        room = self.batch_size

        def run() -> Iterator[tuple[int, np.ndarray]]:
            scores = self._scores(torch.cat([views.clips(first, last) for views, first, last in waiting]))
            for (views, _, last), part in zip(waiting, scores.split([b - a for _, a, b in waiting]), strict=True):
                parts.setdefault(views.index, []).append(part)
                if last == len(views):
                    yield views.index, self._row(views, torch.cat(parts.pop(views.index)))
            waiting.clear()

        for views in videos:
            views = views.to(self.device, pin=self.pin)
            first = 0
            while first < len(views):
                last = min(len(views), first + room)
                waiting.append((views, first, last))
                room -= last - first
                first = last
                if not room:
                    yield from run()
                    room = self.batch_size
        if waiting:
            yield from run()

    def _scores(self, clips: Tensor) -> Tensor:
        """Scores [views, classes of all heads] of uint8 clips, in float64."""
        data, test = self.cfg.DATA, self.cfg.TEST
        clips = normalise(clips, data.MEAN, data.STD, reverse_channels=data.REVERSE_INPUT_CHANNEL)
        self.model.clean_activation_buffers()
        with autocast(self.device, test.PRECISION):
            logits = self.model(channels_last(clips) if self.cfg.TRAIN.CHANNELS_LAST else clips)
        heads = logits if isinstance(logits, dict) else {"": logits}
        if self.layout is None:
            self.layout = Layout(self.grids, tuple((name, head.shape[1]) for name, head in heads.items()))
        score = {"softmax": lambda x: x.softmax(1), "sigmoid": torch.sigmoid, "logits": lambda x: x}[test.SCORES]
        return torch.cat([score(head.double()) for head in heads.values()], dim=1)

    def _row(self, views: Views, scores: Tensor) -> np.ndarray:
        """The numbers of one video from the scores of its views that differ."""
        sums, agreements = [], []
        for members in views.grids:
            each = scores[torch.from_numpy(members).to(scores.device)]
            whole = ensemble_scores(each, self.cfg.DATA.ENSEMBLE_METHOD)
            sums.append(whole)
            for head, total in zip(self._heads(each), self._heads(whole), strict=True):
                agreements.append((head.argmax(-1) == total.argmax(-1)).double().mean())
        return torch.cat([*sums, torch.stack(agreements)]).cpu().numpy()

    def _heads(self, scores: Tensor) -> tuple[Tensor, ...]:
        return scores.split([classes for _, classes in self.layout.heads], dim=-1)
