"""Runs in processes of their own, forked from one that has the slow imports behind it and has done nothing else."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from videobench.engine.run import run

RECIPE = str(Path(__file__).resolve().parents[1] / "configs/demo/uniformer_tiny.yaml")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["videobench.engine.run", "videobench.engine.trainer", "torch._dynamo", "timm.utils"])


#: A signal that a process sends itself, after which call of which function that a module of videobench.engine uses.
Interruption = tuple[signal.Signals, int, str]
#: A function that is called once a training step.
STEP = "trainer.report_progress"


def _work(words: list, environment: Mapping[str, str], interruption: Interruption | None) -> None:
    os.environ.update(environment, OMP_NUM_THREADS="1")
    if interruption:
        _interrupt_itself(*interruption)
    sys.exit(run([RECIPE], words, ""))


def _interrupt_itself(number: signal.Signals, calls: int, function: str) -> None:
    module, _, name = function.rpartition(".")
    user = importlib.import_module(f"videobench.engine.{module}")
    called, done = getattr(user, name), count(1)

    def call_and_signal(*args, **options) -> object:
        result = called(*args, **options)
        if next(done) == calls:
            os.kill(os.getpid(), number)
        return result

    setattr(user, name, call_and_signal)


def start(
    words: list, environment: Mapping[str, str] | None = None, interruption: Interruption | None = None
) -> multiprocessing.Process:
    """A process that trains the demo recipe with these overrides."""
    process = _CONTEXT.Process(target=_work, args=(words, environment or {}, interruption))
    process.start()
    return process


def start_two(
    words: list, *, local: int = 2, second_interrupted: Interruption | None = None
) -> list[multiprocessing.Process]:
    """Two ranks as torchrun would start them: ``local`` of them on every machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = ({"RANK": i, "LOCAL_RANK": i % local, "GROUP_RANK": i // local} for i in range(2))
    return [
        start(words, {k: str(v) for k, v in (common | place).items()}, second_interrupted if place["RANK"] else None)
        for place in places
    ]
