"""MoViNet against the published implementation, and what its streams promise."""

import copy
import random
from dataclasses import replace
from itertools import pairwise

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import videobench
from videobench.models import movinet
from videobench.models.flops import giga_macs
from videobench.models.movinet import MoViNet
from videobench.models.movinet_convolution import Convolution
from videobench.models.movinet_frames import FrameStep
from videobench.models.movinet_layers import ShortcutPool, State
from videobench.models.movinet_variants import VARIANTS, Stage, Variant

slow = pytest.mark.slow
FILES = [
    "movinet_a0_base",
    "movinet_a0_base_notf",
    "movinet_a0_stream",
    pytest.param("movinet_a2_base", marks=slow),
    pytest.param("movinet_a2_stream", marks=slow),
]
TINY = Variant(
    stem=4,
    stages=(Stage(4, "bc", (8, 12), 2, 1, 0), Stage(8, "dc", (16, 12), 2, 0, 0), Stage(12, "ca", (16, 12), 1)),
    head=16,
    hidden=24,
)
MINI = Variant(stem=4, stages=(Stage(4, "b", (8,), 2), Stage(8, "dc", (16, 12), 2, 0, 0)), head=16, hidden=24)
FLAVOURS = [
    {"causal": causal, "conv_type": conv_type, "tf_like": tf_like}
    for causal in (False, True)
    for conv_type in ("3d", "2plus1d")
    for tf_like in (False, True)
]
STREAMS = [flavour for flavour in FLAVOURS if flavour["causal"]]
PUBLISHED_STREAM = {"causal": True, "conv_type": "2plus1d"}


def overrides(build: dict) -> list:
    return [
        *("MODEL.MODEL_NAME", "MoViNet", "MODEL.NUM_CLASSES", build["num_classes"]),
        *("MOVINET.VARIANT", build["variant"], "MOVINET.CAUSAL", build["causal"]),
        *("MOVINET.CONV_TYPE", build["conv_type"], "MOVINET.TF_LIKE", build["tf_like"]),
    ]


def published(name: str) -> tuple[MoViNet, dict]:
    """The network of a golden file, with its weights, in float64."""
    g = golden.model_file("movinet", name)
    model = videobench.build_model(videobench.load_config([], overrides(g["build"])))
    model.double().eval().load_state_dict(golden.state(g))
    return model, g


def tiny(*, seed: int = 0, variant: Variant = TINY, **arguments) -> MoViNet:
    """A small network with random weights everywhere: fresh ones hide all branches behind alpha = 0."""
    generator = torch.Generator().manual_seed(seed)
    model = MoViNet(variant, num_classes=5, dropout=0.0, **arguments).double().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.4, generator=generator)
    return model


def random_clip(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def feed(model: MoViNet, clip: torch.Tensor, pieces: list[int], state: State | None = None) -> list[torch.Tensor]:
    """Logits after each piece of an explicit stream."""
    state = model.stream_state(len(clip)) if state is None else state
    after = []
    for frames in clip.split(pieces, dim=2):
        logits, state = model.stream(frames, state)
        after.append(logits)
    return after


def gradients(model: MoViNet) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


# ---------------------------------------------------------------------------------------------- the published numbers


@pytest.mark.parametrize("name", FILES)
def test_golden(name):
    model, g = published(name)
    assert sum(p.numel() for p in model.parameters()) == g["parameters"]
    seen = {}
    for probe in g["probes"]:
        module = model.get_submodule(probe["module"])
        module.register_forward_hook(lambda _m, _i, out, key=probe["module"]: seen.__setitem__(key, out))
    with torch.no_grad():
        logits = model(golden.clip(g))
    for probe in g["probes"]:
        out, where = seen[probe["module"]], probe["after"]
        assert list(out.shape) == probe["shape"], where
        assert out.mean().item() == pytest.approx(probe["mean"], abs=1e-10), where
        assert out.std(correction=0).item() == pytest.approx(probe["std"], abs=1e-10), where
        first = torch.tensor(probe["first"], dtype=out.dtype)
        torch.testing.assert_close(out.flatten()[:8], first, rtol=0, atol=1e-10, msg=where)
    torch.testing.assert_close(logits, torch.tensor(g["logits"], dtype=logits.dtype).view_as(logits), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FILES)
def test_golden_flops(name):
    model, g = published(name)
    side = g["input"]["shape"][-1]
    one = giga_macs(model.float(), 1, 3, 1, side, side)
    model.clean_activation_buffers()
    two = giga_macs(model, 1, 3, 2, side, side)
    whole = one + 49 * (two - one)  # linear in time
    assert whole == pytest.approx(g["measured_gmacs_per_view"], rel=0.01)


@pytest.mark.parametrize(
    ("name", "base", "stream"),
    [
        ("A0", 3_111_799, 3_748_031),
        ("A1", 4_690_296, 6_447_352),
        ("A2", 5_249_562, 7_326_962),
        ("A3", 7_397_545, 10_986_585),
        ("A4", 11_349_463, 18_136_135),
        ("A5", 18_650_523, 31_495_875),
    ],
)
def test_published_parameter_counts(name, base, stream):
    with torch.device("meta"):
        for want, arguments in ((base, {}), (stream, PUBLISHED_STREAM)):
            model = MoViNet(name, **arguments)
            assert sum(p.numel() for p in model.parameters()) == want
            plain = {k for k in model.state_dict() if k.startswith("blocks.b3_l0.res.")}
            assert bool(plain) == (name in ("A3", "A5"))
            assert all(k.startswith("blocks.b3_l0.res.0.conv_1.") for k in plain)


@pytest.mark.parametrize("name", ["movinet_a0_stream", pytest.param("movinet_a2_stream", marks=slow)])
def test_golden_streams(name):
    model, g = published(name)
    clip = golden.clip(g)
    with torch.no_grad():
        for pieces, wanted in zip(g["stream"]["clips"], g["stream"]["logits_after_each"], strict=True):
            wanted = torch.tensor(wanted, dtype=torch.float64)
            torch.testing.assert_close(
                torch.stack(feed(model, clip, pieces)), wanted.view(-1, 1, 600), rtol=0, atol=1e-8
            )


def test_golden_second_video():
    model, g = published("movinet_a0_stream")
    second = g["stream"]["second_video"]
    first, clip = golden.clip(g), golden.clip(second)[:, :, : second["frames_used"]]
    with torch.no_grad():
        model(first)
        continued = model(clip)
        model.clean_activation_buffers()
        clean = model(clip)
        joined = model.forward_head(model.forward_features(torch.cat([first, clip], 2)))
    for got, key in (
        (clean, "logits_after_clean"),
        (continued, "logits_without_clean"),
        (joined, "logits_without_clean"),
    ):
        torch.testing.assert_close(got, torch.tensor([second[key]], dtype=got.dtype).view_as(got), rtol=0, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_however_a_video_is_cut_its_logits_are_the_same(flavour, positions):
    model = tiny(**flavour, positional_encoding=positions)
    clip = random_clip(2, 3, 16, 37, 30)
    with torch.no_grad():
        prefixes = [model.forward_head(model.forward_features(clip[:, :, : t + 1])) for t in range(16)]
        for pieces in ([16], [8, 8], [2] * 8, [1] * 16, [5, 1, 7, 3]):
            ends = torch.tensor(pieces).cumsum(0) - 1
            for end, logits in zip(ends, feed(model, clip, pieces), strict=True):
                torch.testing.assert_close(logits, prefixes[end], rtol=0, atol=1e-12)
            model.clean_activation_buffers()
            for end, frames in zip(ends, clip.split(pieces, dim=2), strict=True):
                torch.testing.assert_close(model(frames), prefixes[end], rtol=0, atol=1e-12)


def test_streams_of_one_network_do_not_meet():
    model = tiny(**PUBLISHED_STREAM)
    a, b = random_clip(1, 3, 6, 32, 32, seed=1), random_clip(1, 3, 6, 32, 32, seed=2)
    with torch.no_grad():
        alone = [feed(model, clip, [1] * 6)[-1] for clip in (a, b)]
        states = [model.stream_state(1), model.stream_state(1)]
        for t in range(3):
            for i, clip in enumerate((a, b)):
                kept = {key: value.clone() for key, value in states[i].items()}
                _, left = model.stream(clip[:, :, t : t + 1], states[i])
                assert all(torch.equal(states[i][key], kept[key]) for key in kept)
                states[i] = left
        joined = {key: torch.cat([state[key] for state in states]) for key in states[0]}
        both = feed(model, torch.cat([a, b])[:, :, 3:], [1, 2], joined)[-1]
        torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-12)
        # A row that begins anew leaves the other one as it is, each with its own clock.
        renewed = {key: torch.cat([value[:1], torch.zeros_like(value[1:])]) for key, value in joined.items()}
        mixed = feed(model, torch.cat([a[:, :, 3:], b[:, :, :3]]), [3], renewed)[-1]
        wanted = torch.cat([alone[0], feed(model, b[:, :, :3], [3])[-1]])
        torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
@pytest.mark.parametrize("size", [32, (37, 30)])
def test_a_state_that_knows_its_size_keeps_its_shapes(flavour, size):
    model = tiny(**flavour)
    height, width = (size, size) if isinstance(size, int) else size
    clip = random_clip(2, 3, 3, height, width)
    state = model.stream_state(2, size=size)
    with torch.no_grad():
        logits, after = model.stream(clip, state)
        torch.testing.assert_close(logits, feed(model, clip, [3])[-1], rtol=0, atol=0)
    assert {key: (value.shape, value.dtype) for key, value in after.items()} == {
        key: (value.shape, value.dtype) for key, value in state.items()
    }
    assert list(after) == list(state)


def test_no_streams_have_no_logits():
    model = tiny(**PUBLISHED_STREAM)
    frame, state = random_clip(0, 3, 1, 32, 32), model.stream_state(0)
    with torch.no_grad():
        for _ in range(2):
            logits, state = model.stream(frame, state)
    assert logits.shape == (0, 5)
    assert state["head"].shape == (0, 16)


def test_frames_one_by_one_leave_the_state_that_a_piece_leaves():
    model = tiny(**PUBLISHED_STREAM, positional_encoding=True)
    clip = random_clip(2, 3, 4, 37, 30)
    with torch.no_grad():
        _, wanted = model.stream(clip, model.stream_state(2))
        state = model.stream_state(2, size=(37, 30))
        for frame in clip.split(1, dim=2):
            given = {key: value.clone() for key, value in state.items()}
            _, left = model.stream(frame, state)
            assert all(torch.equal(state[key], given[key]) for key in given)
            state = left
    assert list(state) == list(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=1e-12, msg=key)
        assert state[key].is_contiguous(memory_format=torch.channels_last_3d) or not key.endswith("deep")


@pytest.mark.parametrize("batch", [1, 3])
def test_single_frames_in_float32(batch):
    """They take oneDNN's kernels, with weights prepared for the size of the images."""
    model = tiny(**PUBLISHED_STREAM).float()
    with torch.no_grad():
        for size in [(37, 30), (32, 32), (37, 30)]:
            clip = random_clip(batch, 3, 4, *size).float()
            wanted, wanted_state = model.stream(clip, model.stream_state(batch))
            state = model.stream_state(batch, size=size)
            for frame in clip.split(1, dim=2):
                logits, state = model.stream(frame, {key: value.contiguous() for key, value in state.items()})
            torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
            for key, value in wanted_state.items():
                torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-5, msg=key)


def test_single_frames_heed_changed_weights_and_hooks():
    model = tiny(**PUBLISHED_STREAM).requires_grad_(False)
    frame = random_clip(1, 3, 1, 32, 32)

    def step(grad: bool = False) -> torch.Tensor:
        """With gradients, frames go through every module."""
        with torch.set_grad_enabled(grad):
            return model.stream(frame, state)[0]

    state = model.stream_state(1)
    before = step()
    model.load_state_dict({name: 1.1 * tensor for name, tensor in model.state_dict().items()})
    changed = step()
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(changed, step(grad=True), rtol=0, atol=1e-12)
    model.reset_head(3)
    changed = step()
    torch.testing.assert_close(changed, step(grad=True), rtol=0, atol=1e-12)
    last, model.classifier[3] = model.classifier[3], torch.nn.Identity()
    assert step().shape == (1, model.classifier[0].conv_1.conv.full_shape[0])
    model.classifier[3] = last
    seen = []
    handle = model.blocks["b0_l0"].expand.register_forward_hook(lambda _module, _args, out: seen.append(out.shape))
    torch.testing.assert_close(step(), changed, rtol=0, atol=1e-12)
    assert seen == [(1, 8, 1, 16, 16)]
    handle.remove()
    # A stream that begins sees every change.
    model.conv1.conv_1.conv.weight.data.mul_(2.0)
    model.blocks["b1_l1"].deep.conv_2.norm.running_mean.add_(1.0)
    state = model.stream_state(1)
    torch.testing.assert_close(step(), step(grad=True), rtol=0, atol=1e-12)
    model.float()
    frame, state = frame.float(), model.stream_state(1)
    assert step().dtype == torch.float32


def test_single_frames_heed_exchanged_tensors_and_the_hooks_of_every_layer():
    model, other = tiny(**PUBLISHED_STREAM), tiny(**PUBLISHED_STREAM, seed=1)
    frame, seen = random_clip(1, 3, 1, 32, 32), []
    with torch.no_grad():
        state = model.stream_state(1)
        model.stream(frame, state)
        model.load_state_dict(other.state_dict(), assign=True)
        wanted = other.stream(frame, other.stream_state(1))[0]
        torch.testing.assert_close(model.stream(frame, state)[0], wanted, rtol=0, atol=1e-12)
        model.cgap.register_forward_hook(lambda _module, _args, out: seen.append(out.shape))
        model.stream(frame, state)
        assert seen == [(1, 16, 1, 1, 1)]
        with torch.inference_mode():
            other.reset_head(7)  # its tensors count no changes
        assert other.stream(frame, other.stream_state(1))[0].shape == (1, 7)


def test_a_stream_may_begin_while_another_takes_a_frame(monkeypatch):
    """In another thread; here it begins at the moment when the prepared weights have been looked up."""
    model = tiny(**PUBLISHED_STREAM)
    clip = random_clip(1, 3, 3, 32, 32)
    look_up = FrameStep.is_current
    monkeypatch.setattr(FrameStep, "is_current", lambda step, m: look_up(step, m) and bool(model.stream_state(1)))
    with torch.no_grad():
        torch.testing.assert_close(feed(model, clip, [1] * 3)[-1], feed(model, clip, [3])[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("flavour", [PUBLISHED_STREAM, {"causal": True, "conv_type": "3d"}], ids=str)
def test_half_precision_streams(flavour, dtype):
    model = tiny(**flavour)
    clip = random_clip(1, 3, 6, 32, 32)
    with torch.no_grad():
        exact = feed(model, clip, [6])[-1]
        model.to(dtype)
        state = model.stream_state(1)
        assert {value.dtype for key, value in state.items() if key.endswith("deep")} == {dtype}
        assert state["head"].dtype == torch.float32
        for frames in clip.to(dtype).split([2, 1, 1, 2], dim=2):
            logits, state = model.stream(frames, state)
            called = model(frames)
            torch.testing.assert_close(called, logits)
    assert logits.dtype == dtype
    assert {value.dtype for key, value in state.items() if key.endswith("deep")} == {dtype}
    torch.testing.assert_close(logits.double(), exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


def test_autocast_streams_keep_the_dtypes_of_their_state():
    model = tiny(**PUBLISHED_STREAM).float()
    clip = random_clip(1, 3, 4, 32, 32).float()
    with torch.no_grad():
        exact = feed(model, clip, [4])[-1]
        state = model.stream_state(1)
        dtypes = {key: value.dtype for key, value in state.items()}
        with torch.autocast("cpu", torch.bfloat16):
            for frames in clip.split(1, dim=2):
                logits, state = model.stream(frames, state)
                assert {key: value.dtype for key, value in state.items()} == dtypes
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


def test_activation_buffers_are_no_part_of_the_network():
    model = tiny(**PUBLISHED_STREAM)
    clip = random_clip(1, 3, 4, 32, 32)
    names = set(model.state_dict())
    with torch.no_grad():
        first = model(clip)
        copied = copy.deepcopy(model)
        second = model(clip)
        assert set(model.state_dict()) == names
        assert not list(model.buffers()) or all("norm" in name for name, _ in model.named_buffers())
        torch.testing.assert_close(copied(clip), first, rtol=0, atol=0)
        assert not torch.allclose(second, first)
        model.forward_features(random_clip(1, 3, 2, 32, 32, seed=3))
        third = model(clip)
        model.clean_activation_buffers()
        torch.testing.assert_close(model(torch.cat([clip] * 3, 2)), third, rtol=0, atol=1e-12)


def test_positional_encoding():
    plain, coded = (tiny(**PUBLISHED_STREAM, positional_encoding=on) for on in (False, True))
    coded.load_state_dict(plain.state_dict(), strict=False)
    scales = [name for name, _ in coded.named_parameters() if name.endswith("se.position_scale")]
    assert len(scales) == 6
    clip = random_clip(1, 3, 5, 32, 32)
    with torch.no_grad():
        for name in scales:
            coded.get_parameter(name).zero_()
        torch.testing.assert_close(coded(clip), plain(clip), rtol=0, atol=0)
        for name in scales:
            coded.get_parameter(name).fill_(0.3)
        coded.clean_activation_buffers()
        _, state = coded.stream(clip, coded.stream_state(1))
        inputs = []
        coded.blocks["b1_l0"].se.fc1.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
        for scale in (0.3, 0.0):
            coded.get_parameter("blocks.b1_l0.se.position_scale").fill_(scale)
            coded.stream(clip[:, :, :1], state)  # frame 5 of the stream
    width = inputs[0].shape[1]
    code = torch.zeros(width, dtype=torch.float64)
    for i in range(width):
        angle = torch.tensor(5.0, dtype=torch.float64) / 10000 ** (2 * (i // 2) / width)
        code[i // 2 + (width // 2 if i % 2 else 0)] = angle.cos() if i % 2 else angle.sin()
    difference = (inputs[0] - inputs[1])[0, :, 0, 0, 0]
    torch.testing.assert_close(difference, 0.3 * code, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------- compilation and export


@pytest.mark.parametrize(
    ("flavour", "backend"),
    [
        (FLAVOURS[1], "aot_eager"),
        (FLAVOURS[7], "aot_eager"),
        pytest.param(FLAVOURS[2], "aot_eager", marks=slow),
        pytest.param(FLAVOURS[4], "aot_eager", marks=slow),
        pytest.param(FLAVOURS[1], "inductor", marks=slow),
        pytest.param(FLAVOURS[7], "inductor", marks=slow),
    ],
    ids=str,
)
def test_compiled_logits_and_gradients(flavour, backend):
    torch._dynamo.reset()
    eager, compiled = (tiny(variant=MINI, **flavour).train() for _ in range(2))
    run = torch.compile(compiled, fullgraph=True, backend=backend)
    for seed in range(2):  # of causal networks the second call continues the first
        clip = random_clip(2, 3, 3, 16, 16, seed=seed)
        want, got = eager(clip), run(clip)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        want.square().sum().backward()
        got.square().sum().backward()
    for name, gradient in gradients(eager).items():
        torch.testing.assert_close(gradients(compiled)[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=slow)])
@pytest.mark.parametrize("size", [16, pytest.param(None, marks=slow)])
def test_compiled_step(size, backend):
    """One graph serves the whole stream when the state knows its size, another is made for the first call if not."""
    torch._dynamo.reset()
    model = tiny(variant=MINI, **PUBLISHED_STREAM, positional_encoding=True)
    step = torch.compile(model.stream, fullgraph=True, backend=backend)
    clip = random_clip(1, 3, 5, 16, 16)
    state = model.stream_state(1, size=size)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=size is not None):
        for frames, want in zip(clip.split(1, dim=2), feed(model, clip, [1] * 5), strict=True):
            logits, state = step(frames, state)
            torch.testing.assert_close(logits, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flavour", [FLAVOURS[1], pytest.param(FLAVOURS[7], marks=slow)], ids=str)
def test_compiled_autocast(flavour):
    torch._dynamo.reset()
    model = tiny(variant=MINI, **flavour).float()
    clip = random_clip(2, 3, 3, 16, 16).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want = model(clip)
        model.clean_activation_buffers()
        got = torch.compile(model, fullgraph=True, backend="aot_eager")(clip)
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02 * want.abs().max().item())


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_exported_step(flavour):
    class Step(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, frames, state):
            return self.model.stream(frames, state)

    model = tiny(variant=MINI, **flavour, positional_encoding=True)
    clip = random_clip(1, 3, 4, 18, 21)
    state = model.stream_state(1, size=(18, 21))
    with torch.no_grad():
        program = torch.export.export(Step(model), (clip[:, :, :1], state)).module()
        for frames, want in zip(clip.split(1, dim=2), feed(model, clip, [1] * 4), strict=True):
            logits, state = program(frames, state)
            torch.testing.assert_close(logits, want, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_fresh_gradients_are_finite(flavour):
    model = MoViNet(TINY, num_classes=5, positional_encoding=flavour["causal"], **flavour).train()
    model(random_clip(2, 3, 3, 32, 32).float()).square().sum().backward()
    for name, gradient in gradients(model).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    block = model.blocks["b0_l0"]
    assert block.alpha.grad != 0
    assert not block.expand.conv_1.conv.weight.grad.any()  # alpha starts at zero and hides the branch


def test_training_on_pieces():
    """The published loop: backward after each piece, one step per video, gradients stop between the pieces."""
    called, explicit = (tiny(**PUBLISHED_STREAM).train() for _ in range(2))
    clip, target = random_clip(2, 3, 6, 32, 32), torch.tensor([1, 3])
    optimizer = torch.optim.SGD(called.parameters(), lr=0.1)
    called.clean_activation_buffers()
    state = explicit.stream_state(2)
    for frames in clip.split(2, dim=2):
        (F.cross_entropy(called(frames), target) / 3).backward()
        logits, state = explicit.stream(frames, state)
        (F.cross_entropy(logits, target) / 3).backward()
        assert not any(value.requires_grad for value in state.values())
    for name, gradient in gradients(explicit).items():
        torch.testing.assert_close(gradients(called)[name], gradient, rtol=0, atol=0, msg=name)
        assert gradient.isfinite().all(), name
    optimizer.step()
    called.clean_activation_buffers()
    assert called(clip[:, :, :2]).isfinite().all()


@pytest.mark.parametrize("flavour", [FLAVOURS[1], FLAVOURS[7]], ids=str)
def test_recomputation_changes_nothing(flavour):
    torch._dynamo.reset()
    stored = tiny(variant=MINI, **flavour).train()
    clips = [random_clip(2, 3, 3, 16, 16, seed=seed) for seed in range(2)]
    for clip in clips:
        stored(clip).square().sum().backward()
    for counts in (-1, 1, [0, 1]):
        model = tiny(variant=MINI, **flavour, checkpoint_blocks=counts).train()
        for clip in clips:
            model(clip).square().sum().backward()
        for name, gradient in gradients(stored).items():
            torch.testing.assert_close(gradients(model)[name], gradient, rtol=0, atol=0, msg=name)
        for name, buffer in stored.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer, rtol=0, atol=0, msg=name)


@slow
def test_compiled_recomputation():
    torch._dynamo.reset()
    stored = tiny(variant=MINI, **PUBLISHED_STREAM).train()
    model = tiny(variant=MINI, **PUBLISHED_STREAM, checkpoint_blocks=[0, 1]).train()
    clip = random_clip(2, 3, 3, 16, 16)
    stored(clip).square().sum().backward()
    torch.compile(model, fullgraph=True, backend="aot_eager")(clip).square().sum().backward()
    for name, gradient in gradients(stored).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed):
    """Whatever the table: pieces add up, recomputation changes nothing, every parameter counts."""
    rng = random.Random(seed)
    stages = []
    for stride in rng.sample([1, 2, 2], 3):
        depth = rng.randint(1, 2)
        expanded = tuple(rng.choice([3, 8, 12, 17]) for _ in range(depth))
        stages.append(Stage(rng.choice([4, 5, 8]), "".join(rng.choices("abcd", k=depth)), expanded, stride))
    variant = Variant(stem=rng.choice([3, 4]), stages=tuple(stages), head=8, hidden=10)
    flavour = FLAVOURS[seed]
    model = tiny(variant=variant, seed=seed, **flavour)
    clip = random_clip(2, 3, 7, rng.randint(20, 40), rng.randint(20, 40))
    if flavour["causal"]:
        with torch.no_grad():
            whole = feed(model, clip, [7])[-1]
            torch.testing.assert_close(feed(model, clip, [1, 4, 2])[-1], whole, rtol=1e-11, atol=1e-11)
    recomputing = tiny(variant=variant, seed=seed, checkpoint_blocks=-1, **flavour)
    for network in (model, recomputing):
        network.train()(clip).square().sum().backward()
    for name, gradient in gradients(model).items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
        torch.testing.assert_close(gradients(recomputing)[name], gradient, rtol=0, atol=0, msg=name)
    assert sorted(name for group in model.layer_groups() for name in group) == sorted(gradients(model))


def test_dropout_only_in_training():
    model = MoViNet(TINY, dropout=0.9)
    features = torch.randn(4, 16)
    assert not torch.equal(model.train().forward_head(features), model.forward_head(features))
    assert torch.equal(model.eval().forward_head(features), model.forward_head(features))


# ------------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("arguments", [{}, PUBLISHED_STREAM, {"causal": True, "positional_encoding": True}], ids=str)
def test_layer_groups_name_every_parameter_once(arguments):
    model = MoViNet("A0", **arguments)
    groups = model.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert groups[0][0].startswith("conv1.")
    assert all(name.startswith("classifier.3.") for name in groups[-1])
    assert len(groups) == 1 + 15 + 3
    assert "blocks.b4_l3.alpha" in model.no_weight_decay()


@pytest.mark.parametrize("arguments", [{}, PUBLISHED_STREAM], ids=str)
def test_another_number_of_classes(arguments):
    model = tiny(**arguments)
    clip = random_clip(2, 3, 3, 32, 32)
    features = model.forward_features(clip)
    assert features.shape == (2, model.num_features)
    torch.testing.assert_close(model.forward_head(features), model(clip))
    model.reset_head(7)
    assert model.forward_head(features).shape == (2, 7)
    model.classifier[3] = nn.Conv3d(24, 3, (1, 1, 1)).double()  # how the published code fine-tunes
    assert model.forward_head(features).shape == (2, 3)
    assert len(model.layer_groups()[-1]) == 2
    state = model.state_dict()
    model.reset_head(3)
    report = videobench.load_weights(model, state)
    assert not report.missing
    assert not report.unexpected


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_folded_norms(flavour):
    model = tiny(**flavour)
    clip = random_clip(1, 3, 3, 32, 32)
    want = model.forward_head(model.forward_features(clip))
    model.fold_norms()
    assert not any(isinstance(m, nn.BatchNorm3d) for m in model.modules())
    torch.testing.assert_close(model.forward_head(model.forward_features(clip)), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding(kernel, stride):
    conv = Convolution(2, 2, (1, kernel, kernel), stride=stride, groups=2, padding=None).double()
    pool = ShortcutPool(None)
    for height, width in [*pairwise(range(1, 12)), (4, 4), (7, 7), (2, 6)]:
        x = random_clip(1, 2, 3, height, width)
        pads = []
        for size in (width, height):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        want = F.conv3d(F.pad(x, pads), conv.weight, stride=(1, stride, stride), groups=2)
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            laid = x.contiguous(memory_format=layout)
            torch.testing.assert_close(conv(laid), want, rtol=0, atol=1e-12)
            assert [conv.output_size(size) for size in (height, width)] == list(want.shape[-2:])
            if (kernel, stride) == (3, 2):
                ones = F.avg_pool3d(F.pad(torch.ones_like(x), pads), (1, 3, 3), (1, 2, 2))
                averages = F.avg_pool3d(F.pad(x, pads), (1, 3, 3), (1, 2, 2)) / ones
                torch.testing.assert_close(pool(laid), averages, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_both_memory_orders_agree(flavour, monkeypatch):
    """CPUs work with channels last; other devices keep the order they get, which the same layers must serve."""
    model = tiny(**flavour)
    clip = random_clip(2, 3, 4, 37, 30)
    want = model.forward_features(clip)
    monkeypatch.setattr(movinet, "memory_order", lambda device: torch.contiguous_format)
    torch.testing.assert_close(model.forward_features(clip), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("tf_like", [False, True])
def test_smallest_frames(name, tf_like):
    model = MoViNet(name, tf_like=tf_like).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 1, model.min_size, model.min_size + 1)).shape == (1, 600)
    if model.min_size > 1:
        with pytest.raises(ValueError, match=f"at least {model.min_size}x{model.min_size}"):
            model(torch.zeros(1, 3, 1, model.min_size - 1, 64))


def test_wrong_inputs():
    base, stream = tiny(), tiny(**PUBLISHED_STREAM)
    clip = random_clip(2, 3, 2, 32, 32)
    with pytest.raises(ValueError, match="clip"):
        base(clip[0])
    with pytest.raises(ValueError, match="3 channels"):
        base(clip[:, :2])
    with pytest.raises(ValueError, match="floating-point"):
        base(clip.to(torch.uint8))
    with pytest.raises(ValueError, match="causal"):
        base.stream(clip, stream.stream_state(2))
    others = [tiny(variant=other, **PUBLISHED_STREAM) for other in (MINI, replace(TINY, head=24))]
    for state in ({}, None, *(other.stream_state(2) for other in others)):
        with pytest.raises(ValueError, match=r"no state of this network .* stream_state\(\)"):
            stream.stream(clip, state)
    stream(clip)
    for other in (clip[:1], random_clip(2, 3, 2, 64, 64)):
        with pytest.raises(ValueError, match="clean_activation_buffers"):
            stream(other)
    joined = stream(clip)  # what failed left no trace
    stream.clean_activation_buffers()
    torch.testing.assert_close(joined, stream(torch.cat([clip, clip], 2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("MOVINET.VARIANT", "A9", "A0, A1, A2, A3, A4, A5"),
        ("MOVINET.CONV_TYPE", "2d", "3d or 2plus1d"),
        ("MOVINET.POSITIONAL_ENCODING", True, "CAUSAL"),
    ],
)
def test_wrong_configurations(key, value, match):
    cfg = videobench.load_config([], ["MODEL.MODEL_NAME", "MoViNet", key, value])
    with pytest.raises(ValueError, match=match):
        videobench.build_model(cfg)
