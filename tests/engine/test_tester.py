"""Test scores against a plain loop, for every protocol; what may not change them; stopping and going on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import without_room
from plain_loop import compute_in_double, plain_scores
from processes import RECIPE
from tiny_networks import lively
from video_fixtures import write_clip

import videobench
from videobench.config import ConfigError, load_config
from videobench.config.checks import check_config
from videobench.engine import scores, tester
from videobench.engine.run import BROKE_OFF, DONE, FAILED_VIDEOS, STOPPED, WRONG_INPUT, run
from videobench.engine.tester import ensemble_scores, video_groups

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 6
VIDEOS = 7


def words(options: dict) -> list:
    return [word for pair in options.items() for word in pair]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Sums in the same order in every process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def basis(tmp_path_factory) -> dict:
    """Overrides for a test of seven small videos, wide, tall and square, with a scrambled network."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = [(64, 48), (48, 64), (48, 48), (80, 44), (64, 48), (64, 48), (64, 48)]
    lengths = [40, 33, 25, 50, 5, 1, 40]
    for i, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        write_clip(folder / f"{i}.mp4", length, size=size, options={"preset": "ultrafast", "g": "12"})
    # Class 4 has no video.
    (folder / "test.csv").write_text("".join(f"{i}.mp4 {label}\n" for i, label in enumerate([0, 1, 2, 3, 5, 0, 1])))
    (folder / "classes.txt").write_text("".join(f"kind {chr(97 + c)}\n" for c in range(CLASSES)))
    options = {
        "TRAIN.ENABLE": False,
        "DATA.PATH_TO_DATA_DIR": str(folder),
        "DATA.PATH_PREFIX": str(folder),
        "DATA.CLASS_NAMES": str(folder / "classes.txt"),
        "DATA.FLIP_LABEL_PAIRS": [],
        "MODEL.NUM_CLASSES": CLASSES,
        "UNIFORMER.EMBED_DIM": [8, 8, 16, 16],
        "UNIFORMER.DEPTH": [1, 1, 1, 1],
        "UNIFORMER.HEAD_DIM": 8,
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 3,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [36, 40],
        "DATA_LOADER.NUM_WORKERS": 0,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "TEST.NUM_SPATIAL_CROPS": 1,
        "TEST.BATCH_SIZE": 4,
        "TENSORBOARD.ENABLE": False,
    }
    model = lively(videobench.build_model(load_config([RECIPE], words(options))))
    weights = folder / "weights.pyth"
    torch.save({"model_state": model.state_dict()}, weights)
    return options | {"TEST.CHECKPOINT_FILE_PATH": str(weights)}


@pytest.fixture
def double(monkeypatch):
    """Scores in float64."""
    compute_in_double(monkeypatch)


def go(basis: dict, output: Path, **more) -> int:
    options = basis | {key.replace("__", "."): value for key, value in more.items()} | {"OUTPUT_DIR": str(output)}
    return run([RECIPE], words(options), "")


def scores_of(output: Path, name: str = "predictions") -> np.ndarray:
    return np.load(output / f"{name}.npz")["scores"]


def plain(basis: dict, clips: int, crops: int, **more) -> np.ndarray:
    options = basis | {key.replace("__", "."): value for key, value in more.items()}
    return plain_scores(load_config([RECIPE], words(options)), clips, crops)[""]


@pytest.mark.parametrize(
    ("clips", "crops", "more"),
    [
        (2, 1, {}),
        (2, 1, {"TEST__SINGLE_CROP": "left", "DATA__REVERSE_INPUT_CHANNEL": True}),
        (1, 3, {"DATA__SAMPLING_RULE": "segments_sth", "TEST__SCORES": "logits"}),
        (3, 3, {"DATA__ENSEMBLE_METHOD": "max", "TEST__SCORES": "logits"}),
        (3, 1, {"TEST__SCORES": "sigmoid", "DATA__USE_OFFSET_SAMPLING": False, "DATA__SAMPLING_RULE": "native"}),
    ],
)
def test_scores_are_those_of_a_plain_loop(basis, double, tmp_path, clips, crops, more):
    more |= {"TEST__NUM_ENSEMBLE_VIEWS": clips, "TEST__NUM_SPATIAL_CROPS": crops}
    assert go(basis, tmp_path, **more) == DONE
    expected = plain(basis, clips, crops, **more)
    found = scores_of(tmp_path)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * clips * crops * max(1, np.abs(expected).max()))
    results = json.loads((tmp_path / "test_results.json").read_text())
    labels = np.load(tmp_path / "predictions.npz")["label"]
    assert results["top1"] == pytest.approx(100 * np.mean(expected.argmax(1) == labels))
    assert results["views"] == clips * crops


def test_the_maximum_of_negative_scores_is_negative():
    views = torch.tensor([[-3.0, -1.0], [-2.0, -5.0]])
    assert ensemble_scores(views, "max").tolist() == [-2.0, -1.0]
    assert ensemble_scores(views, "sum").tolist() == [-5.0, -6.0]


def test_batches_and_workers_change_nothing(basis, double, tmp_path):
    views = {"TEST__NUM_ENSEMBLE_VIEWS": 2, "TEST__NUM_SPATIAL_CROPS": 3}
    assert go(basis, tmp_path / "a", **views) == DONE
    before = scores_of(tmp_path / "a")
    assert go(basis, tmp_path / "b", **views, DATA_LOADER__NUM_WORKERS=2) == DONE
    np.testing.assert_array_equal(scores_of(tmp_path / "b"), before)
    for size in (1, 5, 64):
        assert go(basis, tmp_path / "b", **views, TEST__BATCH_SIZE=size) == DONE
        np.testing.assert_allclose(scores_of(tmp_path / "b"), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("videos", "views", "batch"), [(100, 30, 8), (7, 1, 64), (5, 9, 4), (50, 6, 7), (3, 1000, 8)])
def test_groups_cover_the_list_and_fill_batches(videos, views, batch):
    groups = video_groups(videos, views, batch)
    assert [i for group in groups for i in group] == list(range(videos))
    whole = len(groups[0]) * views
    assert whole % batch == 0 or len(groups[0]) == videos or whole >= 8 * batch


def test_a_sweep_equals_separate_tests(basis, double, tmp_path):
    grids = [[3, 3], [1, 1], [2, 1], [1, 3]]
    more = {"TEST__NUM_ENSEMBLE_VIEWS": 3, "TEST__NUM_SPATIAL_CROPS": 3, "TEST__SHUFFLE_FRAMES": True}
    assert go(basis, tmp_path / "all", **more, TEST__VIEW_SWEEP=grids) == DONE
    results = json.loads((tmp_path / "all/test_results.json").read_text())
    assert [[entry["clips"], entry["crops"]] for entry in results["sweep"]] == grids
    for clips, crops in grids:
        alone = tmp_path / f"{clips}x{crops}"
        more |= {"TEST__NUM_ENSEMBLE_VIEWS": clips, "TEST__NUM_SPATIAL_CROPS": crops}
        assert go(basis, alone, **more) == DONE
        name = "predictions" if (clips, crops) == (3, 3) else f"predictions_{clips}x{crops}"
        np.testing.assert_allclose(scores_of(tmp_path / "all", name), scores_of(alone), rtol=0, atol=1e-9)
        single = json.loads((alone / "test_results.json").read_text())
        entry = results["sweep"][grids.index([clips, crops])]
        for key in ("top1", "top5", "mean_class_accuracy", "intervals", "views"):
            assert entry[key] == single[key]
    log = (tmp_path / "all/stdout.log").read_text()
    assert log.count('"split": "test_sweep"') == 4


def test_slowfast_s_sweep(basis, tmp_path):
    assert go(basis, tmp_path, TEST__NUM_ENSEMBLE_VIEWS=-1) == DONE
    results = json.loads((tmp_path / "test_results.json").read_text())
    assert results["views"] == 10
    assert sorted(entry["clips"] for entry in results["sweep"]) == [1, 3, 5, 7, 10]


def test_two_classes_and_no_class_names(basis, tmp_path):
    folder = shutil.copytree(basis["DATA.PATH_TO_DATA_DIR"], tmp_path / "data")
    (folder / "test.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(VIDEOS)))
    two = {"MODEL.NUM_CLASSES": 2, "DATA.CLASS_NAMES": "", "DATA.PATH_TO_DATA_DIR": str(folder)}
    model = lively(videobench.build_model(load_config([RECIPE], words(basis | two))))
    torch.save({"model_state": model.state_dict()}, folder / "two.pyth")
    options = basis | two | {"TEST.CHECKPOINT_FILE_PATH": str(folder / "two.pyth")}
    assert go(options, tmp_path / "out") == DONE
    results = json.loads((tmp_path / "out/test_results.json").read_text())
    assert results["top5"] == 100.0
    assert [entry["name"] for entry in results["classes"][""]] == ["0", "1"]
    assert (tmp_path / "out/predictions.csv").read_text().startswith("video,label,class_1,score_1,class_2,score_2\n")


def test_what_a_test_leaves(basis, tmp_path):
    assert go(basis, tmp_path, LOG_PERIOD=2) == DONE
    results = json.loads((tmp_path / "test_results.json").read_text())
    assert results["level"] == "video"
    low, high = results["intervals"]["top1"]
    assert 0 <= low <= results["top1"] <= high <= 100
    by_class = results["classes"][""]
    assert [entry["videos"] for entry in by_class] == [2, 2, 1, 1, 0, 1]
    # A class without videos has no accuracy and does not count in the mean.
    assert by_class[4] == {"class": 4, "name": "kind e", "videos": 0, "top1": None}
    known = [entry["top1"] for entry in by_class if entry["videos"]]
    assert results["mean_class_accuracy"] == pytest.approx(np.mean(known))
    for key in ("checkpoint_sha256", "list_sha256", "class_names_sha256"):
        assert len(results[key]) == 64
    facts = {"frames": 4, "sampling_rule": "native", "stored_as": "videos", "antialias": True, "crop_ratio": None}
    facts |= {"short_side_one_crop": 36, "weights": "model", "precision": "fp32"}
    assert facts.items() <= results["protocol"].items()
    # The seconds are rounded to thousandths, and may be few.
    assert VIDEOS / results["videos_per_second"] == pytest.approx(results["seconds"], abs=0.001)
    predictions = np.load(tmp_path / "predictions.npz")
    assert predictions["index"].tolist() == list(range(VIDEOS))
    assert predictions["agreement"].shape == (VIDEOS,)
    assert set(predictions["agreement"]) <= {0.0, 0.5, 1.0}
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    first = lines[1].split(",")
    best = predictions["scores"][0].argsort()[::-1]
    assert Path(first[0]).name == "0.mp4"
    assert first[1::2][:2] == ["kind a", f"{predictions['scores'][0].max():.6g}"]
    assert first[2::2] == [f"kind {chr(97 + c)}" for c in best[:5]]
    assert len(lines) == VIDEOS + 1
    log = [
        line.split("json_stats: ")[1]
        for line in (tmp_path / "stdout.log").read_text().splitlines()
        if "json_stats" in line
    ]
    stats = [json.loads(line) for line in log]
    assert [s["split"] for s in stats] == ["test_iter"] * 3 + ["test_final"]
    assert stats[-1]["top1_acc"] == f"{results['top1']:.2f}"
    # Nothing is left to go on with.
    assert not (tmp_path / "test_scores").exists()


def test_the_averaged_weights(basis, double, tmp_path):
    content = torch.load(basis["TEST.CHECKPOINT_FILE_PATH"], weights_only=True)
    average = {name: tensor * 1.5 for name, tensor in content["model_state"].items()}
    torch.save(content | {"ema_state": average}, tmp_path / "both.pyth")
    torch.save({"model_state": average}, tmp_path / "average.pyth")
    both = {"TEST__CHECKPOINT_FILE_PATH": str(tmp_path / "both.pyth")}
    assert go(basis, tmp_path / "a", **both, TEST__WEIGHTS="ema") == DONE
    assert go(basis, tmp_path / "b", TEST__CHECKPOINT_FILE_PATH=str(tmp_path / "average.pyth")) == DONE
    assert go(basis, tmp_path / "c", **both) == DONE
    np.testing.assert_array_equal(scores_of(tmp_path / "a"), scores_of(tmp_path / "b"))
    assert np.abs(scores_of(tmp_path / "a") - scores_of(tmp_path / "c")).max() > 0.01
    assert json.loads((tmp_path / "a/test_results.json").read_text())["protocol"]["weights"] == "ema"


def test_weights_without_an_average(basis, tmp_path, capsys):
    assert go(basis, tmp_path, TEST__WEIGHTS="ema") == WRONG_INPUT
    assert "weights.pyth: no averaged weights in it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"TEST.WEIGHTS is ema, but this run keeps no average"):
        check_config(load_config([RECIPE], words(basis | {"TRAIN.ENABLE": True, "TEST.WEIGHTS": "ema"})))


def test_lower_precision_and_another_layout(basis, tmp_path):
    assert go(basis, tmp_path / "exact") == DONE
    exact = scores_of(tmp_path / "exact")
    assert go(basis, tmp_path / "bf16", TEST__PRECISION="bf16") == DONE
    assert go(basis, tmp_path / "innermost", TRAIN__CHANNELS_LAST=True) == DONE
    assert 1e-5 < np.abs(scores_of(tmp_path / "bf16") - exact).mean() < 0.2
    assert scores_of(tmp_path / "bf16").dtype == np.float64
    np.testing.assert_allclose(scores_of(tmp_path / "bf16").sum(1), 2, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores_of(tmp_path / "innermost"), exact, rtol=0, atol=1e-4)
    assert json.loads((tmp_path / "bf16/test_results.json").read_text())["protocol"]["precision"] == "bf16"
    with pytest.raises(ConfigError, match=r"TEST.PRECISION fp16 needs a GPU"):
        check_config(load_config([RECIPE], words(basis | {"TEST.PRECISION": "fp16", "NUM_GPUS": 0})))


# Stopping and going on ----------------------------------------------------------------------------------------------


def die_after_three(replace, sign: int) -> None:
    """Make this process send itself a signal as soon as it has written scores of three videos or more."""
    append, written = scores.ShardWriter.append, []

    def append_and_die(self, layout, rows, seconds):
        append(self, layout, rows, seconds)
        written.extend(rows)
        if len(written) >= 3:
            os.kill(os.getpid(), sign)

    replace(scores.ShardWriter, "append", append_and_die)


def killed(basis: dict, output: Path) -> subprocess.CompletedProcess:
    """A test in a process of its own that is killed after some videos."""
    options = words(basis | {"OUTPUT_DIR": str(output)})
    code = f"""
import sys
sys.path[:0] = ["tests", "tests/engine"]
from test_tester import RECIPE, die_after_three
from videobench.engine.run import run
die_after_three(setattr, {int(signal.SIGKILL)})
run([RECIPE], {options!r}, "")
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_test_goes_on_to_the_same_files(basis, tmp_path, monkeypatch, capsys, sign):
    if sign == signal.SIGKILL:
        assert killed(basis, tmp_path / "stopped").returncode == -sign
        (shard,) = (tmp_path / "stopped/test_scores").glob("*/*.scores")
        # The kill may leave half a record.
        shard.write_bytes(shard.read_bytes()[:-5])
    else:
        die_after_three(monkeypatch.setattr, sign)
        assert go(basis, tmp_path / "stopped") == STOPPED
        monkeypatch.undo()
        assert "stopped by SIGTERM after 4 of 7 test videos" in capsys.readouterr().err
    assert not (tmp_path / "stopped/test_results.json").exists()
    assert go(basis, tmp_path / "stopped") == DONE
    log = (tmp_path / "stopped/stdout.log").read_text()
    assert f"{3 if sign == signal.SIGKILL else 4} of 7 videos were scored before" in log
    assert go(basis, tmp_path / "whole") == DONE
    one, two = (np.load(tmp_path / name / "predictions.npz") for name in ("stopped", "whole"))
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])
    texts = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("stopped", "whole")]
    assert texts[0] == texts[1]
    results = [json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("stopped", "whole")]
    for each in results:
        for key in ("seconds", "videos_per_second", "data_wait_percent"):
            each.pop(key)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("owner", "function", "file"),
    [
        pytest.param(scores.ScoreStore, "prepare", "facts.json", id="facts"),
        pytest.param(scores.ShardWriter, "append", "attempt0001-rank0000.scores", id="scores"),
        pytest.param(tester, "write_results", "predictions.csv", id="results"),
    ],
)
def test_a_full_disk_is_told_and_the_test_goes_on(basis, tmp_path, monkeypatch, capsys, owner, function, file):
    monkeypatch.setattr(owner, function, without_room(getattr(owner, function)))
    assert go(basis, tmp_path) == BROKE_OFF
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}")
    assert f"{file}: cannot be written: File too large" in error
    assert go(basis, tmp_path) == DONE
    assert scores_of(tmp_path).shape == (VIDEOS, CLASSES)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("change", ["weights", "protocol", "list"])
def test_scores_of_another_test_are_set_aside(basis, tmp_path, change):
    folder = shutil.copytree(basis["DATA.PATH_TO_DATA_DIR"], tmp_path / "data")
    options = basis | {"DATA.PATH_TO_DATA_DIR": str(folder), "TEST.CHECKPOINT_FILE_PATH": str(folder / "weights.pyth")}
    (folder / "3.mp4").unlink()
    options["DATA.PATH_PREFIX"] = str(folder)
    assert go(options, tmp_path / "out") == FAILED_VIDEOS
    (kept,) = (tmp_path / "out/test_scores").iterdir()
    more, said = {}, f"other {change}"
    if change == "weights":
        content = torch.load(folder / "weights.pyth", weights_only=True)
        content["model_state"]["head.weight"] *= 2
        torch.save(content, folder / "weights.pyth")
    elif change == "protocol":
        more, said = {"DATA__SAMPLING_RATE": 2}, "DATA.SAMPLING_RATE 3"
    else:
        lines = (folder / "test.csv").read_text().splitlines()
        (folder / "test.csv").write_text("\n".join(lines[::-1]))
    assert go(options, tmp_path / "out", **more) == FAILED_VIDEOS
    log = (tmp_path / "out/stdout.log").read_text()
    assert "were scored before" not in log
    assert f"{kept}: unfinished scores of another test are set aside ({said})" in log
    assert go(options, tmp_path / "fresh", **more) == FAILED_VIDEOS
    np.testing.assert_array_equal(scores_of(tmp_path / "out"), scores_of(tmp_path / "fresh"))


def test_failed_videos_are_named_and_tried_again(basis, tmp_path):
    folder = shutil.copytree(basis["DATA.PATH_TO_DATA_DIR"], tmp_path / "data")
    options = basis | {"DATA.PATH_TO_DATA_DIR": str(folder), "DATA.PATH_PREFIX": str(folder)}
    whole = (folder / "2.mp4").read_bytes()
    (folder / "2.mp4").write_bytes(b"no video")
    (folder / "4.mp4").rename(folder / "gone.mp4")
    assert go(options, tmp_path / "out") == FAILED_VIDEOS
    results = json.loads((tmp_path / "out/test_results.json").read_text())
    assert [Path(f["video"]).name for f in results["failed"]] == ["2.mp4", "4.mp4"]
    assert all(f["cause"] for f in results["failed"])
    assert results["videos"] == 5
    assert np.load(tmp_path / "out/predictions.npz")["index"].tolist() == [0, 1, 3, 5, 6]
    assert go(options, tmp_path / "out", TEST__ALLOW_FAILED=2) == DONE
    (folder / "2.mp4").write_bytes(whole)
    (folder / "gone.mp4").rename(folder / "4.mp4")
    assert go(options, tmp_path / "out") == DONE
    assert "5 of 7 videos were scored before" in (tmp_path / "out/stdout.log").read_text()
    assert go(options, tmp_path / "fresh") == DONE
    np.testing.assert_array_equal(scores_of(tmp_path / "out"), scores_of(tmp_path / "fresh"))


def test_no_video_can_be_read(basis, tmp_path):
    assert go(basis | {"DATA.PATH_PREFIX": str(tmp_path)}, tmp_path / "out") == FAILED_VIDEOS
    results = json.loads((tmp_path / "out/test_results.json").read_text())
    assert (results["videos"], results["intervals"]["top1"], len(results["failed"])) == (0, None, VIDEOS)
    assert results["clips"] == load_config([], words(basis)).TEST.NUM_ENSEMBLE_VIEWS


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_ranks_share_the_videos_and_agree_to_the_bit(basis, tmp_path, ranks):
    # As many views at once on every rank as in one process.
    assert go(basis, tmp_path / "one", TEST__BATCH_SIZE=2) == DONE
    assert go(basis, tmp_path / "many", NUM_GPUS=0, NUM_CPU_RANKS=ranks, TEST__BATCH_SIZE=2 * ranks) == DONE
    np.testing.assert_array_equal(scores_of(tmp_path / "many"), scores_of(tmp_path / "one"))
    one, many = (json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("one", "many"))
    for key in ("top1", "top5", "mean_class_accuracy", "intervals", "classes", "videos"):
        assert one[key] == many[key]
