"""tools/run_net.py from start to end on real video files, and what bad input gets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import without_room
from processes import RECIPE

from videobench.engine import trainer
from videobench.engine.checkpoint import best_path, epoch_path
from videobench.engine.run import BROKE_OFF, DONE, FAILED_VIDEOS, WRONG_INPUT, run
from videobench.models.weights import read_checkpoint
from videobench.reporting.curves import read_history

ROOT = Path(__file__).resolve().parents[2]


def go(tiny, output, *more):
    return run([RECIPE], [*tiny, "OUTPUT_DIR", str(output), *more], "tcp://localhost:9999")


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    assert go(tiny, output) == DONE
    return output


@pytest.fixture
def lists(demo_data, tmp_path):
    """A copy of the demo lists that a test may spoil, next to the videos."""
    shutil.copytree(demo_data, tmp_path / "data")
    return tmp_path / "data"


def with_lists(tiny, folder):
    overrides = dict(zip(tiny[::2], tiny[1::2], strict=True))
    overrides |= {"DATA.PATH_TO_DATA_DIR": str(folder), "DATA.PATH_PREFIX": str(folder)}
    return [word for pair in overrides.items() for word in pair]


def test_a_run_leaves_what_the_readme_says(finished):
    results = json.loads((finished / "test_results.json").read_text())
    assert set(results) >= {"top1", "top5", "videos", "views", "seconds", "failed"}
    assert (results["videos"], results["views"], results["failed"]) == (10, 3, [])
    predictions = np.load(finished / "predictions.npz")
    assert predictions["scores"].shape == (10, 8)
    assert [Path(v).name for v in predictions["video"]] == [f"{i:04d}.mp4" for i in range(10)]
    assert predictions["label"].tolist() == [i % 8 for i in range(10)]
    top1 = 100 * np.mean(predictions["scores"].argmax(1) == predictions["label"])
    assert results["top1"] == pytest.approx(top1)
    # Softmax scores of three views sum to three.
    np.testing.assert_allclose(predictions["scores"].sum(1), 3.0, rtol=1e-6)
    for name in ("config.yaml", "history.csv", "report.html", "stdout.log", "json_stats.log"):
        assert (finished / name).stat().st_size, name
    assert list((finished / "tensorboard").glob("events.*"))
    assert best_path(finished).exists()


def test_log_lines_have_the_published_form(finished):
    log = (finished / "stdout.log").read_text()
    line = re.compile(r"\[\d\d/\d\d \d\d:\d\d:\d\d\]\[INFO\] \w+\.py: +\d+: json_stats: (\{.*\})")
    stats = [json.loads(m) for m in line.findall(log)]
    kinds = {s.get("_type") or s["split"] for s in stats}
    assert kinds == {"train_iter", "train_epoch", "val_iter", "val_epoch", "test_iter", "test_final"}
    step = next(s for s in stats if s.get("_type") == "train_iter")
    assert step["epoch"] == "1/2"
    assert step["iter"] == "1/4"
    assert list(step) == sorted(step)
    assert {"dt", "dt_data", "dt_net", "eta", "loss", "lr", "gpu_mem", "top1_err", "top5_err", "grad_norm"} <= set(step)
    assert isinstance(stats[-1]["top1_acc"], str)
    epochs = [s for s in stats if s.get("_type") in ("train_epoch", "val_epoch")]
    assert all(re.fullmatch(r"\d+\.\d\d/\d+\.\d\dG", s["RAM"]) for s in epochs)
    assert re.search(r"clips/s, \d+% of the time waiting for data, \d+:\d\d:\d\d to go", log)
    assert len((finished / "json_stats.log").read_text().splitlines()) == 4


def test_the_report_is_one_file_with_everything(finished):
    page = (finished / "report.html").read_text()
    assert "turning counter-clockwise" in page
    for section in ("numbers", "training", "classes", "confusion", "calibration", "mistakes", "speed", "config"):
        assert f'<section id="{section}"' in page, section
    assert page.count("data:image/jpeg;base64,")


def test_the_written_configuration_reproduces_the_run(finished, tmp_path):
    again = tmp_path / "again"
    assert run([str(finished / "config.yaml")], ["OUTPUT_DIR", str(again)], "") == DONE
    first, second = (np.load(folder / "predictions.npz")["scores"] for folder in (finished, again))
    np.testing.assert_array_equal(first, second)


def test_a_stopped_run_goes_on_to_the_same_weights(finished, tiny, tmp_path):
    assert go(tiny, tmp_path, "TEST.ENABLE", False) == DONE
    for path in (epoch_path(tmp_path, 2), best_path(tmp_path)):
        path.unlink(missing_ok=True)
    assert go(tiny, tmp_path, "TEST.ENABLE", False) == DONE
    assert "resuming after epoch 1" in (tmp_path / "stdout.log").read_text()
    one, two = (read_checkpoint(epoch_path(folder, 2))["model_state"] for folder in (finished, tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_resuming_repeats_stochastic_depth(tiny, tmp_path):
    more = ["UNIFORMER.DROP_DEPTH_RATE", 0.5, "TEST.ENABLE", False]
    states = []
    for name in ("whole", "stopped"):
        assert go(tiny, tmp_path / name, *more) == DONE
        if name == "stopped":
            epoch_path(tmp_path / name, 2).unlink()
            assert go(tiny, tmp_path / name, *more) == DONE
        states.append(read_checkpoint(epoch_path(tmp_path / name, 2))["model_state"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_resuming_takes_options_from_the_configuration_and_says_so(tiny, tmp_path):
    assert go(tiny, tmp_path, "TEST.ENABLE", False, "SOLVER.MAX_EPOCH", 1) == DONE
    assert go(tiny, tmp_path, "TEST.ENABLE", False, "SOLVER.WEIGHT_DECAY", 0.3) == DONE
    assert "SOLVER.WEIGHT_DECAY 0.05 -> 0.3" in (tmp_path / "stdout.log").read_text()
    groups = read_checkpoint(epoch_path(tmp_path, 2))["optimizer_state"]["param_groups"]
    assert {g["name"]: g["weight_decay"] for g in groups}["decayed"] == 0.3


def test_a_finished_run_says_that_nothing_is_left(finished, tiny, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    assert go(tiny, tmp_path / "out", "TEST.ENABLE", False, "SOLVER.MAX_EPOCH", 1) == DONE
    assert "nothing to train" in (tmp_path / "out/stdout.log").read_text()
    # The test results of an earlier command are not shown as this one's.
    assert "<h2>Test</h2>" not in (tmp_path / "out/report.html").read_text()


def test_initial_weights_and_continuing_from_a_file(finished, tiny, tmp_path):
    source = ["TRAIN.CHECKPOINT_FILE_PATH", str(epoch_path(finished, 2)), "TEST.ENABLE", False]
    assert go(tiny, tmp_path / "on", *source, "SOLVER.MAX_EPOCH", 3) == DONE
    assert read_checkpoint(epoch_path(tmp_path / "on", 3))["epoch"] == 2
    assert not epoch_path(tmp_path / "on", 1).exists()
    reset = ["TRAIN.CHECKPOINT_EPOCH_RESET", True, "SOLVER.MAX_EPOCH", 1]
    assert go(tiny, tmp_path / "fresh", *source, *reset) == DONE
    assert epoch_path(tmp_path / "fresh", 1).exists()


def test_bfloat16_training(tiny, tmp_path):
    assert go(tiny, tmp_path, "TRAIN.PRECISION", "bf16", "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False) == DONE
    state = read_checkpoint(epoch_path(tmp_path, 1))["model_state"]
    assert all(t.dtype in (torch.float32, torch.int64) for t in state.values())


def test_a_causal_network_forgets_one_video_before_the_next(tiny, tmp_path):
    causal = ["MODEL.MODEL_NAME", "MoViNet", "MOVINET.CAUSAL", True, "SOLVER.MAX_EPOCH", 1, "TEST.BATCH_SIZE", 6]
    assert go(tiny, tmp_path, *causal) == DONE
    scores = np.load(tmp_path / "predictions.npz")["scores"]
    assert go(tiny, tmp_path, *causal, "TEST.BATCH_SIZE", 3) == DONE
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npz")["scores"], scores, atol=1e-5)


def test_two_classes_keep_the_name_top5(tiny, lists, tmp_path):
    for split in ("train", "val", "test"):
        lines = [
            f"{line.split()[0]} {i % 2}" for i, line in enumerate((lists / f"{split}.csv").read_text().splitlines())
        ]
        (lists / f"{split}.csv").write_text("\n".join(lines))
    two = ["MODEL.NUM_CLASSES", 2, "DATA.CLASS_NAMES", "", "DATA.FLIP_LABEL_PAIRS", [], "SOLVER.MAX_EPOCH", 1]
    assert go(with_lists(tiny, lists), tmp_path / "out", *two) == DONE
    assert json.loads((tmp_path / "out/test_results.json").read_text())["top5"] == 100.0


def test_worker_count_changes_nothing(finished, tiny, tmp_path):
    assert go(tiny, tmp_path, "DATA_LOADER.NUM_WORKERS", 2) == DONE
    one, two = (read_checkpoint(epoch_path(folder, 2))["model_state"] for folder in (finished, tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_testing_alone_takes_the_checkpoint_by_itself(finished, tiny, capsys):
    before = json.loads((finished / "test_results.json").read_text())
    assert go(tiny, finished, "TRAIN.ENABLE", False, "TEST.NUM_SPATIAL_CROPS", 3, "TEST.BATCH_SIZE", 4) == DONE
    after = json.loads((finished / "test_results.json").read_text())
    assert (before["checkpoint"], after["checkpoint"]) == (str(epoch_path(finished, 2)),) * 2
    assert after["views"] == 9
    out = capsys.readouterr().out
    assert "top-1 accuracy" in out
    assert f"report: {finished / 'report.html'}" in out
    assert go(tiny, finished, "TRAIN.ENABLE", False, "TEST.CHECKPOINT", "best") == DONE
    assert json.loads((finished / "test_results.json").read_text())["checkpoint"] == str(best_path(finished))


def test_several_cfg_files_and_both_spellings_of_overrides(tiny, tmp_path):
    (tmp_path / "more.yaml").write_text("SOLVER: {MAX_EPOCH: 1}\nTEST: {ENABLE: False}\n")
    pairs = dict(zip(tiny[::2], tiny[1::2], strict=True))
    del pairs["SOLVER.MAX_EPOCH"]
    plain = [word for key, value in pairs.items() for word in (key, str(value))]
    command = [sys.executable, "tools/run_net.py", "--cfg", RECIPE, str(tmp_path / "more.yaml"), *plain]
    command += ["--num_shards", "1", "--shard_id", "0", "--opts", "OUTPUT_DIR", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert epoch_path(tmp_path / "out", 1).exists()
    assert not epoch_path(tmp_path / "out", 2).exists()


def test_repeated_cfg_and_misplaced_options():
    from tools.run_net import parse_args

    args = parse_args(["--cfg", "a.yaml", "NUM_GPUS", "0", "--cfg", "b.yaml", "--num_shards", "2", "--opts", "A", "-1"])
    assert args.cfg == ["a.yaml", "b.yaml"]
    assert args.overrides == ["NUM_GPUS", "0", "A", "-1", "NUM_SHARDS", 2]
    with pytest.raises(SystemExit):
        parse_args(["--cfg", "a.yaml", "--opts", "A", "1", "--num_shards", "2"])
    with pytest.raises(SystemExit):
        parse_args(["--cfg", "a.yaml", "--nonsense"])


# What bad input gets ------------------------------------------------------------------------------------------------


def refused(capsys, status):
    error = capsys.readouterr().err
    assert status == WRONG_INPUT, error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_a_missing_list_file(tiny, lists, tmp_path, capsys):
    (lists / "train.csv").unlink()
    error = refused(capsys, go(with_lists(tiny, lists), tmp_path / "out"))
    assert f"{lists / 'train.csv'}: cannot read this list file" in error


def test_an_empty_list_file(tiny, lists, tmp_path, capsys):
    (lists / "val.csv").write_text("")
    assert "val.csv: this list file has no videos" in refused(capsys, go(with_lists(tiny, lists), tmp_path / "out"))


def test_a_label_out_of_range(tiny, lists, tmp_path, capsys):
    with (lists / "train.csv").open("a") as stream:
        stream.write("train/0000.mp4 8\n")
    error = refused(capsys, go(with_lists(tiny, lists), tmp_path / "out"))
    assert "train.csv, line 33: label 8 is out of range, expected 0 to 7" in error


def test_a_line_that_does_not_split(tiny, lists, tmp_path, capsys):
    (lists / "test.csv").write_text("val/0000.mp4 0\nval/0001.mp4,1\n")
    error = refused(capsys, go(with_lists(tiny, lists), tmp_path / "out"))
    assert "test.csv, line 2: expected 'path label'" in error


def test_class_names_of_another_count(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "MODEL.NUM_CLASSES", 9))
    assert "has 8 classes, but MODEL.NUM_CLASSES is 9" in error


def test_more_gpus_than_there_are(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "NUM_GPUS", 64, "TRAIN.BATCH_SIZE", 64, "TEST.BATCH_SIZE", 64))
    assert "NUM_GPUS is 64, but this machine has" in error


def test_an_output_folder_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    error = refused(capsys, go(tiny, tmp_path / "file" / "out"))
    assert f"OUTPUT_DIR: cannot write to {tmp_path / 'file' / 'out'}" in error


def test_a_checkpoint_of_another_architecture(tiny, finished, tmp_path, capsys):
    other = ["MODEL.MODEL_NAME", "MViT", "MVIT.DEPTH", 1, "MVIT.EMBED_DIM", 8, "MVIT.PATCH_PADDING", [1, 3, 3]]
    checkpoint = epoch_path(finished, 2)
    options = ["TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", str(checkpoint)]
    error = refused(capsys, go(tiny, tmp_path, *other, *options))
    assert f"{checkpoint}: only" in error
    assert "another architecture" in error


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(["UNIFORMER.DEPTH", [1, 1, 2, 1]], id="another block"),
        pytest.param(
            ["MODEL.MODEL_NAME", "MViT", "MVIT.DEPTH", 1, "MVIT.EMBED_DIM", 8, "MVIT.PATCH_PADDING", [1, 3, 3]],
            id="another family",
        ),
    ],
)
def test_resuming_with_another_network(tiny, finished, tmp_path, capsys, other):
    shutil.copytree(finished, tmp_path / "out")
    before = (tmp_path / "out/config.yaml").read_text()
    error = refused(capsys, go(tiny, tmp_path / "out", *other, "SOLVER.MAX_EPOCH", 3))
    assert (tmp_path / "out/config.yaml").read_text() == before
    assert f"{epoch_path(tmp_path / 'out', 2)}: this checkpoint is of another network than the" in error
    assert "TRAIN.CHECKPOINT_EPOCH_RESET True" in error


def test_resuming_with_classes_of_other_names_is_said(tiny, finished, lists, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    names = (lists / "classes.txt").read_text().splitlines()
    (lists / "classes.txt").write_text("\n".join(["renamed", *names[1:]]))
    for file, said in ((lists / "classes.txt", True), (None, False)):
        (tmp_path / "out/stdout.log").unlink()
        more = ["DATA.CLASS_NAMES", str(file)] if file else []
        assert go(tiny, tmp_path / "out", *more, "SOLVER.MAX_EPOCH", 2, "TEST.ENABLE", False) == DONE
        assert ("other class names (DATA.CLASS_NAMES)" in (tmp_path / "out/stdout.log").read_text()) is said


def test_resuming_from_a_file_of_weights_alone(tiny, finished, tmp_path, capsys):
    """Published files have names as a run's own checkpoints."""
    epoch_path(tmp_path, 2).parent.mkdir()
    torch.save({"model_state": read_checkpoint(epoch_path(finished, 2))["model_state"]}, epoch_path(tmp_path, 2))
    error = refused(capsys, go(tiny, tmp_path, "SOLVER.MAX_EPOCH", 3))
    assert f"{epoch_path(tmp_path, 2)}: training cannot go on from it without its epoch, optimizer_state" in error
    assert "name this file in TRAIN.CHECKPOINT_FILE_PATH" in error


def test_clips_the_network_cannot_take(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "MODEL.MODEL_NAME", "MorphMLP"))
    assert "MorphMLP cannot take clips of DATA.NUM_FRAMES 4 and DATA.TRAIN_CROP_SIZE 32: " in error


def test_weights_that_do_not_fill_the_network_are_not_tested(tiny, finished, tmp_path, capsys):
    more = ["MODEL.NUM_CLASSES", 9, "DATA.CLASS_NAMES", "", "TRAIN.ENABLE", False]
    error = refused(capsys, go(tiny, tmp_path, *more, "TEST.CHECKPOINT_FILE_PATH", str(epoch_path(finished, 2))))
    assert "do not fill the network" in error
    assert "file [8, 16], network [9, 16]" in error


def test_scores_that_are_no_numbers_are_no_result(tiny, finished, tmp_path, capsys):
    content = read_checkpoint(epoch_path(finished, 2))
    content["model_state"]["head.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pyth")
    more = ["TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "nan.pyth")]
    assert go(tiny, tmp_path / "out", *more) == BROKE_OFF
    assert "are no finite numbers" in capsys.readouterr().err
    assert not (tmp_path / "out/test_results.json").exists()


def test_a_loss_that_is_no_number_stops_the_training(tiny, tmp_path, capsys):
    more = ["SOLVER.BASE_LR", 1e30, "SOLVER.OPTIMIZING_METHOD", "sgd", "TRAIN.MAX_NONFINITE_STEPS", 3]
    assert go(tiny, tmp_path, *more) == BROKE_OFF
    error = capsys.readouterr().err
    assert "3 steps in a row had no finite loss or gradient (TRAIN.MAX_NONFINITE_STEPS)" in error
    assert "Try a lower SOLVER.BASE_LR" in error


def test_an_earlier_run_is_not_overwritten(tiny, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "out")
    before = (tmp_path / "out/config.yaml").read_text()
    error = refused(capsys, go(tiny, tmp_path / "out", "TRAIN.AUTO_RESUME", False, "RNG_SEED", 9))
    assert "has checkpoints of an earlier run" in error
    assert (tmp_path / "out/config.yaml").read_text() == before


@pytest.mark.parametrize(("function", "file"), [("write_history", "history.csv"), ("log_json_stats", "json_stats.log")])
def test_a_full_disk_is_told_and_the_training_goes_on(tiny, tmp_path, monkeypatch, capsys, function, file):
    more = ["SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False, "TENSORBOARD.ENABLE", False]
    monkeypatch.setattr(trainer, function, without_room(getattr(trainer, function)))
    assert go(tiny, tmp_path, *more) == BROKE_OFF
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert f"error: {tmp_path / file}: cannot be written: File too large" in error
    assert "Traceback" not in error
    assert go(tiny, tmp_path, *more) == DONE
    assert [record["epoch"] for record in read_history(tmp_path)] == [1]


@pytest.mark.parametrize(("before", "after"), [("adamw", "sgd"), ("sgd", "rmsprop"), ("rmsprop", "sgd")])
def test_resuming_with_another_optimizer(tiny, lists, tmp_path, capsys, before, after):
    train = lists / "train.csv"
    train.write_text("\n".join(train.read_text().splitlines()[:4]))
    words = [*with_lists(tiny, lists), "TRAIN.BATCH_SIZE", 4, "TRAIN.EVAL_PERIOD", 9, "TEST.ENABLE", False]
    out = tmp_path / "out"
    assert go(words, out, "SOLVER.OPTIMIZING_METHOD", before, "SOLVER.MAX_EPOCH", 1) == DONE
    capsys.readouterr()
    error = refused(capsys, go(words, out, "SOLVER.OPTIMIZING_METHOD", after))
    assert "the optimizer state does not fit (it is of another SOLVER.OPTIMIZING_METHOD" in error


def test_resuming_with_moments_in_another_order(tiny, finished, tmp_path, capsys):
    content = read_checkpoint(epoch_path(finished, 2))
    moments = content["optimizer_state"]["state"]
    other = next(i for i in moments if moments[i]["exp_avg"].shape != moments[0]["exp_avg"].shape)
    moments[0], moments[other] = moments[other], moments[0]
    torch.save(content, tmp_path / "odd.pyth")
    more = ["TRAIN.CHECKPOINT_FILE_PATH", str(tmp_path / "odd.pyth"), "SOLVER.MAX_EPOCH", 3]
    assert "another order" in refused(capsys, go(tiny, tmp_path / "out", *more))


def test_nothing_to_do(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "TRAIN.ENABLE", False, "TEST.ENABLE", False))
    assert "TRAIN.ENABLE and TEST.ENABLE are both False, so there is nothing to do" in error
    assert not any(tmp_path.iterdir())


def test_no_weights_to_test(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "TRAIN.ENABLE", False))
    assert "no weights to test" in error
    assert "name one, or train first (TRAIN.ENABLE True)" in error


def test_a_batch_larger_than_the_list(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "TRAIN.BATCH_SIZE", 64))
    assert "32 videos do not fill one batch of 64" in error


def spoil(folder: Path, split: str) -> dict[str, str]:
    """Damage five videos of a split; returns their names and a word of the cause that must be given."""
    whole = (folder / split / "0003.mp4").read_bytes()
    (folder / split / "0000.mp4").unlink()
    (folder / split / "0001.mp4").write_bytes(b"")
    (folder / split / "0002.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / split / "0003.mp4").write_text("this is no video\n" * 50)
    (folder / split / "0004.mp4").unlink()
    (folder / split / "0004.mp4").mkdir()
    return {
        "0000.mp4": "no such file",
        "0001.mp4": "empty",
        "0002.mp4": "",
        "0003.mp4": "",
        "0004.mp4": "is a directory",
    }


def test_bad_training_videos_are_named_counted_and_replaced(tiny, lists, tmp_path):
    bad = spoil(lists, "train")
    overrides = with_lists(tiny, lists)
    assert go(overrides, tmp_path / "out", "DATA.MAX_FAILED_FRACTION", 0.2, "TEST.ENABLE", False) == DONE
    log = (tmp_path / "out/stdout.log").read_text()
    for name, cause in bad.items():
        lines = [line for line in log.splitlines() if "unreadable video replaced" in line and name in line]
        assert len(lines) == 1, name  # once per run, not once per epoch
        assert cause.lower() in lines[0].lower()
        assert not lines[0].endswith(": ")
    steps = [json.loads(line.split("json_stats: ")[1]) for line in log.splitlines() if '"_type": "train_iter"' in line]
    assert steps[-1]["iter"] == "4/4"


def test_too_many_bad_training_videos_stop_the_run(tiny, lists, tmp_path, capsys):
    spoil(lists, "train")
    error = refused(capsys, go(with_lists(tiny, lists), tmp_path / "out", "DATA.MAX_FAILED_FRACTION", 0.1))
    assert re.search("[45] of 32 videos cannot be read, more than the 3 that DATA.MAX_FAILED_FRACTION allows", error)
    assert ".mp4: " in error


def test_bad_test_videos_are_reported_never_replaced(tiny, lists, finished, tmp_path):
    bad = spoil(lists, "val")
    weights = ["TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", str(epoch_path(finished, 2))]
    overrides = with_lists(tiny, lists)
    assert go(overrides, tmp_path / "out", *weights) == FAILED_VIDEOS
    results = json.loads((tmp_path / "out/test_results.json").read_text())
    assert results["videos"] == 5
    assert {Path(f["video"]).name for f in results["failed"]} == set(bad)
    assert all(f["cause"] for f in results["failed"])
    names = [Path(v).name for v in np.load(tmp_path / "out/predictions.npz")["video"]]
    assert names == [f"{i:04d}.mp4" for i in range(5, 10)]
    assert "0003.mp4" in (tmp_path / "out/report.html").read_text()
    assert go(overrides, tmp_path / "out", *weights, "TEST.ALLOW_FAILED", 5) == DONE
