"""Starting one process per GPU (or a single one on the CPU) and joining them to a group."""

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from videobench.config import CfgNode, ConfigError


def launch(
    cfg: CfgNode,
    function: Callable[[CfgNode, torch.device], int],
    init_method: str,
    expected: tuple[type[Exception], ...] = (),
) -> int:
    """Run ``function(cfg, device)`` on every rank of this machine and return its exit status.

    Args:
        cfg: NUM_GPUS, NUM_SHARDS and SHARD_ID say how many ranks there are and which of them live here.
        function: what each rank does; rank 0 of the machine decides the exit status.
        init_method: where the ranks meet, as torch.distributed wants it (``tcp://host:port``).
        expected: errors of a rank that are raised here again as they are; others come with the rank's traceback.

    Raises:
        ConfigError: when this machine has fewer GPUs than asked for.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if available < cfg.NUM_GPUS:
        raise ConfigError(
            f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has {available} usable GPU{'s' * (available != 1)}; "
            "set NUM_GPUS to what is there (0 runs on the CPU)"
        )
    local_ranks = max(cfg.NUM_GPUS, 1)
    if local_ranks * cfg.NUM_SHARDS == 1:
        return function(cfg, _device(cfg, 0))
    results = mp.get_context("spawn").SimpleQueue()
    arguments = (cfg, function, init_method, expected, results)
    try:
        mp.start_processes(_run_rank, arguments, nprocs=local_ranks, start_method="spawn")
    except mp.ProcessExitedException:
        if results.empty():
            raise
    result = results.get()
    if isinstance(result, Exception):
        raise result
    return result


def _device(cfg: CfgNode, local_rank: int) -> torch.device:
    if cfg.NUM_GPUS == 0:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _run_rank(local_rank: int, cfg: CfgNode, function: Callable, init_method: str, expected: tuple, results) -> None:
    local_ranks = max(cfg.NUM_GPUS, 1)
    device = _device(cfg, local_rank)
    dist.init_process_group(
        backend=cfg.DIST_BACKEND if device.type == "cuda" else "gloo",
        init_method=init_method,
        world_size=local_ranks * cfg.NUM_SHARDS,
        rank=cfg.SHARD_ID * local_ranks + local_rank,
    )
    try:
        status = function(cfg, device)
        if local_rank == 0:
            results.put(status)
    except expected as error:
        results.put(error)
        # The other ranks may wait for this one in a collective: leave at once, so that they are ended too.
        os._exit(1)
    dist.destroy_process_group()
