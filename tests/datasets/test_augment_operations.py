"""RandAugment and AutoAugment on whole clips against timm's operations on single images."""

import random
from collections import Counter

import golden
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from timm.data import auto_augment

from videobench.config import ConfigError
from videobench.datasets import pixel_ops
from videobench.datasets.geometry import affine, translate
from videobench.datasets.pixel_ops import Sampling
from videobench.datasets.rand_augment import OPERATIONS, Frame, Policy

HEIGHT, WIDTH = 37, 52
FILL = (120, 100, 140)
# Operations that compute their argument from timm's only when they see the image.
INDIRECT = {"Desaturate", "GaussianBlurRand", "TranslateXRel", "TranslateYRel"}
LEVELS = (0, 1, 3.5, 5, 7, 7.43, 9, 10)


class Fixed:
    """Random numbers that are always the same: a sign, and the middle of every range."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def random(self) -> float:
        return 0.75 if self.sign < 0 else 0.25

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


def images() -> torch.Tensor:
    """[4, 3, H, W]: smooth, noisy, dark with little contrast, and of one colour; as the frames of one clip."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[0] * 255
    noise = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=rng)
    flat = torch.tensor([10, 128, 255])[:, None, None].expand(3, HEIGHT, WIDTH)
    return torch.stack([smooth.byte(), noise.byte(), (smooth / 6).byte() + 20, flat.byte()])


def timm_operation(name: str, level: float, interpolation: str) -> auto_augment.AugmentOp:
    hparams = {
        "translate_const": int(0.45 * HEIGHT),
        "interpolation": getattr(Image, interpolation.upper()),
        "img_mean": FILL,
    }
    return auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)


def pillow(frames: torch.Tensor, operation) -> np.ndarray:
    """[T, 3, H, W] after an operation on every frame as a Pillow image."""
    changed = [operation(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in frames]
    return np.stack([np.asarray(image) for image in changed]).transpose(0, 3, 1, 2).astype(int)


def distance(clip: torch.Tensor, expected: np.ndarray) -> int:
    assert clip.dtype == torch.uint8
    return int(np.abs(clip.numpy().astype(int) - expected).max())


def ours(name: str, level: float, sign: int, interpolation: str = "bicubic") -> tuple[float | None, torch.Tensor]:
    operation, argument = OPERATIONS[name]
    value = argument(level / 10, Frame(HEIGHT, WIDTH, Fixed(sign))) if argument else None
    return value, pixel_ops.apply(operation, images(), value, Sampling(FILL, interpolation))


def test_every_operation_of_timm_is_known():
    assert set(OPERATIONS) == set(auto_augment.NAME_TO_OP)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_equals_timm_s_on_every_frame(name, sign, monkeypatch):
    """Up to two grey levels everywhere, edges and filled areas included."""
    monkeypatch.setattr(auto_augment, "random", Fixed(sign))
    geometric = OPERATIONS[name][0] in pixel_ops._GEOMETRIC
    for level in LEVELS:
        for interpolation in ("bilinear", "bicubic") if geometric else ("bicubic",):
            value, clip = ours(name, level, sign, interpolation)
            operation = timm_operation(name, level, interpolation)
            if operation.level_fn and name not in INDIRECT:
                assert value == pytest.approx(operation.level_fn(level, operation.hparams)[0], abs=1e-12)
            if OPERATIONS[name][0] == "posterize" and value == 0:
                # Recent versions of Pillow refuse to drop all bits; older ones gave black.
                assert not clip.any()
                continue
            assert distance(clip, pillow(images(), operation)) <= 2, (level, interpolation)


def test_levels_are_the_published_ones():
    rand_augment = golden.table("transforms")["tables"]["rand_augment"]
    for level, arguments in rand_augment["level_to_argument"]["values"].items():
        for name, values in arguments.items():
            argument = OPERATIONS[name][1]
            value = argument(float(level) / 10, Frame(1, 1, Fixed(1))) if argument else None
            assert [value] * bool(values) == pytest.approx(values), (name, level)
    for text, key in (("rand-m9", "ops_plain"), ("rand-m9-inc1", "ops_increasing")):
        assert [chain[0].name for chain in Policy.parse(text).chains] == rand_augment[key]


@given(
    turn=st.floats(-180, 180),
    shear=st.floats(-1, 1),
    shift=st.floats(-60, 60),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@settings(max_examples=25)
def test_any_affine_map_equals_pillow_s(turn, shear, shift, interpolation):
    frames = images()[:2]
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = (cos, sin + shear, shift, -sin, cos, -shift / 3)
    resample = getattr(Image, interpolation.upper())
    expected = pillow(frames, lambda i: i.transform(i.size, Image.AFFINE, matrix, resample=resample, fillcolor=FILL))
    wrong = np.abs(affine(frames, matrix, interpolation, FILL).numpy().astype(int) - expected) > 2
    # Where a source lies on the very edge of the frame, the last bit decides between the frame and the fill.
    assert wrong.any(axis=(0, 1)).sum() <= 1


@pytest.mark.parametrize(("height", "width", "degrees"), [(5, 37, -30), (3, 9, 30), (7, 65, -30), (65, 9, 30)])
def test_sources_on_the_edge_of_a_turned_frame_are_where_pillow_has_them(height, width, degrees):
    """At the full magnitude, 30 degrees, a source can lie on the edge but for the last bit."""
    frames = torch.full((1, 3, height, width), 200, dtype=torch.uint8)
    expected = pillow(frames, lambda image: image.rotate(degrees, Image.BICUBIC, fillcolor=FILL))
    assert distance(pixel_ops.apply("rotate", frames, degrees, Sampling(FILL, "bicubic")), expected) <= 1


@given(
    pixels=st.floats(-60, 60) | st.integers(-120, 120).map(lambda n: n / 2),
    axis=st.sampled_from([2, 3]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@settings(max_examples=40)
def test_any_shift_equals_pillow_s(pixels, axis, interpolation):
    frames = images()[:2]
    matrix = (1, 0, pixels, 0, 1, 0) if axis == 3 else (1, 0, 0, 0, 1, pixels)
    resample = getattr(Image, interpolation.upper())
    expected = pillow(frames, lambda i: i.transform(i.size, Image.AFFINE, matrix, resample=resample, fillcolor=FILL))
    assert distance(translate(frames, pixels, axis, interpolation, FILL), expected) <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.43, 2.0, 3.7])
def test_blur_equals_pillow_s(sigma):
    expected = pillow(images(), lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))
    assert distance(pixel_ops.gaussian_blur(images(), sigma), expected) <= 2


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 2)])
def test_tiny_frames_pass_every_operation(size):
    clip = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    for name, (operation, argument) in OPERATIONS.items():
        value = argument(0.7, Frame(*size, Fixed(1))) if argument else None
        assert pixel_ops.apply(operation, clip, value, Sampling(FILL, "bicubic")).shape == clip.shape, name


def test_operations_leave_their_input_alone():
    for name in OPERATIONS:
        frames = images()
        operation, argument = OPERATIONS[name]
        value = argument(0.7, Frame(HEIGHT, WIDTH, Fixed(1))) if argument else None
        pixel_ops.apply(operation, frames, value, Sampling(FILL, "bicubic"))
        assert torch.equal(frames, images()), name


@pytest.mark.parametrize("text", ["v0", "v0r", "original", "originalr", "3a", "original-mstd0.5"])
def test_autoaugment_has_timm_s_policies(text):
    policy = Policy.parse(text)
    theirs = auto_augment.auto_augment_transform(text, {}).policy
    assert policy.layers is None
    assert [[(s.name, s.probability, s.magnitude) for s in chain] for chain in policy.chains] == [
        [(op.name, op.prob, op.magnitude) for op in chain] for chain in theirs
    ]
    assert {step.spread for chain in policy.chains for step in chain} == {0.5 if "mstd" in text else 0.0}


@pytest.mark.parametrize(
    "text", ["rand-m7-n4-mstd0.5-inc1", "rand-m9-n3-p0.8-mmax20-mstd101", "rand-n2-tweights", "rand-t3aw"]
)
def test_randaugment_has_timm_s_steps(text):
    policy, theirs = Policy.parse(text), auto_augment.rand_augment_transform(text, {})
    assert policy.layers == theirs.num_layers
    assert (policy.weights is None) == (theirs.choice_weights is None)
    assert policy.weights is None or policy.weights == pytest.approx(theirs.choice_weights)
    for (step,), op in zip(policy.chains, theirs.ops, strict=True):
        assert (step.name, step.probability, step.magnitude) == (op.name, op.prob, op.magnitude)
        assert (step.spread, step.bound) == (op.magnitude_std, op.magnitude_max or 10)


def test_draws_follow_timm_s_distributions():
    """Which operations, how often, with what sign and how strong: counts of 4000 draws, and a test of the strengths."""
    policy, rng = Policy.parse("rand-m7-n4-mstd0.5-inc1"), np.random.default_rng(0)
    draws = [drawn for _ in range(4000) for drawn in policy.draw(Frame(HEIGHT, WIDTH, rng))]
    counts = Counter(name for name, _ in draws)
    # Four draws of fifteen operations, each applied with probability one half.
    assert len(counts) == 15
    assert all(abs(count - 4000 * 4 / 15 / 2) < 5 * np.sqrt(4000 * 4 / 30) for count in counts.values())
    angles = np.array([value for name, value in draws if name == "rotate"])
    assert abs((angles < 0).mean() - 0.5) < 0.1
    random.seed(0)
    timm_level = auto_augment.LEVEL_TO_ARG["Rotate"]
    theirs = [abs(timm_level(max(0.0, min(random.gauss(7, 0.5), 10)), {})[0]) for _ in range(4000)]
    assert np.abs(angles).mean() == pytest.approx(np.mean(theirs), abs=0.3)
    assert np.abs(angles).std() == pytest.approx(np.std(theirs), abs=0.3)


def test_magnitudes_are_bounded_and_uniform_where_asked():
    rng = np.random.default_rng(0)
    policy = Policy.parse("rand-m20-n1-p1-mstd0.5-inc1")
    angles = [abs(v) for _ in range(300) for n, v in policy.draw(Frame(9, 9, rng)) if n == "rotate"]
    assert set(angles) == {30.0}
    policy = Policy.parse("rand-m8-n1-p1-mstd101-inc1")
    angles = [abs(v) for _ in range(1500) for n, v in policy.draw(Frame(9, 9, rng)) if n == "rotate"]
    assert min(angles) < 4 < 20 < max(angles) <= 24


def test_weighted_draws_repeat_no_operation():
    policy, rng = Policy.parse("rand-n6-p1-tweights"), np.random.default_rng(0)
    assert all(len({n for n, _ in policy.draw(Frame(9, 9, rng))}) == 6 for _ in range(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rand-m9-w0", "Unknown RandAugment config section"),
        ("v7", "Unknown AA policy v7"),
        ("rand-n16-tweights", "16 operations cannot be drawn from 15"),
        ("rand-m0.5", "invalid literal"),
    ],
)
def test_a_policy_that_cannot_be_read_is_named(text, message):
    with pytest.raises(ConfigError, match=rf"AUG.AA_TYPE is '{text}'.*{message}"):
        Policy.parse(text)
