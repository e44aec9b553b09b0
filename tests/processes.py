"""Runs in processes of their own, forked from one that has the slow imports behind it and has done nothing else."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from videobench.engine.run import run

RECIPE = str(Path(__file__).resolve().parents[1] / "configs/demo/uniformer_tiny.yaml")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["videobench.engine.run", "videobench.engine.trainer", "torch._dynamo", "timm.utils"])


def _work(words: list, environment: Mapping[str, str]) -> None:
    os.environ.update(environment, OMP_NUM_THREADS="1")
    sys.exit(run([RECIPE], words, ""))


def start(words: list, environment: Mapping[str, str] | None = None) -> multiprocessing.Process:
    """A process that trains the demo recipe with these overrides."""
    process = _CONTEXT.Process(target=_work, args=(words, environment or {}))
    process.start()
    return process


def start_two(words: list, *, local: int = 2) -> list[multiprocessing.Process]:
    """Two ranks as torchrun would start them: ``local`` of them on every machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = ({"RANK": i, "LOCAL_RANK": i % local, "GROUP_RANK": i // local} for i in range(2))
    return [start(words, {k: str(v) for k, v in (common | place).items()}) for place in places]
