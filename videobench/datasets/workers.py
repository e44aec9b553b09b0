"""Loader processes."""

import os
from typing import Any

from videobench.config import CfgNode


def worker_options(cfg: CfgNode, persistent: bool = True) -> dict[str, Any]:
    """What a DataLoader needs to know about its workers."""
    workers = cfg.DATA_LOADER.NUM_WORKERS
    if workers == -1:
        workers = min(8, max(1, usable_cores() // max(cfg.NUM_GPUS, 1)))
    return {"num_workers": workers, "persistent_workers": persistent and workers > 0}


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
