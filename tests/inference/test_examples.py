"""The scripts in examples/ run and do what they say."""

import importlib.util
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import tiny_config
from video_fixtures import pictures, write_clip

import videobench
from videobench.datasets.cropping import test_crops as crops_of
from videobench.datasets.decoding import decode
from videobench.datasets.demo import CLASSES
from videobench.inference.network import load_network

ROOT = Path(__file__).resolve().parents[2]


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_every_example_is_listed():
    listed = re.findall(r"\[(\w+\.py)\]", (ROOT / "examples/README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_says_what_it_takes(path, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(path)])
    with pytest.raises(SystemExit, match=rf"python examples/{path.name} [A-Z]"):
        runpy.run_path(str(path), run_name="__main__")


def test_embed(weights, tmp_path):
    one, other = (write_clip(tmp_path / f"{i}.mp4", pictures(20, seed=i)) for i in range(2))
    example("embed")(str(weights), str(tmp_path / "features.npy"), str(one), str(other), str(one))
    features = np.load(tmp_path / "features.npy")
    assert features.shape == (3, videobench.Predictor(weights).network.model.num_features)
    np.testing.assert_array_equal(features[0], features[2])
    assert np.abs(features[0] - features[1]).max() > 1e-3


def test_stream(tmp_path, capsys):
    settings = {"MODEL.MODEL_NAME": "MoViNet", "MOVINET.CAUSAL": True, "MOVINET.CONV_TYPE": "2plus1d"}
    cfg = tiny_config(settings)
    content = {"model_state": videobench.build_model(cfg).state_dict(), "cfg": cfg.dump(), "class_names": list(CLASSES)}
    torch.save(content, tmp_path / "a.pyth")
    video = write_clip(tmp_path / "a.mp4", 3)
    logits = example("stream")(str(video), str(tmp_path / "a.pyth"))
    network = load_network(tmp_path / "a.pyth", device="cpu")
    frames = crops_of(decode(video, range(3)), 36, 32, 1)[0]
    with torch.inference_mode():
        expected = network.model(network.inputs(frames[None]))
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-4, atol=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"frame {i}" for i in range(3)]
    assert CLASSES[int(logits.argmax())] in lines[-1]


def test_finetune(tmp_path, capsys):
    for number, name in enumerate(("left", "right")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(3):
            write_clip(tmp_path / "own" / name / f"{index}.mp4", pictures(8, seed=10 * number + index))
    (tmp_path / "own/notes.txt").write_text("left out")
    network = tmp_path / "tiny.yaml"
    network.write_text(tiny_config(TRAIN__PRECISION="fp32").dump())
    example("finetune")(str(tmp_path / "own"), str(tmp_path / "run"), str(network))
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert all(re.search(r"/0\.mp4: (left|right) \(\d+%\)", line) for line in lines)
