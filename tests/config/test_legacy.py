"""YAML files of the published code bases: every key is known, and a file means what it meant there."""

import importlib.util
import re
import sys
from pathlib import Path

import golden
import pytest
import yaml

import videobench
from videobench.config import ConfigError, default_config, load_config
from videobench.config.code_bases import DEFAULTS, code_base
from videobench.config.legacy import IGNORED, IGNORED_SECTIONS, RENAMED, STANDS_FOR, UNSUPPORTED
from videobench.config.loading import file_settings, known_keys

ROOT = Path(__file__).resolve().parents[2]

UNIFORMER = """
TRAIN: {DATASET: kinetics, BATCH_SIZE: 32}
DATA: {DECODING_BACKEND: decord, NUM_FRAMES: 16, SAMPLING_RATE: 4, USE_OFFSET_SAMPLING: True}
UNIFORMER: {EMBED_DIM: [64, 128, 320, 512], PRETRAIN_NAME: uniformer_small_in1k}
SOLVER: {BASE_LR: 1e-4, COSINE_END_LR: 1e-6}
MODEL: {ARCH: uniformer, MODEL_NAME: Uniformer, NUM_CLASSES: 400}
TEST: {NUM_SPATIAL_CROPS: 1}
"""


def test_every_key_of_published_files_is_known():
    table = golden.table("config_keys")
    handled = {*known_keys(), *IGNORED, *UNSUPPORTED, *RENAMED, *STANDS_FOR}
    keys = {*table["keys"], *table["other_keys_in_effect"]} - handled
    assert not sorted(key for key in keys if key.split(".")[0] not in IGNORED_SECTIONS)


def test_legacy_tables_do_not_overlap_and_lead_somewhere():
    known = set(known_keys())
    tables = [known, set(IGNORED), set(UNSUPPORTED), set(RENAMED), set(STANDS_FOR)]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert {new for new, _ in RENAMED.values()} | {new for keys in STANDS_FOR.values() for new in keys} <= known
    assert not [key for table in tables for key in table if key.startswith(tuple(f"{s}." for s in IGNORED_SECTIONS))
                and key not in UNSUPPORTED]  # fmt: skip
    assert {key for settings in DEFAULTS.values() for key in settings} <= known


def test_every_key_of_published_files_takes_its_published_values():
    """A file with all keys of a code base at their defaults loads; those defaults were valid there."""
    table = golden.table("config_keys")
    for base in ("UniFormer", "MorphMLP", "Motionformer", "SlowFast", "mvit"):
        for key, facts in {**table["keys"], **table["other_keys_in_effect"]}.items():
            wanted = facts["defaults"].get(base)
            if wanted is not None and not (isinstance(wanted, str) and wanted.startswith("(")):
                load_config([], [key, wanted])


def test_dead_keys_are_ignored_with_a_line_each(caplog):
    with caplog.at_level("WARNING", logger="videobench"):
        load_config([], ["AUG.RE_SPLIT", False, "MODEL.ARCH", "uniformer", "RESNET.DEPTH", 50])
    assert [r.getMessage().split(" is ignored")[0].split(": ")[1] for r in caplog.records] == [
        "AUG.RE_SPLIT",
        "MODEL.ARCH",
        "RESNET.DEPTH",
    ]


def test_empty_sections_of_old_files_say_nothing(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("RESNET:\nDETECTION: {}\nMULTIGRID: # no cycles\nDATA:\n")
    assert load_config(path, strict=True) == default_config()
    path.write_text("RESNETS:\n")
    with pytest.raises(ConfigError, match=r"old\.yaml: unknown key RESNETS"):
        load_config(path)


def test_renamed_and_unsupported_keys(caplog):
    with caplog.at_level("WARNING", logger="videobench"):
        cfg = load_config([], ["TRAIN.MIXED_PRECISION", True, "SOLVER.CLIP_GRADIENT", 20, "TEST.TEST_BEST", "True"])
    assert (cfg.TRAIN.PRECISION, cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.TEST.CHECKPOINT) == ("fp16", 20.0, "best")
    assert "TRAIN.MIXED_PRECISION is now TRAIN.PRECISION" in caplog.text
    load_config([], ["DATA.USE_REPEATED_AUG", False, "VIT.APPROX_ATTN_TYPE", "none"])
    load_config([], ["MVIT.LAYER_SCALE_INIT_VALUE", 0, "DATA.TRAIN_JITTER_FPS", "0.", "TEST.NUM_TEMPORAL_CLIPS", "[ ]"])
    for value in ("no", 1, None):
        with pytest.raises(ConfigError, match=r"TRAIN\.MIXED_PRECISION wants bool"):
            load_config([], ["TRAIN.MIXED_PRECISION", value])
    for key, value in (
        ("DATA.USE_REPEATED_AUG", True),
        ("VIT.VIDEO_INPUT", False),
        ("CONTRASTIVE.NUM_MLP_LAYERS", 3),
    ):
        with pytest.raises(ConfigError, match=rf"{re.escape(key)} {value} is not supported"):
            load_config([], [key, value])


def test_a_switch_that_stands_for_several_keys():
    cfg = load_config([], ["DATA.USE_RAND_AUGMENT", "True", "DATA.USE_RANDOM_RESIZE_CROPS", True])
    assert (cfg.AUG.ENABLE, cfg.AUG.AA_TYPE, cfg.AUG.INTERPOLATION) == (True, "rand-m20-mstd0.5-inc1", "random")
    assert cfg.AUG.RE_PROB == 0
    assert cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE == [0.08, 1.0]
    assert load_config([], ["DATA.USE_RAND_AUGMENT", False]).AUG == default_config().AUG
    with pytest.raises(ConfigError, match=r"DATA\.USE_RAND_AUGMENT wants bool"):
        load_config([], ["DATA.USE_RAND_AUGMENT", "rand-m9"])


def test_strict_loading_refuses_what_is_warned_of(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(UNIFORMER)
    load_config(path)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["SOLVER.CLIP_GRADIENT", 5], strict=True)
    for part in ("a file of UniFormer", "MODEL.ARCH is ignored", "PRETRAIN_NAME", "is now SOLVER.CLIP_GRAD_L2NORM"):
        assert part in str(caught.value)


def test_a_file_means_what_it_meant(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(UNIFORMER)
    cfg = load_config(path)
    assert (cfg.DATA.SAMPLING_RULE, cfg.TEST.SCORES, cfg.TRAIN.PRECISION) == ("uniformer_decord", "logits", "fp16")
    assert (cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.SOLVER.BASE_LR, cfg.DATA.TEST_CROP_SIZE) == (20.0, 1e-4, 256)
    assert cfg.DATA.ANTIALIAS is False
    # What a command line says counts as ours, and wins.
    assert load_config(path, ["TEST.SCORES", "softmax"]).TEST.SCORES == "softmax"


@pytest.mark.parametrize(
    ("text", "base", "rule", "reverse", "single"),
    [
        ("{MODEL: {ARCH: uniformer}, TRAIN: {DATASET: sth}}", "UniFormer", "segments_sth", True, "left"),
        ("{MODEL: {ARCH: uniformer}, DATA: {DECODING_BACKEND: pyav}}", "UniFormer", "uniformer_pyav", False, "centre"),
        ("{MODEL: {ARCH: morph}, TRAIN: {DATASET: kinetics}}", "MorphMLP", "morphmlp_torchvision", False, "centre"),
        (
            "{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer}, TRAIN: {DATASET: Epickitchens}, NUM_SHARDS: 4}",
            *("Motionformer", "epic", True, "centre"),
        ),
        (
            "{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer}, TRAIN: {DATASET: Ssv2}, "
            "DATA: {REVERSE_INPUT_CHANNEL: True}}",
            *("Motionformer", "segments_ssv2", False, "left"),
        ),
        ("{MODEL: {ARCH: mvit, MODEL_NAME: MViT}}", "SlowFast", "slowfast_torchvision", False, "centre"),
        (
            "{MODEL: {ARCH: morph}, DATA: {DECODING_BACKEND: decord}, NUM_SHARDS: 2}",
            *("MorphMLP", "uniformer_decord", False, "centre"),
        ),
        ("{MVIT: {DIM_MUL: [[1, 2.0]], DEPTH: 10}}", "mvit", "auto", False, "centre"),
    ],
)
def test_code_bases(tmp_path, text, base, rule, reverse, single):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    assert code_base(file_settings(path)) == base
    cfg = load_config(path)
    assert rule == cfg.DATA.SAMPLING_RULE
    assert (reverse, single, 1) == (cfg.DATA.REVERSE_INPUT_CHANNEL, cfg.TEST.SINGLE_CROP, cfg.NUM_SHARDS)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("{MODEL: {ARCH: uniformer}, BN: {NORM_TYPE: sync_batchnorm}}", "BN.NORM_TYPE", "batchnorm"),
        ("{MODEL: {ARCH: morph}, SOLVER: {CLIP_GRAD_L2NORM: 1.0}}", "SOLVER.CLIP_GRAD_L2NORM", 20.0),
        ("{MODEL: {ARCH: morph}, SOLVER: {CLIP_GRAD_VAL: 1.0}}", "SOLVER.CLIP_GRAD_VAL", None),
        ("{MODEL: {ARCH: morph}, TRAIN: {MIXED_PRECISION: False}}", "TRAIN.MIXED_PRECISION", "fp16"),
        (
            "{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer}, DATA: {ENSEMBLE_METHOD: max}}",
            *("DATA.ENSEMBLE_METHOD", "sum"),
        ),
        (
            "{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer}, SOLVER: {BASE_LR_SCALE_NUM_SHARDS: True}}",
            *("SOLVER.BASE_LR_SCALE_NUM_SHARDS", False),
        ),
        (
            "{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer}, SOLVER: {CLIP_GRAD: 1.0}}",
            *("SOLVER.CLIP_GRAD", None),
        ),
        ("{MVIT: {DIM_MUL: [[1, 2.0]], ZERO_DECAY_POS_CLS: True}}", "MVIT.ZERO_DECAY_POS_CLS", False),
        *(
            (f"{{{head}, DATA: {{{key}: [0.5, 1.0], TRAIN_JITTER_{other}_RELATIVE: []}}}}", f"DATA.{key}", [])
            for head in ("MODEL: {ARCH: uniformer}", "MODEL: {ARCH: mvit}, TRAIN: {DATASET: ssv2}")
            for key, other in (("TRAIN_JITTER_SCALES_RELATIVE", "ASPECT"), ("TRAIN_JITTER_ASPECT_RELATIVE", "SCALES"))
        ),
    ],
)
def test_keys_that_a_code_base_never_read_stay_without_effect(tmp_path, caplog, text, key, value):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    with caplog.at_level("WARNING", logger="videobench"):
        cfg = load_config(path)
    assert f"{key} is ignored: it did nothing in" in caplog.text
    section, leaf = RENAMED.get(key, (key, None))[0].split(".")
    assert cfg[section][leaf] == value
    # The command line is ours.
    assert load_config(path, ["DATA.ENSEMBLE_METHOD", "max"]).DATA.ENSEMBLE_METHOD == "max"


def test_keys_of_the_same_name_act_where_they_acted(tmp_path):
    path = tmp_path / "old.yaml"
    crops = "DATA: {TRAIN_JITTER_SCALES_RELATIVE: [0.5, 1.0], TRAIN_JITTER_ASPECT_RELATIVE: [0.5, 2.0]}"
    path.write_text(f"{{MODEL: {{ARCH: uniformer}}, AUG: {{ENABLE: True}}, {crops}}}")
    assert load_config(path).DATA.TRAIN_JITTER_SCALES_RELATIVE == [0.5, 1.0]
    path.write_text(f"{{MODEL: {{ARCH: mvit}}, {crops}}}")
    assert load_config(path).DATA.TRAIN_JITTER_ASPECT_RELATIVE == [0.5, 2.0]
    clipped = "SOLVER: {USE_MIXED_PRECISION: True, CLIP_GRAD: 1.0}"
    path.write_text(f"{{MODEL: {{ARCH: slow, MODEL_NAME: VisionTransformer}}, {clipped}}}")
    assert load_config(path).SOLVER.CLIP_GRAD_L2NORM == 1.0
    path.write_text("{MVIT: {DIM_MUL: [[1, 2.0]], ZERO_DECAY_POS_CLS: True}, SOLVER: {LAYER_DECAY: 8e-1}}")
    assert load_config(path).MVIT.ZERO_DECAY_POS_CLS


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("{MODEL: {ARCH: mvit, HEAD_ACT: sigmoid}}", "sigmoid"),
        ("{MODEL: {ARCH: mvit, HEAD_ACT: none}}", "logits"),
        ("{MODEL: {ARCH: mvit, HEAD_ACT: softmax}}", "softmax"),
        ("{MODEL: {HEAD_ACT: sigmoid}, MVIT: {DIM_MUL: [[1, 2.0]]}}", "sigmoid"),
        ("{MODEL: {ARCH: uniformer, HEAD_ACT: sigmoid}}", "logits"),
        ("{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer, HEAD_ACT: sigmoid}}", "softmax"),
    ],
)
def test_scores_are_what_the_head_made_of_its_outputs(tmp_path, text, scores):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    assert scores == load_config(path).TEST.SCORES


@pytest.mark.parametrize(
    ("keys", "mixing"),
    [
        ("MIXUP: {MIXUP_ALPHA: 8e-1, MIXUP_PROB: 0.5, MIXUP_SWITCH_PROB: 0.3, MIXUP_MODE: elem}", (0.8, 0.0, 0.0)),
        ("MIXUP: {CUTMIX_ALPHA: 1.0, CUTMIX_MINMAX: None}", (0.0, 1.0, 0.0)),
        ("MIXUP: {MIXUP_ALPHA: 0.8, CUTMIX_ALPHA: 1.0}, SOLVER: {SMOOTHING: 0.2}", (0.8, 1.0, 0.2)),
        ("MIXUP: {MIXUP_ALPHA: 0.0}, SOLVER: {SMOOTHING: 0.2}", None),
    ],
)
def test_motionformer_mixes_where_an_alpha_says_so(tmp_path, keys, mixing):
    path = tmp_path / "old.yaml"
    path.write_text(f"{{MODEL: {{ARCH: slow, MODEL_NAME: VisionTransformer, LOSS_FUNC: bce}}, {keys}}}")
    cfg = load_config(path)
    mix = cfg.MIXUP
    assert (mixing is not None) == mix.ENABLE
    if mixing is None:
        assert (cfg.MODEL.LOSS_FUNC, cfg.SOLVER.SMOOTHING) == ("cross_entropy", 0.2)
    else:
        assert mixing == (mix.ALPHA, mix.CUTMIX_ALPHA, mix.LABEL_SMOOTH_VALUE)
        assert (cfg.MODEL.LOSS_FUNC, cfg.SOLVER.SMOOTHING) == ("soft_cross_entropy", 0.0)
    if "MIXUP_PROB" in keys:
        assert (mix.PROB, mix.SWITCH_PROB, mix.MODE) == (0.5, 0.3, "elem")


def test_mixing_that_would_not_take_place_is_an_error(tmp_path):
    with pytest.raises(
        ConfigError, match=r"MIXUP\.MIXUP_ALPHA '0\.8' is not supported .* MIXUP\.ENABLE True and MIXUP"
    ):
        load_config([], ["MIXUP.MIXUP_ALPHA", "0.8"])
    path = tmp_path / "old.yaml"
    path.write_text("{MODEL: {ARCH: slow, MODEL_NAME: VisionTransformer}, MIXUP: {MIXUP_ALPHA: much}}")
    with pytest.raises(ConfigError, match=r"MIXUP\.MIXUP_ALPHA 'much' is not supported"):
        load_config(path)


def test_channel_order_may_be_written_as_text(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("{MODEL: {ARCH: mvit}, TRAIN: {DATASET: ssv2}, DATA: {REVERSE_INPUT_CHANNEL: 'True'}}")
    assert load_config(path).DATA.REVERSE_INPUT_CHANNEL is False


def test_a_file_that_leaves_its_network_to_slowfast_does_not_get_another_one(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("{MODEL: {ARCH: slowfast}, TRAIN: {DATASET: ssv2}}")
    with pytest.raises(ConfigError, match=r"MODEL\.MODEL_NAME 'SlowFast' is unknown; known names: MViT"):
        videobench.build_model(load_config(path))


def test_our_own_files_are_not_taken_for_old_ones(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(load_config([], ["MODEL.MODEL_NAME", "MViT", "MVIT.DIM_MUL", [[1, 2.0]]]).dump())
    assert code_base(file_settings(path)) is None
    load_config(path, strict=True)
    # A part of a recipe of ours, which looks like a file of mvit but for its videos.
    path.write_text("{MVIT: {DIM_MUL: [[1, 2.0]]}, TRAIN: {DATASET: kinetics}}")
    assert code_base(file_settings(path)) is None
    assert load_config(path, strict=True).MVIT.PATCH_KERNEL == [3, 7, 7]


def test_a_key_given_twice_in_a_published_file_counts_the_last_time(tmp_path, caplog):
    path = tmp_path / "twice.yaml"
    path.write_text("MODEL: {ARCH: mvit, MODEL_NAME: MViT}\nMVIT:\n  MODE: avg\n  MODE: conv\n")
    with caplog.at_level("WARNING", logger="videobench"):
        assert load_config(path).MVIT.MODE == "conv"
    assert (
        "line 4: key MODE is given twice with different values ('avg' and 'conv'); the last one counts" in caplog.text
    )


def test_unknown_keys_of_old_files_stay_errors(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({"MODEL": {"ARCH": "mvit"}, "DATA": {"NUM_FRAME": 16}}))
    with pytest.raises(ConfigError, match=r"unknown key DATA\.NUM_FRAME\. Did you mean DATA\.NUM_FRAMES"):
        load_config(path)


def convert(monkeypatch, *words) -> int:
    spec = importlib.util.spec_from_file_location("convert_config", ROOT / "tools/convert_config.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, "argv", ["convert_config.py", *map(str, words)])
    return tool.main()


def test_the_converted_file_loads_to_the_same_without_a_warning(tmp_path, monkeypatch, capsys):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(UNIFORMER)
    assert convert(monkeypatch, old, "-o", new) == 0
    assert load_config(new, strict=True) == load_config(old)
    assert len(new.read_text().splitlines()) < 40
    assert convert(monkeypatch, old) == 0
    assert capsys.readouterr().out == new.read_text()
    assert convert(monkeypatch, tmp_path / "gone.yaml") == 2
    assert "gone.yaml: cannot read" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["uniformer_s16_sthv1_prek400", "motionformer_ssv2_motionformer_224_16x4"])
def test_published_recipes_convert(tmp_path, monkeypatch, entry):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    recipe = next(row["recipe"] for row in golden.table("zoo")["entries"] if row["id"] == entry)
    old.write_text(yaml.safe_dump(golden.nested(recipe)))
    assert convert(monkeypatch, old, "-o", new) == 0
    assert load_config(new, strict=True) == load_config(old)
