"""Exported files compute what the network computes, and say what they are."""

import importlib.util
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import network
from tiny_networks import NETWORKS, sample

from videobench.inference.export_facts import ExportError, read_facts
from videobench.inference.exporting import SUFFIXES, export
from videobench.inference.onnx_file import OnnxFile

ROOT = Path(__file__).resolve().parents[2]
onnx_only = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")),
    reason="onnxruntime or onnxscript is not installed (pip install 'videobench[export]')",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_as_torchscript(name, tmp_path):
    done = export(network(name), tmp_path / "a.pt", "torchscript")
    assert done.deviation < 1e-5
    assert done.path.stat().st_size == done.size
    # Weights and a graph; no tables as large as attention.
    assert done.size < 3 * done.parameters + 3_000_000
    assert sum(done.operators.values()) > 10


# One network for every kind of layer: exporting takes seconds, whatever the size.
@onnx_only
@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniformer", "morphmlp", "motionformer_epic", "motionformer_divided", "mvit_video"])
def test_every_family_as_onnx(name, tmp_path):
    network_ = network(name)
    done = export(network_, tmp_path / "a.onnx", "onnx", dynamic=True)
    assert done.deviation < 1e-5
    assert done.size < 2 * done.parameters + 200_000
    assert read_facts(done.path) == done.facts
    assert done.facts["opset"] >= 17
    assert str(ROOT).encode() not in done.path.read_bytes()
    clip = sample(name)
    with torch.inference_mode():
        expected, found = network_.model(clip), OnnxFile(done.path)(clip)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("movinet_stream", "torchscript", {"stream": True}),
        *(
            (name, "torchscript", {"half": True})
            for name in ("uniformer", "morphmlp", "motionformer_divided", "mvit_video", "movinet_base")
        ),
        ("motionformer_epic", "torch_export", {"dynamic": True}),
        pytest.param("movinet_stream", "torch_export", {"stream": True, "dynamic": True}, marks=pytest.mark.slow),
        pytest.param("movinet_base", "onnx", {"half": True}, marks=[pytest.mark.slow, onnx_only]),
    ],
)
def test_streams_batches_and_half_precision(name, form, options, tmp_path):
    done = export(network(name), tmp_path / f"a{SUFFIXES[form]}", form, **options)
    assert done.deviation < (1e-2 if options.get("half") else 1e-5)
    facts = read_facts(done.path)
    assert facts["inputs"][0]["shape"][0] == ("batch" if options.get("dynamic") else 1)
    assert facts["inputs"][0]["type"] == ("float16" if options.get("half") else "float32")
    if options.get("stream"):
        state = [one["name"] for one in facts["inputs"][1:]]
        assert [f"next.{name.removeprefix('state.')}" for name in state] == facts["outputs"][1:]


def test_a_torch_export_file_holds_no_example_and_nothing_of_the_machine(tmp_path):
    done = export(network("movinet_base"), tmp_path / "a.pt2", "torch_export")
    with zipfile.ZipFile(done.path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(ROOT).encode() not in content
    (example,), _ = torch.export.load(done.path).example_inputs
    assert example.untyped_storage().nbytes() == example.element_size()


def test_a_stream_outside_is_the_stream_inside(tmp_path):
    streaming = network("movinet_stream")
    done = export(streaming, tmp_path / "a.pt", "torchscript", stream=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        program = torch.jit.load(done.path)
    inputs = done.facts["inputs"]
    state = [torch.zeros(one["shape"], dtype=getattr(torch, one["type"])) for one in inputs[1:]]
    clip = torch.randn(1, 3, 6, 32, 32)
    for frame in clip.split(1, dim=2):
        logits, *state = program(frame, *state)
    with torch.inference_mode():
        expected, _ = streaming.model.stream(clip, streaming.model.stream_state(1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_file_says_what_it_is(tmp_path):
    done = export(network("motionformer_epic"), tmp_path / "a.pt", "torchscript")
    facts = read_facts(done.path)
    assert facts == done.facts
    assert len(facts["class_names"]["noun"]) == 300
    assert facts["outputs"] == ["logits.verb", "logits.noun"]
    assert facts["inputs"] == [{"name": "clip", "shape": [1, 3, 4, 32, 32], "type": "float32"}]
    preprocessing = facts["preprocessing"]
    assert (preprocessing["crop"], preprocessing["short_side"], preprocessing["stride"]) == (32, 36, 3)
    assert preprocessing["mean_rgb"] == [0.45, 0.45, 0.45]
    assert "deviation from the network" in str(done)


def test_what_cannot_be_exported_is_said(tmp_path):
    with pytest.raises(ExportError, match="only a causal MoViNet streams"):
        export(network("uniformer"), tmp_path / "a.pt", "torchscript", stream=True)
    with pytest.raises(ExportError, match="the form is onnx"):
        export(network("uniformer"), tmp_path / "a.pt", "tflite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "other.pt")
    with pytest.raises(ExportError, match="not written by"):
        read_facts(tmp_path / "other.pt")


def test_an_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    trace = torch.jit.trace

    def wrong(module, inputs, **options):
        module.model.forward_head = lambda features: torch.zeros(len(features), 400)
        traced = trace(module, inputs, **options)
        del module.model.forward_head
        return traced

    monkeypatch.setattr(torch.jit, "trace", wrong)
    (tmp_path / "a.pt").write_bytes(b"a good one")
    with pytest.raises(ExportError, match="computes something else"):
        export(network("uniformer"), tmp_path / "a.pt", "torchscript")
    # It must not be taken for an export.
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a good one"]


def test_the_command(weights, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("export", ROOT / "tools/export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = ["--weights", str(weights), "--to", "torchscript", "-o", str(tmp_path / "a.pt")]
    assert module.main(command) == 0
    assert "deviation from the network on random clips" in capsys.readouterr().out
    assert module.main([*command, "--stream"]) == 1
    before = weights.read_bytes()
    for place, message in (
        (weights, "are the weights"),
        (tmp_path, "is a folder"),
        (weights / "a.pt", "cannot be written"),
        (Path("/proc/a.pt"), "cannot be written"),  # a folder that takes no files, from nobody
    ):
        assert module.main([*command[:-1], str(place)]) == 1
        assert message in capsys.readouterr().err
    assert weights.read_bytes() == before
    assert module.main(["--weights", str(tmp_path / "none.pyth"), *command[2:]]) == 2
    for wrong in (["--int8", "dynamic"], ["--calibrate", "list.csv"], ["--clips", "0"]):
        with pytest.raises(SystemExit):
            module.main([*command, *wrong])
