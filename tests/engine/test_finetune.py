"""Fine-tuning on a folder of somebody's own videos, through the face of tools/finetune.py."""

import csv
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from videobench.config import load_config
from videobench.datasets.demo import encode_h264
from videobench.engine import finetune as finetuning
from videobench.engine.checkpoint import epoch_path
from videobench.engine.finetune import finetune, flip_keys
from videobench.engine.run import DONE, FAILED_VIDEOS, WRONG_INPUT, run
from videobench.models.weights import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NETWORK = {
    "NUM_GPUS": 0,
    "LOG_PERIOD": 1,
    "UNIFORMER": {"EMBED_DIM": [8, 8, 16, 16], "DEPTH": [1, 1, 1, 1], "HEAD_DIM": 8},
    "DATA": {"NUM_FRAMES": 4, "TRAIN_CROP_SIZE": 32, "TEST_CROP_SIZE": 32, "TRAIN_JITTER_SCALES": [32, 36]},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "TEST": {"NUM_ENSEMBLE_VIEWS": 2, "NUM_SPATIAL_CROPS": 1},
    "TENSORBOARD": {"ENABLE": False},
}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> list[str]:
    """The YAML file of a tiny network, as --cfg takes it."""
    path = tmp_path_factory.mktemp("network") / "tiny.yaml"
    path.write_text(yaml.safe_dump(NETWORK))
    return [str(path)]


def own_folder(folder: Path, *classes: str) -> Path:
    """A folder with four short videos in a sub-folder for each class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            frames = np.random.default_rng([number, index]).integers(0, 256, (12, 36, 48, 3), np.uint8)
            encode_h264(folder / name / f"{index}.mp4", frames)
    return folder


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> Path:
    return own_folder(tmp_path_factory.mktemp("own") / "three", "to the left", "to the right", "bigger")


@pytest.fixture(scope="module")
def tuned(three_classes, network, tmp_path_factory):
    """A run from scratch, and what it said."""
    output = tmp_path_factory.mktemp("tuned") / "run"
    status = finetune(three_classes, config_files=network, output=output, epochs=2, val_share=0.25)
    return output, status


def test_a_folder_becomes_a_tested_network(tuned, three_classes):
    output, status = tuned
    assert status == DONE
    assert (output / "lists/classes.txt").read_text() == "bigger\t0\nto the left\t1\nto the right\t2\n"
    assert [len((output / f"lists/{s}.csv").read_text().splitlines()) for s in ("train", "val")] == [9, 3]
    results = json.loads((output / "test_results.json").read_text())
    assert (results["videos"], results["failed"]) == (3, [])
    assert "top5" not in results
    cfg = load_config(str(output / "config.yaml"))
    assert cfg.MODEL.NUM_CLASSES == 3
    assert cfg.TRAIN.BATCH_SIZE == 8
    assert cfg.DATA.FLIP_LABEL_PAIRS == [[1, 2]]
    assert (cfg.MODEL.FROZEN_BN, cfg.SOLVER.LAYER_DECAY) == (False, 1.0)
    assert Path(cfg.DATA.PATH_PREFIX) == three_classes.resolve()
    for name in ("report.html", "curves.png", "history.csv"):
        assert (output / name).stat().st_size, name


def test_the_confusion_matrix_counts_the_validation_videos(tuned):
    output, _ = tuned
    with (output / "confusion.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    names = ["bigger", "to the left", "to the right"]
    assert rows[0][1:] == [row[0] for row in rows[1:]] == names
    matrix = np.array([row[1:] for row in rows[1:]], int)
    assert matrix.sum(1).tolist() == [1, 1, 1]
    top1 = json.loads((output / "test_results.json").read_text())["top1"]
    assert 100 * matrix.trace() / 3 == pytest.approx(top1)


def test_run_net_does_the_same_again(tuned, tmp_path):
    output, _ = tuned
    assert run([str(output / "config.yaml")], ["OUTPUT_DIR", str(tmp_path)], "") == DONE
    first, second = (np.load(folder / "predictions.npz")["scores"] for folder in (output, tmp_path))
    np.testing.assert_array_equal(first, second)


def test_the_commands_said_at_the_end_do_what_they_say(tuned, three_classes, network, tmp_path, capsys):
    output = shutil.copytree(tuned[0], tmp_path / "my run")
    options = {"config_files": network, "output": output, "epochs": 2, "val_share": 0.25}

    def said(*overrides) -> dict[str, list[str]]:
        assert finetune(three_classes, **options, overrides=overrides) == DONE
        lines = re.findall(r"^([a-z ]+): +python tools/run_net.py --cfg (.*)$", capsys.readouterr().out, re.MULTILINE)
        return {name: shlex.split(words) for name, words in lines}

    commands = said()
    for name in ("test only", "the same again"):  # a test leaves another config.yaml
        file, *words = commands[name]
        assert run([file], [str(tmp_path / "again") if word == "DIR" else word for word in words], "") == DONE
    assert epoch_path(tmp_path / "again", 2).exists()
    capsys.readouterr()
    assert list(said("TRAIN.ENABLE", "False")) == ["test only"]


def test_given_weights_lose_their_classifier_and_the_rest_is_kept(tuned, network, tmp_path, capsys):
    source = epoch_path(tuned[0], 2)
    folder = own_folder(tmp_path / "two", "up", "down")
    output = tmp_path / "run"
    words = ["SOLVER.FREEZE_LAYERS", "-1", "SOLVER.SMOOTHING", "0.0"]
    status = finetune(folder, config_files=network, weights=str(source), output=output, epochs=1, overrides=words)
    assert status == DONE
    said = capsys.readouterr().out
    assert f"weights: {source}; a classifier for another number of classes is replaced" in said
    assert "2 classes, 6 videos to train on and 2 to validate on" in said
    assert "always naming the largest class would be right for 50.0 %" in said
    assert "replaced by a fresh classifier: head.weight (file [3, 16], network [2, 16])" in said
    cfg = load_config(str(output / "config.yaml"))
    assert (cfg.MODEL.FROZEN_BN, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.SMOOTHING) == (True, 0.75, 0.0)
    assert cfg.TRAIN.BATCH_SIZE == 6
    before, after = (read_checkpoint(p)["model_state"] for p in (source, epoch_path(output, 1)))
    changed = {name for name in after if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert changed == {"head.weight", "head.bias"}


def test_broken_videos_follow_the_usual_rules(network, tmp_path):
    folder = own_folder(tmp_path / "two", "up", "down")
    lists = {"train": ["up/0.mp4 up", "down/0.mp4 down"], "val": ["up/1.mp4 up", "down/broken.mp4 down"]}
    (folder / "down/broken.mp4").write_bytes(b"no video")
    for split, lines in lists.items():
        (folder / f"{split}.csv").write_text("\n".join(lines))
    status = finetune(folder, config_files=network, output=tmp_path / "run", epochs=1)
    assert status == FAILED_VIDEOS
    failed = json.loads((tmp_path / "run/test_results.json").read_text())["failed"]
    assert [Path(failure["video"]).name for failure in failed] == ["broken.mp4"]


def test_a_finished_folder_takes_no_other_videos(tuned, three_classes, network, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(tuned[0], output)
    assert finetune(three_classes, config_files=network, output=output, epochs=2, val_share=0.5) == WRONG_INPUT
    assert "holds a run on other videos" in capsys.readouterr().err
    assert finetune(three_classes, config_files=network, output=output, epochs=2, val_share=0.25) == DONE


@pytest.fixture
def asked(monkeypatch) -> list:
    """What would be run: the configuration, once ``finetune`` is called."""
    configurations = []

    def remember(files, words, init_method):
        configurations.append(load_config(files, words))
        return WRONG_INPUT  # nothing is left to report on

    monkeypatch.setattr(finetuning, "run", remember)
    return configurations


def test_a_published_network_comes_with_its_clips(three_classes, tmp_path, asked):
    finetune(three_classes, model="uniformer_s16x4_k400", output=tmp_path, overrides=["NUM_GPUS", "0"])
    finetune(three_classes, model="mvitv2_s_ssv2_16x4", output=tmp_path, overrides=["DATA.TEST_CROP_SIZE", "112"])
    kinetics, something = asked
    assert kinetics.UNIFORMER.DEPTH == [3, 4, 8, 3]
    assert (kinetics.DATA.NUM_FRAMES, kinetics.DATA.SAMPLING_RATE, kinetics.DATA.SAMPLING_RULE) == (16, 4, "auto")
    assert kinetics.DATA.TRAIN_JITTER_SCALES == [256, 320]
    assert (kinetics.SOLVER.MAX_EPOCH, kinetics.SOLVER.WARMUP_EPOCHS) == (60, 6.0)
    assert not kinetics.DATA.REVERSE_INPUT_CHANNEL
    # Its weights have seen BGR frames spread over whole videos.
    assert something.DATA.REVERSE_INPUT_CHANNEL
    assert something.DATA.SAMPLING_RULE == "segments_ssv2"
    assert something.DATA.TEST_CROP_SIZE == 112


def test_names_with_dots_and_odd_separators(three_classes, tmp_path, asked, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "clips.v2"
    shutil.copytree(three_classes, data)
    odd = data / "bigger/0\u2028.mp4"
    (data / "bigger/0.mp4").rename(odd)
    for _ in range(2):
        assert finetune(data, model="uniformer_s16x4_k400", overrides=["NUM_GPUS", "0"]) == WRONG_INPUT
        # As if a run had begun: the second time, its own lists are not those of other videos.
        epoch_path(tmp_path / "output/finetune/clips.v2", 1).parent.mkdir(exist_ok=True)
        epoch_path(tmp_path / "output/finetune/clips.v2", 1).write_bytes(b"")
    assert [cfg.OUTPUT_DIR for cfg in asked] == ["output/finetune/clips.v2"] * 2


def test_the_last_word_is_the_user_s(three_classes, network, tmp_path, asked):
    words = ["SOLVER.MAX_EPOCH", "7", "SOLVER.BASE_LR", "1e-3", "DATA.RANDOM_FLIP", "False", "RNG_SEED", "5"]
    finetune(three_classes, config_files=network, output=tmp_path / "a", weights=__file__, overrides=words)
    finetune(three_classes, config_files=network, output=tmp_path / "b", weights=__file__)
    chosen, default = asked
    assert (chosen.SOLVER.MAX_EPOCH, chosen.SOLVER.WARMUP_EPOCHS, chosen.SOLVER.BASE_LR) == (7, 0.7, 1e-3)
    assert not chosen.DATA.RANDOM_FLIP
    assert chosen.DATA.FLIP_LABEL_PAIRS == []
    assert default.SOLVER.MAX_EPOCH == 20
    assert (tmp_path / "a/lists/val.csv").read_text() != (tmp_path / "b/lists/val.csv").read_text()


@pytest.mark.parametrize(
    ("classes", "flip", "pairs"),
    [
        (["jump", "run"], True, []),
        (["Moving Left", "moving right", "still"], True, [[0, 1]]),
        (["turn_left", "turn_right", "upright", "leftover", "bright"], True, [[0, 1]]),
        (["turning clockwise", "turning counter-clockwise"], True, [[0, 1]]),
        (["spin_anticlockwise", "b", "spin_clockwise"], True, [[0, 2]]),
        (["left to right", "right to left"], True, [[0, 1]]),
        (["leftwards", "rightwards", "turn left"], False, []),
        (["turn right", "stop"], False, []),
    ],
)
def test_names_with_sides_decide_about_mirrored_clips(classes, flip, pairs):
    keys, note = flip_keys(classes)
    assert keys == {"DATA.RANDOM_FLIP": flip, "DATA.FLIP_LABEL_PAIRS": pairs}
    assert ("not mirrored" in note) is not flip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "uniformer_s16"}, "Did you mean"),
        ({"model": "mvitv2_t_in1k"}, "is a network for images"),
        ({}, "and not both"),
        ({"model": "uniformer_s16x4_k400", "config_files": ["a.yaml"]}, "and not both"),
        ({"model": "uniformer_s16x4_k400", "overrides": ["SOLVER.LR", "1"]}, "SOLVER.LR"),
        ({"model": "uniformer_s16x4_k400", "overrides": ["OUTPUT_DIR", "x"]}, "named with --output"),
        ({"model": "uniformer_s16x4_k400", "val_share": 0.0}, "share is 0.0"),
        ({"model": "uniformer_s16x4_k400", "weights": "nothing.pyth"}, "--weights: there is no file nothing.pyth"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_message(three_classes, tmp_path, capsys, arguments, message):
    assert finetune(three_classes, output=tmp_path / "run", **arguments) == WRONG_INPUT
    assert message in capsys.readouterr().err


def test_the_command_line_takes_overrides_anywhere():
    spec = importlib.util.spec_from_file_location("finetune_tool", ROOT / "tools/finetune.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    words = "mine --model movinet_a0_base_k600 NUM_GPUS 0 --epochs 3 SOLVER.FREEZE_LAYERS -1 --val-share 0.3"
    args = tool.parse_args(words.split())
    assert (args.data, args.model, args.epochs, args.val_share) == ("mine", "movinet_a0_base_k600", 3, 0.3)
    assert args.overrides == ["NUM_GPUS", "0", "SOLVER.FREEZE_LAYERS", "-1"]
    assert tool.parse_args(["mine", "--cfg", "a.yaml", "--cfg", "b.yaml"]).cfg == ["a.yaml", "b.yaml"]
