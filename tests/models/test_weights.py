"""Weights: every published layout, image weights for videos, honest reports, refusal of what is no checkpoint."""

import argparse
import contextlib
import importlib.util
import os
import pickle
import random
import re
import sys
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from tiny_networks import MORPHMLP, NETWORKS, UNIFORMER, sample, scramble, tiny
from torch import Tensor, nn

import videobench
from videobench.config import CfgNode
from videobench.models import LoadReport, WeightsError, export_weights, load_weights
from videobench.models.class_order import reorder_classes
from videobench.models.morphmlp import MorphMLP
from videobench.models.uniformer import Uniformer
from videobench.models.uniformer_light import LightUniformer
from videobench.models.weights import convert_weights, read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
State = dict[str, Tensor]


def light(**arguments) -> LightUniformer:
    ratios = [[], [], [1.0], [0.5]]
    return scramble(LightUniformer(**UNIFORMER, keep_ratios=ratios, trade_offs=ratios, layer_scale=0.1, **arguments))


def same(one: State, other: State) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def assert_plain(report: LoadReport) -> None:
    """Nothing was left over in the file, and nothing was changed on the way."""
    changed = (report.renamed, report.inflated, report.resized, report.reshaped, report.unexpected)
    assert not any(changed), report


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# Layouts --------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "bare": lambda state: state,
    "model_state": lambda state: {"epoch": 9, "model_state": state, "optimizer_state": {"state": {}}, "cfg": "A: 1"},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "max_accuracy": np.float64(81.5)},
    "state_dict": lambda state: {"state_dict": state, "arch": "net", "best": np.float32(1), "rng": np.arange(4)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_layouts(layout, prefix, tmp_path):
    state = tiny("uniformer", seed=1).state_dict()
    torch.save(LAYOUTS[layout](prefixed(state, prefix)), tmp_path / "weights.pyth")
    for source in (tmp_path / "weights.pyth", str(tmp_path / "weights.pyth"), LAYOUTS[layout](prefixed(state, prefix))):
        model = tiny("uniformer")
        report = load_weights(model, source)
        assert same(model.state_dict(), state)
        assert report.layout == layout
        assert report.loaded == list(state)
        assert report.complete
        assert_plain(report)


def test_old_files_and_other_endings(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = tiny("morphmlp", seed=1).state_dict()
    torch.save({"model_state": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        model = tiny("morphmlp")
        assert load_weights(model, tmp_path / name).complete
        assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


def test_numpy_1_scalars(tmp_path):
    """NumPy 1 wrote the same scalars under another module name."""
    path = tmp_path / "weights.pyth"
    torch.save({"best": np.float64(1.5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for name in (b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"):
        path.write_bytes(re.sub(rb"cnumpy\._?core\.multiarray\n", name, content))
        assert name in path.read_bytes()
        assert read_checkpoint(path) == {"best": 1.5}


def test_other_precision_is_converted():
    state = tiny("uniformer", seed=1).state_dict()
    model = tiny("uniformer").double()
    load_weights(model, {name: t.half() if t.is_floating_point() else t for name, t in state.items()})
    assert model.head.weight.dtype == torch.float64
    assert torch.equal(model.head.weight, state["head.weight"].half().double())


def test_what_is_no_tensor_among_the_weights_is_listed():
    model = tiny("uniformer")
    report = load_weights(model, model.state_dict() | {"epoch": 3, "extra.weight": torch.zeros(2), 7: torch.zeros(2)})
    assert report.unexpected == ["extra.weight", "7", "epoch (int)"]


@pytest.mark.parametrize("content", [{}, {"model_state": {}}, {"epoch": 3, "cfg": "text"}])
def test_no_weights_is_an_error(content):
    with pytest.raises(WeightsError, match="no weights found"):
        load_weights(tiny("uniformer"), content)


def test_one_name_with_and_without_prefix_is_an_error():
    state = tiny("uniformer").state_dict()
    with pytest.raises(WeightsError, match=r"two tensors are called head\.bias"):
        load_weights(tiny("uniformer"), state | {"module.head.bias": state["head.bias"]})


# Files that are no checkpoints ----------------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": {"w": torch.ones(1)}, "extra": Malicious()}, "zip.pyth")
    torch.save({"model_state": Malicious()}, "legacy.pyth", _use_new_zipfile_serialization=False)
    for protocol in (0, 2, 4):
        Path(f"pickle{protocol}.pyth").write_bytes(pickle.dumps({"model_state": Malicious()}, protocol))
    torch.save({"model": nn.Linear(2, 2)}, "module.pyth")
    for path in tmp_path.glob("*.pyth"):
        with pytest.raises(WeightsError, match=path.name):
            load_weights(tiny("uniformer"), path)
    with pytest.raises(WeightsError, match=r"posix\.system|nt\.system"):
        read_checkpoint("zip.pyth")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint("module.pyth")
    assert not Path("owned").exists()


def test_a_configuration_object_in_a_file_is_named_with_what_to_do(tmp_path):
    torch.save({"model_state": tiny("uniformer").state_dict(), "cfg": CfgNode({"A": 1})}, tmp_path / "object.pyth")
    with pytest.raises(WeightsError, match=r"object\.pyth: .*CfgNode, .* torch\.save its state dict alone"):
        load_weights(tiny("uniformer"), tmp_path / "object.pyth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>\n<html>", "this is a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "not a checkpoint, or a damaged one"),
        (pickle.dumps([1, 2]), "not a checkpoint, or a damaged one"),
    ],
)
def test_other_files_are_named_with_the_reason(content, reason, tmp_path):
    path = tmp_path / "file.pyth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"file.pyth: .*{reason}") as caught:
        load_weights(tiny("uniformer"), path)
    assert "weights_only" not in str(caught.value)  # PyTorch advises to run the code


def test_missing_files_folders_and_lists(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pyth: cannot read this checkpoint: No such file"):
        load_weights(tiny("uniformer"), tmp_path / "none.pyth")
    with pytest.raises(WeightsError, match="cannot read this checkpoint"):
        load_weights(tiny("uniformer"), tmp_path)
    torch.save([torch.ones(1)], tmp_path / "list.pyth")
    with pytest.raises(WeightsError, match=r"list\.pyth: expected a dict of tensors, got list"):
        load_weights(tiny("uniformer"), tmp_path / "list.pyth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_read_or_refused(zipped, tmp_path):
    path = tmp_path / "weights.pyth"
    torch.save({"model_state": {"w": torch.ones(4)}, "cfg": "A: 1"}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    rng = random.Random(0)
    for trial in range(150):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if trial % 3 == 0 else whole)
        for _ in range(rng.randrange(1, 4) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(WeightsError):
            read_checkpoint(path)


# What fits and what does not ------------------------------------------------------------------------------------------


def test_another_architecture_is_refused_and_changes_nothing():
    model = tiny("uniformer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"only \d+ of the network's \d+ tensors find a match.*Uniformer"):
        load_weights(model, tiny("morphmlp").state_dict())
    assert same(model.state_dict(), before)


def test_weights_of_a_larger_network_are_refused():
    larger = scramble(Uniformer(**UNIFORMER | {"depths": (2, 3, 4, 3)}))
    model = tiny("uniformer")
    with pytest.raises(WeightsError, match="this file's"):
        load_weights(model, larger.state_dict())
    report = load_weights(model, larger.state_dict(), min_match=0.2)
    assert report.complete
    assert "blocks3.3.norm1.weight" in report.unexpected


def test_min_match():
    model = tiny("uniformer")
    names = list(model.state_dict())
    part = {name: model.state_dict()[name] for name in names[: len(names) * 2 // 3]}
    report = load_weights(model, part)
    assert [*report.missing, *report.replaced] == [name for name in names if name not in part]
    with pytest.raises(WeightsError, match="find a match"):
        load_weights(model, part, min_match=0.7)
    few = {name: part[name] for name in names[:5]}
    with pytest.raises(WeightsError, match="only 5 of the network's"):
        load_weights(model, few)
    assert load_weights(model, few, min_match=0.0).loaded == names[:5]


def test_wrong_shapes_stay_and_are_reported():
    model, state = tiny("uniformer"), tiny("uniformer", seed=1).state_dict()
    kept = model.blocks3[0].norm1.weight.clone()
    report = load_weights(model, state | {"blocks3.0.norm1.weight": torch.zeros(7)})
    assert report.mismatched == {"blocks3.0.norm1.weight": "file [7], network [16]"}
    assert torch.equal(model.blocks3[0].norm1.weight, kept)
    assert not report.complete


HEADS = {
    "uniformer": ("head.weight", "head.bias"),
    "morphmlp": ("head.weight", "head.bias"),
    "motionformer": ("head.weight", "head.bias"),
    "mvit_video": ("head.projection.weight", "head.projection.bias"),
    "movinet_base": ("classifier.3.conv_1.conv3d.weight", "classifier.3.conv_1.conv3d.bias"),
    "movinet_stream": ("classifier.3.conv_1.conv2d.weight", "classifier.3.conv_1.conv2d.bias"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_of_another_size_stays_fresh_and_is_reported(name):
    model, state = tiny(name, num_classes=3), tiny(name, seed=1).state_dict()
    before = {key: model.state_dict()[key].clone() for key in HEADS[name]}
    report = load_weights(model, state)
    assert tuple(report.replaced) == HEADS[name]
    assert_plain(report)
    assert not report.missing
    assert len(report.loaded) == len(state) - 2
    now = model.state_dict()
    assert all(torch.equal(now[key], before[key]) for key in before)
    assert all(torch.equal(now[key], state[key]) for key in report.loaded)


def test_several_classifiers():
    model, one = tiny("motionformer_epic"), tiny("motionformer").state_dict()
    report = load_weights(model, one)
    assert list(report.replaced.items()) == [
        (f"head{index}.{leaf}", "not in the file") for index in (0, 1) for leaf in ("weight", "bias")
    ]
    assert report.unexpected == ["head.weight", "head.bias"]
    other = tiny("motionformer_epic", num_classes={"verb": 97, "noun": 5}, seed=1).state_dict()
    report = load_weights(model, other)
    assert list(report.replaced) == ["head1.weight", "head1.bias"]
    assert torch.equal(model.head0.weight, other["head0.weight"])
    report = load_weights(light(num_classes=3), light(num_classes=4).state_dict())
    assert list(report.replaced) == ["head.weight", "head.bias", "head_cls.weight", "head_cls.bias"]


def test_fine_tuned_movinet_head_has_another_name():
    """The published code puts a plain convolution in the place of the last layer."""
    model, state = tiny("movinet_stream"), tiny("movinet_stream", seed=1).state_dict()
    renamed = {name.replace("classifier.3.conv_1.conv2d.", "classifier.3."): t for name, t in state.items()}
    report = load_weights(model, renamed)
    assert report.complete
    assert report.renamed == {
        f"classifier.3.{leaf}": f"classifier.3.conv_1.conv2d.{leaf}" for leaf in ("weight", "bias")
    }
    assert same(model.state_dict(), state)


@pytest.mark.parametrize(("name", "other"), [("movinet_base", "movinet_stream"), ("movinet_stream", "movinet_base")])
def test_movinets_of_the_other_convolutions_are_refused(name, other):
    """Half of their tensors are norms, which fit."""
    with pytest.raises(WeightsError, match=f"published for {other.partition('_')[2]} networks"):
        load_weights(tiny(name), tiny(other).state_dict())


def test_report_is_a_readable_table():
    report = LoadReport("file.pyth", "model_state", loaded=list("abcdef"), inflated=list("ab"), missing=list("vwxyz"))
    report.replaced["head.weight"] = "file [400, 8], network [3, 8]"
    assert str(report).splitlines() == [
        "weights from file.pyth (model_state):",
        "      6 of 12 tensors loaded",
        "      2 of them inflated from 2D: a, b",
        "      1 replaced by a fresh classifier: head.weight (file [400, 8], network [3, 8])",
        "      5 missing in the file: v, w, x, y and 1 more",
    ]


# Image weights --------------------------------------------------------------------------------------------------------


def image_form(state: State) -> State:
    """A state dict like that of the image network: the kernels without time, with random numbers."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(*tensor.shape[:2], *tensor.shape[3:], generator=generator) if tensor.dim() == 5 else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("make", [lambda: tiny("uniformer"), light], ids=["uniformer", "light"])
def test_uniformer_from_image_weights(make):
    model = make()
    image = image_form(make().state_dict())
    report = load_weights(model, {"model": image})
    assert report.complete
    kernels = {name: tensor for name, tensor in model.state_dict().items() if tensor.dim() == 5}
    in_time = [name for name, tensor in kernels.items() if tensor.shape[2] > 1]
    assert report.inflated == in_time
    assert report.reshaped == [name for name in kernels if name not in in_time]
    assert "patch_embed1.proj.weight" in in_time or "patch_embed1.proj.0.weight" in in_time
    for name, tensor in kernels.items():
        assert torch.equal(tensor, image[name].unsqueeze(2).repeat(1, 1, tensor.shape[2], 1, 1) / tensor.shape[2])


@pytest.mark.parametrize(
    ("inflation", "factors"), [("mean", [1 / 3] * 3), ("repeat", [1, 1, 1]), ("centre", [0, 1, 0])]
)
def test_inflation_rules(inflation, factors):
    model = tiny("uniformer")
    image = image_form(model.state_dict())
    load_weights(model, image, inflation=inflation)
    for frame, factor in enumerate(factors):
        frame_kernel = model.blocks1[0].pos_embed.weight[:, :, frame]
        torch.testing.assert_close(frame_kernel, image["blocks1.0.pos_embed.weight"] * factor)
    with pytest.raises(ValueError, match="inflation is mean or repeat or centre"):
        load_weights(model, image, inflation="median")


def test_even_kernels_are_centred_in_the_second_half():
    target = nn.Conv3d(2, 3, (4, 1, 1))
    model = tiny("uniformer")
    model.patch_embed1.proj = target
    load_weights(model, {"patch_embed1.proj.weight": torch.ones(3, 2, 1, 1)}, min_match=0.0, inflation="centre")
    assert target.weight[0, 0, :, 0, 0].tolist() == [0, 0, 1, 0]


def test_morphmlp_from_image_weights():
    image = scramble(MorphMLP(1000, num_frames=1, **MORPHMLP), seed=1).state_dict()
    model = tiny("morphmlp")
    report = load_weights(model, image)
    assert report.inflated == ["patch_embed1.proj1.weight"]
    assert all(part in ("t_fc", "t_norm1") for part in {name.split(".")[2] for name in report.missing})
    assert list(report.replaced) == ["head.weight", "head.bias"]
    assert torch.equal(model.patch_embed1.proj1.weight[:, :, 0], image["patch_embed1.proj1.weight"] / 3)
    assert torch.equal(model.blocks2[0].fc.mlp_h.weight, image["blocks2.0.fc.mlp_h.weight"])


def test_mvit_video_from_image_weights():
    image = tiny("mvit_image", seed=1).state_dict()
    model = tiny("mvit_video")
    tables = {name: tensor.shape for name, tensor in model.state_dict().items() if "rel_pos" in name}
    report = load_weights(model, image)
    kernels = [name for name in image if name.endswith("pool_q.weight") or name == "patch_embed.proj.weight"]
    assert set(kernels) <= set(report.inflated)
    for name in report.inflated:
        assert torch.equal(model.state_dict()[name][:, :, 1], image[name] / 3)
    assert report.missing == ["cls_token", *(f"blocks.{index}.attn.rel_pos_t" for index in range(3))]
    assert list(report.replaced) == ["head.projection.weight", "head.projection.bias"]
    assert report.resized == [name for name, shape in tables.items() if name in image and image[name].shape != shape]
    assert report.resized
    name = report.resized[0]
    wanted = nn.functional.interpolate(image[name].t()[None], size=tables[name][0], mode="linear")[0].t()
    assert torch.equal(model.state_dict()[name], wanted)


def test_mvit_kernels_with_a_time_axis_of_one():
    """SlowFast's image networks store 5-d kernels of one frame, the image repository 4-d ones."""
    four = tiny("mvit_image", seed=1).state_dict()
    five = {name: tensor.unsqueeze(2) if tensor.dim() == 4 else tensor for name, tensor in four.items()}
    flat = tiny("mvit_image")
    report = load_weights(flat, five)
    assert same(flat.state_dict(), four)
    assert set(report.reshaped) == {name for name, tensor in four.items() if tensor.dim() == 4}
    one, other = tiny("mvit_video"), tiny("mvit_video")
    assert load_weights(one, four).inflated == load_weights(other, five).inflated
    assert same(one.state_dict(), other.state_dict())


def test_mvit_position_tables_of_another_clip_are_resized():
    model = tiny("mvit_video")
    longer = tiny("mvit_video", num_frames=8, input_size=64)
    report = load_weights(longer, model.state_dict())
    assert report.complete
    assert {"blocks.0.attn.rel_pos_t", "blocks.0.attn.rel_pos_h"} <= set(report.resized)

    positions = {"abs_pos": True, "sep_pos_embed": True}
    first, second = tiny("mvit_video", **positions), tiny("mvit_video", **positions, num_frames=8, input_size=64)
    report = load_weights(second, first.state_dict())
    assert {"pos_embed_spatial", "pos_embed_temporal"} <= set(report.resized)
    state = first.state_dict()
    table = state["pos_embed_spatial"].transpose(1, 2).unflatten(2, (8, 8))
    wanted = nn.functional.interpolate(table, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
    assert torch.equal(second.pos_embed_spatial, wanted)
    wanted = nn.functional.interpolate(state["pos_embed_temporal"].transpose(1, 2), size=4, mode="linear")
    assert torch.equal(second.pos_embed_temporal, wanted.transpose(1, 2))

    joint = tiny("mvit_video", abs_pos=True)
    report = load_weights(tiny("mvit_video", abs_pos=True, num_frames=8), joint.state_dict())
    assert list(report.mismatched) == ["pos_embed"]


def image_vit(**arguments) -> nn.Module:
    timm = pytest.importorskip("timm")
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    return scramble(timm.create_model("vit_base_patch16_224", pretrained=False, **small | arguments), seed=2)


def test_motionformer_from_an_image_network():
    image = image_vit().state_dict()
    model = tiny("motionformer")
    report = load_weights(model, image)
    assert report.inflated == ["patch_embed_3d.proj.weight", "patch_embed_3d.proj.bias"]
    report.inflated.clear()
    assert_plain(report)
    left = {name.split(".")[-2] if "." in name else name for name in report.missing}
    assert left == {"temp_embed", "proj_q", "proj_kv", "fc"}
    assert list(report.replaced) == ["head.weight", "head.bias"]
    kernel = model.patch_embed_3d.proj.weight
    assert torch.equal(kernel[:, :, 1], image["patch_embed.proj.weight"])
    assert not kernel[:, :, 0].any()

    report = load_weights(tiny("motionformer", pos_embed="joint"), image_vit(img_size=384).state_dict())
    assert report.resized == ["pos_embed"]
    assert "st_embed" in report.inflated


def test_an_image_network_in_one_time_step_gives_timms_logits():
    image = image_vit().double().eval()
    settings = {"attention": "joint", "temporal_resolution": 1, "head_act": None, "num_classes": 1000}
    model = tiny("motionformer", **settings).double()
    nn.init.zeros_(model.temp_embed)
    report = load_weights(model, image.state_dict())
    assert report.missing == ["temp_embed"]
    clip = torch.randn(2, 3, 2, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(clip), image(clip[:, :, 1]))


def test_motionformer_for_more_frames():
    model, state = tiny("motionformer", temporal_resolution=4), tiny("motionformer", seed=1).state_dict()
    report = load_weights(model, state)
    assert report.complete
    assert report.resized == ["temp_embed"]
    first, last = state["temp_embed"][0]
    wanted = torch.stack([first, 0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last, last])
    torch.testing.assert_close(model.temp_embed[0], wanted)


@pytest.mark.parametrize(
    ("arguments", "missing", "mismatched"),
    [
        ({"class_token": False, "global_pool": "avg"}, "cls_token", ["pos_embed"]),
        ({"img_size": (224, 160)}, "temp_embed", ["pos_embed"]),
        ({"pre_norm": True}, "patch_embed_3d.proj.bias", []),
    ],
    ids=["no class token", "not square", "no bias"],
)
def test_what_an_image_network_lacks_is_reported(arguments, missing, mismatched):
    model = tiny("motionformer")
    positions = model.pos_embed.detach().clone()
    report = load_weights(model, image_vit(**arguments).state_dict())
    assert missing in report.missing
    assert list(report.mismatched) == mismatched
    assert torch.equal(model.pos_embed, positions) == bool(mismatched)


def test_a_time_table_of_another_form_is_reported():
    state = tiny("motionformer").state_dict()
    report = load_weights(tiny("motionformer"), state | {"temp_embed": torch.zeros(3, 4)})
    assert report.mismatched == {"temp_embed": "file [3, 4], network [1, 2, 16]"}


def test_an_image_network_of_another_width_is_named():
    with pytest.raises(WeightsError, match="the given weights: the network takes weights of an image ViT"):
        load_weights(tiny("motionformer"), image_vit(embed_dim=32).state_dict())


# timm -----------------------------------------------------------------------------------------------------------------


def test_timm_mvitv2_file_gives_timms_logits(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = scramble(timm.create_model("mvitv2_tiny", pretrained=False)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(0.2)
    torch.save(theirs.state_dict(), tmp_path / "mvitv2_tiny.pth")
    ours = videobench.create_model("mvitv2_t_in1k").eval()
    report = load_weights(ours, tmp_path / "mvitv2_tiny.pth")
    assert report.complete
    assert not report.unexpected
    assert report.renamed["stages.1.blocks.0.attn.qkv.weight"] == "blocks.1.attn.qkv.weight"
    assert report.renamed["head.fc.weight"] == "head.projection.weight"
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, logits = theirs(image), ours(image)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


TIMM_MVIT = {
    "mvitv2_tiny": "mvitv2_t_in1k",
    "mvitv2_small": "mvitv2_s_in1k",
    "mvitv2_base": "mvitv2_b_in1k",
    "mvitv2_large": "mvitv2_l_in1k",
    "mvitv2_base_cls": "mvitv2_b_in21k",
    "mvitv2_large_cls": "mvitv2_l_in21k",
    "mvitv2_huge_cls": "mvitv2_h_in21k",
}


@pytest.mark.parametrize("name", TIMM_MVIT)
def test_every_tensor_of_timms_mvitv2_has_a_place(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False)
        ours = videobench.create_model(TIMM_MVIT[name])
    report = load_weights(ours, theirs.state_dict())
    assert report.complete
    assert all(old.startswith(("stages.", "head.fc.")) for old in report.renamed)
    report.renamed.clear()
    assert_plain(report)


@pytest.mark.parametrize(
    "row",
    [
        "motionformer_k400_motionformer_336_16x8",
        "motionformer_k400_joint_224_16x4",
        "motionformer_ek_motionformer_224_32x3",
    ],
)
def test_timms_vit_has_a_place_in_every_motionformer(row):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("vit_base_patch16_224", pretrained=False)
        model = videobench.create_model(row)
    report = load_weights(model, theirs.state_dict())
    assert len(report.loaded) == 152
    assert "patch_embed_3d.proj.weight" in report.inflated


# Files for others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_is_bit_equal(name, dtype, tmp_path):
    model = tiny(name, seed=1).to(dtype)
    export_weights(model, tmp_path / "weights.pyth")
    other = tiny(name).to(dtype)
    report = load_weights(other, tmp_path / "weights.pyth")
    assert report.complete
    assert not report.unexpected
    assert same(other.state_dict(), model.state_dict())
    assert all(t.is_contiguous() for t in read_checkpoint(tmp_path / "weights.pyth")["model_state"].values())
    if dtype == torch.float32:
        with torch.no_grad():
            torch.testing.assert_close(other(sample(name)), model(sample(name)), rtol=0, atol=0)


GOLDEN = {
    "uniformer": [
        "uniformer_s_k400_16x4",
        "uniformer_b_k400_8x8",
        "uniformer_xxs_k400_4x128",
        "uniformer_xs_k400_32x192",
    ],
    "morphmlp": ["morphmlp_s_k400_16x4", "morphmlp_b_k400_32x4", "morphmlp_s_image"],
    "motionformer": ["motionformer_224_16x4_k400", "motionformer_224_16x4_epic", "motionformer_divided_224_16x4_k400"],
    "mvitv2": ["mvitv2_s_16x4_k400", "mvitv2_b_32x3_k400", "mvitv2_t_in1k", "mvitv1_b_16x4_k400"],
    "movinet": ["movinet_a0_base", "movinet_a0_stream", "movinet_a2_base", "movinet_a2_stream"],
}
UNNAMED = {"morphmlp": "MorphMLP_image", "motionformer": "VisionTransformer", "mvitv2": "MViT", "movinet": "MoViNet"}
MOVINET_KEYS = {
    "variant": "MOVINET.VARIANT",
    "causal": "MOVINET.CAUSAL",
    "conv_type": "MOVINET.CONV_TYPE",
    "tf_like": "MOVINET.TF_LIKE",
    "num_classes": "MODEL.NUM_CLASSES",
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in GOLDEN.items() for name in names])
def test_exported_names_and_shapes_are_the_published_ones(family, name, monkeypatch):
    g = golden.model_file("uniformer" if family == "light" else family, name)
    settings = g["build"]
    if family == "movinet":
        settings = {key: settings[old] for old, key in MOVINET_KEYS.items()}
    settings = {"MODEL.MODEL_NAME": UNNAMED.get(family), **settings}
    with torch.device("meta"):
        model = videobench.build_model(videobench.load_config([], golden.build_overrides({"build": settings})))
    written = {}
    monkeypatch.setattr("videobench.models.weights.write_checkpoint", lambda path, content: written.update(content))
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: tensor)  # there is no data to move
    export_weights(model, "file.pyth", "slowfast")
    assert list(written) == ["model_state"]
    shapes = {key: list(tensor.shape) for key, tensor in written["model_state"].items()}
    assert shapes == {key: entry["shape"] for key, entry in g["state"].items()}


def test_bare_layout_and_unknown_ones(tmp_path):
    model = tiny("movinet_base")
    export_weights(model, tmp_path / "weights.pth", "bare")
    assert same(torch.load(tmp_path / "weights.pth", weights_only=True), model.state_dict())
    with pytest.raises(ValueError, match="the layout is slowfast or bare"):
        export_weights(model, tmp_path / "weights.pth", "timm")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "weights.pyth"
    write_checkpoint(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_weights(tiny("uniformer"), path)
    assert read_checkpoint(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_conversion_invents_nothing(tmp_path):
    source, out = tmp_path / "source.pyth", tmp_path / "out.pyth"
    torch.save({"model": tiny("uniformer").state_dict()}, source)
    with pytest.raises(WeightsError, match="not from this checkpoint"):
        convert_weights(tiny("uniformer", num_classes=3), source, out)
    assert not out.exists()


def test_tool(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("export_weights_tool", ROOT / "tools/export_weights.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    model = tiny("uniformer", num_classes=5)
    torch.save({"state_dict": prefixed(model.state_dict(), "module.")}, tmp_path / "source.pth")
    (tmp_path / "net.yaml").write_text(
        "MODEL: {NUM_CLASSES: 5}\nUNIFORMER: {EMBED_DIM: [8, 8, 16, 16], DEPTH: [1, 1, 1, 1], HEAD_DIM: 4}\n"
    )
    common = ["export_weights.py", str(tmp_path / "source.pth"), "-o", str(tmp_path / "out.pyth")]

    monkeypatch.setattr(sys, "argv", [*common, "--model", "movinet_a0_base_k600"])
    assert tool.main() == 2
    assert "another architecture" in capsys.readouterr().err
    assert not (tmp_path / "out.pyth").exists()

    monkeypatch.setattr(
        sys, "argv", [*common, "--cfg", str(tmp_path / "net.yaml"), "--opts", "UNIFORMER.HEAD_DIM", "8"]
    )
    assert tool.main() == 0
    assert f"{len(model.state_dict())} of {len(model.state_dict())} tensors loaded" in capsys.readouterr().out
    assert same(torch.load(tmp_path / "out.pyth", weights_only=True)["model_state"], model.state_dict())

    for wrong in (["--model", "x", "--opts", "A", "1"], ["--cfg", "x", "--num_classes", "3"], []):
        monkeypatch.setattr(sys, "argv", [*common, *wrong])
        with pytest.raises(SystemExit):
            tool.main()


def test_tool_writes_the_average(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("export_weights_tool", ROOT / "tools/export_weights.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    last, average = tiny("uniformer", seed=1).state_dict(), tiny("uniformer", seed=2).state_dict()
    source, out, network = tmp_path / "source.pyth", tmp_path / "out.pyth", tiny("uniformer")
    monkeypatch.setattr(videobench, "create_model", lambda *_, **__: network)
    for options, written in (([], last), (["--average"], average)):
        torch.save({"model_state": last, "ema_state": average}, source)
        monkeypatch.setattr(sys, "argv", ["export_weights.py", str(source), "--model", "any", "-o", str(out), *options])
        assert tool.main() == 0
        assert same(read_checkpoint(out)["model_state"], written)
    torch.save({"model_state": last}, source)
    out.unlink()
    assert tool.main() == 2
    assert "average" in capsys.readouterr().err
    assert not out.exists()


# Class order ----------------------------------------------------------------------------------------------------------


def test_classes_are_renumbered_by_name():
    model = tiny("uniformer", num_classes=3)
    clip = sample("uniformer")
    with torch.no_grad():
        before = model(clip)
        assert reorder_classes(model, ["riding a bike", "Playing_chess", "abseiling"], NAMES) == 2
        assert torch.equal(model(clip), before[:, [2, 1, 0]])
        assert reorder_classes(model, NAMES, NAMES) == 0


NAMES = ["abseiling", "playing chess", "riding a bike"]


def test_every_family_has_a_classifier_that_can_be_renumbered():
    for name in ("morphmlp", "mvit_video", "motionformer", "movinet_base"):
        model = tiny(name, num_classes=3)
        with torch.no_grad():
            before = model(sample(name))
            reorder_classes(model, NAMES, NAMES[::-1])
            assert torch.equal(model(sample(name)), before.flip(1)), name


def test_other_classes_are_refused_and_change_nothing():
    model = tiny("uniformer", num_classes=3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for have in (["a", "b", "c"], NAMES[:2], [*NAMES[:2], NAMES[0]]):
        with pytest.raises(WeightsError, match=r"names are not the same"):
            reorder_classes(model, have, NAMES)
    assert same(model.state_dict(), before)


def test_the_report_has_the_class_names_of_the_file():
    state = tiny("uniformer", num_classes=3).state_dict()
    report = load_weights(tiny("uniformer", num_classes=3), {"model_state": state, "class_names": NAMES})
    assert report.class_names == {"": NAMES}
    assert load_weights(tiny("uniformer", num_classes=3), state).class_names == {}
