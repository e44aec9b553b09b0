"""MorphMLP against the published numbers, and as a network that trains, compiles and refuses what it cannot take."""

import random

import golden
import pytest
import torch
from torch import Tensor, nn

import videobench
from videobench.models import flops, morphmlp_mixing
from videobench.models.morphmlp_mixing import GlobalMixing, SpatialMixing, TemporalMixing

# The published float64 logits have twelve digits; these networks forgive a wrong eps at the usual 1e-6.
TOLERANCE = 1e-8

FILES = [
    "morphmlp_s_image",
    "morphmlp_s_k400_16x4",
    pytest.param("morphmlp_b_k400_32x4", marks=pytest.mark.slow),
]


def load(name: str) -> dict:
    return golden.model_file("morphmlp", name)


def build(g: dict) -> nn.Module:
    name = [] if "MODEL.MODEL_NAME" in g["build"] else ["MODEL.MODEL_NAME", "MorphMLP_image"]
    return videobench.build_model(videobench.load_config([], golden.build_overrides(g) + name))


def build_small(model_name: str = "MorphMLP", seed: int | None = None, **overrides) -> nn.Module:
    """A tiny fresh network for frames of 64x64; a seed draws its depths, widths, chunks and transitions."""
    draw = random.Random(seed)
    morph = {
        "LAYERS": [1, 1, 1, 1] if seed is None else draw.choices([1, 2], k=4),
        "EMBED_DIMS": [16, 16, 32, 32] if seed is None else draw.choices([16, 32, 48], k=4),
        "SEGMENT_DIM": [8, 16, 16, 4] if seed is None else [draw.choice([2, 4, 8, 16]) for _ in range(3)] + [4],
        "TRANSITIONS": [True] * 4 if seed is None else draw.choices([True, False], k=4),
        "MLP_RATIOS": [2, 2, 2, 2] if seed is None else draw.choices([1, 1.5, 3], k=4),
        "QKV_BIAS": seed is None or draw.random() < 0.5,
        "DROP_DEPTH_RATE": 0.0,
    }
    settings = {f"MORPH.{key}": value for key, value in morph.items()}
    settings |= {"MODEL.MODEL_NAME": model_name, "MODEL.NUM_CLASSES": 7} | overrides
    torch.manual_seed(0 if seed is None else seed)
    return videobench.build_model(videobench.load_config([], [word for pair in settings.items() for word in pair]))


def randomised(model: nn.Module) -> nn.Module:
    """Fresh weights leave the temporal branch at zero, where mistakes in it would not show."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return model


def small_clip(frames: int = 16, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, 64, 64, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, clip: Tensor, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    model(clip).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", FILES)
def test_published_numbers(name):
    g = load(name)
    model = build(g).double().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == g["parameters"]
    model.load_state_dict(golden.state(g))
    assert list(model.state_dict()) == list(g["state"])

    seen = {}
    for probe in g["probes"]:
        module = model.get_submodule(probe["module"])
        module.register_forward_hook(
            lambda _m, _i, output, key=probe["module"]: seen.setdefault(key, []).append(output)
        )
    with torch.no_grad():
        logits = model(golden.clip(g))

    for probe in g["probes"]:
        # Layers within the mixing get all frames in a row, or a few at a time.
        output = torch.cat(seen[probe["module"]]).view(probe["shape"])
        first = torch.tensor(probe["first"], dtype=torch.float64)
        torch.testing.assert_close(output.flatten()[: len(first)], first, atol=TOLERANCE, rtol=0, msg=probe["after"])
        assert output.mean().item() == pytest.approx(probe["mean"], abs=TOLERANCE), probe["after"]
        assert output.std(correction=0).item() == pytest.approx(probe["std"], abs=TOLERANCE), probe["after"]
    torch.testing.assert_close(logits, torch.tensor([g["logits"]], dtype=torch.float64), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", FILES)
def test_multiply_adds(name):
    g = load(name)
    assert flops.giga_macs(build(g), *g["measured_gmacs_input"]) == pytest.approx(
        g["measured_gmacs_per_view"], rel=0.01
    )


def test_image_with_and_without_time_axis():
    model = randomised(build_small("MorphMLP_image")).eval()
    images = small_clip(frames=1)
    assert torch.equal(model(images), model(images[:, :, 0]))


def test_odd_clip_gives_the_same_token_frames():
    model = randomised(build_small("MorphMLP", seed=3)).double().eval()
    clip = small_clip(16).double()
    clip[:, :, 15] = 0  # the stem pads an odd clip with one zero frame at the end
    torch.testing.assert_close(model(clip[:, :, :15]), model(clip))


def test_frames_and_groups_follow_the_name():
    dims = ["MORPH.EMBED_DIMS", [112, 224, 392, 784], "MORPH.SEGMENT_DIM", [14, 28, 28, 49], "MORPH.LAYERS", [1] * 4]
    widths = {}
    for name in ("MorphMLP", "MorphMLP_32"):
        with torch.device("meta"):
            model = videobench.build_model(videobench.load_config([], ["MODEL.MODEL_NAME", name, *dims]))
        widths[name] = [getattr(model, f"blocks{stage}")[0].t_fc.mlp_t.in_features for stage in range(1, 5)]
    assert widths == {"MorphMLP": [112, 224, 392, 784], "MorphMLP_32": [112, 224, 448, 784]}


def mix_chunks(linear: nn.Linear, tokens: Tensor, chunks: list[list[int]]) -> Tensor:
    """Chunk mixing of one frame's tokens [N, C] as the specification words it, one chunk and group at a time."""
    mixed, length = torch.zeros_like(tokens), len(chunks[0])
    groups = torch.arange(tokens.shape[1]).view(length, -1)
    for chunk in chunks:
        for group in groups:
            joined = linear(torch.cat([tokens[token, group] for token in chunk]))
            for token, part in zip(chunk, joined.view(length, -1), strict=True):
                mixed[token, group] = part
    return mixed


def cut(order: list[int], length: int) -> list[list[int]]:
    return [order[start : start + length] for start in range(0, len(order), length)]


@pytest.mark.parametrize(
    ("height", "width", "length"), [(4, 4, 2), (4, 4, 4), (4, 4, 8), (2, 6, 3), (6, 2, 4), (6, 6, 9), (3, 4, 6)]
)
def test_spatial_mixing_is_the_specification(height, width, length):
    dim, frames = 2 * length, 2
    layer = randomised(SpatialMixing(dim, length)).double()
    x = torch.randn(1, frames, height, width, dim, dtype=torch.float64)
    tokens = x.reshape(frames, -1, dim)
    by_rows = cut(list(range(height * width)), length)
    by_columns = cut([row * width + column for column in range(width) for row in range(height)], length)
    branches = torch.stack(
        [
            torch.stack([mix_chunks(layer.mlp_h, frame, by_columns) for frame in tokens]),
            torch.stack([mix_chunks(layer.mlp_w, frame, by_rows) for frame in tokens]),
            layer.mlp_c(tokens),
        ],
        dim=-1,
    )
    shares = layer.reweight(branches.sum(-1).mean((0, 1))).view(dim, 3).softmax(-1)
    expected = layer.proj((branches * shares).sum(-1)).view(x.shape)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("height", "width", "length"), [(2, 2, 4), (4, 2, 4), (3, 3, 3)])
def test_global_mixing_is_the_specification(height, width, length):
    dim, tokens = 2 * length, height * width
    layer = randomised(GlobalMixing(dim, length)).double()
    x = torch.randn(1, 1, height, width, dim, dtype=torch.float64)
    stride = tokens // length
    chunks = [list(range(first, tokens, stride)) for first in range(stride)]
    flat = x.view(tokens, dim)
    branches = torch.stack([mix_chunks(layer.mlp_h, flat, chunks), layer.mlp_c(flat)], dim=-1)
    shares = layer.reweight(branches.sum(-1).mean(0)).view(dim, 2).softmax(-1)
    torch.testing.assert_close(layer(x), layer.proj((branches * shares).sum(-1)).view(x.shape))


@pytest.mark.parametrize("kind", [SpatialMixing, GlobalMixing])
def test_frames_mixed_one_at_a_time(kind, monkeypatch):
    """Without gradients few frames are mixed at a time, each with the shares of its own clip."""
    layer = randomised(kind(8, 4)).double()
    x = torch.randn(2, 3, 4, 4, 8, dtype=torch.float64)
    expected = layer(x)
    monkeypatch.setattr(morphmlp_mixing, "PIECE", 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_temporal_mixing_is_the_specification():
    time, dim, groups = 4, 6, 3
    layer = randomised(TemporalMixing(dim, time, groups)).double()
    x = torch.randn(2, time, 2, 3, dim, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for group in torch.arange(dim).view(groups, -1):
        joined = torch.cat([x[:, frame][..., group] for frame in range(time)], dim=-1)
        for frame, part in enumerate(layer.mlp_t(joined).chunk(time, dim=-1)):
            expected[:, frame, :, :, group] = part
    torch.testing.assert_close(layer(x), layer.proj(expected))


@pytest.mark.parametrize(("model_name", "frames", "seed"), [("MorphMLP", 16, 0), ("MorphMLP_image", 1, 1)])
def test_compiles_to_one_graph(model_name, frames, seed):
    model = randomised(build_small(model_name, seed)).double().eval()
    clip = small_clip(frames).double()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip), model(clip))


def test_compiled_training_has_the_same_gradients():
    model = randomised(build_small(seed=2, **{"MORPH.DROP_DEPTH_RATE": 0.3})).double()
    clip = small_clip(16).double()
    expected = gradients(model, clip)
    torch._dynamo.reset()
    actual = gradients(torch.compile(model, fullgraph=True, backend="eager"), clip)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[f"_orig_mod.{name}"], gradient, msg=name)


@pytest.mark.slow
def test_inductor():
    same_stages = {
        "MORPH.EMBED_DIMS": [16] * 4,
        "MORPH.SEGMENT_DIM": [8] * 4,
        "MORPH.TRANSITIONS": [False, False, True, False],
    }
    recomputing = {"MODEL.USE_CHECKPOINT": True, "MODEL.CHECKPOINT_NUM": [0, 1, 0, 0]}
    model = randomised(build_small("MorphMLP", **same_stages, **recomputing))
    clip = small_clip(16)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    expected, actual = gradients(model, clip), gradients(compiled, clip)
    for name, gradient in expected.items():
        tolerance = 1e-4 * gradient.abs().max().item() + 1e-4
        torch.testing.assert_close(actual[f"_orig_mod.{name}"], gradient, atol=tolerance, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("model_name", "frames"), [("MorphMLP", 16), ("MorphMLP_32", 32), ("MorphMLP_image", 1)])
def test_lower_precision_stays_close(model_name, frames):
    model = randomised(build_small(model_name, **{"MORPH.EMBED_DIMS": [16, 32, 32, 64]})).double().eval()
    clip = small_clip(frames).double()
    with torch.no_grad():
        exact = model(clip)
        model.float()
        torch.testing.assert_close(model(clip.float()).double(), exact, atol=1e-4, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(clip.float()).double(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("counts", [-1, [1, 0, 2, 0]])
@pytest.mark.parametrize("seed", [4, 5])
def test_recomputed_activations_give_identical_gradients(counts, seed):
    plain = randomised(build_small("MorphMLP", seed, **{"MORPH.DROP_DEPTH_RATE": 0.5})).double()
    checkpointed = {"MORPH.DROP_DEPTH_RATE": 0.5, "MODEL.USE_CHECKPOINT": True, "MODEL.CHECKPOINT_NUM": counts}
    frugal = build_small("MorphMLP", seed, **checkpointed).double()
    frugal.load_state_dict(plain.state_dict())
    clip = small_clip(16, batch=3).double()
    expected, actual = gradients(plain, clip), gradients(frugal, clip)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("model_name", "frames"), [("MorphMLP", 16), ("MorphMLP_32", 32), ("MorphMLP_image", 1)])
@pytest.mark.parametrize("autocast", [False, True])
def test_fresh_weights_train(model_name, frames, autocast):
    model = build_small(model_name)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = nn.functional.cross_entropy(model(small_clip(frames)).float(), torch.tensor([0, 3]))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_fresh_temporal_branch_is_zero_but_learns():
    layer = build_small().blocks1[0].t_fc
    x = torch.randn(1, 8, 2, 2, 16)
    assert torch.count_nonzero(layer(x)) == 0
    layer(x).sum().backward()
    assert torch.count_nonzero(layer.mlp_t.weight.grad) > 0


def test_stochastic_depth_grows_linearly():
    model = build_small(**{"MORPH.LAYERS": [1, 2, 1, 1], "MORPH.DROP_DEPTH_RATE": 0.4})
    blocks = [block for stage in range(1, 5) for block in getattr(model, f"blocks{stage}")]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_features_head_and_reset():
    model = build_small().eval()
    clip = small_clip()
    features = model.forward_features(clip)
    assert features.shape == (2, model.num_features)
    assert torch.equal(model.forward_head(features), model(clip))
    model.reset_head(3)
    assert model(clip).shape == (2, 3)


@pytest.mark.parametrize("model_name", ["MorphMLP", "MorphMLP_image"])
def test_layer_groups_hold_every_parameter_once_in_order(model_name):
    model = build_small(model_name, **{"MORPH.LAYERS": [1, 2, 1, 2]})
    groups = model.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) == 1 + 6 + 1
    assert all(name.startswith("patch_embed1.") for name in groups[0])
    assert {name.split(".")[0] for name in groups[2]} == {"patch_embed2", "blocks2"}
    assert {name.split(".")[0] for name in groups[3]} == {"blocks2"}
    assert {name.split(".")[0] for name in groups[-1]} == {"norm", "head"}


@pytest.mark.parametrize(
    ("model_name", "shape", "message"),
    [
        ("MorphMLP", (1, 3, 32, 64, 64), "T=16 frames, got T=32"),
        ("MorphMLP_32", (1, 3, 16, 64, 64), "T=32 frames, got T=16"),
        ("MorphMLP_image", (1, 3, 2, 64, 64), "T=1 frames, got T=2"),
        ("MorphMLP", (3, 16, 64, 64), r"\[N, C, T, H, W\]"),
        ("MorphMLP", (1, 4, 16, 64, 64), "3 channels"),
        ("MorphMLP", (1, 3, 16, 96, 96), "stage 3 a map of 6x6 tokens"),
    ],
)
def test_clips_it_cannot_take(model_name, shape, message):
    with pytest.raises(ValueError, match=message):
        build_small(model_name)(torch.zeros(shape))


def test_a_stage_without_blocks_takes_any_map():
    chunks, clip = {"MORPH.SEGMENT_DIM": [8, 4, 16, 4]}, torch.zeros(1, 3, 16, 48, 48)
    with pytest.raises(ValueError, match="stage 3 a map of 3x3 tokens"):
        build_small(**chunks)(clip)
    assert build_small(**chunks, **{"MORPH.LAYERS": [1, 1, 0, 1]}).eval()(clip).shape == (1, 7)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MORPH.LAYERS": [1, 1, 1]}, "MORPH.LAYERS wants one entry for each of the 4 stages"),
        ({"MORPH.SEGMENT_DIM": [8, 16, 16, 5]}, "MORPH.EMBED_DIMS .* multiples of MORPH.SEGMENT_DIM"),
        (
            {"MORPH.EMBED_DIMS": [12, 16, 32, 32], "MORPH.SEGMENT_DIM": [4, 4, 4, 4]},
            "MORPH.EMBED_DIMS .* multiples of the temporal groups",
        ),
    ],
)
def test_settings_it_cannot_take(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_small(**overrides)
