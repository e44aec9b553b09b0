"""Going on with a run: on other machines and ranks, and the note of it."""

import csv
import logging
import os
import time
from pathlib import Path

import pytest
import torch
from processes import RECIPE, start_two

from videobench.config import ConfigError, load_config
from videobench.distributed.place import find_place, settle
from videobench.engine.checkpoint import epoch_path
from videobench.engine.continuation import RESTART_COLUMNS, batch_kept, keep_global_batch, note_restart
from videobench.engine.run import DONE, run
from videobench.models.weights import read_checkpoint, write_checkpoint
from videobench.solver.schedule import shard_scale

# No batch norm and no dropout, so that ranks change nothing but the rounding.
SMALL = [
    *("MODEL.MODEL_NAME", "MViT", "MODEL.DROPOUT_RATE", 0.0, "MVIT.DEPTH", 1, "MVIT.EMBED_DIM", 16),
    *("MVIT.DROPPATH_RATE", 0.0, "MVIT.PATCH_PADDING", [1, 3, 3], "TEST.ENABLE", False, "TENSORBOARD.ENABLE", False),
    *("TRAIN.EVAL_PERIOD", 2, "TRAIN.EMA", True, "TRAIN.EMA_DECAY", 0.5, "NUM_GPUS", 0),
]

SHARDS_ON_CPUS = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch splits weights on GPUs only"
)


@pytest.fixture
def left(tmp_path):
    """What a run with some machines and batch left in its folder; the configuration of the command that goes on."""

    def leave(batch_size, shards, counted=0):
        before = configuration(batch_size, shards, counted)
        write_checkpoint(
            epoch_path(tmp_path, 1), {"epoch": 0, "model_state": {}, "optimizer_state": {}, "cfg": before.dump()}
        )

    def configuration(batch_size, shards, counted=0):
        words = ["TRAIN.BATCH_SIZE", batch_size, "NUM_SHARDS", shards, "SOLVER.BASE_LR_NUM_SHARDS", counted]
        words += ["SOLVER.BASE_LR_SCALE_NUM_SHARDS", True, "OUTPUT_DIR", str(tmp_path), "NUM_GPUS", 0]
        return load_config([], words)

    return leave, configuration


@pytest.mark.parametrize(
    ("before", "asked", "becomes", "rates"),
    [
        ((8, 2), (8, 1), 16, 2),  # one of two machines is left
        ((16, 1, 2), (8, 1), 16, 2),  # the same command once more
        ((16, 1, 2), (8, 4), 4, 2),
        ((16, 1, 2), (8, 2), 8, 2),  # back
        ((8, 2), (8, 2), 8, 2),
        ((8, 2), (16, 1), 16, 2),  # the user did the sum
        ((8, 2), (4, 1), 4, 1),  # the user wants another batch
    ],
)
def test_the_batch_over_all_machines_stays(left, before, asked, becomes, rates):
    leave, configuration = left
    leave(*before)
    cfg = configuration(*asked)
    keep_global_batch(cfg)
    assert (cfg.TRAIN.BATCH_SIZE, shard_scale(cfg)) == (becomes, rates)
    said = batch_kept(configuration(*before).dump(), cfg)
    batch, machines = before[0] * before[1], f"{asked[1]} machine(s) with 1 rank(s) go on where {before[1]} with 1 were"
    if asked[1] != before[1] and becomes * asked[1] == batch:
        assert said == (
            f"{machines}: a batch stays {batch} videos, TRAIN.BATCH_SIZE is {becomes} (was {before[0]}); "
            f"learning rates stay those of {rates} machine(s)"
        )
    else:
        assert not said


def test_a_batch_that_machines_cannot_share(left):
    leave, configuration = left
    leave(8, 2)
    with pytest.raises(ConfigError, match=r"batches of 16 videos .*which 3 machines cannot share evenly"):
        keep_global_batch(configuration(8, 3))
    keep_global_batch(configuration(5, 3))  # as the user says


def test_machines_that_a_launcher_counts(left):
    leave, configuration = left
    leave(8, 4)
    cfg = configuration(8, 4)
    environment = {"RANK": 1, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": 1}
    environment |= {"MASTER_ADDR": "a", "MASTER_PORT": 1}
    settle(cfg, find_place(cfg, environment={name: str(value) for name, value in environment.items()}))
    keep_global_batch(cfg)
    assert (cfg.NUM_SHARDS, cfg.TRAIN.BATCH_SIZE, shard_scale(cfg)) == (2, 16, 4)


def test_a_file_without_a_configuration_changes_nothing(left, tmp_path):
    _, configuration = left
    write_checkpoint(
        epoch_path(tmp_path, 1), {"epoch": 0, "model_state": {}, "optimizer_state": {}, "cfg": "- of: another kind"}
    )
    cfg = configuration(8, 1)
    keep_global_batch(cfg)
    assert cfg.TRAIN.BATCH_SIZE == 8


@pytest.fixture(scope="module")
def small(tiny, demo_data, tmp_path_factory) -> list:
    """Two epochs of two steps of four videos, and five that two ranks validate in two batches and one."""
    folder = tmp_path_factory.mktemp("small")
    for split, count in (("train", 8), ("val", 5)):
        lines = (demo_data / f"{split}.csv").read_text().splitlines()[:count]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return [*tiny, *SMALL, "DATA.PATH_TO_DATA_DIR", str(folder), "TRAIN.BATCH_SIZE", 4]


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    """The last checkpoint of one process."""
    output = tmp_path_factory.mktemp("alone")
    assert run([RECIPE], [*small, "OUTPUT_DIR", str(output)], "") == DONE
    return read_checkpoint(epoch_path(output, 2))


@pytest.mark.parametrize(
    ("local", "batch_size", "shard"),
    [
        pytest.param(1, 2, False, id="machines"),
        pytest.param(2, 4, False, id="ranks"),
        pytest.param(2, 4, True, id="sharded ranks", marks=SHARDS_ON_CPUS),
    ],
)
def test_two_processes_go_on_as_one(small, alone, tmp_path, local, batch_size, shard):
    words = [*small, "TRAIN.BATCH_SIZE", batch_size, "TRAIN.SHARD", shard, "OUTPUT_DIR", str(tmp_path)]
    for process in start_two(words, local=local):
        process.join(600)
        assert process.exitcode == DONE
    together = read_checkpoint(epoch_path(tmp_path, 2))
    epoch_path(tmp_path, 2).unlink()
    assert run([RECIPE], words, "") == DONE
    content = read_checkpoint(epoch_path(tmp_path, 2))
    for found in (together, content):
        for part in ("model_state", "ema_state"):
            torch.testing.assert_close(dict(found[part]), dict(alone[part]), atol=1e-5, rtol=1e-4)
        for name in ("val_clip_top1_err", "val_clip_top5_err", "val_clip_ema_top1_err"):
            assert found["history"][1][name] == pytest.approx(alone["history"][1][name])
    assert "BATCH_SIZE: 4" in content["cfg"]
    log = (tmp_path / "stdout.log").read_text()
    assert "with 1 rank(s) go on where" in log
    assert "a batch stays 4 videos" in log
    assert ("TRAIN.SHARD has nothing to do" in log) == shard
    with (tmp_path / "restarts.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (Path(row["checkpoint"]).name, row["epochs"], row["steps"]) == ("checkpoint_epoch_00001.pyth", "1", "0")
    assert (row["ranks"], row["batch"]) == ("1", "4")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="restarts-title">Restarts (1)</h2>' in page
    assert "checkpoint_epoch_00001.pyth" in page.partition('id="restarts-table"')[2].partition("</table>")[0]


def test_another_batch_goes_on_after_as_many_videos(small, tmp_path):
    words = [*small, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_EPOCH", 1, "TRAIN.CHECKPOINT_STEPS", 1]
    assert run([RECIPE], [*words, "TRAIN.BATCH_SIZE", 2], "") == DONE
    epoch_path(tmp_path, 1).unlink()
    assert run([RECIPE], [*words, "TRAIN.BATCH_SIZE", 4], "") == DONE
    log = (tmp_path / "stdout.log").read_text()
    # Six of eight videos were trained on, one batch of four and half of the other.
    assert "resuming after epoch 0 and 1 steps of the next from" in log
    assert log.count("step 2/2:") == 1


def test_a_restart_is_noted(left, tmp_path, monkeypatch, caplog):
    checkpoint = epoch_path(tmp_path, 3)
    write_checkpoint(checkpoint, {})
    os.utime(checkpoint, (time.time() - 90, time.time() - 90))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    package = logging.getLogger("videobench")
    monkeypatch.setattr(package, "propagate", True)
    for count in ("", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        with caplog.at_level("INFO", logger="videobench"):
            note_restart(left[1](8, 2), checkpoint, 3, 12)
    with (tmp_path / "restarts.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(RESTART_COLUMNS)
    assert [row["slurm_restarts"] for row in rows] == ["", "1"]
    assert (rows[1]["slurm_job"], rows[1]["checkpoint"], rows[1]["epochs"], rows[1]["steps"]) == (
        *("77", str(checkpoint), "3", "12"),
    )
    assert (rows[1]["ranks"], rows[1]["batch"]) == ("2", "16")
    assert float(rows[0]["lost_seconds"]) >= 90
    assert "(Slurm job 77, restart 1) with epoch 4, step 13, from checkpoint_epoch_00003.pyth" in caplog.text
