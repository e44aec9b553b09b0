"""The scripts in examples/ run and do what they say."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import tiny_config
from video_fixtures import pictures, write_clip

import videobench

ROOT = Path(__file__).resolve().parents[2]


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_every_example_is_listed():
    listed = re.findall(r"\[(\w+\.py)\]", (ROOT / "examples/README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_embed(weights, tmp_path):
    one, other = (write_clip(tmp_path / f"{i}.mp4", pictures(20, seed=i)) for i in range(2))
    example("embed")(str(weights), str(tmp_path / "features.npy"), str(one), str(other), str(one))
    features = np.load(tmp_path / "features.npy")
    assert features.shape == (3, videobench.Predictor(weights).network.model.num_features)
    np.testing.assert_array_equal(features[0], features[2])
    assert np.abs(features[0] - features[1]).max() > 1e-3


@pytest.mark.slow
def test_stream(tmp_path, capsys):
    logits = example("stream")(str(write_clip(tmp_path / "a.mp4", 3)))
    assert torch.isfinite(logits).all()
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [f"frame {i}" for i in range(3)]


def test_finetune(tmp_path, capsys):
    for number, name in enumerate(("left", "right")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(3):
            write_clip(tmp_path / "own" / name / f"{index}.mp4", pictures(8, seed=10 * number + index))
    network = tmp_path / "tiny.yaml"
    network.write_text(tiny_config(TRAIN__PRECISION="fp32").dump())
    example("finetune")(str(tmp_path / "own"), str(tmp_path / "run"), str(network))
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert all(re.search(r"/0\.mp4: (left|right) \(\d+%\)", line) for line in lines)
