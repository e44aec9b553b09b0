"""UniFormer: S, B and the light models against the published numbers, and the contract that every network keeps."""

import math
import random

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import videobench
from videobench.models import flops
from videobench.models.convolutions import DepthwiseConv3d, PointwiseConv3d
from videobench.models.uniformer import AttentionBlock, DividedAttentionBlock, Uniformer
from videobench.models.uniformer_light import HourglassBlock, LightUniformer, pool_score

FILES = [
    "uniformer_s_k400_16x4",
    "uniformer_b_k400_8x8",
    "uniformer_xxs_k400_4x128",
    "uniformer_xxs_k400_8x160",
    "uniformer_xs_k400_32x192",
]
NAMES = ["Uniformer", "Uniformer_light_fp32", "Uniformer_light_ls_fp32"]
PRUNED = [[], [], [1, 0.5, 0.7], [0.6, 1]]


def build(*overrides, seed: int = 0) -> nn.Module:
    """A network of the public face, by default a tiny one."""
    tiny = ["UNIFORMER.EMBED_DIM", [8, 12, 16, 24], "UNIFORMER.DEPTH", [1, 2, 3, 2], "UNIFORMER.HEAD_DIM", 8]
    tiny += ["UNIFORMER.MLP_RATIO", 2, "UNIFORMER.PRUNE_RATIO", PRUNED, "UNIFORMER.TRADE_OFF", PRUNED]
    tiny += ["MODEL.NUM_CLASSES", 5, "UNIFORMER.DROP_DEPTH_RATE", 0.0]
    torch.manual_seed(seed)
    return videobench.build_model(videobench.load_config([], [*tiny, *overrides]))


def losses(logits: Tensor | dict[str, Tensor]) -> Tensor:
    heads = logits.values() if isinstance(logits, dict) else [logits]
    return torch.stack([head.square().mean() for head in heads]).mean()


def gradients(model: nn.Module, clip: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    losses(model(clip)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights far from their special start values (zero token, zero temporal branch, equal norms)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


# Published numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_published_logits_and_probes(name):
    reference = golden.model_file("uniformer", name)
    model = videobench.build_model(videobench.load_config([], golden.build_overrides(reference))).double().eval()
    model.load_state_dict(golden.state(reference))
    outputs = {}
    for module in {probe["module"] for probe in reference["probes"]}:
        model.get_submodule(module).register_forward_hook(
            lambda _, __, output, module=module: outputs.update({module: output})
        )
    with torch.no_grad():
        logits = model(golden.clip(reference))
    for probe in reference["probes"]:
        torch.testing.assert_close(
            describe(pick(outputs[probe["module"]], probe)),
            torch.tensor([probe["mean"], probe["std"], *probe["first"]], dtype=torch.float64),
            rtol=0,
            atol=1e-8,
            msg=lambda text, probe=probe: f"{probe['after']}: {text}",
        )
    expected = torch.tensor([reference["logits"]], dtype=torch.float64)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


def pick(output: Tensor | tuple[Tensor, ...], probe: dict) -> Tensor:
    """What a probe describes, of a module's output; light blocks give (class token, patch tokens, token score)."""
    if isinstance(output, Tensor):
        picked = output
    elif len(output) == 2:
        picked = output[0]
    elif "item" in probe:
        picked = output[probe["item"]]
    else:
        picked = pool_score(output[2], output[1].shape[2:]) if "pooled" in probe["after"] else output[2]
    assert list(picked.shape) == probe["shape"], probe["after"]
    return picked


def describe(x: Tensor) -> Tensor:
    return torch.cat([torch.stack([x.mean(), x.std(correction=0)]), x.flatten()[:8]])


@pytest.mark.parametrize("name", FILES)
def test_published_parameters_and_multiply_adds(name):
    reference = golden.model_file("uniformer", name)
    model = videobench.build_model(videobench.load_config([], golden.build_overrides(reference)))
    assert sum(p.numel() for p in model.parameters()) == reference["parameters"]
    counted = flops.giga_macs(model, *reference["measured_gmacs_input"])
    assert counted == pytest.approx(reference["measured_gmacs_per_view"], rel=1e-3)


# The contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_logits_features_and_heads(name):
    model = build("MODEL.MODEL_NAME", name).eval()
    clip = torch.randn(2, 3, 5, 38, 64)
    features = model.forward_features(clip)
    assert features.shape == (2, model.num_features)
    torch.testing.assert_close(model(clip), model.forward_head(features))
    model.reset_head(7)
    assert model(clip).shape == (2, 7)
    logits = model.train()(clip)
    if name == "Uniformer":
        assert logits.shape == (2, 7)
    else:
        assert {key: value.shape for key, value in logits.items()} == {"tokens": (2, 7), "class_token": (2, 7)}
    heads = {parameter for parameter, _ in model.named_parameters() if model.is_head(parameter)}
    assert len(heads) == (2 if name == "Uniformer" else 4)


@pytest.mark.parametrize("name", [*NAMES, "divided"])
def test_every_parameter_has_one_layer_and_a_finite_gradient(name):
    overrides = ["UNIFORMER.SPLIT", True] if name == "divided" else ["MODEL.MODEL_NAME", name]
    model = build(*overrides, "UNIFORMER.DROP_DEPTH_RATE", 0.2, "UNIFORMER.DROPOUT_RATE", 0.1).train()
    groups = model.layer_groups()
    names = [name for name, _ in model.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert len(groups) == 1 + sum(model.depths) + 1
    assert all(name.startswith("patch_embed1") for name in groups[0])
    assert {"head.weight", "norm.weight"} <= set(groups[-1])
    for parameter, gradient in gradients(model, torch.randn(4, 3, 4, 32, 32)).items():
        assert gradient is not None, parameter
        assert gradient.isfinite().all(), parameter


@pytest.mark.parametrize("name", [*NAMES, "divided"])
def test_recomputed_activations_change_nothing(name):
    overrides = ["UNIFORMER.SPLIT", True] if name == "divided" else ["MODEL.MODEL_NAME", name]
    recompute = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [1, 1, 2, -1]]
    clip = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    stored = build(*overrides).double()
    recomputed = build(*overrides, *recompute).double()
    torch.testing.assert_close(gradients(recomputed, clip), gradients(stored, clip), rtol=0, atol=1e-14)
    torch.testing.assert_close(recomputed.state_dict(), stored.state_dict(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [*NAMES, "divided"])
def test_reduced_precision_stays_close(name):
    overrides = ["UNIFORMER.SPLIT", True] if name == "divided" else ["MODEL.MODEL_NAME", name]
    model = build(*overrides).double().eval()
    randomise(model)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        exact = model(clip.double())
        single = model.float()(clip)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(clip)
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
    assert half.isfinite().all()
    if name in ("Uniformer", "divided"):  # in the light models close scores may change places
        assert F.cosine_similarity(half.double(), exact).min() > 0.99
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = gradients(model.train(), clip)
    assert all(gradient.isfinite().all() for gradient in trained.values())


@pytest.mark.parametrize("overrides", [["UNIFORMER.SPLIT", True], ["MODEL.MODEL_NAME", NAMES[2]]])
def test_one_graph(overrides):
    model = build("UNIFORMER.DEPTH", [1, 1, 2, 1], *overrides)
    randomise(model)
    check_compiled(model, backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_compiled_random_networks(seed):
    check_compiled(random_network(seed, deepest=1), backend="inductor")


def check_compiled(model: nn.Module, backend: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(clip), model.eval()(clip), rtol=1e-4, atol=1e-5)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = gradients(model.train(), clip)
    model.load_state_dict(state)
    torch.testing.assert_close(gradients_of_compiled(compiled, model, clip), expected, rtol=1e-3, atol=1e-4)


def gradients_of_compiled(compiled: nn.Module, model: nn.Module, clip: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    losses(compiled(clip)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def random_network(seed: int, deepest: int = 2) -> nn.Module:
    rng = random.Random(seed)
    heads = rng.choice([4, 8])
    depths = [rng.randint(1, deepest) for _ in range(4)]
    shares = [[rng.choice([1, 0.3, 0.5, 0.9]) for _ in range(depth)] for depth in depths]
    shares[2][0] = 1  # scores come from the first block
    name = NAMES[seed % 3]
    model = build(
        *("MODEL.MODEL_NAME", name, "UNIFORMER.DEPTH", depths, "UNIFORMER.HEAD_DIM", heads),
        *("UNIFORMER.EMBED_DIM", [heads * rng.randint(1, 3) for _ in range(4)]),
        *("UNIFORMER.MLP_RATIO", [rng.choice([1, 2.5, 3]) for _ in range(4)]),
        *("UNIFORMER.PRUNE_RATIO", shares, "UNIFORMER.TRADE_OFF", shares),
        *("UNIFORMER.STD", rng.random() < 0.5, "UNIFORMER.QKV_BIAS", rng.random() < 0.5),
        *("UNIFORMER.SPLIT", name == "Uniformer" and rng.random() < 0.5),
    )
    randomise(model, seed)
    return model


@pytest.mark.parametrize("seed", range(9))
def test_random_networks(seed):
    model = random_network(seed).double().eval()
    rng = random.Random(seed)
    clip = torch.randn(2, 3, rng.randint(1, 6), rng.randint(32, 70), rng.randint(32, 70), dtype=torch.float64)
    logits = model(clip)
    assert logits.isfinite().all()
    # Neither the other clips of a batch nor the memory order change a clip's logits.
    torch.testing.assert_close(model(clip[1:]), logits[1:])
    torch.testing.assert_close(model(clip.contiguous(memory_format=torch.channels_last_3d)), logits)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_clips_are_refused(name):
    model = build("MODEL.MODEL_NAME", name)
    for clip, message in [
        (torch.randn(3, 4, 32, 32), "takes a clip"),
        (torch.randn(1, 4, 4, 32, 32), "3 channels"),
        (torch.randn(1, 3, 4, 31, 64), "32x32"),
        (torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8), "floating-point"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(clip)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["UNIFORMER.EMBED_DIM", [8, 16, 24]], "EMBED_DIM"),
        (["UNIFORMER.MLP_RATIO", [2, 2]], "MLP_RATIO"),
        (["UNIFORMER.HEAD_DIM", 32], "attention heads"),
        (["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [1, 2]], "CHECKPOINT_NUM"),
        (["MODEL.MODEL_NAME", NAMES[1], "UNIFORMER.PRUNE_RATIO", [[], [], [0.5] * 3, [0.5] * 2]], "first block"),
        (["MODEL.MODEL_NAME", NAMES[1], "UNIFORMER.PRUNE_RATIO", [[], [], [1], [0.5]]], "PRUNE_RATIO"),
        (["MODEL.MODEL_NAME", NAMES[1], "UNIFORMER.PRUNE_RATIO", [[], [], [1, 2, 1], [1, 1]]], "shares"),
        (["MODEL.MODEL_NAME", NAMES[1], "UNIFORMER.TRADE_OFF", [[], []]], "TRADE_OFF"),
        (["MODEL.MODEL_NAME", NAMES[2], "UNIFORMER.SPLIT", True], "SPLIT"),
    ],
)
def test_impossible_configurations_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        build(*overrides)


def test_a_scale_of_zero_asks_for_the_usual_one():
    for value, scale in ((None, 8**-0.5), (0, 8**-0.5), (0.5, 0.5)):
        assert build("UNIFORMER.QKV_SCALE", value).blocks3[0].attn.scale == scale


def test_switches_reach_the_layers():
    model = build(
        *("UNIFORMER.STD", True, "UNIFORMER.QKV_BIAS", False, "UNIFORMER.QKV_SCALE", 0.5),
        *("UNIFORMER.DROP_DEPTH_RATE", 0.7, "UNIFORMER.MLP_RATIO", [1, 2, 3, 4], "UNIFORMER.DROPOUT_RATE", 0.25),
    )
    assert isinstance(model, Uniformer)
    assert model.patch_embed3.proj.weight.shape[2:] == (3, 2, 2)
    assert model.blocks3[0].attn.qkv.bias is None
    assert model.blocks3[0].attn.scale == 0.5
    rates = [block.drop_path.rate for stage in range(1, 5) for block in model.get_submodule(f"blocks{stage}")]
    assert rates == pytest.approx([0.1 * index for index in range(8)])
    assert [model.get_submodule(f"blocks{s}.0.mlp.fc1").weight.shape[0] for s in (1, 2, 3, 4)] == [8, 24, 48, 96]
    assert model.pos_drop.p == model.blocks4[1].attn.proj_drop.p == 0.25
    scaled = build("MODEL.MODEL_NAME", NAMES[2], "UNIFORMER.INIT_VALUE", 0.3)
    assert isinstance(scaled, LightUniformer)
    assert scaled.blocks1[0].gamma_1.shape == (1, 8, 1, 1, 1)
    assert scaled.blocks4[0].gamma_2.tolist() == pytest.approx([0.3] * 24)


# The parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(1, 4, 1, 5, 7), (2, 8, 3, 6, 5), (2, 3, 7, 9, 4)])
def test_depthwise_convolution_and_its_gradient(size, shape):
    torch.manual_seed(size)
    fast = DepthwiseConv3d(shape[1], size)
    plain = nn.Conv3d(shape[1], shape[1], size, padding=size // 2, groups=shape[1]).double()
    plain.load_state_dict(fast.state_dict())
    clip = torch.randn(shape, requires_grad=True)
    exact = clip.detach().double().requires_grad_()
    weights = torch.randn(shape)
    (fast(clip) * weights).sum().backward()
    (plain(exact) * weights).sum().backward()
    torch.testing.assert_close(fast(clip).double(), plain(exact), rtol=1e-5, atol=1e-5)
    for ours, theirs in [(clip, exact), (fast.weight, plain.weight), (fast.bias, plain.bias)]:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


def test_pointwise_convolution():
    fast, plain = PointwiseConv3d(4, 6).double(), nn.Conv3d(4, 6, 1).double()
    plain.load_state_dict(fast.state_dict())
    clip = torch.randn(2, 4, 3, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(fast(clip), plain(clip))


def test_divided_attention_against_loops():
    block = DividedAttentionBlock(8, 2, {"num_heads": 2}).double().eval()
    randomise(block)
    x = torch.randn(2, 8, 3, 2, 4, dtype=torch.float64)
    positioned = x + block.pos_embed(x)
    timed, mixed = positioned.clone(), positioned.clone()
    for row in range(2):
        for column in range(4):
            line = positioned[:, :, :, row, column].transpose(1, 2)
            timed[:, :, :, row, column] += block.t_attn(block.t_norm(line)).transpose(1, 2)
    for frame in range(3):
        image = timed[:, :, frame].flatten(2).transpose(1, 2)
        mixed[:, :, frame] += block.attn(block.norm1(image)).transpose(1, 2).unflatten(2, (2, 4))
    channels_last = mixed.movedim(1, -1)
    expected = channels_last + block.mlp(block.norm2(channels_last))
    torch.testing.assert_close(block(x), expected.movedim(-1, 1))


def test_fresh_divided_blocks_ignore_time():
    divided = build("UNIFORMER.SPLIT", True).blocks3[0].eval()
    joint = AttentionBlock(16, 2, {"num_heads": 2}).eval()
    joint.load_state_dict({k: v for k, v in divided.state_dict().items() if not k.startswith("t_")})
    image = torch.randn(2, 16, 1, 4, 4)
    torch.testing.assert_close(divided(image), joint(image))


@pytest.mark.parametrize("layer_scale", [None, 0.3])
@pytest.mark.parametrize("keep_ratio", [0.3, 0.5, 0.9])
def test_pruned_block_against_sorting(keep_ratio, layer_scale):
    """Sort, split, run and restore one clip at a time, as the idea is told."""
    settings = {"layer_scale": layer_scale, "keep_ratio": keep_ratio, "trade_off": 0.4}
    block = HourglassBlock(8, 2, {"num_heads": 2}, **settings).double()
    randomise(block)
    class_token, x = torch.randn(2, 1, 8).double(), torch.randn(2, 8, 3, 2, 2).double()
    score = torch.rand(2, 12).double().requires_grad_()
    actual = block(class_token, x, score)

    gamma = (block.gamma_1, block.gamma_2) if layer_scale else (1.0, 1.0)
    all_tokens = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
    for clip in range(2):
        order = score[clip].argsort(descending=True)
        count = int(12 * keep_ratio)
        tokens, sorted_score = all_tokens[clip][order], score[clip][order]
        weights = sorted_score[count:] / sorted_score[count:].sum()
        merged = (weights[:, None] * tokens[count:]).sum(0, keepdim=True)
        sequence = torch.cat([class_token[clip], tokens[:count], merged])[None]

        q, k, v = block.attn.qkv(block.norm1(sequence)).view(1, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) * 4**-0.5).softmax(-1)
        attended = gamma[0] * block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
        hidden = gamma[1] * block.mlp(block.norm2(sequence + attended))
        after = (sequence + attended + hidden)[0]
        gain = (attended + hidden)[0, -1]

        own = attention[0, :, 0, 1:-1].mean(0)
        new_score = torch.cat([0.6 * sorted_score[:count] + 0.4 * own, sorted_score[count:]])
        new_tokens = torch.cat([after[1:-1], tokens[count:] + gain])
        back = order.argsort()
        torch.testing.assert_close(actual[0][clip], after[:1])
        torch.testing.assert_close(actual[1][clip], new_tokens[back].T.unflatten(1, (3, 2, 2)))
        torch.testing.assert_close(actual[2][clip], new_score[back])
    assert torch.autograd.grad(actual[1].square().sum(), score)[0].abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (3, 2, 2)])
def test_a_block_that_would_merge_a_single_token_merges_none(shape):
    pruned, whole = (
        HourglassBlock(8, 2, {"num_heads": 2}, keep_ratio=ratio, trade_off=0.4).double() for ratio in (0.99, 1.0)
    )
    randomise(pruned)
    whole.load_state_dict(pruned.state_dict())
    class_token, x = torch.randn(2, 1, 8).double(), torch.randn(2, 8, *shape).double()
    score = torch.rand(2, math.prod(shape)).double()
    for actual, wanted in zip(pruned(class_token, x, score), whole(class_token, x, score), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_first_score_is_the_attention_of_the_class_token():
    block = HourglassBlock(8, 2, {"num_heads": 2}, trade_off=0.25).double()
    randomise(block)
    class_token, x = torch.randn(2, 1, 8).double(), torch.randn(2, 8, 2, 2, 2).double()
    first = block(class_token, x, None)[2]
    assert (first.sum(1) < 1).all()
    torch.testing.assert_close(block(class_token, x, torch.ones_like(first))[2], 0.75 + 0.25 * first)


def test_pooled_score_keeps_its_sum():
    score = torch.rand(2, 2 * 4 * 5)
    pooled = pool_score(score, (2, 4, 5))
    assert pooled.shape == (2, 2 * 2 * 2)
    torch.testing.assert_close(pooled.sum(1), score.sum(1))


def test_eval_logits_leave_the_class_head_alone():
    model = build("MODEL.MODEL_NAME", "Uniformer_light_fp32").eval()
    clip = torch.randn(1, 3, 4, 32, 32)
    before = model(clip)
    with torch.no_grad():
        model.head_cls.weight.add_(1)
        model.norm_cls.bias.add_(1)
    torch.testing.assert_close(model(clip), before)
