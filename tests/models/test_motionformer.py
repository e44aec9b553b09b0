"""Motionformer against published numbers, plain references of its attention, and the contract of every network."""

import random
from math import prod, sqrt

import golden
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.profiler import ProfilerActivity, profile

import videobench
from videobench.models import flops, motionformer_attention
from videobench.models.motionformer import Motionformer
from videobench.models.motionformer_attention import DividedAttention, TrajectoryAttention
from videobench.models.motionformer_image_weights import inflate_image_weights

NETWORKS = [
    "motionformer_224_16x4_k400",
    "motionformer_224_16x4_k400_fixed_values",
    "motionformer_224_16x4_epic",
    "motionformer_joint_224_16x4_k400",
    "motionformer_divided_224_16x4_k400",
]
TRAJECTORY_K400_PARAMETERS = 109_144_720
# What a configuration tells the network, in the recipes of published rows.
MODEL_KEYS = ("VIT.", "MODEL.", "TRAIN.DATASET", "DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE")


def build(settings: dict, **arguments) -> Motionformer:
    # Only the exact attention is built, so this key says nothing.
    pairs = {"MODEL.MODEL_NAME": "VisionTransformer"} | {
        key: value for key, value in settings.items() if key != "VIT.APPROX_ATTN_TYPE"
    }
    return videobench.build_model(
        videobench.load_config([], [word for pair in pairs.items() for word in pair]), **arguments
    )


def tiny(**arguments) -> Motionformer:
    """Two blocks of width 16 on clips of 4 x 32 x 32."""
    small = {"dim": 16, "depth": 2, "num_heads": 2, "temporal_resolution": 2, "num_classes": 5, "drop_path": 0.0}
    return Motionformer(**small | arguments)


def tiny_clip(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, 4, 32, 32, dtype=dtype)


def scramble(model: nn.Module) -> nn.Module:
    """Weights far from their start, so that no term of the network is lost in the noise."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def deviations(reference: dict, model: Motionformer) -> tuple[dict[str, float], dict[str, Tensor] | Tensor]:
    """Largest deviation per probe of a golden file (of the probes the model has), and the logits."""
    seen: dict[str, list[Tensor]] = {}
    probes = [probe for probe in reference["probes"] if dict(model.named_modules()).get(probe["module"])]
    for probe in probes:
        module = model.get_submodule(probe["module"])
        calls = seen[probe["module"]] = []
        module.register_forward_hook(lambda _m, _i, out, calls=calls: calls.append(out))
    with torch.no_grad():
        logits = model(golden.clip(reference))
    found = {}
    for probe in probes:
        tensor = torch.cat(seen[probe["module"]], dim=1)  # trajectory attention calls proj_q once a frame
        assert list(tensor.shape) == probe["shape"], probe["after"]
        first = torch.tensor(probe["first"], dtype=torch.float64)
        found[probe["module"]] = max(
            abs(tensor.mean().item() - probe["mean"]),
            abs(tensor.std(unbiased=False).item() - probe["std"]),
            (tensor.flatten()[: len(first)] - first).abs().max().item(),
        )
    return found, logits


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_published_numbers(name):
    reference = golden.model_file("motionformer", name)
    model = build(reference["build"]).double().eval()
    model.load_state_dict(golden.state(reference))
    found, logits = deviations(reference, model)
    assert len(found) == len(reference["probes"])
    assert max(found.values()) < 1e-9, found
    wanted = reference["logits"] if isinstance(reference["logits"], dict) else {"": reference["logits"]}
    for head, values in wanted.items():
        out = logits[head] if head else logits
        assert (out.flatten() - torch.tensor(values, dtype=torch.float64).flatten()).abs().max() < 1e-9


@pytest.mark.parametrize("name", [NETWORKS[0], NETWORKS[1], NETWORKS[4]])
def test_published_numbers_of_the_first_block(name):
    reference = golden.model_file("motionformer", name)
    model = build(reference["build"] | {"VIT.DEPTH": 1}).double().eval()
    names = set(model.state_dict())
    model.load_state_dict(golden.state({"state": {k: v for k, v in reference["state"].items() if k in names}}))
    found, _ = deviations(reference, model)
    embedding_and_block = [k for k in found if k in ("patch_embed_3d", "pos_drop") or k.startswith("blocks.0")]
    assert len(embedding_and_block) >= 5
    assert max(found[k] for k in embedding_and_block) < 1e-9, found


def plain_giga_macs(attention: str, frames: int, side: int, dim: int = 768, depth: int = 12, classes: int = 400):
    """Multiply-adds of the published form: S x S attention, keys and values of all S x F trajectory tokens."""
    patches = side * side
    s = frames * patches
    n = s + 1
    norm = 5 * n * dim
    project = 4 * n * dim * dim
    mlp = 8 * n * dim * dim
    class_query = 2 * n * dim
    if attention == "joint":
        block = 2 * norm + project + 2 * n * n * dim + mlp
    elif attention == "divided":
        keys = (patches + 1) + (frames + 1)
        block = 3 * norm + 2 * project + 2 * class_query + 2 * s * keys * dim + mlp
    else:
        through_frames = 2 * s * s * dim
        along_time = s * dim * dim + 2 * s * frames * dim * dim + 2 * s * frames * dim
        block = 2 * norm + project + class_query + through_frames + along_time + mlp
    embedding = s * dim * 3 * 2 * 16 * 16
    return (embedding + depth * block + norm + dim * dim + dim * classes) / 1e9


@pytest.mark.parametrize("name", [NETWORKS[0], NETWORKS[1], NETWORKS[3], NETWORKS[4]])
def test_cost_is_the_published_one_or_less(name):
    reference = golden.model_file("motionformer", name)
    attention = reference["build"]["VIT.ATTN_LAYER"]
    published = reference["measured_gmacs_per_view"]
    assert plain_giga_macs(attention, frames=8, side=14) == pytest.approx(published, rel=0.01)
    with torch.device("meta"):
        counted = flops.giga_macs(build(reference["build"]), 1, 3, 16, 224, 224)
    if attention == "trajectory":
        assert counted < 0.6 * published
    else:
        assert counted == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("frames", "side", "published"), [(8, 21, 958.8), (16, 14, 1185.2)])
def test_plain_cost_of_larger_clips(frames, side, published):
    assert plain_giga_macs("trajectory", frames, side) == pytest.approx(published, rel=0.01)


def zoo_rows() -> list[dict]:
    return [row for row in golden.table("zoo")["entries"] if row["id"].startswith("motionformer_")]


def test_every_published_row_builds():
    rows = zoo_rows()
    assert len(rows) == 16
    extra = {"trajectory": 0, "joint": -12 * 3 * 768 * 769, "divided": 12 * (768 * 769 + 2 * 768)}
    for row in rows:
        settings = {k: v for k, v in row["recipe"].items() if k.startswith(MODEL_KEYS)}
        with torch.device("meta"):
            model = build(settings)
            parameters = sum(p.numel() for p in model.parameters())
            del model.blocks[1:]
            clip = torch.zeros(2, 3, row["num_frames"], row["resolution"], row["resolution"])
            logits = model(clip)
        classes = row["num_classes"] if isinstance(row["num_classes"], dict) else {"": row["num_classes"]}
        outputs = logits if isinstance(logits, dict) else {"": logits}
        assert {k: list(v.shape) for k, v in outputs.items()} == {k: [2, v] for k, v in classes.items()}, row["id"]
        expected = TRAJECTORY_K400_PARAMETERS + extra[row["attention"]] + (sum(classes.values()) - 400) * 769
        expected += (row["num_frames"] // 2 - 8) * 768
        assert parameters == expected, row["id"]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_have_the_published_names_and_shapes(name):
    reference = golden.model_file("motionformer", name)
    with torch.device("meta"):
        model = build(reference["build"])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == {
        k: v["shape"] for k, v in reference["state"].items()
    }
    assert sum(p.numel() for p in model.parameters()) == reference["parameters"]


def test_epic_heads_are_chosen_by_the_data_set():
    settings = {"VIT.EMBED_DIM": 12, "VIT.DEPTH": 1, "VIT.NUM_HEADS": 1}
    assert build(settings | {"TRAIN.DATASET": "EpicKitchens"}).outputs == ["verb", "noun"]
    assert build(settings | {"TRAIN.DATASET": "EpicKitchens"}, num_classes=7).head.out_features == 7
    assert build(settings | {"TRAIN.DATASET": "ssv2", "MODEL.NUM_CLASSES": 174}).head.out_features == 174


def plain_trajectory_attention(layer: TrajectoryAttention, tokens: Tensor, project_values: bool) -> Tensor:
    """Every step as the paper writes it, one query at a time."""
    batch, length, dim = tokens.shape
    frames, heads, width = layer.frames, layer.num_heads, dim // layer.num_heads
    places = (length - 1) // frames
    q, k, v = layer.qkv(tokens).reshape(batch, length, 3, heads, width).unbind(2)
    out = torch.zeros_like(tokens)
    for b in range(batch):
        weights = torch.einsum("hd,jhd->hj", q[b, 0], k[b]) / sqrt(width)
        out[b, 0] = torch.einsum("hj,jhd->hd", weights.softmax(-1), v[b]).flatten()
        for s in range(frames * places):
            y = torch.zeros(frames, heads, width, dtype=tokens.dtype)
            for f in range(frames):
                seen = slice(1 + f * places, 1 + (f + 1) * places)
                weights = torch.einsum("hd,jhd->hj", q[b, 1 + s], k[b, seen]) / sqrt(width)
                y[f] = torch.einsum("hj,jhd->hd", weights.softmax(-1), v[b, seen])
            query = layer.proj_q(y[s // places].flatten()).reshape(heads, width)
            keys, values = layer.proj_kv(y.flatten(1)).reshape(frames, 2, heads, width).unbind(1)
            weights = (torch.einsum("hd,fhd->hf", query, keys) / sqrt(width)).softmax(-1)
            out[b, 1 + s] = torch.einsum("hf,fhd->hd", weights, values if project_values else y).flatten()
    return layer.proj(out)


@pytest.mark.parametrize("project_values", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_trajectory_attention_equals_its_definition(project_values, qkv_bias):
    torch.manual_seed(0)
    layer = scramble(TrajectoryAttention(12, 3, 4, qkv_bias=qkv_bias, project_values=project_values).double())
    tokens = torch.randn(2, 1 + 4 * 5, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens), plain_trajectory_attention(layer, tokens, project_values))


@pytest.mark.parametrize("together", [2, 3, 4])
def test_frames_taken_together_change_nothing(together, monkeypatch):
    torch.manual_seed(0)
    layer = scramble(TrajectoryAttention(12, 3, 4, project_values=True).double())
    tokens = torch.randn(2, 1 + 4 * 5, 12, dtype=torch.float64, requires_grad=True)

    def result_and_gradients() -> list[Tensor]:
        out = layer(tokens)
        return [out, *torch.autograd.grad(out.square().sum(), [tokens, *layer.parameters()])]

    one_by_one = result_and_gradients()
    monkeypatch.setattr(motionformer_attention, "_frames_together", lambda device, frames: together)
    torch.testing.assert_close(result_and_gradients(), one_by_one)


@pytest.mark.parametrize("project_values", [False, True])
def test_gradients_of_trajectory_attention(project_values):
    torch.manual_seed(0)
    layer = scramble(TrajectoryAttention(4, 2, 2, project_values=project_values).double())
    tokens = torch.randn(1, 1 + 2 * 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, tokens)


def test_training_keeps_little_more_than_the_trajectory_tokens():
    """For its backward pass; the plain form keeps all weights [S, S] and the keys and values of all S * F tokens."""
    frames, places, dim = 4, 9, 16
    layer = TrajectoryAttention(dim, 2, frames)
    tokens = torch.randn(1, 1 + frames * places, dim, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        out = layer(tokens)
    held = sum(e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")
    assert out.requires_grad
    rows = tokens.numel() * tokens.element_size()
    # Queries, keys and values, F trajectory tokens a patch, the input of the last projection and its result.
    assert (3 + frames + 2) * rows <= held < (3 + frames + 4) * rows


@pytest.mark.parametrize("axis", ["time", "space"])
def test_divided_attention_equals_masked_attention(axis):
    torch.manual_seed(0)
    frames, places, heads = 3, 5, 2
    layer = scramble(DividedAttention(8, heads, frames, axis=axis).double())
    tokens = torch.randn(2, 1 + frames * places, 8, dtype=torch.float64)
    index = torch.arange(frames * places)
    group = index % places if axis == "time" else index // places
    seen = torch.ones(1 + frames * places, 1 + frames * places, dtype=torch.bool)
    seen[1:, 1:] = group[:, None] == group[None, :]
    q, k, v = layer.qkv(tokens).reshape(2, -1, 3, heads, 4).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~seen, float("-inf"))
    expected = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(tokens), expected)


def positions_of(model: Motionformer, clip: Tensor) -> Tensor:
    """What is added to the tokens: the input of the blocks of a network whose tokens are zero."""
    with torch.no_grad():
        for parameter in (model.cls_token, *model.patch_embed.parameters(), *model.patch_embed_3d.parameters()):
            parameter.zero_()
    seen = []
    model.pos_drop.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    model(clip)
    return seen[0]


@pytest.mark.parametrize("side", [224, 336])
def test_position_table_is_resized_for_other_sizes(side):
    model = tiny(depth=1)
    nn.init.normal_(model.temp_embed)
    found = positions_of(model, torch.zeros(1, 3, 4, side, side))
    grid = model.pos_embed[:, 1:].detach().reshape(1, 14, 14, 16).permute(0, 3, 1, 2)
    if side != 224:
        grid = interpolate(grid, scale_factor=side / 224, mode="bicubic", align_corners=False)
    grid = grid.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, :1], model.pos_embed[:, :1].detach())
    frames = found[:, 1:].unflatten(1, (2, -1))
    for index in range(2):
        torch.testing.assert_close(frames[:, index], grid + model.temp_embed[:, index].detach())


def test_joint_position_embedding_has_a_vector_per_token():
    model = tiny(pos_embed="joint", patch_size=112, depth=1)
    assert list(model.st_embed.shape) == [1, 1 + 2 * 4, 16]
    assert not hasattr(model, "temp_embed")
    torch.testing.assert_close(positions_of(model, torch.zeros(1, 3, 4, 224, 224)), model.st_embed.detach())
    with pytest.raises(ValueError, match="224x224 only"):
        model(torch.zeros(1, 3, 4, 112, 112))


@pytest.mark.parametrize("tube", [1, 2])
def test_patch_embedding_equals_the_convolution(tube):
    model = tiny(tube=tube, temporal_resolution=4 // tube)
    clip = tiny_clip()
    if tube == 1:
        frames = model.patch_embed.proj(clip.transpose(1, 2).flatten(0, 1))
        expected, found = frames.flatten(2).transpose(1, 2).unflatten(0, (2, 4)).flatten(1, 2), model.patch_embed(clip)
    else:
        expected = model.patch_embed_3d.proj(clip).flatten(2).transpose(1, 2)
        found = model.patch_embed_3d(clip)
    torch.testing.assert_close(found, expected)
    assert model(clip).shape == (2, 5)


def random_arguments(seed: int) -> dict:
    draw = random.Random(seed)
    heads = draw.choice([1, 2, 3])
    return {
        "attention": ("trajectory", "joint", "divided")[seed % 3],
        "project_values": draw.random() < 0.5,
        "dim": heads * draw.choice([4, 8]),
        "num_heads": heads,
        "depth": draw.choice([1, 2]),
        "mlp_ratio": draw.choice([2, 3.0]),
        "qkv_bias": draw.random() < 0.5,
        "tube": draw.choice([1, 2]),
        "temporal_resolution": draw.choice([1, 2, 3]),
        "head_act": draw.choice(["tanh", "gelu", None]),
        "num_classes": draw.choice([3, {"verb": 4, "noun": 6}]),
        "drop": draw.choice([0.0, 0.2]),
        "pos_drop": draw.choice([0.0, 0.2]),
        "attn_drop": draw.choice([0.0, 0.2]),
        "head_drop": draw.choice([0.0, 0.2]),
        "drop_path": draw.choice([0.0, 0.2]),
    }


def random_clip(model: Motionformer, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, model.temporal_resolution * model.tube, 32, 48, dtype=dtype)


def loss_of(logits: Tensor | dict[str, Tensor]) -> Tensor:
    heads = logits.values() if isinstance(logits, dict) else [logits]
    return sum(head.square().sum() for head in heads)


def gradients(model: Motionformer, clip: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    torch.manual_seed(1)
    loss_of(model(clip)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("seed", range(9))
def test_recomputing_activations_changes_no_gradient(seed):
    torch.manual_seed(seed)
    arguments = random_arguments(seed)
    model = Motionformer(**arguments).double().train()
    again = Motionformer(**arguments, checkpoint_blocks=[-1, 0, 0, 0]).double().train()
    again.load_state_dict(model.state_dict())
    clip = random_clip(model, torch.float64)
    stored, recomputed = gradients(model, clip), gradients(again, clip)
    for name, gradient in stored.items():
        assert gradient is not None, f"no gradient reaches {name}"
        assert gradient.isfinite().all(), name
        assert torch.equal(gradient, recomputed[name]), name


@pytest.mark.parametrize("seed", range(4))
def test_capture_without_graph_breaks(seed):
    torch.manual_seed(seed)
    model = scramble(Motionformer(**random_arguments(seed))).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    clip = random_clip(model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip), model(clip))
    assert all(g is not None and g.isfinite().all() for g in gradients(compiled.train(), clip).values())
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["trajectory", "joint", "divided"])
def test_compiled_networks_give_the_same(attention):
    torch.manual_seed(0)
    model = scramble(tiny(attention=attention, project_values=True, depth=1)).eval()
    clip = tiny_clip()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip), model(clip))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(compiled(clip), model(clip), atol=0.1, rtol=0.1)
    eager, captured = gradients(model.train(), clip), gradients(compiled.train(), clip)
    for name, gradient in captured.items():
        torch.testing.assert_close(gradient, eager[name.removeprefix("_orig_mod.")], atol=1e-4, rtol=1e-3)
    model.double().eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip.double()), model(clip.double()))
    torch._dynamo.reset()


@pytest.mark.parametrize("attention", ["trajectory", "joint", "divided"])
def test_bfloat16_training_step(attention):
    torch.manual_seed(0)
    model = tiny(attention=attention).train()
    clip = tiny_clip()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clip)
        loss_of(logits).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        torch.testing.assert_close(logits.float(), model(clip), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("settings", [{}, {"tube": 1, "temporal_resolution": 4}, {"pos_embed": "joint"}])
def test_parameters_that_nothing_reads_are_frozen(settings):
    side = 224 if settings.get("pos_embed") == "joint" else 32
    model = tiny(patch_size=16 if side == 32 else 112, **settings)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    unused = "patch_embed.proj" if settings.get("tube", 2) == 2 else "patch_embed_3d.proj"
    expected = {f"{unused}.weight", f"{unused}.bias"} | {f"blocks.{i}.attn.proj_kv.bias" for i in range(2)}
    assert frozen == expected | ({"pos_embed"} if side == 224 else set())
    clip = torch.randn(1, 3, 4, side, side)
    before = model(clip)
    with torch.no_grad():
        for name in frozen:
            model.get_parameter(name).normal_()
    torch.testing.assert_close(model(clip), before)


@pytest.mark.parametrize(("before", "after"), [(5, 7), (5, {"verb": 3, "noun": 4}), ({"verb": 3, "noun": 4}, 5)])
def test_reset_head(before, after):
    model = tiny(num_classes=before).double()
    features = model.forward_features(tiny_clip(dtype=torch.float64))
    assert features.shape == (2, model.num_features)
    model.reset_head(after)
    logits = model.forward_head(features)
    if isinstance(after, dict):
        assert {name: out.shape[1] for name, out in logits.items()} == after
    else:
        assert logits.shape == (2, after)
    heads = {name.split(".")[0] for name, _ in model.named_parameters() if model.is_head(name)}
    assert heads == ({"head0", "head1"} if isinstance(after, dict) else {"head"})


def test_layer_groups_cover_every_parameter_once():
    model = tiny(num_classes={"verb": 3, "noun": 4}, attention="divided")
    groups = model.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) == 4
    assert "cls_token" in groups[0]
    assert all(name.startswith("blocks.1.") for name in groups[2])
    assert {"norm.weight", "pre_logits.fc.weight", "head1.bias"} <= set(groups[3])
    assert model.no_weight_decay() == {"cls_token", "pos_embed", "temp_embed"}
    assert "st_embed" in tiny(pos_embed="joint").no_weight_decay()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 32, 32), "5|N, C, T, H, W"),
        ((1, 1, 4, 32, 32), "3 channels"),
        ((1, 3, 6, 32, 32), "exactly 4 frames"),
        ((1, 3, 2, 32, 32), "exactly 4 frames"),
        ((1, 3, 4, 32, 40), "multiples of 16"),
        ((1, 3, 4, 8, 32), "at least 16x16"),
    ],
)
def test_clips_of_wrong_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "sparse"}, "VIT.ATTN_LAYER"),
        ({"pos_embed": "sine"}, "VIT.POS_EMBED"),
        ({"head_act": "swish"}, "VIT.HEAD_ACT"),
        ({"num_heads": 3}, "VIT.NUM_HEADS"),
        ({"checkpoint_blocks": [1, 1]}, "CHECKPOINT_NUM"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def image_network(side: int = 224, **arguments) -> nn.Module:
    timm = pytest.importorskip("timm")
    size = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5} | arguments
    return timm.create_model("vit_base_patch16_224", pretrained=False, img_size=side, **size)


def test_image_weights_make_the_image_network():
    """With one time position joint attention is the image network on the middle frame of the tube."""
    torch.manual_seed(0)
    image = scramble(image_network()).double().eval()
    model = tiny(attention="joint", temporal_resolution=1, head_act=None).double().eval()
    model.load_state_dict(inflate_image_weights(image.state_dict(), model), strict=False)
    clip = torch.randn(2, 3, 2, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), image(clip[:, :, 1]))


def test_image_weights_treat_the_frames_of_a_static_clip_alike():
    torch.manual_seed(0)
    image = scramble(image_network())
    tokens = []
    model = tiny(attention="joint", temporal_resolution=3).eval()
    model.load_state_dict(inflate_image_weights(image.state_dict(), model), strict=False)
    model.norm.register_forward_hook(lambda _m, _i, out: tokens.append(out[:, 1:].unflatten(1, (3, -1))))
    with torch.no_grad():
        model(torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 6, -1, -1))
    torch.testing.assert_close(tokens[0][:, 0], tokens[0][:, 1])
    torch.testing.assert_close(tokens[0][:, 0], tokens[0][:, 2])


@pytest.mark.parametrize("attention", ["trajectory", "joint", "divided"])
@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_large_patch16_224"])
def test_image_weights_cover_what_they_should(name, attention):
    timm = pytest.importorskip("timm")
    large = {"dim": 1024, "depth": 24, "num_heads": 16} if "large" in name else {}
    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
        model = Motionformer(400, attention=attention, **large)
    inflated = inflate_image_weights(state, model)
    assert all(inflated[key].shape == value.shape for key, value in model.state_dict().items() if key in inflated)
    uncovered = ("temp_embed", "pre_logits", "head", "proj_q", "proj_kv", "timeattn", "norm3")
    left = set(model.state_dict()) - set(inflated)
    assert left == {key for key in model.state_dict() if any(part in key.split(".") for part in uncovered)}
    assert set(state) - set(inflated) == {"head.weight", "head.bias"}


def test_image_weights_inflate_the_patch_embedding_and_positions():
    state = scramble(image_network()).state_dict()
    model = tiny(pos_embed="joint", tube=3)
    inflated = inflate_image_weights(state, model)
    kernel = inflated["patch_embed_3d.proj.weight"]
    assert torch.equal(kernel[:, :, 1], state["patch_embed.proj.weight"])
    assert kernel[:, :, [0, 2]].abs().max() == 0
    assert torch.equal(inflated["patch_embed_3d.proj.bias"], state["patch_embed.proj.bias"])
    class_token, first, second = inflated["st_embed"].split([1, 196, 196], dim=1)
    assert torch.equal(torch.cat((class_token, first), dim=1), state["pos_embed"])
    assert torch.equal(first, second)
    assert "head.weight" in inflated  # five classes here and there
    assert prod(inflated["pos_embed"].shape) == 197 * 16


def test_image_weights_of_another_grid_are_resized():
    state = scramble(image_network(side=384)).state_dict()
    inflated = inflate_image_weights(state, tiny())
    grid = state["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (24, 24))
    expected = interpolate(grid, size=(14, 14), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(inflated["pos_embed"][:, 1:], expected)


def test_weights_of_no_image_network_are_refused():
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.weight"):
        inflate_image_weights({"conv1.weight": torch.zeros(1)}, tiny())
    with pytest.raises(ValueError, match="16, 3, 16, 16"):
        inflate_image_weights(image_network(embed_dim=32).state_dict(), tiny())


def test_weights_of_image_networks_are_recognised():
    model = tiny()
    adapted = model.adapt_weights(image_network(num_classes=1000).state_dict())
    assert adapted["patch_embed_3d.proj.weight"].dim() == 5
    assert adapted["head.weight"].shape[0] == 1000  # the loader says that it does not fit
    own = model.state_dict()
    assert model.adapt_weights(own) is own


def test_fresh_network_sees_its_input():
    torch.manual_seed(0)
    model = tiny().eval()
    assert not torch.allclose(model(tiny_clip()), model(tiny_clip()), atol=1e-6)
