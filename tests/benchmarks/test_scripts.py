"""What the measuring scripts do besides timing."""

import argparse
import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import NETWORKS, sample, tiny

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str):
    """A script as a module; the scripts find each other in their folder."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize(
    ("network", "mode", "precision"),
    [("uniformer", "infer", "bf16"), ("motionformer", "train", "fp32"), ("movinet_stream", "stream", "fp32")],
)
def test_networks_are_compared_with_their_plain_forms(monkeypatch, network, mode, precision):
    model, clock, ours = script("model"), script("clock"), tiny(network)
    monkeypatch.setattr(model.videobench, "create_model", lambda _: ours)
    monkeypatch.setattr(model, "input_shape", lambda _: NETWORKS[network][2][1:])
    monkeypatch.setattr(model, "matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr(model, "STREAMED_FRAMES", 3)
    args = argparse.Namespace(
        mode=mode,
        precision=precision,
        device=torch.device("cpu"),
        batch=2,
        rounds=1,
        few=False,
        compile=False,
        channels_last=False,
        stages=mode == "infer",
    )
    found = model.measure(NETWORKS[network][0], args, clock.Clock(args.device))
    assert found["largest_difference"] < model.TOLERANCE[precision]
    forms = {"plain", "ours"} | ({"folded"} if mode == "stream" else set())
    for figures in ("seconds", "peak_bytes", "counted", "share_of_matrix_rate"):
        assert found[figures].keys() == forms
    assert all(bytes_ > 0 for bytes_ in found["peak_bytes"].values())
    assert all(counted["operations"] > 0 for counted in found["counted"].values())
    if mode == "infer":
        assert sum(stage["operations"] for stage in found["stages"]) == found["counted"]["ours"]["operations"]


def test_every_part_of_a_stage_lowers_its_own_weights():
    """As in a whole pass: a context around all repetitions would keep lowered weights for them."""
    stages, entered = script("stages"), []

    @contextmanager
    def in_precision():
        entered.append(True)
        with torch.autocast("cpu", torch.bfloat16):
            yield

    def run() -> None:
        with in_precision():
            model(sample("uniformer"))

    model, timed = tiny("uniformer"), []
    found = stages.stages(model, run, lambda part: timed.append(part()) or 1.0, in_precision)
    parts = sum(stage["parts"] for stage in found)
    assert len(timed) == parts * stages.MEASURED
    assert len(entered) >= 1 + len(timed) + parts  # the pass, the repetitions, and one of each part that is counted


@given(st.integers(0, 5000))
def test_the_largest_batch_is_found_to_an_eighth(limit):
    tried = []
    found = script("largest_batch").largest(lambda batch: tried.append(batch) or batch <= limit)
    assert found <= limit <= found + max(1, found // 8)
    assert len(tried) < 30


def test_steps_that_run_ahead_of_a_gpu_are_timed_to_their_end(monkeypatch):
    end_to_end, happened = script("end_to_end"), []

    class Trainer:
        """Four steps; each says when it is noted and when its time ends."""

        def __init__(self, *_: object) -> None:
            self.loader = range(4)
            self.log = SimpleNamespace(add=lambda step: happened.append(f"step {step}"))
            self.clock = SimpleNamespace(data=SimpleNamespace(values=[0.0] * 4), step=SimpleNamespace(values=[1.0] * 4))

        def run(self) -> None:
            for step in self.loader:
                self.log.add(step)
                happened.append("time")

    monkeypatch.setattr(end_to_end, "Trainer", Trainer)
    monkeypatch.setattr(end_to_end, "finish_queued", lambda _: happened.append("finished"))
    device = torch.device("cuda")
    assert end_to_end.train_ours(None, device, end_to_end.Phases(device, enabled=False)) == [1.0] * 4
    # The queue is empty where the time that counts begins, and where it ends.
    assert " ".join(happened) == "step 0 finished time step 1 time step 2 time step 3 finished time"


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    clock = script("clock")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert clock.usable_device("cpu") == torch.device("cpu")
    for name, message in (("cuda", "finds no GPU"), ("tpu", "cpu or cuda")):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            clock.usable_device(name)
