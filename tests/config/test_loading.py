"""YAML files, inheritance, overrides, and what is said about mistakes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import videobench
from videobench.config import ConfigError, default_config, load_config
from videobench.config.loading import known_keys

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_files_and_overrides_win(tmp_path):
    first = write(tmp_path / "a.yaml", "SOLVER: {MAX_EPOCH: 5, BASE_LR: 0.1}\nNUM_GPUS: 2\n")
    second = write(tmp_path / "b.yaml", "SOLVER: {MAX_EPOCH: 7}\n")
    cfg = load_config([first, second], ["NUM_GPUS", "0"])
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.BASE_LR, cfg.NUM_GPUS) == (7, 0.1, 0)
    assert cfg.SOLVER.MOMENTUM == default_config().SOLVER.MOMENTUM


def test_base_files_are_relative_to_the_file_that_names_them(tmp_path):
    write(tmp_path / "base/root.yaml", "RNG_SEED: 3\nDATA: {NUM_FRAMES: 4}\n")
    write(tmp_path / "base/other.yaml", "RNG_SEED: 4\nLOG_PERIOD: 2\n")
    leaf = write(
        tmp_path / "run/leaf.yaml", "_BASE_: [../base/root.yaml, ../base/other.yaml]\nDATA: {NUM_FRAMES: 16}\n"
    )
    cfg = load_config(leaf)
    assert (cfg.RNG_SEED, cfg.LOG_PERIOD, cfg.DATA.NUM_FRAMES) == (4, 2, 16)


def test_a_circle_of_base_files_is_an_error(tmp_path):
    a = write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    write(tmp_path / "b.yaml", "_BASE_: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(a)


def test_the_result_is_frozen():
    with pytest.raises(AttributeError):
        load_config().NUM_GPUS = 3


def test_an_unknown_key_names_the_file_the_key_and_near_ones(tmp_path):
    path = write(tmp_path / "typo.yaml", "SOLVER:\n  BASE_LRR: 0.1\n")
    with pytest.raises(ConfigError, match=r"typo\.yaml: unknown key SOLVER\.BASE_LRR\. Did you mean SOLVER\.BASE_LR"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"command line: unknown key SOLVER\.NUM_FRAMES.*DATA\.NUM_FRAMES"):
        load_config([], ["SOLVER.NUM_FRAMES", 3])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NUM_GPUS", "many", r"NUM_GPUS wants int \(default 1\), got str: 'many'"),
        ("NUM_GPUS", 1.5, r"NUM_GPUS wants int .* got float: 1.5"),
        ("NUM_GPUS", True, r"NUM_GPUS wants int .* got bool: True"),
        ("TRAIN.ENABLE", 1, r"TRAIN.ENABLE wants bool .* got int: 1"),
        ("DATA.MEAN", 0.5, r"DATA.MEAN wants list .* got float: 0.5"),
        ("SOLVER.BASE_LR", float("nan"), r"SOLVER.BASE_LR is nan, which is no number to work with \(default 0.1\)"),
        ("DIST.TIMEOUT", "1e999", r"DIST.TIMEOUT is inf"),
        ("SOLVER", 3, r"SOLVER is a section"),
        ("SOLVER.STEPS", [0, "x"], r"SOLVER.STEPS wants a list of numbers \(default \[\]\), got \[0, 'x'\]"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE", ["a", "b"], r"wants a list of numbers"),
        ("DATA.MEAN", [0.1, float("inf"), 0.3], r"DATA.MEAN wants a list of numbers .* got \[0.1, inf, 0.3\]"),
        ("MVIT.HEAD_MUL", [[1, "a"]], r"MVIT.HEAD_MUL wants a list of lists of numbers .* got \[\[1, 'a'\]\]"),
        ("MVIT.POOL_Q_STRIDE", [1, 1, 2], r"MVIT.POOL_Q_STRIDE wants a list of lists of whole numbers"),
        ("MVIT.POOL_KVQ_KERNEL", [3, 2.5, 3], r"MVIT.POOL_KVQ_KERNEL wants a list of whole numbers \(default None\)"),
        ("UNIFORMER.MLP_RATIO", [4, True, 4, 4], r"UNIFORMER.MLP_RATIO wants a list of numbers"),
        ("SOLVER.STEPS", "{[]: 1}", r"SOLVER.STEPS wants list .* got str: '\{\[\]: 1\}'"),
    ],
)
def test_a_wrong_type_says_what_was_expected_and_what_came(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config([], [key, value])


def test_overrides_come_in_pairs():
    with pytest.raises(ConfigError, match="pairs of KEY VALUE"):
        load_config([], ["NUM_GPUS"])


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"list\.yaml: expected keys and values, got list"):
        load_config(write(tmp_path / "list.yaml", "- 1\n"))
    with pytest.raises(ConfigError, match=r"bad\.yaml: not a valid YAML file"):
        load_config(write(tmp_path / "bad.yaml", "A: [1\n"))
    with pytest.raises(ConfigError, match=r"date\.yaml: not a valid YAML file: month must be in 1..12"):
        load_config(write(tmp_path / "date.yaml", "OUTPUT_DIR: 2024-13-45\n"))
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot read.*named as _BASE_ in .*child\.yaml"):
        load_config(write(tmp_path / "child.yaml", "_BASE_: gone.yaml\n"))


def test_a_key_given_twice_with_different_values_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2: key RNG_SEED is given twice"):
        load_config(write(tmp_path / "twice.yaml", "RNG_SEED: 1\nRNG_SEED: 2\n"))
    assert load_config(write(tmp_path / "same.yaml", "RNG_SEED: 2\nRNG_SEED: 2\n")).RNG_SEED == 2


def test_a_key_of_a_section_that_is_merged_in_may_be_replaced(tmp_path):
    text = "TRAIN: &both {DATASET: ucf101, BATCH_SIZE: 32}\nTEST:\n  <<: *both\n  BATCH_SIZE: 4\n"
    cfg = load_config(write(tmp_path / "merged.yaml", text))
    assert (cfg.TRAIN.BATCH_SIZE, cfg.TEST.BATCH_SIZE, cfg.TEST.DATASET) == (32, 4, "ucf101")
    with pytest.raises(ConfigError, match=r"line 5: key BATCH_SIZE is given twice"):
        load_config(write(tmp_path / "twice.yaml", text + "  BATCH_SIZE: 8\n"))


def test_numbers_and_lists_may_be_written_as_text(tmp_path):
    path = write(tmp_path / "text.yaml", "SOLVER: {BASE_LR: 1e-4}\nMVIT: {PATCH_KERNEL: '(3, 7, 7)'}\n")
    cfg = load_config(path, ["SOLVER.MAX_EPOCH", "1e1", "DATA.MEAN", "[0.1,0.2,0.3]", "OUTPUT_DIR", 2024])
    assert pytest.approx(1e-4) == cfg.SOLVER.BASE_LR
    assert cfg.MVIT.PATCH_KERNEL == [3, 7, 7]
    assert (cfg.SOLVER.MAX_EPOCH, cfg.DATA.MEAN, cfg.OUTPUT_DIR) == (10, [0.1, 0.2, 0.3], "2024")
    # YAML takes 1e-2 for text.
    assert load_config(write(path, "SOLVER: {STEPS: [0, 5], LRS: [1, 1e-2]}\n")).SOLVER.LRS == [1, 0.01]
    rows = "MODEL: {MODEL_NAME: MViT}\nMVIT: {DIM_MUL: [[1, 2e0]], POOL_Q_STRIDE: '[(1, 1, 2, 2.0)]'}\n"
    cfg = load_config(write(path, rows))
    assert (cfg.MVIT.DIM_MUL, cfg.MVIT.POOL_Q_STRIDE) == ([[1, 2.0]], [[1, 1, 2, 2]])


def test_quotes_that_a_shell_left_over_are_no_part_of_a_text():
    words = ["MVIT.MODE", "'max'", "DATA.PATH_LABEL_SEPARATOR", '","', "OUTPUT_DIR", "'a' or 'b'"]
    cfg = load_config([], words)
    assert (cfg.MVIT.MODE, cfg.DATA.PATH_LABEL_SEPARATOR, cfg.OUTPUT_DIR) == ("max", ",", "'a' or 'b'")
    assert load_config([], ["DATA.PATH_LABEL_SEPARATOR", ""]).DATA.PATH_LABEL_SEPARATOR == ""


@given(
    st.fixed_dictionaries(
        {
            "SOLVER.BASE_LR": st.floats(1e-8, 10),
            "DATA.MEAN": st.lists(st.floats(0, 1), min_size=3, max_size=3),
            "SOLVER.STEPS": st.lists(st.integers(0, 300), max_size=4),
            "SOLVER.CLIP_GRAD_L2NORM": st.none() | st.floats(0.1, 10),
            "OUTPUT_DIR": st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
            "TRAIN.ENABLE": st.booleans(),
            "UNIFORMER.MLP_RATIO": st.integers(1, 4) | st.lists(st.integers(1, 4), min_size=4, max_size=4),
        }
    )
)
def test_the_written_configuration_loads_to_the_same(tmp_path_factory, values):
    cfg = load_config([], [word for pair in values.items() for word in pair])
    path = tmp_path_factory.mktemp("cfg") / "config.yaml"
    path.write_text(cfg.dump())
    again = load_config(path)
    assert again == cfg
    for key, value in values.items():
        section, _, leaf = key.rpartition(".")
        assert (again[section] if section else again)[leaf] == value


def attribute_reads() -> set[str]:
    """``section.leaf`` of every attribute access in the package, the section as its last name in lower case."""
    reads = set()
    for path in (ROOT / "videobench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                reads.add(f"{owner.lower()}.{node.attr}")
    return reads


def test_every_key_is_read_by_the_package():
    reads = attribute_reads()
    in_other_words = {"TEST.BATCH_SIZE": "cfg[key].BATCH_SIZE"}
    unread = []
    for key in known_keys():
        section, _, leaf = key.rpartition(".")
        if f"{section.lower() or 'cfg'}.{leaf}" not in reads and key not in in_other_words:
            unread.append(key)
    assert not unread


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: 5\n", "_BASE_ names one YAML file or a list of them, got 5"),
        ("_BASE_: [1]\n", "_BASE_ names one YAML file"),
        ("? [1, 2]\n: 3\n", "is no name of a key"),
        ("SOLVER: []\n", "SOLVER is a section"),
        ("DATA: {MEAN: [a, b, c]}\n", "DATA.MEAN wants a list of numbers"),
        ("DATA: {TRAIN_JITTER_SCALES: [32.5, 36]}\n", "DATA.TRAIN_JITTER_SCALES wants a list of whole numbers"),
        ("SOLVER: {CLIP_GRAD_L2NORM: abc}\n", "SOLVER.CLIP_GRAD_L2NORM wants float"),
        ("MODEL: {ARCH: [1], HEAD_ACT: {}, MODEL_NAME: [2]}\n", "MODEL.MODEL_NAME wants str"),
        ("MODEL: {ARCH: mvit}\nDATA: {DECODING_BACKEND: [1]}\n", "DATA.DECODING_BACKEND wants str"),
    ],
)
def test_odd_files_get_a_clear_error(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path / "odd.yaml", text))


def test_yaml_merge_keys_work(tmp_path):
    path = write(tmp_path / "merge.yaml", "SOLVER: &base {MAX_EPOCH: 7}\nTRAIN: {BATCH_SIZE: 2}\n")
    assert load_config(path).SOLVER.MAX_EPOCH == 7
    path = write(tmp_path / "merged.yaml", "SOLVER:\n  <<: {MAX_EPOCH: 9}\n  BASE_LR: 0.5\n")
    assert load_config(path).SOLVER.MAX_EPOCH == 9


def test_every_key_is_documented_where_it_is_declared():
    documented = False
    for line in (ROOT / "videobench/config/defaults.py").read_text().splitlines():
        if line.startswith("_C.") and not line.endswith("CfgNode()"):
            assert documented, f"no comment above {line}"
        elif not line.startswith("# ---"):
            documented = line.startswith("#")


def test_public_names_are_lazy_and_complete():
    assert set(videobench.__all__) <= set(dir(videobench))
    for name in videobench.__all__:
        assert getattr(videobench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = videobench.nothing


def test_import_loads_nothing_heavy():
    code = (
        "import sys, videobench; heavy = {'torchvision', 'timm', 'av', 'matplotlib', 'tensorboard', 'submitit', 'cv2', "
        "'pandas', 'torch', 'fvcore', 'einops'}; print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_building_a_model_loads_no_video_or_optional_library():
    code = (
        "import sys, videobench; videobench.build_model(videobench.load_config([], ['UNIFORMER.DEPTH', [1, 1, 1, 1]]));"
        "heavy = {'torchvision', 'timm', 'av', 'matplotlib', 'tensorboard', 'submitit', 'cv2', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
