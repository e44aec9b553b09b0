"""Learning rates as pure functions of the (fractional) epoch."""

import math

from videobench.config import CfgNode


def learning_rate(solver: CfgNode, epoch: float, scale: float = 1.0) -> float:
    """The learning rate at a moment of training.

    Args:
        solver: the SOLVER section.
        epoch: finished epochs and the fraction of the current one: the step at hand counts from its start.
        scale: factor on BASE_LR, WARMUP_START_LR and COSINE_END_LR (see :func:`shard_scale`).
    """
    if epoch < solver.WARMUP_EPOCHS:
        start = solver.WARMUP_START_LR * scale
        end = _policy(solver, solver.WARMUP_EPOCHS, scale)
        return start + epoch * (end - start) / solver.WARMUP_EPOCHS
    return _policy(solver, epoch, scale)


def shard_scale(cfg: CfgNode) -> float:
    """The factor on learning rates: the number of machines with SOLVER.BASE_LR_SCALE_NUM_SHARDS, else one."""
    solver = cfg.SOLVER
    return float(solver.BASE_LR_NUM_SHARDS or cfg.NUM_SHARDS) if solver.BASE_LR_SCALE_NUM_SHARDS else 1.0


def _policy(solver: CfgNode, epoch: float, scale: float) -> float:
    if solver.LR_POLICY == "steps_with_relative_lrs":
        index = sum(step <= epoch for step in solver.STEPS) - 1
        return solver.BASE_LR * scale * solver.LRS[index]
    base, end = solver.BASE_LR * scale, solver.COSINE_END_LR * scale
    offset = solver.WARMUP_EPOCHS if solver.COSINE_AFTER_WARMUP else 0.0
    progress = (epoch - offset) / (solver.MAX_EPOCH - offset)
    return end + (base - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
