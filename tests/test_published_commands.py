"""The command lines of the five code bases, as their users type them, with other paths and tiny networks and data."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import golden
import pytest
import tiny_runs
import torch
import yaml
from tiny_networks import tiny
from torch import nn

import videobench

ROOT = tiny_runs.ROOT
SPEC = importlib.util.spec_from_file_location("run_net_tool", ROOT / "tools/run_net.py")
run_net = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run_net)


def type_in(command: str, settings: list, monkeypatch, **words) -> int:
    """Run a command line of tools/run_net.py with {words} filled in, the settings behind it."""
    arguments = [word.format(**words) for word in shlex.split(command)]
    monkeypatch.setattr(sys, "argv", ["run_net.py", *arguments, *settings])
    monkeypatch.chdir(ROOT)
    return run_net.main()


@pytest.fixture
def data(tmp_path):
    def make(kind: str) -> dict:
        (tmp_path / kind).mkdir()
        return tiny_runs.write_data_set(kind, tmp_path / kind)

    return make


def checkpoint_of(recipe: str, settings: list, path: Path) -> Path:
    """Fresh weights of a recipe's small network, in the published layout."""
    model = videobench.build_model(videobench.load_config(ROOT / "configs" / recipe, settings))
    torch.save({"model_state": model.state_dict()}, path)
    return path


def results(output: Path) -> dict:
    return json.loads((output / "test_results.json").read_text())


# MorphMLP -------------------------------------------------------------------------------------------------------------


def test_morphmlp_trains(data, tmp_path, monkeypatch):
    where = data("kinetics_commas")
    command = "--cfg configs/K400/K400_MLP_S16x4.yaml DATA.PATH_PREFIX {D} OUTPUT_DIR {O}"
    settings = tiny_runs.overrides("MorphMLP", tmp_path / "o", **where)
    assert type_in(command, settings, monkeypatch, D=where["DATA.PATH_PREFIX"], O=tmp_path / "o") == 0
    assert results(tmp_path / "o")["views"] == 4


@pytest.mark.parametrize(
    ("recipe", "views", "kind", "count"),
    [
        (
            "K400/K400_MLP_S16x4.yaml",
            "TRAIN.ENABLE False TEST.NUM_ENSEMBLE_VIEWS 4 TEST.NUM_SPATIAL_CROPS 1",
            *("kinetics_commas", 4),
        ),
        ("SSV1/SSV1_MLP_B32.yaml", "TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 3", "ssv1", 3),
    ],
)
def test_morphmlp_tests(recipe, views, kind, count, data, tmp_path, monkeypatch):
    where = data(kind)
    settings = tiny_runs.overrides("MorphMLP", tmp_path / "o", **where)
    if "TRAIN.ENABLE" not in views:
        settings += ["TRAIN.ENABLE", "False"]  # as typed, the published command trains first
    weights = checkpoint_of(recipe, settings, tmp_path / "c.pyth")
    command = f"--cfg configs/{recipe} DATA.PATH_PREFIX {{D}} {views} TEST.CHECKPOINT_FILE_PATH {{C}} OUTPUT_DIR {{O}}"
    words = {"D": where["DATA.PATH_PREFIX"], "C": weights, "O": tmp_path / "o"}
    assert type_in(command, settings, monkeypatch, **words) == 0
    assert results(tmp_path / "o")["views"] == count


# UniFormer ------------------------------------------------------------------------------------------------------------

UNIFORMER_RUN = (
    "--cfg configs/K400/uniformer_s8x8_k400.yaml DATA.PATH_TO_DATA_DIR {L} DATA.PATH_PREFIX {D} "
    'DATA.PATH_LABEL_SEPARATOR "," TRAIN.EVAL_PERIOD 5 TRAIN.CHECKPOINT_PERIOD 1 TRAIN.BATCH_SIZE 128 NUM_GPUS 8 '
    "UNIFORMER.DROP_DEPTH_RATE 0.1 SOLVER.MAX_EPOCH 100 SOLVER.BASE_LR 4e-4 SOLVER.WARMUP_EPOCHS 10.0 "
    "DATA.TEST_CROP_SIZE 224 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 RNG_SEED 6666 OUTPUT_DIR {O}"
)


def test_uniformer_run_sh_with_its_final_test(data, tmp_path, monkeypatch):
    where = data("kinetics_commas")
    settings = tiny_runs.overrides(
        "Uniformer", tmp_path / "o", **{"MODEL.USE_CHECKPOINT": True, "MODEL.CHECKPOINT_NUM": [0, 0, 1, 0]}
    )
    words = {"L": where["DATA.PATH_TO_DATA_DIR"], "D": where["DATA.PATH_PREFIX"], "O": tmp_path / "o"}
    assert type_in(UNIFORMER_RUN, settings, monkeypatch, **words) == 0
    assert results(tmp_path / "o")["views"] == 1


@pytest.mark.parametrize(("clips", "crops"), [(4, 1), (1, 3)])
def test_uniformer_test_sh(clips, crops, data, tmp_path, monkeypatch):
    where = data("kinetics_commas")
    recipe = "K400/uniformer_s8x8_k400.yaml"
    settings = tiny_runs.overrides("Uniformer", tmp_path / "o", **where)
    weights = checkpoint_of(recipe, settings, tmp_path / "c.pyth")
    command = (
        f"--cfg configs/{recipe} TRAIN.ENABLE False DATA.TRAIN_JITTER_SCALES '[224, 224]' DATA.TEST_CROP_SIZE 224 "
        f"TEST.NUM_ENSEMBLE_VIEWS {clips} TEST.NUM_SPATIAL_CROPS {crops} TEST.CHECKPOINT_FILE_PATH {{C}} "
        "OUTPUT_DIR {O}"
    )
    assert type_in(command, settings, monkeypatch, C=weights, O=tmp_path / "o") == 0
    assert results(tmp_path / "o")["views"] == clips * crops


# MViTv2 ---------------------------------------------------------------------------------------------------------------


def test_mvitv2_trains_fine_tunes_and_evaluates(data, tmp_path, monkeypatch):
    where = data("imagenet")
    words = {"D": where["DATA.PATH_TO_DATA_DIR"]}
    settings = tiny_runs.overrides("MViT image", tmp_path / "o")
    command = "--cfg configs/IN1K/MVITv2_T.yaml DATA.PATH_TO_DATA_DIR {D} NUM_GPUS 8 TRAIN.BATCH_SIZE 256"
    assert type_in(command, settings, monkeypatch, **words) == 0
    (weights,) = (tmp_path / "o/checkpoints").glob("checkpoint_epoch_*.pyth")
    settings = tiny_runs.overrides("MViT image", tmp_path / "tuned", **{"TRAIN.CHECKPOINT_EPOCH_RESET": True})
    assert type_in(f"{command} TRAIN.CHECKPOINT_FILE_PATH {weights}", settings, monkeypatch, **words) == 0
    settings = tiny_runs.overrides("MViT image", tmp_path / "e", **{"TEST.CHECKPOINT_FILE_PATH": weights})
    command = "--cfg configs/IN1K/test/MVITv2_T_test.yaml DATA.PATH_TO_DATA_DIR {D} NUM_GPUS 8 TEST.BATCH_SIZE 256"
    assert type_in(command, settings, monkeypatch, **words) == 0
    assert results(tmp_path / "e")["views"] == 1


def test_image_weights_begin_a_video_network():
    image = tiny("mvit_image", num_classes=400).state_dict()
    report = videobench.load_weights(tiny("mvit_video"), image, min_match=0.3)
    assert any("patch_embed" in name for name in report.inflated)


# Motionformer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    ["motionformer_224_16x4", "joint_224_16x4", "divided_224_16x4", "motionformer_336_16x8", "motionformer_224_32x3"],
)
def test_motionformer_trains(recipe, data, tmp_path, monkeypatch):
    where = data("kinetics")
    settings = tiny_runs.overrides("VisionTransformer", tmp_path / "o", **where)
    command = f"--cfg configs/K400/{recipe}.yaml DATA.PATH_TO_DATA_DIR {{D}} NUM_GPUS 8 TRAIN.BATCH_SIZE 8"
    if recipe == "motionformer_224_16x4":
        command += " VIT.USE_ORIGINAL_TRAJ_ATTN_CODE False"
    assert type_in(command, settings, monkeypatch, D=where["DATA.PATH_TO_DATA_DIR"]) == 0
    assert results(tmp_path / "o")["views"] == 30


def test_motionformer_infers(data, tmp_path, monkeypatch):
    where = data("kinetics")
    recipe = "K400/motionformer_224_16x4.yaml"
    settings = tiny_runs.overrides("VisionTransformer", tmp_path / "o", **where)
    weights = checkpoint_of(recipe, settings, tmp_path / "c.pyth")
    command = f"--cfg configs/{recipe} DATA.PATH_TO_DATA_DIR {{D}} TEST.CHECKPOINT_FILE_PATH {{C}} TRAIN.ENABLE False"
    words = {"D": where["DATA.PATH_TO_DATA_DIR"], "C": weights}
    assert type_in(command, settings, monkeypatch, **words) == 0
    assert results(tmp_path / "o")["views"] == 30


def test_motionformer_fine_tunes(data, tmp_path, monkeypatch):
    where = data("ssv2")
    recipe = "SSV2/motionformer_224_16x4.yaml"
    settings = tiny_runs.overrides("VisionTransformer", tmp_path / "o", **where)
    kinetics = checkpoint_of("K400/motionformer_224_16x4.yaml", settings, tmp_path / "c.pyth")
    command = f"--cfg configs/{recipe} TRAIN.CHECKPOINT_EPOCH_RESET True TRAIN.CHECKPOINT_FILE_PATH {{C}}"
    assert type_in(command, settings, monkeypatch, C=kinetics) == 0
    assert "replaced by a fresh classifier" in (tmp_path / "o/stdout.log").read_text()


# MoViNet --------------------------------------------------------------------------------------------------------------


def test_movinet_base_loop():
    model = videobench.create_model("movinet_a0_base_k600", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    clip, target = torch.rand(2, 3, 4, 32, 32), torch.tensor([0, 2])
    loss = nn.functional.nll_loss(nn.functional.log_softmax(model(clip), dim=1), target)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()


def test_movinet_stream_loop():
    model = videobench.create_model("movinet_a0_stream_k600", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    clip, target = torch.rand(2, 3, 4, 32, 32), torch.tensor([0, 2])
    n_clips, n_clip_frames = 2, 2
    model.clean_activation_buffers()
    optimizer.zero_grad()
    for part in range(n_clips):
        out = nn.functional.log_softmax(model(clip[:, :, n_clip_frames * part : n_clip_frames * (part + 1)]), dim=1)
        loss = nn.functional.nll_loss(out, target) / n_clips
        loss.backward()
    optimizer.step()
    model.clean_activation_buffers()
    assert loss.isfinite()


# YAML files as they were published ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "network", "kind"),
    [
        ("uniformer_s16_sthv1_prek400", "Uniformer", "ssv1"),
        ("motionformer_ek_motionformer_224_16x4", "VisionTransformer", "epic"),
        ("mvitv2_t_in1k", "MViT image", "imagenet"),
    ],
)
def test_a_published_yaml_file_runs(row, network, kind, data, tmp_path, monkeypatch):
    entry = next(entry for entry in golden.table("zoo")["entries"] if entry["id"] == row)
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(golden.nested({**entry["recipe"], **entry["operational"]})))
    settings = tiny_runs.overrides(network, tmp_path / "o", **data(kind), **{"TEST.ENABLE": True})
    assert type_in("--cfg {Y}", settings, monkeypatch, Y=path) == 0
    assert type_in("--cfg {Y} --strict", settings, monkeypatch, Y=path) == 2
