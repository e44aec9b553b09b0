"""int8 files, and what they are said to cost."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_checkpoints import network, tiny_config
from video_fixtures import pictures, write_clip

from videobench.config import ConfigError
from videobench.inference.accuracy_change import accuracy_change, clips_of
from videobench.inference.export_facts import ExportError, read_facts
from videobench.inference.network import Network
from videobench.inference.onnx_file import OnnxFile
from videobench.inference.quantization import export_int8

onnx_only = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")),
    reason="onnxruntime or onnxscript is not installed (pip install 'videobench[export]')",
)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A list of six videos."""
    folder = tmp_path_factory.mktemp("listed")
    for number in range(6):
        write_clip(folder / f"{number}.mp4", pictures(12, seed=number))
    (folder / "list.csv").write_text("".join(f"{number}.mp4 {number}\n" for number in range(6)))
    return folder / "list.csv"


def for_list(name: str) -> Network:
    """A tiny network whose test takes one clip per video, every frame."""
    settings = {"DATA__SAMPLING_RATE": 2, "TEST__NUM_ENSEMBLE_VIEWS": 1, "MODEL__NUM_CLASSES": 600}
    return replace(network(name), cfg=tiny_config(**settings))


def int8_weights(path) -> int:
    """How many numbers of a file are stored in eight bits."""
    import onnx

    stored = onnx.load(path).graph.initializer
    return sum(int(np.prod(one.dims)) for one in stored if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1)


@onnx_only
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("movinet_base", {"dynamic": True}), ("movinet_stream", {"stream": True})]
)
def test_static_ranges_come_from_a_list_and_the_change_of_accuracy_is_measured(name, options, listed, tmp_path):
    net = for_list(name)
    with torch.inference_mode():
        best = [
            int(net.model.forward_head(net.model.forward_features(clip)).argmax()) for clip in clips_of(net, listed, 6)
        ]
    # All labels but one are what the network says.
    labels = [*best[:5], (best[5] + 1) % 600]
    judged = listed.with_name("judged.csv")
    judged.write_text("".join(f"{number}.mp4 {label}\n" for number, label in enumerate(labels)))
    done = export_int8(net, tmp_path / "a.onnx", "static", calibrate=listed, clips=4, evaluate=judged, **options)

    assert done.size == done.path.stat().st_size
    assert {"QuantizeLinear", "DequantizeLinear"} <= done.operators.keys()
    assert int8_weights(done.path) > 0.95 * sum(one.numel() for one in net.model.parameters() if one.dim() > 1)
    assert 1e-6 < done.deviation < 0.2
    found = [int(OnnxFile(done.path)(clip).argmax()) for clip in clips_of(net, judged, 6)]
    assert done.accuracy.before == pytest.approx(100 * 5 / 6)
    assert done.accuracy.after == pytest.approx(100 * np.mean(np.equal(found, labels)))
    assert done.accuracy.agreement == pytest.approx(100 * np.mean(np.equal(found, best)))
    assert (done.accuracy.videos, done.accuracy.views) == (6, (1, 1))
    facts = read_facts(done.path)
    assert facts == OnnxFile(done.path).facts
    assert facts["int8"]["calibrated_on"] == "list.csv"
    assert facts["int8"]["accuracy"]["after"] == done.accuracy.after
    assert facts["class_names"] == net.class_names
    assert f"judged.csv: top-1 83.33 % before, {done.accuracy.after:.2f} % after" in str(done)


@onnx_only
@pytest.mark.slow
def test_dynamic_ranges_need_no_list(tmp_path):
    done = export_int8(network("motionformer_epic"), tmp_path / "a.onnx", "dynamic")
    assert done.operators["MatMulInteger"] > 5
    assert done.size == done.path.stat().st_size < 0.7 * done.float_size
    assert 1e-6 < done.deviation < 0.2
    assert done.accuracy is None
    assert f"deviation from float32 on random clips: {done.deviation:.2e}" in str(done)


def test_clips_are_spread_over_the_list(listed):
    net = for_list("movinet_base")
    every = list(clips_of(net, listed, 100))
    some = list(clips_of(net, listed, 3))
    assert [clip.shape for clip in every] == [(1, 3, 4, 32, 32)] * 6
    for clip, number in zip(some, (0, 2, 5), strict=True):
        assert torch.equal(clip, every[number])


def test_what_cannot_be_done_is_said(listed, tmp_path):
    net = for_list("movinet_base")
    with pytest.raises(ExportError, match=r"--calibrate"):
        export_int8(net, tmp_path / "a.onnx", "static")
    with pytest.raises(ExportError, match="int8 is static or dynamic"):
        export_int8(net, tmp_path / "a.onnx", "int4")
    with pytest.raises(ExportError, match="where a video has one class"):
        accuracy_change(network("motionformer_epic"), None, listed)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    (tmp_path / "list.csv").write_text("broken.mp4 0\n")
    with pytest.raises(ExportError, match=r"broken\.mp4: .*take it out of the list"):
        next(clips_of(net, tmp_path / "list.csv", 1))
    (tmp_path / "list.csv").write_text("broken.mp4 600\n")
    with pytest.raises(ConfigError, match=r"list\.csv, line 1"):
        next(clips_of(net, tmp_path / "list.csv", 1))
