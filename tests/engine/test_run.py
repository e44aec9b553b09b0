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

from videobench.engine.checkpoint import best_path, epoch_path
from videobench.engine.run import DONE, FAILED_VIDEOS, WRONG_INPUT, run
from videobench.models.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "configs/demo/uniformer_tiny.yaml")


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
    assert kinds == {"train_iter", "train_epoch", "val_epoch", "test_iter", "test_final"}
    step = next(s for s in stats if s.get("_type") == "train_iter")
    assert step["epoch"] == "1/2"
    assert step["iter"] == "2/4"
    assert list(step) == sorted(step)
    assert {"dt", "dt_data", "dt_net", "eta", "loss", "lr", "gpu_mem", "top1_err", "top5_err", "grad_norm"} <= set(step)
    assert isinstance(stats[-1]["top1_acc"], str)
    assert re.search(r"clips/s, \d+% of the time waiting for data, \d+:\d\d:\d\d to go", log)
    assert len((finished / "json_stats.log").read_text().splitlines()) == 4


def test_the_report_is_one_file_with_everything(finished):
    page = (finished / "report.html").read_text()
    assert "turning counter-clockwise" in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


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


def test_resuming_with_another_network(tiny, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "out")
    error = refused(capsys, go(tiny, tmp_path / "out", "UNIFORMER.DEPTH", [1, 1, 2, 1], "SOLVER.MAX_EPOCH", 3))
    assert "another network than the configuration describes" in error


def test_clips_the_network_cannot_take(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "MODEL.MODEL_NAME", "MorphMLP"))
    assert "MorphMLP cannot take clips of DATA.NUM_FRAMES 4 and DATA.TRAIN_CROP_SIZE 32: " in error


def test_no_weights_to_test(tiny, tmp_path, capsys):
    error = refused(capsys, go(tiny, tmp_path, "TRAIN.ENABLE", False))
    assert "no weights to test" in error


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
