"""The effective recipe of a run in words: what the configuration comes to on these ranks and this data."""

from collections.abc import Iterator

import torch

from videobench.config import CfgNode
from videobench.solver.optimizer import describe_groups
from videobench.solver.schedule import shard_scale


def describe_recipe(
    cfg: CfgNode, optimizer: torch.optim.Optimizer, *, videos: int, steps: int, ranks: int, micro_batch: int
) -> str:
    """The recipe, one fact a line.

    Args:
        cfg: the configuration.
        optimizer: over the parameters that are trained.
        videos, steps: in an epoch.
        ranks: processes in all.
        micro_batch: clips of a rank per forward pass; 0 is the whole share of the batch.
    """
    return "recipe:\n" + "\n".join(
        f"  {name:<14} {text}" for name, text in _facts(cfg, optimizer, videos, steps, ranks, micro_batch)
    )


def _facts(
    cfg: CfgNode, optimizer: torch.optim.Optimizer, videos: int, steps: int, ranks: int, micro_batch: int
) -> Iterator[tuple[str, str]]:
    train, solver, aug = cfg.TRAIN, cfg.SOLVER, cfg.AUG
    batch, copies = train.BATCH_SIZE * cfg.NUM_SHARDS, aug.NUM_SAMPLE
    clips = batch * copies
    share = clips // ranks
    size = min(micro_batch or share, share)
    several = f" x {copies} samples of each (AUG.NUM_SAMPLE) = {clips} clips" if copies > 1 else ""
    machines = f" (TRAIN.BATCH_SIZE {train.BATCH_SIZE} x {cfg.NUM_SHARDS} machines)" if cfg.NUM_SHARDS > 1 else ""
    yield "global batch", f"{batch} videos{machines}{several}"
    pieces = -(-share // size)
    yield (
        "micro-batches",
        f"{ranks} rank(s) x {pieces} x {size} clips"
        + (f", each in {cfg.MOVINET.TRAIN_SUBCLIPS} sub-clips" if cfg.MOVINET.TRAIN_SUBCLIPS > 1 else ""),
    )
    left_out = f"; {videos - steps * batch} of {videos} videos are left out of each, others every time"
    yield "epochs", f"{solver.MAX_EPOCH} of {steps} steps" + (left_out if videos > steps * batch else "")
    yield "learning rate", _learning_rate(cfg)
    yield "optimizer", f"{solver.OPTIMIZING_METHOD}: {describe_groups(optimizer.param_groups)}"
    clipping = (
        f"every entry to {solver.CLIP_GRAD_VAL:g} (SOLVER.CLIP_GRAD_VAL)"
        if solver.CLIP_GRAD_VAL is not None
        else f"norm to {solver.CLIP_GRAD_L2NORM:g}"
        if solver.CLIP_GRAD_L2NORM is not None
        else "none"
    )
    yield "clipping", clipping
    yield "loss", cfg.MODEL.LOSS_FUNC + (f", label smoothing {solver.SMOOTHING:g}" if solver.SMOOTHING else "")
    yield "augmentation", _augmentation(cfg)
    yield "mixing", _mixing(cfg)
    extras = [name for name in ("COMPILE", "CUDA_GRAPHS", "CHANNELS_LAST", "SHARD", "EMA") if train[name]]
    extras += ["BN.USE_PRECISE_STATS"] * cfg.BN.USE_PRECISE_STATS + ["MODEL.FROZEN_BN"] * cfg.MODEL.FROZEN_BN
    yield "precision", ", ".join([train.PRECISION, *extras])


def _learning_rate(cfg: CfgNode) -> str:
    solver, scale = cfg.SOLVER, shard_scale(cfg)
    why = f" (SOLVER.BASE_LR {solver.BASE_LR:g} x {scale:g} machines, SOLVER.BASE_LR_SCALE_NUM_SHARDS)"
    text = f"{solver.BASE_LR * scale:g}{why if scale != 1 else ' (SOLVER.BASE_LR as it stands)'}, {solver.LR_POLICY}"
    if solver.LR_POLICY == "cosine":
        text += f" to {solver.COSINE_END_LR * scale:g}"
    if solver.WARMUP_EPOCHS:
        text += f", warm-up of {solver.WARMUP_EPOCHS:g} epochs from {solver.WARMUP_START_LR * scale:g}"
    return text


def _augmentation(cfg: CfgNode) -> str:
    data, aug = cfg.DATA, cfg.AUG
    if data.TRAIN_JITTER_SCALES_RELATIVE:
        parts = [f"random resized crop (area {data.TRAIN_JITTER_SCALES_RELATIVE})"]
    else:
        parts = [f"short side {data.TRAIN_JITTER_SCALES}, random crop"]
    parts += ["flip"] * data.RANDOM_FLIP
    if aug.ENABLE:
        parts += [aug.AA_TYPE or f"colour jitter {aug.COLOR_JITTER:g}"]
        parts += [f"erasing {aug.RE_PROB:g}"] * (aug.RE_PROB > 0)
    parts += [f"DATA.{key}" for key in ("COLORJITTER", "GRAYSCALE", "GAUSSIAN") if data[key]]
    return ", ".join(parts)


def _mixing(cfg: CfgNode) -> str:
    mix = cfg.MIXUP
    if not mix.ENABLE:
        return "none"
    return (
        f"mixup alpha {mix.ALPHA:g}, cutmix alpha {mix.CUTMIX_ALPHA:g}, with probability {mix.PROB:g} per {mix.MODE}, "
        f"label smoothing {mix.LABEL_SMOOTH_VALUE:g}"
    )
