"""The training loop through its public face, on real files with tiny networks."""

import csv
import json
import logging
import math
import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import RECIPE
from video_fixtures import write_clip

import videobench
from videobench.config.checks import check_config
from videobench.datasets.augment import Augmentation
from videobench.engine.checkpoint import CheckpointWriter, best_path, checkpoint_dir, checkpoints, epoch_path
from videobench.engine.metrics import training_errors
from videobench.engine.trainer import OutOfMemory, Trainer
from videobench.engine.validation import Validation
from videobench.models import WeightsError
from videobench.models.weights import read_checkpoint, write_checkpoint
from videobench.reporting.progress import ROUTINE, Progress
from videobench.reporting.tensorboard import Scalars

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _package_log(caplog):
    """The package's log in caplog, whatever an earlier command made of it."""
    package = logging.getLogger("videobench")
    before = package.propagate, package.level
    package.propagate = True
    with caplog.at_level("INFO", logger="videobench"):
        yield
    package.propagate, package.level = before


@pytest.fixture
def train(tiny, tmp_path):
    """Train one epoch unless told otherwise; returns the trainer."""

    def go(*more, output=tmp_path, recipe=RECIPE):
        base = [*tiny, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False, "TENSORBOARD.ENABLE", False]
        cfg = videobench.load_config(recipe, [*base, *more, "OUTPUT_DIR", str(output)])
        check_config(cfg)
        output.mkdir(exist_ok=True)
        trainer = Trainer(cfg, torch.device("cuda", 0) if cfg.NUM_GPUS else CPU)
        assert trainer.run()
        return trainer

    return go


@pytest.fixture(scope="module")
def few(demo_data, tmp_path_factory) -> list:
    """Overrides for two steps of four videos, where how many there are does not matter."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 8), ("val", 4)):
        (folder / f"{split}.csv").write_text("\n".join((demo_data / f"{split}.csv").read_text().split("\n")[:count]))
    return ["DATA.PATH_TO_DATA_DIR", str(folder), "TRAIN.BATCH_SIZE", 4]


def weights(output, epochs=1):
    return read_checkpoint(epoch_path(output, epochs))["model_state"]


def test_the_recipe_is_said_once(train, caplog):
    train("TRAIN.MICRO_BATCH", 3, "MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "soft_cross_entropy")
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("recipe:")]
    assert len(said) == 1
    for text in (
        r"global batch +8 videos",
        r"micro-batches +1 rank\(s\) x 3 x 3 clips",
        r"epochs +1 of 4 steps",
        r"learning rate +0.001 \(SOLVER.BASE_LR as it stands\), cosine to 1e-06",
        r"decayed \(weight decay 0.05\); [\d,]+ not_decayed \(weight decay 0\)",
        r"clipping +norm to 5",
        r"loss +soft_cross_entropy",
        r"mixing +mixup alpha 0.8, cutmix alpha 1",
    ):
        assert re.search(text, said[0]), text


def test_loader_processes_end_with_the_training(train):
    trainer = train("DATA_LOADER.NUM_WORKERS", 2)  # kept: they do not wait until it is forgotten
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("loader")]
    assert len(next(trainer.loader.epoch(0))) == 8
    trainer.loader.close()


def test_the_last_checkpoint_is_waited_for_when_a_full_disk_takes_no_curves(train, few, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    closed, close = [], CheckpointWriter.close
    monkeypatch.setattr(CheckpointWriter, "close", lambda self: closed.append(close(self)))
    monkeypatch.setattr(Scalars, "close", full)
    with pytest.raises(OSError, match="No space left"):
        train(*few)
    assert len(closed) == 1


def spoil_steps(monkeypatch, steps):
    """Make the inputs of some steps infinite."""
    finish, count = Augmentation.finish, [0]

    def spoiled(self, clips, keys):
        count[0] += 1
        inputs = finish(self, clips, keys)
        return inputs * math.inf if count[0] in steps else inputs

    monkeypatch.setattr(Augmentation, "finish", spoiled)


def test_a_step_without_finite_numbers_is_skipped_counted_and_its_videos_named(train, tmp_path, monkeypatch, caplog):
    spoil_steps(monkeypatch, {2})
    trainer = train("LOG_PERIOD", 2)
    order = trainer.loader.dataset.order(0)
    warning = next(r.getMessage() for r in caplog.records if "step skipped" in r.getMessage())
    assert "the loss is not finite" in warning
    assert {Path(name).name for name in re.findall(r"train/\d+\.mp4", warning)} == {
        f"{index:04d}.mp4" for index in order[8:16]
    }
    assert "epoch 1: 1 of 4 steps were skipped" in caplog.text
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert all(math.isfinite(value) for value in trainer.state.history[0].values())


def test_many_skipped_steps_in_a_row_end_the_run(train, monkeypatch):
    spoil_steps(monkeypatch, {3, 4, 5, 6, 7})
    with pytest.raises(FloatingPointError, match=r"5 steps in a row .*lower SOLVER.BASE_LR"):
        train("TRAIN.MAX_NONFINITE_STEPS", 5, "SOLVER.MAX_EPOCH", 3, "TRAIN.MICRO_BATCH", 4)


def test_out_of_memory_says_what_helps(train, monkeypatch):
    def full(self, clip):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nand so on")

    monkeypatch.setattr("videobench.models.uniformer.Uniformer.forward_features", full)
    with pytest.raises(OutOfMemory) as error:
        train("TRAIN.MICRO_BATCH", 4)
    for text in (
        "with 4 clips of 4 frames",
        "Tried to allocate 20.00 GiB",
        "TRAIN.MICRO_BATCH",
        "MODEL.ACT_CHECKPOINT",
    ):
        assert text in str(error.value)


def test_an_automatic_micro_batch_is_the_whole_batch_on_the_cpu(train, few, tmp_path):
    assert train(*few, "TRAIN.MICRO_BATCH", "auto").step.micro_batch == 4
    train(*few, output=tmp_path / "whole")
    assert all(
        torch.equal(a, b) for a, b in zip(weights(tmp_path).values(), weights(tmp_path / "whole").values(), strict=True)
    )


def test_the_average_is_validated_saved_and_decides_what_is_best(train, few, tmp_path, monkeypatch):
    # Top-1 errors of the weights and of their average, epoch by epoch.
    given = iter([50.0, 40.0, 30.0, 60.0])
    monkeypatch.setattr(Validation, "__call__", lambda *_, **__: {"top1_err": next(given), "top5_err": 0.0})
    train(*few, "TRAIN.EMA", True, "TRAIN.EMA_DECAY", 0.5, "SOLVER.MAX_EPOCH", 2)
    content = read_checkpoint(best_path(tmp_path))
    assert content["ema_state"].keys() == content["model_state"].keys()
    assert any(
        not torch.equal(content["ema_state"][name], content["model_state"][name]) for name in content["ema_state"]
    )
    assert content["history"][0]["val_clip_top1_err"] == 50.0
    assert content["history"][0]["val_clip_ema_top1_err"] == 40.0
    # Without the average, the second epoch would be the better one.
    assert (content["epoch"], content["best"]) == (0, 60.0)


def test_an_earlier_history_goes_on_under_today_s_names(train, few, tmp_path):
    train(*few)
    path = epoch_path(tmp_path, 1)
    content = read_checkpoint(path)
    content["history"] = [{k.replace("val_clip_", "val_"): v for k, v in r.items()} for r in content["history"]]
    content["history"][0]["val_top1_err"] = 0.0
    write_checkpoint(path, content)
    best = best_path(tmp_path).stat().st_mtime_ns
    trainer = train(*few, "SOLVER.MAX_EPOCH", 2)
    assert [record.keys() for record in trainer.state.history] == [trainer.state.history[0].keys()] * 2
    assert "val_clip_top1_err" in trainer.state.history[0]
    # Nothing is better than the first epoch.
    assert trainer.state.best == 100.0
    assert best_path(tmp_path).stat().st_mtime_ns == best


def test_batch_norm_frozen_and_precise(train, few, tmp_path):
    def statistics(*more):
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        train(*few, *more, output=output)
        content = read_checkpoint(epoch_path(output, 1))
        states = content["model_state"], content.get("ema_state", {})
        return [{name: t for name, t in state.items() if name.endswith("running_mean")} for state in states]

    plain = statistics()[0]
    frozen = statistics("MODEL.FROZEN_BN", True)[0]
    precise_batches = ["BN.USE_PRECISE_STATS", True, "BN.NUM_BATCHES_PRECISE", 2]
    precise = statistics(*precise_batches)[0]
    beside, average = statistics(*precise_batches, "TRAIN.EMA", True, "TRAIN.EMA_DECAY", 1 - 1e-9)
    assert all(tensor.eq(0).all() for tensor in frozen.values())
    assert any(not torch.equal(plain[name], precise[name]) for name in plain)
    # The average, which is all but the first weights, has statistics of its own and changes none of the network's.
    assert all(torch.equal(beside[name], precise[name]) for name in plain)
    assert all(average[name].abs().max() > 1e-3 for name in plain)


def test_several_samples_of_a_decode(train, few):
    trainer = train(*few, "AUG.ENABLE", True, "AUG.AA_TYPE", "", "AUG.NUM_SAMPLE", 2)
    assert trainer.step.micro_batch == 8
    assert trainer.state.history[0]["train_loss"] > 0


def test_a_stream_in_subclips(train, few, tmp_path):
    movinet = ["MODEL.MODEL_NAME", "MoViNet", "MOVINET.CAUSAL", True, "MOVINET.TRAIN_SUBCLIPS", 2]
    trainer = train(*movinet, *few, "TRAIN.MICRO_BATCH", 2, "BN.USE_PRECISE_STATS", True, "TRAIN.EMA", True)
    assert trainer.state.history[0]["train_loss"] > 0
    with pytest.raises(videobench.ConfigError, match=r"MOVINET.TRAIN_SUBCLIPS is 2; only a MoViNet"):
        train("MOVINET.TRAIN_SUBCLIPS", 2)
    with pytest.raises(videobench.ConfigError, match=r"does not divide into MOVINET.TRAIN_SUBCLIPS 3"):
        train(*movinet[:4], "MOVINET.TRAIN_SUBCLIPS", 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_kernels_learn_the_same(train, few, tmp_path):
    few = [*few, "NUM_GPUS", 1, "TRAIN.MICRO_BATCH", 2]
    train(*few, "TRAIN.COMPILE", True, "TRAIN.CUDA_GRAPHS", True, output=tmp_path / "recorded")
    train(*few, output=tmp_path / "plain")
    recorded = weights(tmp_path / "recorded")
    for key, tensor in weights(tmp_path / "plain").items():
        torch.testing.assert_close(recorded[key], tensor, atol=2e-3, rtol=1e-2, msg=key)


def test_compiled_and_channels_innermost_learn_the_same(train, few, tmp_path, monkeypatch):
    compiled = []
    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, mode: compiled.append(mode) or compile_with(model, backend="eager")
    )
    train(*few, "TRAIN.COMPILE", True, output=tmp_path / "compiled")
    assert compiled == [None]
    train(*few, "TRAIN.CHANNELS_LAST", True, output=tmp_path / "innermost")
    train(*few, output=tmp_path / "plain")
    plain = weights(tmp_path / "plain")
    for name in ("compiled", "innermost"):
        other = weights(tmp_path / name)
        assert other.keys() == plain.keys()
        for key, tensor in plain.items():
            torch.testing.assert_close(other[key], tensor, atol=2e-3, rtol=1e-2, msg=f"{name}: {key}")


def test_only_the_newest_checkpoints_and_the_best_stay(train, few, tmp_path):
    train(*few, "SOLVER.MAX_EPOCH", 4, "TRAIN.KEEP_CHECKPOINTS", 2)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint_epoch_00003.pyth",
        "checkpoint_epoch_00004.pyth",
    ]
    assert best_path(tmp_path).exists()
    assert all(path.suffix == ".pyth" for path in checkpoint_dir(tmp_path).iterdir())


def test_a_checkpoint_describes_itself(train, few, tmp_path):
    train(*few)
    content = read_checkpoint(epoch_path(tmp_path, 1))
    assert content["epoch"] == 0
    assert "MODEL_NAME: Uniformer" in content["cfg"]
    assert content["class_names"][0] == "moving left"
    assert {"videobench", "torch", "av", "python"} <= content["versions"].keys()
    assert content["history"][0]["val_clip_top1_err"] == 100 - content["best"]


def test_a_slowfast_checkpoint_is_continued_or_initialises(train, few, tmp_path, caplog):
    """Files of SlowFast-like code bases: groups without our names, a scaler under another name, nothing else."""
    train(*few, "SOLVER.MAX_EPOCH", 2, output=tmp_path / "own")
    own = read_checkpoint(epoch_path(tmp_path / "own", 1))
    published = {name: own[name] for name in ("epoch", "model_state", "optimizer_state")} | {"cfg": "", "scaler": {}}
    for group in published["optimizer_state"]["param_groups"]:
        for name in ("name", "lr_scale"):
            group.pop(name)
    path = tmp_path / "published.pyth"
    write_checkpoint(path, published)
    source = [*few, "TRAIN.CHECKPOINT_FILE_PATH", str(path), "TRAIN.CHECKPOINT_TYPE", "pytorch", "SOLVER.MAX_EPOCH", 2]
    train(*source, output=tmp_path / "on")
    one, two = weights(tmp_path / "own", 2), weights(tmp_path / "on", 2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not epoch_path(tmp_path / "on", 1).exists()
    train(*source, "TRAIN.CHECKPOINT_EPOCH_RESET", True, "SOLVER.MAX_EPOCH", 1, output=tmp_path / "reset")
    assert epoch_path(tmp_path / "reset", 1).exists()
    with pytest.raises(WeightsError, match="optimizer state does not fit"):
        train(*source, "SOLVER.OPTIMIZING_METHOD", "sgd", output=tmp_path / "other")


def test_tensorboard_has_the_curves(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("TENSORBOARD.ENABLE", True, "TENSORBOARD.HISTOGRAMS", True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = ("loss", "lr", "grad_norm", "clips_per_second", "data_wait_percent", "memory_gib", "top1_err")
    assert {f"train/{name}" for name in names} | {"val/clip_top1_err"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert "head/weight" in events.Tags()["histograms"]


# Other kinds of data ------------------------------------------------------------------------------------------------


def test_several_labels_per_video(train, demo_data, tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    for split in ("train", "val"):
        lines = (demo_data / f"{split}.csv").read_text().split("\n")
        rows = [f"{line};{(int(line.split()[1]) + 3) % 8}" for line in lines if line]
        (folder / f"{split}.csv").write_text("\n".join(rows))
    several = [
        "DATA.MULTI_LABEL",
        True,
        "MODEL.LOSS_FUNC",
        "bce",
        "DATA.FLIP_LABEL_PAIRS",
        [],
        "TEST.SCORES",
        "sigmoid",
    ]
    trainer = train("DATA.PATH_TO_DATA_DIR", str(folder), *several, output=tmp_path / "out")
    record = trainer.state.history[0]
    assert 0 < record["train_loss"] < 2
    assert 0 <= record["val_clip_map"] <= 100
    assert trainer.state.best == record["val_clip_map"]


def test_actions_of_verb_and_noun(train, tmp_path):
    videos = tmp_path / "P01/videos"
    videos.mkdir(parents=True)
    write_clip(videos / "P01_101.MP4", 120, rate=30)
    header = [
        "narration_id",
        "participant_id",
        "video_id",
        "start_timestamp",
        "stop_timestamp",
        "verb_class",
        "noun_class",
    ]
    for name, count in (("EPIC_100_train.csv", 8), ("EPIC_100_validation.csv", 4)):
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            for i in range(count):
                row = [f"P01_101_{i}", "P01", "P01_101", f"00:00:0{i % 3}.00", f"00:00:0{i % 3}.90", i % 5, 2 * i]
                writer.writerow(row)
    epic = [
        *("TRAIN.DATASET", "epickitchens", "TEST.DATASET", "epickitchens", "DATA.STORED_AS", "videos"),
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(tmp_path), "DATA.CLASS_NAMES", ""),
        *("DATA.FLIP_LABEL_PAIRS", [], "MODEL.MODEL_NAME", "VisionTransformer", "DATA.SAMPLING_RULE", "auto"),
        *(
            "VIT.EMBED_DIM",
            16,
            "VIT.DEPTH",
            1,
            "VIT.NUM_HEADS",
            2,
            "VIT.TEMPORAL_RESOLUTION",
            2,
            "DATA.TEST_CROP_SIZE",
            224,
        ),
        *("DATA.TRAIN_CROP_SIZE", 224, "DATA.TRAIN_JITTER_SCALES", [224, 230], "TRAIN.BATCH_SIZE", 4),
    ]
    record = train(*epic, output=tmp_path / "out").state.history[0]
    errors = ["top1_err", "top5_err", *(f"{head}_top{k}_err" for head in ("verb", "noun") for k in (1, 5))]
    assert {f"{part}_{name}" for part in ("train", "val_clip") for name in errors} <= record.keys()
    assert record["val_clip_top1_err"] >= max(record["val_clip_verb_top1_err"], record["val_clip_noun_top1_err"])


@pytest.mark.parametrize("network", ["MViT", "MorphMLP_image"])
def test_images(train, tmp_path, network):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count // 2):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"{i}.png")
    size = {"MViT": 32, "MorphMLP_image": 64}[network]
    images = [
        *("TRAIN.DATASET", "image_folder", "TEST.DATASET", "image_folder", "DATA.PATH_TO_DATA_DIR", str(tmp_path)),
        *("DATA.PATH_PREFIX", "", "DATA.CLASS_NAMES", "", "DATA.FLIP_LABEL_PAIRS", [], "MODEL.NUM_CLASSES", 2),
        *("MODEL.MODEL_NAME", network, "DATA.NUM_FRAMES", 1, "DATA.SAMPLING_RULE", "auto", "TRAIN.BATCH_SIZE", 4),
        *("DATA.TRAIN_CROP_SIZE", size, "DATA.TEST_CROP_SIZE", size, "DATA.TRAIN_JITTER_SCALES", [size, size + 8]),
        *(
            "MVIT.PATCH_2D",
            True,
            "MVIT.PATCH_KERNEL",
            [7, 7],
            "MVIT.PATCH_STRIDE",
            [4, 4],
            "MVIT.PATCH_PADDING",
            [3, 3],
        ),
        *("MVIT.DEPTH", 2, "MVIT.EMBED_DIM", 16, "MORPH.LAYERS", [1, 1, 1, 1], "MORPH.EMBED_DIMS", [16, 16, 16, 16]),
        *("MORPH.SEGMENT_DIM", [4, 4, 4, 2]),
    ]
    record = train(*images, output=tmp_path / "out").state.history[0]
    assert record["train_loss"] > 0
    assert 0 <= record["val_clip_top1_err"] <= 100


# Errors of a batch, and the live line ---------------------------------------------------------------------------------


def test_errors_of_a_batch():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    assert training_errors(logits, torch.tensor([0, 1, 2, 1])) == {"top1_err": 25.0, "top5_err": 0.0}
    # Mixed clips count by their larger share, several labels by any of them.
    mixed = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.0, 0.4, 0.6], [0.4, 0.0, 0.6]])
    assert training_errors(logits, mixed)["top1_err"] == 50.0
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert training_errors(logits, several)["top1_err"] == 50.0
    heads = training_errors(
        {"verb": logits, "noun": logits}, {"verb": torch.tensor([0, 1, 2, 1]), "noun": torch.tensor([1, 1, 2, 0])}
    )
    assert (heads["verb_top1_err"], heads["noun_top1_err"], heads["top1_err"]) == (25.0, 25.0, 50.0)


@pytest.mark.parametrize("several", [False, True])
def test_validation_clips_without_finite_scores_are_wrong_and_counted(
    train, few, several, tmp_path, monkeypatch, caplog
):
    """As half precision gives them when it overflows."""
    logits = Validation._logits
    monkeypatch.setattr(Validation, "_logits", lambda *arguments: logits(*arguments) * math.nan)
    more = []
    if several:
        more = ["DATA.MULTI_LABEL", True, "MODEL.LOSS_FUNC", "bce", "DATA.FLIP_LABEL_PAIRS", []]
    record = train(*few, *more, output=tmp_path / "out").state.history[0]
    assert (record["val_clip_top1_err"], record["val_clip_top5_err"]) == (100.0, 100.0)
    assert "scores of 4 of 4 clips are no finite numbers; they count as wrong (TRAIN.PRECISION is fp32)" in caplog.text
    assert math.isfinite(record.get("val_clip_map", 0.0))


class Terminal:
    def __init__(self, is_one):
        self.text, self.is_one, self.encoding = "", is_one, "utf-8"

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        self.text += ""

    def isatty(self):
        return self.is_one

    def fileno(self):
        raise OSError("no file")


@pytest.mark.parametrize("is_one", [True, False])
def test_a_live_line_on_a_terminal_and_plain_lines_elsewhere(monkeypatch, is_one):
    terminal = Terminal(is_one)
    monkeypatch.setattr(sys, "stdout", terminal)
    package = logging.getLogger("videobench")
    handler = logging.StreamHandler(terminal)
    package.addHandler(handler)
    try:
        with Progress("epoch 1/2", 4) as live:
            for step in range(4):
                live.say(f"loss {step}.5")
                live.step()
                package.info("line of step %d", step, extra=ROUTINE)
            package.warning("something happened")
        package.info("after it", extra=ROUTINE)
    finally:
        package.removeHandler(handler)
    assert ("epoch 1/2:" in terminal.text) == is_one
    assert ("line of step 2" in terminal.text) != is_one
    assert "something happened\n" in terminal.text
    assert terminal.text.rstrip().endswith("after it")


def test_json_lines_of_an_epoch(train, few, tmp_path):
    train(*few, "SOLVER.MAX_EPOCH", 2, "TRAIN.EMA", True)
    lines = [
        json.loads(line.split("json_stats: ")[1]) for line in (tmp_path / "json_stats.log").read_text().splitlines()
    ]
    assert [line["_type"] for line in lines] == ["train_epoch", "val_epoch", "val_ema_epoch"] * 2
    assert {"dt", "dt_data", "dt_net", "eta", "gpu_mem", "loss", "lr", "RAM", "top1_err", "top5_err"} <= lines[0].keys()
    assert {"min_top1_err", "min_top5_err", "time_diff", "top1_err"} <= lines[1].keys()
