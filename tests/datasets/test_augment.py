"""Augmentation of batches: what a clip's key decides, erasing, colour jitter, the order of the steps."""

import random

import golden
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as TF

from videobench.config import ConfigError, load_config
from videobench.config.checks import check_config
from videobench.datasets import colour
from videobench.datasets.augment import Augmentation, normalise
from videobench.datasets.erasing import Erasing

KEYS = torch.tensor([[0, 5, 0], [0, 5, 1], [0, 6, 0], [1, 5, 0]])
RECIPE = ["AUG.ENABLE", True, "AUG.AA_TYPE", "rand-m7-n4-mstd0.5-inc1", "AUG.RE_PROB", 1.0]


class PythonRandom:
    """Python's generator under the names of NumPy's: the published code draws from it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.random, self.uniform = self._random.random, self._random.uniform

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        return self._random.randint(low, high if endpoint else high - 1)


def augmentation(*overrides) -> Augmentation:
    return Augmentation.from_config(load_config([], list(overrides)))


def clips(number: int = 4, frames: int = 3, size: int = 24) -> torch.Tensor:
    """Uint8 [N, T, 3, H, W]; the frames of a clip are equal, the clips differ."""
    rng = torch.Generator().manual_seed(1)
    still = torch.randint(0, 256, (number, 1, 3, size, size), generator=rng, dtype=torch.uint8)
    return still.repeat(1, frames, 1, 1, 1)


def test_nothing_is_augmented_by_default():
    plain, batch = augmentation(), clips()
    assert plain.pixels(batch, KEYS) is batch
    assert torch.equal(plain.finish(batch, KEYS), normalise(batch, plain.mean, plain.std))


@pytest.mark.parametrize("policy", ["rand-m7-n4-mstd0.5-inc1", "original-mstd0.5", ""])
def test_all_frames_of_a_clip_get_the_same(policy):
    augment, batch = augmentation(*RECIPE, "AUG.AA_TYPE", policy, "DATA.GAUSSIAN", True), clips(8)
    keys = [(3, video, 0) for video in range(8)]
    changed = augment.pixels(batch, keys)
    assert changed.dtype == torch.uint8
    assert changed.shape == batch.shape
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert (changed != batch).flatten(1).any(1).sum() >= 5


def test_a_clip_depends_on_its_key_alone():
    augment, batch = augmentation(*RECIPE, "AUG.INTERPOLATION", "random", "DATA.COLORJITTER", True), clips()
    pixels = augment.pixels(batch, KEYS)
    inputs = augment.finish(pixels, KEYS)
    for order in ([2], [3, 1, 0], [1, 2]):
        assert torch.equal(augment.pixels(batch[order], KEYS[order]), pixels[order])
        assert torch.equal(augment.finish(pixels[order], KEYS[order].tolist()), inputs[order])
    # Epoch, video and sample number each count, and so does the seed.
    same = augment.finish(augment.pixels(batch[:1].expand_as(batch), KEYS), KEYS)
    assert len({tuple(clip.flatten()[:2000].tolist()) for clip in same}) == 4
    other = augmentation(*RECIPE, "RNG_SEED", 2)
    assert not torch.equal(other.finish(pixels, KEYS), inputs)


def test_batches_may_lie_in_any_order_in_memory():
    augment, batch = augmentation(*RECIPE), clips()
    frames_last = batch.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    pixels = augment.pixels(frames_last, KEYS)
    assert torch.equal(pixels, augment.pixels(batch, KEYS))
    assert torch.equal(augment.finish(frames_last, KEYS), augment.finish(batch, KEYS))


def test_neither_step_changes_its_input():
    augment, batch = augmentation(*RECIPE, "DATA.COLORJITTER", True, "DATA.GRAYSCALE", True), clips()
    augment.finish(augment.pixels(batch, KEYS), KEYS)
    augment.finish(batch, KEYS)
    assert torch.equal(batch, clips())


def test_published_erasing_boxes():
    rows = golden.table("transforms")["tables"]["random_erasing"]["rows"]
    for row in rows:
        boxes = Erasing(row["probability"], "pixel", 1).boxes(8, *row["hw"], PythonRandom(row["seed"]))
        assert [list(box) for box in boxes] == [row["box_yxhw"]] * (row["box_yxhw"] is not None), row


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_what_erased_boxes_hold(mode):
    clip = torch.full((3, 4, 40, 40), 9.0)
    Erasing(1.0, mode, 1)(clip, np.random.default_rng(0))
    erased = clip != 9
    assert torch.equal(erased, erased[:1, :1].expand_as(erased))
    rows, columns = erased[0, 0].any(1).nonzero(), erased[0, 0].any(0).nonzero()
    box = clip[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (box != 9).all()
    assert 0.02 * 1600 * 0.9 < box[0, 0].numel() < 1600 / 3 * 1.1
    if mode == "const":
        assert not box.any()
    elif mode == "rand":
        assert torch.equal(box, box[..., :1, :1].expand_as(box))
        assert box[..., 0, 0].unique().numel() == 12
    else:
        # New noise in every frame, with mean 0 and deviation 1.
        assert box.unique().numel() > 0.99 * box.numel()
        assert abs(box.mean()) < 5 / box.numel() ** 0.5
        assert abs(box.std() - 1) < 5 / box.numel() ** 0.5


def test_how_often_and_how_many_boxes():
    rng = np.random.default_rng(0)
    counts = [len(Erasing(0.25, "pixel", 3).boxes(8, 64, 64, rng)) for _ in range(800)]
    assert abs(np.mean(np.array(counts) > 0) - 0.25) < 0.08
    assert set(counts) == {0, 1, 2, 3}
    # No box fits into a single pixel.
    Erasing(1.0, "pixel", 1)(clip := torch.ones(3, 8, 1, 1), rng)
    assert clip.all()


def test_erasing_comes_after_normalisation():
    augment = augmentation(*RECIPE, "AUG.AA_TYPE", "", "AUG.COLOR_JITTER", 0.0, "AUG.RE_MODE", "const")
    batch = clips()
    inputs = augment.finish(augment.pixels(batch, KEYS), KEYS)
    changed = inputs != normalise(batch, augment.mean, augment.std)
    assert changed.flatten(1).any(1).all()
    assert not inputs[changed].any()


def test_channel_order_is_the_last_step():
    overrides = [*RECIPE, "DATA.COLORJITTER", True, "DATA.GRAYSCALE", True, "DATA.MEAN", [0.4, 0.5, 0.6]]
    inputs = augmentation(*overrides).finish(clips(), KEYS)
    swapped = augmentation(*overrides, "DATA.REVERSE_INPUT_CHANNEL", True).finish(clips(), KEYS)
    assert torch.equal(swapped, inputs.flip(1))


def test_colour_jitter_equals_torchvision_s():
    """The same factors and order on Pillow images, one after the other."""
    clip = clips(1)[0]

    class Recorder:
        def __init__(self, seed: int) -> None:
            self.rng, self.order, self.factors = np.random.default_rng(seed), None, []

        def permutation(self, n: int) -> np.ndarray:
            self.order = self.rng.permutation(n)
            return self.order

        def uniform(self, low: float, high: float) -> float:
            assert (low, high) == (0.6, 1.4)
            self.factors.append(self.rng.uniform(low, high))
            return self.factors[-1]

    assert ColorJitter(0.4, 0.4, 0.4).brightness == (0.6, 1.4)
    changes = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    for seed in range(6):
        rng = Recorder(seed)
        changed = colour.jitter(clip, 0.4, rng)
        image = Image.fromarray(clip[0].permute(1, 2, 0).numpy())
        for i, factor in zip(rng.order, rng.factors, strict=True):
            image = changes[i](image, factor)
        expected = np.asarray(image).astype(int)
        assert np.abs(changed[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


def test_motionformer_s_jitter_follows_its_rule():
    """In NumPy: scale, move from the mean grey of the frame, move from grey; channel 2 weighs as red."""
    clip = torch.randn(3, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = clip.numpy().astype(np.float64)
        for change in rng.permutation(3):
            factor = 1 + rng.uniform(-0.4, 0.4)
            grey = (0.114 * x[0] + 0.587 * x[1] + 0.299 * x[2])[None]
            start = (0.0, grey.mean((2, 3), keepdims=True), grey)[change]
            x = start * (1 - factor) + x * factor
        result = colour.jitter_normalised(clip, 0.4, np.random.default_rng(seed))
        np.testing.assert_allclose(result.numpy(), x, atol=1e-5)


@pytest.mark.parametrize(("key", "chance"), [("COLORJITTER", 0.8), ("GRAYSCALE", 0.2), ("GAUSSIAN", 0.5)])
def test_motionformer_s_chances(key, chance):
    augment, batch = augmentation(f"DATA.{key}", True), clips(1, 1, 8).expand(300, -1, -1, -1, -1)
    keys = [(0, video, 0) for video in range(300)]
    inputs = augment.finish(augment.pixels(batch, keys), keys)
    changed = (inputs != normalise(batch, augment.mean, augment.std)).flatten(1).any(1)
    assert abs(changed.float().mean() - chance) < 0.12
    if key == "GRAYSCALE":
        assert torch.equal(inputs[changed], inputs[changed][:, :1].expand(-1, 3, -1, -1, -1))
    elif key == "GAUSSIAN":
        assert (inputs[changed].flatten(1).std(1) < inputs[~changed][0].std()).all()


@pytest.mark.parametrize(
    ("device", "gpus", "in_workers"), [("auto", 0, True), ("auto", 1, False), ("cpu", 1, True), ("gpu", 2, False)]
)
def test_where_pixels_are_changed(device, gpus, in_workers):
    assert augmentation("AUG.DEVICE", device, "NUM_GPUS", gpus).in_workers is in_workers


def test_images_are_filled_with_their_mean_and_videos_with_grey():
    turn = [*RECIPE, "AUG.AA_TYPE", "rand-m9-n1", "DATA.MEAN", [0.2, 0.5, 1.0]]
    assert augmentation(*turn).fill == (128, 128, 128)
    for pictures in ("imagenet", "image_folder"):
        assert augmentation(*turn, "TRAIN.DATASET", pictures).fill == (51, 128, 255)


@pytest.fixture
def sound(tmp_path):
    return ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(tmp_path), "SOLVER.BASE_LR", 1e-3]


@pytest.mark.parametrize(
    "overrides",
    [
        RECIPE,
        ["DATA.USE_RAND_AUGMENT", True],
        *(["AUG.AA_TYPE", text] for text in ("", "rand", "v0", "v0r", "originalr-mstd0.5", "3a", "rand-t3aw-p0.5")),
        ["MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "soft_cross_entropy"],
        ["MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "bce_logit", "MIXUP.ALPHA", 0.0],
        ["SOLVER.SMOOTHING", 0.2],
        ["MIXUP.ENABLE", True, "TRAIN.ENABLE", False],
    ],
)
def test_recipes_that_make_sense(sound, overrides):
    cfg = load_config([], [*sound, *overrides])
    check_config(cfg)
    Augmentation.from_config(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["AUG.AA_TYPE", "rand-m9-w0"], "AUG.AA_TYPE is 'rand-m9-w0'; use timm's grammar"),
        (["AUG.AA_TYPE", "rand-m9-foo"], "AUG.AA_TYPE"),
        (["AUG.AA_TYPE", "augmix-m5"], "AUG.AA_TYPE"),
        (["AUG.AA_TYPE", "rand-m9.5"], "AUG.AA_TYPE"),
        (["AUG.RE_PROB", 1.5], "AUG.RE_PROB is 1.5; use a probability"),
        (["AUG.RE_COUNT", 0], "AUG.RE_COUNT is 0"),
        (["AUG.RE_MODE", "noise"], "AUG.RE_MODE is 'noise'; use pixel or rand or const"),
        (["AUG.INTERPOLATION", "lanczos"], "AUG.INTERPOLATION is 'lanczos'"),
        (["AUG.COLOR_JITTER", -0.1], "AUG.COLOR_JITTER is -0.1"),
        (["AUG.DEVICE", "gpu"], "AUG.DEVICE gpu needs a GPU"),
        (["MIXUP.ENABLE", True], "MIXUP.ENABLE makes soft targets; use MODEL.LOSS_FUNC soft_cross_entropy"),
        (
            ["MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "bce", "MIXUP.ALPHA", 0.0, "MIXUP.CUTMIX_ALPHA", 0.0],
            "use one or both above 0",
        ),
        (
            ["MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "soft_cross_entropy", "TRAIN.BATCH_SIZE", 1],
            "nothing to mix with one clip per rank",
        ),
        (["MIXUP.MODE", "triple"], "MIXUP.MODE is 'triple'"),
        (["MIXUP.SWITCH_PROB", -1.0], "MIXUP.SWITCH_PROB is -1.0"),
        (["MIXUP.LABEL_SMOOTH_VALUE", 1.0], "MIXUP.LABEL_SMOOTH_VALUE is 1.0; use a share"),
        (
            ["MIXUP.ENABLE", True, "MODEL.LOSS_FUNC", "soft_cross_entropy", "SOLVER.SMOOTHING", 0.1],
            "both smooth labels; set SOLVER.SMOOTHING 0",
        ),
        (["SOLVER.SMOOTHING", 0.1, "MODEL.LOSS_FUNC", "bce"], "SOLVER.SMOOTHING is part of MODEL.LOSS_FUNC"),
    ],
)
def test_recipes_that_make_none(sound, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config([], [*sound, *overrides]))
