"""MViT and MViTv2: reference numbers, published sizes, agreement with timm, and the contract of every network."""

import itertools
import random

import golden
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import videobench
from videobench.config import ConfigError
from videobench.models.flops import giga_macs
from videobench.models.layers import DropPath
from videobench.models.mvit import MViT, from_timm
from videobench.models.mvit_attention import AttentionOptions, MultiScaleAttention, Pooling, table_rows

FAMILY = "mvitv2"
slow = pytest.mark.slow
GOLDEN = [
    "mvitv2_t_in1k",
    "mvitv2_s_16x4_k400",
    pytest.param("mvitv1_b_16x4_k400", marks=slow),
    pytest.param("mvitv2_b_32x3_k400", marks=slow),
]
ALL_GOLDEN = ["mvitv2_t_in1k", "mvitv2_s_16x4_k400", "mvitv1_b_16x4_k400", "mvitv2_b_32x3_k400"]


def build(overrides: dict, **arguments) -> MViT:
    words = golden.build_overrides({"build": {"MODEL.MODEL_NAME": "MViT", **overrides}})
    return videobench.build_model(videobench.load_config([], words), **arguments)


def meta_giga_macs(model: nn.Module, *shape: int) -> float:
    """Multiply-adds in 1e9 of convolutions and matrix products, without computing anything.

    The published figures count attention in its plain form.
    """
    for module in model.modules():
        if isinstance(module, MultiScaleAttention):
            module.plain = True
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(*shape, device="meta"))
    return counter.get_total_flops() / 2e9


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough that every part of the network matters, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() < 2 else max(parameter[0].numel(), 1) ** -0.5
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


# Small networks -------------------------------------------------------------------------------------------------------

VIDEO = {
    "DATA.NUM_FRAMES": 6,
    "DATA.TRAIN_CROP_SIZE": 32,
    "MODEL.NUM_CLASSES": 5,
    "MVIT.PATCH_PADDING": [1, 3, 3],
    "MVIT.EMBED_DIM": 16,
    "MVIT.DEPTH": 4,
    "MVIT.DIM_MUL": [[1, 2.0], [3, 2.0]],
    "MVIT.HEAD_MUL": [[1, 2.0], [3, 2.0]],
    "MVIT.POOL_Q_STRIDE": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1], [3, 1, 2, 2]],
    "MVIT.POOL_KVQ_KERNEL": [3, 3, 3],
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": [1, 4, 4],
    "MVIT.USE_ABS_POS": False,
    "MVIT.REL_POS_SPATIAL": True,
    "MVIT.REL_POS_TEMPORAL": True,
    "MVIT.RESIDUAL_POOLING": True,
    "MVIT.DIM_MUL_IN_ATT": True,
}
IMAGE = {
    **VIDEO,
    "MVIT.PATCH_KERNEL": [7, 7],
    "MVIT.PATCH_STRIDE": [4, 4],
    "MVIT.PATCH_PADDING": [3, 3],
    "MVIT.POOL_Q_STRIDE": [[0, 1, 1], [1, 2, 2], [2, 1, 1], [3, 2, 2]],
    "MVIT.POOL_KVQ_KERNEL": [3, 3],
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": [4, 4],
    "MVIT.REL_POS_TEMPORAL": False,
    "MVIT.CLS_EMBED_ON": False,
    "MODEL.DROPOUT_RATE": 0.0,
}
MVIT_V1 = {
    **VIDEO,
    "MVIT.POOL_Q_STRIDE": [[1, 1, 2, 2], [3, 1, 2, 2]],
    "MVIT.POOL_KVQ_KERNEL": None,
    "MVIT.USE_ABS_POS": True,
    "MVIT.SEP_POS_EMBED": True,
    "MVIT.REL_POS_SPATIAL": False,
    "MVIT.REL_POS_TEMPORAL": False,
    "MVIT.RESIDUAL_POOLING": False,
    "MVIT.DIM_MUL_IN_ATT": False,
}
# SlowFast's own image networks: a two-dimensional patch kernel, pooling in three dimensions.
SLOWFAST_IMAGE = {
    **VIDEO,
    "MVIT.PATCH_2D": True,
    "MVIT.PATCH_KERNEL": [7, 7],
    "MVIT.PATCH_STRIDE": [4, 4],
    "MVIT.PATCH_PADDING": [3, 3],
    "MVIT.POOL_KVQ_KERNEL": [1, 3, 3],
    "MVIT.REL_POS_TEMPORAL": False,
}
# A grid of 9 that strides do not divide: tables are resized on the way.
ODD_GRID = {**VIDEO, "DATA.TRAIN_CROP_SIZE": 36}
SMALL = {"video": VIDEO, "odd_grid": ODD_GRID, "image": IMAGE, "v1": MVIT_V1, "slowfast_image": SLOWFAST_IMAGE}


def random_configuration(seed: int) -> dict:
    """A small network with switches drawn at random."""
    rng = random.Random(seed)
    settings = dict(rng.choice(list(SMALL.values())))
    image = len(settings["MVIT.PATCH_KERNEL"]) == 2 if "MVIT.PATCH_KERNEL" in settings else False
    for key in ("POOL_FIRST", "SEPARATE_QKV", "RESIDUAL_POOLING", "DIM_MUL_IN_ATT", "NORM_STEM", "USE_MEAN_POOLING"):
        settings[f"MVIT.{key}"] = rng.random() < 0.5
    for key in ("CLS_EMBED_ON", "USE_ABS_POS", "SEP_POS_EMBED", "REL_POS_SPATIAL", "QKV_BIAS"):
        settings[f"MVIT.{key}"] = rng.random() < 0.5
    settings["MVIT.REL_POS_TEMPORAL"] = not image and rng.random() < 0.5
    settings["MVIT.MODE"] = rng.choice(["conv", "conv_unshared", "max", "avg"])
    settings["DATA.TRAIN_CROP_SIZE"] = 32 if image else rng.choice([32, 36])  # 36: a grid that rounding down misses
    return settings


def clip_for(model: MViT, batch: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *model.input_shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture(params=SMALL)
def small(request) -> MViT:
    torch.manual_seed(0)
    return build(SMALL[request.param])


# Reference numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_reference_logits_and_probes(name):
    g = golden.model_file(FAMILY, name)
    model = build(g["build"]).double()
    model.load_state_dict(golden.state(g))
    model.eval()
    seen = {}

    def keep(key, at_input):
        def hook(module, inputs, output):
            seen[key] = (inputs[0] if at_input else output).flatten()

        return hook

    for i, probe in enumerate(g["probes"]):
        model.get_submodule(probe["module"]).register_forward_hook(keep(i, probe.get("at") == "input"))
    with torch.no_grad():
        logits = model(golden.clip(g))
    for i, probe in enumerate(g["probes"]):
        values, first = seen[i], torch.tensor(probe["first"], dtype=torch.float64)
        assert values.numel() == np.prod(probe["shape"]), probe["after"]
        assert values[: len(first)].tolist() == pytest.approx(first.tolist(), abs=1e-6), probe["after"]
        assert values.mean().item() == pytest.approx(probe["mean"], abs=1e-9), probe["after"]
        assert values.std(correction=0).item() == pytest.approx(probe["std"], abs=1e-9), probe["after"]
    reference = torch.tensor(g["logits"], dtype=torch.float64).view_as(logits)
    deviation = (logits - reference).abs().max().item()
    print(f"{name}: largest deviation {deviation:.1e}")
    assert deviation < g["tolerance"]


@pytest.mark.parametrize("name", [ALL_GOLDEN[0], *(pytest.param(name, marks=slow) for name in ALL_GOLDEN[1:])])
def test_reference_cost(name):
    g = golden.model_file(FAMILY, name)
    assert giga_macs(build(g["build"]), *g["input"]["shape"]) == pytest.approx(g["measured_gmacs_per_view"], rel=1e-5)


@pytest.mark.parametrize("name", ALL_GOLDEN)
def test_reference_parameters(name):
    g = golden.model_file(FAMILY, name)
    with torch.device("meta"):
        model = build(g["build"])
    assert sum(p.numel() for p in model.parameters()) == g["parameters"]
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == {key: entry["shape"] for key, entry in g["state"].items()}


# Published sizes that no configuration gives (golden/notes/mvitv2.md, quirk 5).
ACTUAL_MILLIONS = {"mvitv2_l_k400_40x3": 213.39}
ACTUAL_GIGA_MACS = {"mvitv2_l_in1k": 43.87, "mvitv2_l_in21k": 43.87}
HUGE = {
    "MVIT.EMBED_DIM": 192,
    "MVIT.NUM_HEADS": 3,
    "MVIT.DEPTH": 80,
    "MVIT.DIM_MUL": [[4, 2.0], [12, 2.0], [72, 2.0]],
    "MVIT.HEAD_MUL": [[4, 2.0], [12, 2.0], [72, 2.0]],
    "MVIT.POOL_Q_STRIDE": [[i, 2, 2] if i in (4, 12, 72) else [i, 1, 1] for i in range(80)],
}
ZOO = [
    *(f"mvitv2_{size}_in1k" for size in "tsbl"),
    *(f"mvitv2_{size}_in21k" for size in "blh"),
    *("mvitv2_s_k400_16x4", "mvitv2_b_k400_32x3", "mvitv2_l_k400_40x3"),
    *("mvitv2_s_ssv2_16x4", "mvitv2_b_ssv2_32x3", "mvitv2_l_ssv2_40x3"),
]


def zoo_overrides(identifier: str) -> tuple[dict, dict]:
    """A zoo row and the keys of it that make the network."""
    entries = {entry["id"]: entry for entry in golden.table("zoo")["entries"]}
    row = entries[identifier]
    if identifier == "mvitv2_h_in21k":
        _, settings = zoo_overrides("mvitv2_b_in21k")
        return row, {**settings, **HUGE}
    settings = {**row["defaults_in_effect"], **row["recipe"]}
    wanted = ("MVIT.", "DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE", "DATA.INPUT_CHANNEL_NUM", "MODEL.NUM", "MODEL.DROP")
    not_keys = ("MVIT.NORM", "MVIT.LAYER_SCALE_INIT_VALUE", "MVIT.USE_FIXED_SINCOS_POS")
    picked = {k: v for k, v in settings.items() if k.startswith(wanted) and k not in not_keys}
    return row, {k: v for k, v in picked.items() if v is not None}


@pytest.mark.parametrize("identifier", ZOO)
def test_every_published_row_has_its_size_and_cost(identifier):
    row, settings = zoo_overrides(identifier)
    with torch.device("meta"):
        model = build(settings)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    published = ACTUAL_MILLIONS.get(identifier, row["published"]["params_m"])
    assert millions == pytest.approx(published, rel=0.002, abs=0.55 if published == int(published) else 0.06)
    giga_macs = meta_giga_macs(model, 1, 3, *model.input_shape)
    identical = ACTUAL_GIGA_MACS.get(identifier, row["published"]["gflops"])
    assert giga_macs == pytest.approx(identical, rel=0.01)


@pytest.mark.parametrize(
    ("identifier", "parameters", "giga_macs"),
    [("mvitv2_b_in21k", 65444032, 10.2), ("mvitv2_l_in21k", 234583216, 42.1), ("mvitv2_h_in21k", 694804128, 120.6)],
)
def test_in21k_checkpoints_have_a_class_token_and_19168_classes(identifier, parameters, giga_macs):
    _, settings = zoo_overrides(identifier)
    settings |= {"MODEL.NUM_CLASSES": 19168, "MVIT.CLS_EMBED_ON": True, "MVIT.DIM_MUL_IN_ATT": True}
    with torch.device("meta"):
        model = build(settings)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert meta_giga_macs(model, 1, 3, 224, 224) == pytest.approx(giga_macs, rel=0.01)


@pytest.mark.parametrize("size", ["tiny", *(pytest.param(s, marks=slow) for s in ("small", "base", "large"))])
def test_timm_gives_the_same_logits(size):
    timm = pytest.importorskip("timm")
    _, settings = zoo_overrides(f"mvitv2_{size[0]}_in1k")
    theirs = timm.create_model(f"mvitv2_{size}", pretrained=False)
    randomised(theirs, seed=3).eval()
    ours = build(settings).double().eval()
    ours.load_state_dict(from_timm(theirs.state_dict()))
    image = clip_for(ours, batch=1)
    with torch.no_grad():
        expected, logits = theirs(image), ours(image)
    assert (logits - expected).abs().max().item() < 1e-9 * max(1.0, expected.abs().max().item())


# The arithmetic of relative positions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "keys"), [(78, 10), (39, 10), (56, 7), (7, 14), (20, 20), (3, 5), (312, 39)])
def test_table_rows_round_as_published(queries, keys):
    f = np.float32
    a, b = max(keys / queries, 1.0), max(queries / keys, 1.0)
    offset = f((keys - 1) * b)
    rows = [[int(f(f(f(i) * f(a)) - f(f(j) * f(b))) + offset) for j in range(keys)] for i in range(queries)]
    assert table_rows(queries, keys).tolist() == rows
    assert table_rows(queries, keys).max() < 2 * max(queries, keys) - 1


def rows_moved(queries: int, keys: int) -> float:
    """Share of the rows that float32 moves, always to the one below."""
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    small, large = min(queries, keys), max(queries, keys)
    a, b = (large, small) if keys > queries else (small, large)
    exact = (i * a - j * b + (keys - 1) * b) // small  # everything in units of 1 / small
    moved = table_rows(queries, keys).numpy() - exact
    assert set(np.unique(moved)) <= {-1, 0}
    return (moved != 0).mean()


@pytest.mark.parametrize(("queries", "keys", "share"), [(78, 10, 0.13), (39, 10, 0.10), (56, 7, 0), (7, 14, 0)])
def test_rows_that_rounding_moves(queries, keys, share):
    assert rows_moved(queries, keys) == pytest.approx(share, abs=0.006)


def test_rounding_concerns_few_crops():
    """Of the published video strides (keys 8, halved with every stage) at crops in steps of 8."""
    concerned = set()
    for crop in range(128, 513, 8):
        grid = query_grid = crop // 4
        for stage in range(4):
            stride = 8 >> stage
            query_grid = -(-grid // 2) if stage else grid
            pairs = [(query_grid, -(-g // stride)) for g in (grid, query_grid)]
            if any(rows_moved(*pair) for pair in pairs):
                concerned.add(crop)
            grid = query_grid
    assert concerned == {312, 344, 376, 456}


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize(
    ("grid", "table_grid", "q_stride", "kv_stride"),
    [
        ((2, 5, 5), (2, 4, 4), (1, 2, 2), (1, 1, 1)),  # more keys than queries, tables of another length
        ((2, 6, 6), (2, 6, 6), (1, 1, 1), (1, 3, 3)),
        ((2, 6, 6), (2, 6, 6), (1, 1, 2), (1, 1, 2)),  # columns pooled alone
        ((4, 3, 3), (4, 3, 3), (2, 1, 1), (1, 2, 2)),  # time pooled: its table is still made for all frames
    ],
)
def test_attention_is_the_written_formula(grid, table_grid, q_stride, kv_stride, cls_token):
    torch.manual_seed(0)
    heads, dim = 2, 12
    options = AttentionOptions(cls_token=cls_token, rel_pos_spatial=True, rel_pos_temporal=True, residual_pooling=True)
    pool_q, pool_kv = Pooling((3, 3, 3), q_stride), Pooling((3, 3, 3), kv_stride)
    attention = randomised(MultiScaleAttention(dim, dim, heads, grid, table_grid, pool_q, pool_kv, options))
    nn.init.eye_(attention.proj.weight)
    nn.init.zeros_(attention.proj.bias)
    pooled = {}
    for name in "qkv":
        norm = attention.get_submodule(f"norm_{name}")
        norm.register_forward_hook(lambda _, __, output, name=name: pooled.__setitem__(name, output[0].detach()))
    first, scale = int(cls_token), (dim // heads) ** -0.5
    x = torch.randn(1, first + int(np.prod(grid)), dim, dtype=torch.float64)
    result = attention(x)[0].detach().numpy().reshape(-1, heads, dim // heads)

    q, k, v = (pooled[name].numpy() for name in "qkv")
    query_grid, key_grid = attention.out_grid, attention.key_grid
    tables = {}
    for axis, name in enumerate("thw"):
        stored = getattr(attention, f"rel_pos_{name}").detach().numpy()
        needed = 2 * max(query_grid[axis], key_grid[axis]) - 1
        at = (np.arange(needed) + 0.5) * len(stored) / needed - 0.5
        tables[axis] = np.stack([np.interp(at, np.arange(len(stored)), column) for column in stored.T], axis=1)
    for head in range(heads):
        scores = scale * q[:, head] @ k[:, head].T
        patches = itertools.product(*map(range, query_grid)), itertools.product(*map(range, key_grid))
        for (i, place), (j, other) in itertools.product(enumerate(patches[0]), list(enumerate(patches[1]))):
            for axis in range(3):
                row = table_rows(query_grid[axis], key_grid[axis])[place[axis], other[axis]]
                scores[first + i, first + j] += q[first + i, head] @ tables[axis][row]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = weights / weights.sum(axis=1, keepdims=True) @ v[:, head]
        expected[first:] += q[first:, head]
        np.testing.assert_allclose(result[:, head], expected, atol=1e-12)


@pytest.mark.parametrize(("factor", "width"), [(1.05, 31), (1.06, 32), (2.1, 63)])
def test_widths_are_rounded_in_float32_as_published(factor, width):
    """30 * 1.05 is a little less than 31.5 in float32."""
    model = build({**VIDEO, "MVIT.EMBED_DIM": 30, "MVIT.DIM_MUL": [[1, factor]], "MVIT.HEAD_MUL": []})
    assert model.num_features == width


def test_tables_of_rows_and_columns_share_a_stride():
    """As published, both are made for the stride of the rows; the forward pass resizes them."""
    options, pooling = AttentionOptions(rel_pos_spatial=True), Pooling((1, 3, 3), (1, 1, 2))
    attention = MultiScaleAttention(8, 8, 2, (2, 6, 6), (2, 6, 6), pooling, pooling, options)
    assert attention.out_grid == attention.key_grid == (2, 6, 3)
    assert len(attention.rel_pos_h) == len(attention.rel_pos_w) == 11


# Forms of the same network --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("seed", range(14))
def test_traced_attention_equals_the_fused_one(seed):
    model = randomised(build(random_configuration(seed)), seed).eval()
    clip = clip_for(model)
    with torch.no_grad():
        traced = torch.jit.trace(model, clip, check_trace=False)
        assert (traced(clip) - model(clip)).abs().max() < 1e-10


def separate(state: dict) -> dict:
    """Weights with one q/k/v projection as weights with three."""
    parts = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            parts |= {name.replace(".qkv.", f".{n}."): t for n, t in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            parts[name] = tensor
    return parts


def same_logits(model: MViT, other: MViT) -> bool:
    clip = clip_for(model)
    with torch.no_grad():
        return torch.allclose(model.eval()(clip), other.eval()(clip), rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", [VIDEO, IMAGE], ids=["video", "image"])
def test_three_projections_do_what_one_does(settings):
    model = randomised(build(settings))
    other = build({**settings, "MVIT.SEPARATE_QKV": True}).double()
    other.load_state_dict(separate(model.state_dict()))
    assert same_logits(model, other)


@pytest.mark.parametrize("settings", [VIDEO, IMAGE], ids=["video", "image"])
def test_linear_pooling_may_come_first(settings):
    settings = {**settings, "MVIT.MODE": "avg", "MVIT.QKV_BIAS": False}
    model = randomised(build(settings))
    other = build({**settings, "MVIT.POOL_FIRST": True}).double()
    other.load_state_dict(separate(model.state_dict()))
    assert same_logits(model, other)


def test_unshared_filters_of_one_head_are_shared_ones():
    settings = {**VIDEO, "MVIT.HEAD_MUL": []}
    model = randomised(build(settings))
    other = build({**settings, "MVIT.MODE": "conv_unshared"}).double()
    other.load_state_dict(model.state_dict())
    assert same_logits(model, other)


def test_unshared_filters_belong_to_all_features():
    model = build({**VIDEO, "MVIT.MODE": "conv_unshared", "MVIT.POOL_FIRST": True})
    assert model.blocks[1].attn.pool_q.weight.shape == (16, 1, 3, 3, 3)
    assert model.blocks[1].attn.norm_q.weight.shape == (16,)


def test_slowfast_image_networks_pool_in_three_dimensions():
    model = build(SLOWFAST_IMAGE)
    assert model.input_shape == (32, 32)
    assert model.blocks[0].attn.pool_q.weight.shape == (16, 1, 1, 3, 3)
    flat = build({**IMAGE, "MVIT.CLS_EMBED_ON": True}).double()
    randomised(model)
    flat.load_state_dict({k: v.squeeze(2) if v.dim() == 5 else v for k, v in model.state_dict().items()})
    assert same_logits(model, flat)


def test_blocks_that_are_not_listed_do_not_pool():
    model = build(MVIT_V1)
    assert [block.attn.pool_q is not None for block in model.blocks] == [False, True, False, True]
    # Without POOL_KVQ_KERNEL a kernel is stride + 1; a stride of 1 leaves nothing to pool.
    assert model.blocks[0].attn.pool_k.weight.shape[2:] == (1, 5, 5)
    assert model.blocks[3].attn.pool_k is None
    # Widened by the MLP of the block before the listed one.
    assert [block.mlp.fc2.out_features for block in model.blocks] == [32, 32, 64, 64]


def test_key_strides_shrink_with_the_grid():
    model = build(VIDEO)
    assert [block.attn.out_grid for block in model.blocks] == [(3, 8, 8), (3, 4, 4), (3, 4, 4), (3, 2, 2)]
    assert [block.attn.key_grid for block in model.blocks] == [(3, 2, 2), (3, 4, 4), (3, 2, 2), (3, 4, 4)]


# The contract of every network ----------------------------------------------------------------------------------------


def test_features_and_head_make_the_logits(small):
    clip = clip_for(small, dtype=torch.float32)
    small.eval()
    with torch.no_grad():
        features = small.forward_features(clip)
        assert features.shape == (2, small.num_features)
        assert torch.equal(small.forward_head(features), small(clip))
        assert small(clip).shape == (2, 5)


@pytest.mark.parametrize("seed", range(14))
def test_every_parameter_learns_on_fresh_weights(seed):
    settings = {**random_configuration(seed), "MVIT.DROPOUT_RATE": 0.1, "MVIT.DROPPATH_RATE": 0.2}
    torch.manual_seed(seed)
    model = build(settings).train()
    model(clip_for(model, dtype=torch.float32)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("counts", [-1, [1, 0, 2], 1])
@pytest.mark.parametrize("settings", [VIDEO, MVIT_V1], ids=["v2", "v1"])
def test_recomputing_activations_changes_no_gradient(settings, counts):
    settings = {**settings, "MVIT.DIM_MUL": [[1, 2.0]], "MVIT.HEAD_MUL": [[1, 2.0]], "MVIT.DROPPATH_RATE": 0.4}
    plain = randomised(build(settings)).train()
    recomputing = build(settings, checkpoint_blocks=counts).double().train()
    recomputing.load_state_dict(plain.state_dict())
    gradients = []
    for model in (plain, recomputing):
        torch.manual_seed(5)
        model(clip_for(model)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_stages_for_recomputing_begin_with_a_strided_query():
    recomputed = build(VIDEO, checkpoint_blocks=[0, 1, 1])._recompute
    assert recomputed == [False, True, False, True]
    assert build({**VIDEO, "MODEL.ACT_CHECKPOINT": True})._recompute == [True] * 4


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "eager") for name in SMALL),
        *(pytest.param(name, "inductor", marks=slow) for name in ("odd_grid", "v1")),
    ],
)
def test_compiled_without_graph_breaks(name, backend):
    torch._dynamo.reset()
    settings = {**SMALL[name], "MVIT.DROPPATH_RATE": 0.0, "MODEL.DROPOUT_RATE": 0.0}
    if backend == "inductor":  # which takes long over every block
        settings |= {"MVIT.DEPTH": 2, "MVIT.POOL_Q_STRIDE": [[1, 1, 2, 2]], "MVIT.DIM_MUL": [], "MVIT.HEAD_MUL": []}
    model = randomised(build(settings)).train()
    clip = clip_for(model)
    logits = model(clip)
    logits.square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend=backend)(clip)
    compiled.square().sum().backward()
    assert torch.allclose(compiled, logits, rtol=0, atol=1e-9)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-7, atol=1e-9), name


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=slow) if seed else seed for seed in range(14)])
def test_random_networks_compile(seed):
    torch._dynamo.reset()
    model = randomised(build(random_configuration(seed)), seed).eval()
    clip = clip_for(model)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.allclose(compiled(clip), model(clip), rtol=0, atol=1e-9)


def test_compiled_with_recomputed_blocks():
    torch._dynamo.reset()
    model = randomised(build(VIDEO, checkpoint_blocks=-1)).eval()
    clip = clip_for(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    compiled(clip).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_low_precision_stays_close(small):
    randomised(small).eval()
    clip = clip_for(small)
    with torch.no_grad():
        exact = small(clip)
        spread = exact.std()
        single = small.float()(clip.float())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = small(clip.float())
        half = small.bfloat16()(clip.bfloat16())
    assert (single - exact).abs().max() < 1e-4 * spread
    for logits in (mixed, half):
        assert logits.dtype == torch.bfloat16
        assert (logits - exact).abs().max() < 0.2 * spread


def test_mixed_precision_training_gives_finite_gradients(small):
    small.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = small(clip_for(small, dtype=torch.float32)).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in small.parameters())


def test_reset_head(small):
    old = {name: p.clone() for name, p in small.named_parameters() if not name.startswith("head.")}
    small.double().reset_head(7)
    assert small(clip_for(small)).shape == (2, 7)
    assert small.head.projection.weight.dtype == torch.float64
    assert all(torch.equal(old[name], p.float()) for name, p in small.named_parameters() if name in old)


def test_layer_groups_hold_every_parameter_once(small):
    groups = small.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in small.named_parameters())
    assert len(groups) == 2 + len(small.blocks)
    assert "patch_embed.proj.weight" in groups[0]
    assert all(name.startswith("blocks.1.") for name in groups[2])
    assert set(groups[-1]) == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}


def test_weight_decay_exemptions():
    exempt = build(VIDEO).no_weight_decay()
    assert {"cls_token", "blocks.2.attn.rel_pos_h", "blocks.0.attn.rel_pos_t"} <= exempt
    assert build(MVIT_V1).no_weight_decay() == {
        "cls_token",
        "pos_embed_spatial",
        "pos_embed_temporal",
        "pos_embed_class",
    }
    assert build({**VIDEO, "MVIT.ZERO_DECAY_POS_CLS": False}).no_weight_decay() == set()


def test_fresh_weights_follow_the_published_code():
    torch.manual_seed(0)
    video, image = build({**VIDEO, "MVIT.HEAD_INIT_SCALE": 0.5, "MVIT.EMBED_DIM": 64}), build(IMAGE)
    attention = video.blocks[0].attn
    assert attention.qkv.bias.eq(0.02).all()
    assert attention.norm_q.bias.eq(0.02).all()
    assert attention.norm_q.weight.eq(1).all()
    for tensor in (attention.pool_q.weight, video.patch_embed.proj.weight, attention.rel_pos_h, video.cls_token):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.25)
    assert video.head.projection.bias.eq(0.01).all()
    assert video.head.projection.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert image.blocks[0].attn.qkv.bias.eq(0).all()
    assert image.norm.bias.eq(0).all()
    assert image.patch_embed.proj.weight.abs().max() <= (3 * 7 * 7) ** -0.5
    zero = build({**VIDEO, "MVIT.REL_POS_ZERO_INIT": True})
    assert zero.blocks[0].attn.rel_pos_h.eq(0).all()


def test_stochastic_depth_grows_linearly():
    model = build({**VIDEO, "MVIT.DROPPATH_RATE": 0.3})
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (VIDEO, (1, 3, 32, 32), r"\[N, C, T, H, W\]"),
        (VIDEO, (1, 4, 6, 32, 32), "3 channels"),
        (VIDEO, (1, 3, 6, 40, 40), r"6x32x32 \(TxHxW\), got 6x40x40"),
        (VIDEO, (1, 3, 8, 32, 32), "6x32x32"),
        (IMAGE, (1, 3, 2, 32, 32), r"\[N, C, H, W\]"),
        (IMAGE, (1, 3, 64, 64), r"32x32 \(HxW\), got 64x64"),
    ],
)
def test_inputs_that_do_not_fit(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        build(settings)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**VIDEO, "MVIT.MODE": "mean"}, "conv, conv_unshared, max, avg"),
        ({**VIDEO, "MVIT.PATCH_PADDING": [2, 4, 4]}, "padding of half the kernel"),
        ({**VIDEO, "DATA.TRAIN_CROP_SIZE": 34}, "a size that the stride divides"),
        ({**IMAGE, "DATA.TRAIN_CROP_SIZE": 36}, "a crop size that all strides divide"),
        ({**IMAGE, "MVIT.REL_POS_TEMPORAL": True}, "three entries for clips and for positions in time"),
        ({**VIDEO, "MVIT.POOL_KVQ_KERNEL": [3, 3]}, "three entries for clips"),
        ({**VIDEO, "MVIT.POOL_KV_STRIDE_ADAPTIVE": [4, 4]}, "MVIT.POOL_KV_STRIDE_ADAPTIVE wants 3 entries"),
        ({**VIDEO, "MVIT.POOL_Q_STRIDE": [[4, 1, 2, 2]]}, r"a block \(0 to 3\) and 3 strides"),
        ({**VIDEO, "MVIT.DIM_MUL": [[1, 2.0, 3]]}, "MVIT.DIM_MUL wants pairs"),
        ({**VIDEO, "MVIT.HEAD_MUL": [[1, 2.0], [5, 2.0]]}, r"MVIT.HEAD_MUL wants pairs of a block \(0 to 4\)"),
        ({**MVIT_V1, "MVIT.NUM_HEADS": 3}, "3 heads do not divide the width 16"),
        ({**VIDEO, "MVIT.PATCH_KERNEL": [7, 7]}, "two entries for images, three for clips"),
        ({**VIDEO, "MVIT.POOL_KVQ_KERNEL": [2, 2, 2]}, "the shortcut has"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        build(settings)


def test_an_image_patch_embedding_wants_two_entries():
    with pytest.raises(ConfigError, match="PATCH_2D wants two entries"):
        build({**VIDEO, "MVIT.PATCH_2D": True})


def test_recompute_counts_must_fit_the_stages():
    with pytest.raises(ValueError, match="3 stages"):
        build(VIDEO, checkpoint_blocks=[1, 1, 1, 1])
