"""Learning rates against the reference numbers, and the factors that groups put on them."""

import golden
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videobench.config import load_config
from videobench.solver.optimizer import set_learning_rate
from videobench.solver.schedule import learning_rate, shard_scale


def solver_config(entry: dict):
    words = [w for key, value in entry["solver"].items() for w in (f"SOLVER.{key}", value)]
    return load_config([], [*words, "NUM_SHARDS", entry["num_shards"]])


def test_schedules_equal_the_references():
    entries = golden.table("schedules")["schedules"]
    assert len(entries) > 20
    for entry in entries:
        cfg = solver_config(entry)
        # Motionformer's switch never acts: its code scales the defaults before it reads the YAML.
        scale = 1.0 if entry["repository"] == "Motionformer" else shard_scale(cfg)
        for key, value in entry["after_shard_scaling"].items():
            assert cfg.SOLVER[key] * scale == pytest.approx(value, rel=1e-12), (entry["name"], key)
        for epoch, lr in entry["points"]:
            assert learning_rate(cfg.SOLVER, epoch, scale) == pytest.approx(lr, rel=1e-9), (entry["name"], epoch)


@given(
    warmup=st.floats(0.0, 20.0),
    after=st.booleans(),
    steps=st.integers(1, 500),
    epoch=st.integers(0, 29),
    step=st.integers(0, 499),
)
def test_every_step_has_a_rate_between_the_ends(warmup, after, steps, epoch, step):
    words = ["SOLVER.BASE_LR", 0.1, "SOLVER.COSINE_END_LR", 0.001, "SOLVER.WARMUP_START_LR", 0.001]
    words += ["SOLVER.MAX_EPOCH", 30, "SOLVER.WARMUP_EPOCHS", warmup, "SOLVER.COSINE_AFTER_WARMUP", after]
    rate = learning_rate(load_config([], words).SOLVER, epoch + min(step, steps - 1) / steps)
    assert 0.001 * (1 - 1e-12) <= rate <= 0.1 * (1 + 1e-12)


def test_machines_scale_rates_only_where_asked():
    more = ["NUM_SHARDS", 4]
    assert shard_scale(load_config([], more)) == 1.0
    assert shard_scale(load_config([], [*more, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", True])) == 4.0


def test_groups_multiply_the_scheduled_rate():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in (0.25, 1.0)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    set_learning_rate(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.4]
