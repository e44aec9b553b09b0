"""Tests of networks and data sets of other kinds: actions (verb and noun), several labels per video, pictures."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from plain_loop import compute_in_double, plain_scores
from tiny_networks import lively
from tiny_runs import EPIC, NETWORKS
from video_fixtures import pictures, write_clip

import videobench
from videobench.config import load_config
from videobench.engine import tester
from videobench.engine.run import DONE, FAILED_VIDEOS, run

COMMON = {
    "TRAIN.ENABLE": False,
    "NUM_GPUS": 0,
    "DATA_LOADER.NUM_WORKERS": 0,
    "DATA.INDEX_CACHE": "off",
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA.TRAIN_JITTER_SCALES": [36, 40],
    "TEST.BATCH_SIZE": 4,
    "TENSORBOARD.ENABLE": False,
}
KITCHEN = {
    **EPIC,
    "DATA.SAMPLING_RATE": 4,
    "DATA.REVERSE_INPUT_CHANNEL": True,
    "TEST.NUM_ENSEMBLE_VIEWS": 3,
    "TEST.NUM_SPATIAL_CROPS": 3,
}


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Scores in float64."""
    compute_in_double(monkeypatch)


def words(options):
    return [word for pair in options.items() for word in pair]


def finished_test(options, folder, shape=(3, 4, 32, 32)):
    """Test a network with lively weights; results, predictions, scores of the plain loop, and the log."""
    options = COMMON | options
    model = lively(videobench.build_model(load_config([], words(options))), shape)
    torch.save({"model_state": model.state_dict()}, folder / "weights.pyth")
    options |= {"TEST.CHECKPOINT_FILE_PATH": str(folder / "weights.pyth"), "OUTPUT_DIR": str(folder / "out")}
    assert run([], words(options), "") == DONE
    cfg = load_config([], words(options))
    grid = tester.view_grids(cfg)[0]
    results = json.loads((folder / "out/test_results.json").read_text())
    log = [
        line.split("json_stats: ")[1]
        for line in (folder / "out/stdout.log").read_text().splitlines()
        if "stats" in line
    ]
    return results, np.load(folder / "out/predictions.npz"), plain_scores(cfg, *grid), json.loads(log[-1])


@pytest.fixture
def kitchen(tmp_path):
    """Four actions in two folders of frames."""
    for video, seed in (("P01_01", 0), ("P02_102", 1)):
        frames = tmp_path / video[:3] / "rgb_frames" / video
        frames.mkdir(parents=True)
        for number, picture in enumerate(pictures(80, 64, 40, seed), start=1):
            Image.fromarray(picture).save(frames / f"frame_{number:010d}.jpg")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class"
    rows = [
        "P01_01_0,P01,P01_01,00:00:00.00,00:00:00.50,3,20",
        "P01_01_1,P01,P01_01,00:00:00.30,00:00:01.10,96,299",
        "P02_102_0,P02,P02_102,00:00:00.10,00:00:01.20,0,0",
        "P02_102_1,P02,P02_102,00:00:00.60,00:00:00.70,11,4",
    ]
    (tmp_path / "EPIC_100_validation.csv").write_text("\n".join([head, *rows]) + "\n")
    for name, count in (("verb", 97), ("noun", 300)):
        lines = ["id,key,instances", *(f"{i},{name}-{i},[]" for i in range(count))]
        (tmp_path / f"{name}s.csv").write_text("\n".join(lines))
    return tmp_path


def test_actions(kitchen):
    options = KITCHEN | {
        "DATA.PATH_TO_DATA_DIR": str(kitchen),
        "DATA.PATH_PREFIX": str(kitchen),
        "DATA.CLASS_NAMES": [str(kitchen / "verbs.csv"), str(kitchen / "nouns.csv")],
    }
    results, predictions, expected, final = finished_test(options, kitchen)
    labels = {head: predictions[f"{head}_label"] for head in ("verb", "noun")}
    assert labels["verb"].tolist() == [3, 96, 0, 11]
    # What auto stands for, and no margin around a single crop.
    facts = {"sampling_rule": "epic", "stored_as": "frames", "short_side_one_crop": 32}
    assert facts.items() <= results["protocol"].items()
    ranks = {}
    for head in ("verb", "noun"):
        np.testing.assert_allclose(predictions[f"{head}_scores"], expected[head], rtol=0, atol=1e-6)
        order = np.argsort(-expected[head], 1)
        ranks[head] = np.array([np.flatnonzero(o == label)[0] for o, label in zip(order, labels[head], strict=True)])
        assert predictions[f"{head}_agreement"].shape == (4,)
    for k in (1, 5):
        both = (ranks["verb"] < k) & (ranks["noun"] < k)
        assert results[f"top{k}"] == results[f"action_top{k}"] == 100 * both.mean()
        assert results[f"noun_top{k}"] == 100 * (ranks["noun"] < k).mean()
    assert "action_joint_top5" in results
    assert len(results["classes"]["noun"]) == 300
    assert predictions["video"].tolist() == ["P01_01_0", "P01_01_1", "P02_102_0", "P02_102_1"]
    published = {f"{what}_top{k}_acc" for what in ("verb", "noun", "action") for k in (1, 5)}
    assert published <= final.keys()
    assert not {"top1_acc", "top5_acc"} & final.keys()
    with (kitchen / "out/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["verb_label"], rows[1]["noun_label"]) == ("verb-96", "noun-299")
    assert rows[0]["noun_class_1"] == f"noun-{expected['noun'][0].argmax()}"


def test_no_action_can_be_read(kitchen):
    for folder in ("P01", "P02"):
        (kitchen / folder).rename(kitchen / f"gone_{folder}")
    options = COMMON | KITCHEN | {"DATA.PATH_TO_DATA_DIR": str(kitchen), "DATA.PATH_PREFIX": str(kitchen)}
    options |= {"OUTPUT_DIR": str(kitchen / "out"), "TEST.CHECKPOINT_FILE_PATH": str(kitchen / "weights.pyth")}
    torch.save(videobench.build_model(load_config([], words(options))).state_dict(), kitchen / "weights.pyth")
    assert run([], words(options), "") == FAILED_VIDEOS
    results = json.loads((kitchen / "out/test_results.json").read_text())
    assert (results["videos"], results["views"], len(results["failed"])) == (0, 9, 4)
    assert results["intervals"]["verb_top1"] is None


@pytest.fixture
def clips(tmp_path):
    for i in range(5):
        frames = pictures(24, 64, 48, seed=i)
        write_clip(tmp_path / f"{i}.mp4", frames, options={"preset": "ultrafast", "g": "12"})
    return tmp_path


def test_several_labels_per_video(clips):
    (clips / "test.csv").write_text("0.mp4 0;2\n1.mp4 1\n2.mp4 0;1;4\n3.mp4 2\n4.mp4 4\n")
    options = NETWORKS["Uniformer"] | {
        "DATA.PATH_TO_DATA_DIR": str(clips),
        "DATA.PATH_PREFIX": str(clips),
        "DATA.MULTI_LABEL": True,
        "MODEL.NUM_CLASSES": 5,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "TEST.NUM_SPATIAL_CROPS": 1,
        "TEST.SCORES": "sigmoid",
        "DATA.ENSEMBLE_METHOD": "max",
    }
    results, predictions, expected, final = finished_test(options, clips)
    np.testing.assert_allclose(predictions["scores"], expected[""], rtol=0, atol=1e-6)
    labels = predictions["label"]
    assert labels.tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    precisions = []
    for c in (0, 1, 2, 4):  # class 3 has no video
        order = np.argsort(-expected[""][:, c])
        hits = labels[order, c]
        precisions.append(100 * np.mean([hits[: i + 1].mean() for i in np.flatnonzero(hits)]))
    assert results["map"] == pytest.approx(np.mean(precisions))
    assert results["classes"][""][3]["average_precision"] is None
    assert "top1" not in results
    assert final["map"] == f"{results['map']:.2f}"
    lines = (clips / "out/predictions.csv").read_text().splitlines()
    assert lines[3].split(",")[1] == "0; 1; 4"


def test_pictures(tmp_path):
    for c, name in enumerate(("n01", "n02", "n03")):
        folder = tmp_path / "val" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(pictures(1, 50 + 9 * c, 44, seed=2 * c + i)[0]).save(folder / f"{i}.png")
    options = {
        "MODEL.MODEL_NAME": "MViT",
        "MODEL.NUM_CLASSES": 3,
        "MODEL.DROPOUT_RATE": 0.0,
        "MVIT.PATCH_2D": True,
        "MVIT.PATCH_KERNEL": [7, 7],
        "MVIT.PATCH_STRIDE": [4, 4],
        "MVIT.PATCH_PADDING": [3, 3],
        "MVIT.EMBED_DIM": 8,
        "MVIT.DEPTH": 2,
        "TRAIN.DATASET": "imagenet",
        "TEST.DATASET": "imagenet",
        "DATA.PATH_TO_DATA_DIR": str(tmp_path),
        "DATA.NUM_FRAMES": 1,
        "TEST.NUM_ENSEMBLE_VIEWS": 1,
        "TEST.NUM_SPATIAL_CROPS": 1,
    }
    results, predictions, expected, final = finished_test(options, tmp_path, (3, 1, 32, 32))
    np.testing.assert_allclose(predictions["scores"], expected[""], rtol=0, atol=1e-6)
    assert predictions["label"].tolist() == [0, 0, 1, 1, 2, 2]
    facts = {"stored_as": "pictures", "short_side_one_crop": None, "crop_ratio": 0.875, "antialias": True}
    assert facts.items() <= results["protocol"].items()
    assert results["top1"] == pytest.approx(100 * np.mean(expected[""].argmax(1) == predictions["label"]))
    assert results["top5"] == 100.0
    assert final["top1_err"] == f"{100 - results['top1']:.2f}"
