"""Mixup and cutmix against the published draws and against timm."""

from collections import Counter

import golden
import numpy as np
import pytest
import torch
from timm.data import mixup

from videobench.config import load_config
from videobench.datasets.mixing import EPIC_CLASSES, Mixing
from videobench.models import motionformer


class LegacyRandom:
    """NumPy's global generator under the names of the new one: timm and the published code draw from it."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)
        self.random, self.beta = self._state.random_sample, self._state.beta

    def integers(self, low: int, high: int) -> int:
        return self._state.randint(low, high)


def numbered(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_published_draws_and_targets():
    table = golden.table("transforms")["tables"]["mixup"]
    example = table["example"]
    labels = torch.tensor(example["labels"])
    mixing = Mixing(example["num_classes"])
    assert (mixing.alpha, mixing.cutmix_alpha, mixing.smoothing) == (0.8, 1.0, 0.1)
    used = Counter()
    for row in table["rows"]:
        inputs = numbered(*example["input_shape"])
        shares, cuts = mixing.draw(4, *inputs.shape[-2:], LegacyRandom(row["seed"]))
        assert shares == pytest.approx([row["lambda_used"]] * 4, rel=1e-6)
        assert set(cuts) == {tuple(row["cutmix_box_y0y1x0x1"]) if row["cutmix"] else None}
        mixed, targets = mixing(inputs.clone(), labels, LegacyRandom(row["seed"]))
        torch.testing.assert_close(targets, torch.tensor(row["target_rows"]), atol=1e-6, rtol=0)
        if row["cutmix"]:
            top, bottom, left, right = row["cutmix_box_y0y1x0x1"]
            expected = inputs.clone()
            expected[..., top:bottom, left:right] = inputs.flip(0)[..., top:bottom, left:right]
        else:
            expected = inputs * row["lambda_used"] + inputs.flip(0) * (1 - row["lambda_used"])
        torch.testing.assert_close(mixed, expected)
        used[row["cutmix"]] += 1
    assert min(used[True], used[False]) >= 3


def published_box(shape, lam, margin=0.0, count=None):
    """The box of SlowFast and of older versions of timm; recent ones keep one pixel more of sides of odd length."""
    height, width = shape[-2:]
    cut_h, cut_w = int(height * np.sqrt(1 - lam)), int(width * np.sqrt(1 - lam))
    y, x = np.random.randint(0, height), np.random.randint(0, width)  # noqa: NPY002 (where timm draws from)
    rows = np.clip([y - cut_h // 2, y + cut_h // 2], 0, height)
    columns = np.clip([x - cut_w // 2, x + cut_w // 2], 0, width)
    return *rows, *columns


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    ("alpha", "cutmix_alpha", "probability"),
    [(0.8, 0, 1), (0.8, 0, 0.5), (0.8, 1.0, 0), (0, 1.0, 0.7), (0.8, 1.0, 1.0)],
)
def test_every_mode_equals_timm_s_with_the_same_draws(mode, alpha, cutmix_alpha, probability, monkeypatch):
    monkeypatch.setattr(mixup, "rand_bbox", published_box)
    labels = torch.tensor([3, 0, 2, 2, 1, 4])
    mixing = Mixing(5, alpha=alpha, cutmix_alpha=cutmix_alpha, probability=probability, mode=mode, smoothing=0.2)
    theirs = mixup.Mixup(alpha, cutmix_alpha, None, probability, mode=mode, label_smoothing=0.2, num_classes=5)
    for seed in range(30):
        images = numbered(6, 3, 16, 20)
        inputs, targets = mixing(images.clone()[:, :, None], labels, LegacyRandom(seed))
        np.random.seed(seed)  # noqa: NPY002 (where timm draws from)
        expected, expected_targets = theirs(images.clone(), labels)
        torch.testing.assert_close(inputs[:, :, 0], expected)
        torch.testing.assert_close(targets, expected_targets)


def test_both_kinds_occur_and_partners_match():
    mixing, kinds = Mixing(10, mode="elem"), Counter()
    rng = np.random.default_rng(0)
    for _ in range(20):
        inputs = torch.zeros(6, 3, 2, 8, 8)
        inputs[:3] = 1.0
        mixed, targets = mixing(inputs, torch.tensor([0, 0, 0, 1, 1, 1]), rng)
        # Ones belong to class 0: the share of ones in a sample is the share of class 0 in its smoothed target.
        ones = mixed.mean((1, 2, 3, 4))
        torch.testing.assert_close(targets[:, 0], 0.01 + 0.9 * ones, atol=1e-5, rtol=0)
        kinds.update(bool(((sample > 0) & (sample < 1)).any()) for sample in mixed)
    assert min(kinds[True], kinds[False]) > 20


def test_pairs_share_their_draw_and_the_middle_of_an_odd_batch_stays():
    shares, cuts = Mixing(10, mode="pair").draw(7, 16, 16, np.random.default_rng(1))
    assert np.array_equal(shares, shares[::-1])
    assert cuts == cuts[::-1]
    assert (shares[3], cuts[3]) == (1, None)
    assert len(set(shares.tolist())) == 4
    inputs = numbered(7, 3, 2, 16, 16)
    mixed, targets = Mixing(10, mode="pair")(inputs.clone(), torch.arange(7), np.random.default_rng(1))
    assert torch.equal(mixed[3], inputs[3])
    assert targets[3].argmax() == 3


def test_labels_of_several_heads_and_several_labels():
    rng = np.random.default_rng
    verbs, nouns = torch.tensor([1, 96]), torch.tensor([299, 0])
    inputs = numbered(2, 3, 2, 8, 8)
    _, targets = Mixing(400, cutmix_alpha=0)(inputs.clone(), {"verb": verbs, "noun": nouns}, rng(5))
    assert {head: value.shape for head, value in targets.items()} == {"verb": (2, 97), "noun": (2, 300)}
    share = np.float32(Mixing(400, cutmix_alpha=0).draw(2, 8, 8, rng(5))[0][0])
    for head, labels in (("verb", verbs), ("noun", nouns)):
        torch.testing.assert_close(targets[head].sum(1), torch.ones(2))
        off = 0.1 / EPIC_CLASSES[head]
        assert targets[head][0, labels[0]].item() == pytest.approx(off + 0.9 * share, abs=1e-6)
        assert targets[head][0, labels[1]].item() == pytest.approx(off + 0.9 * (1 - share), abs=1e-6)
    assert EPIC_CLASSES == motionformer.EPIC_CLASSES
    several = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    _, targets = Mixing(3, cutmix_alpha=0)(inputs.clone(), several, rng(5))
    smooth = several * 0.9 + 0.05
    torch.testing.assert_close(targets, smooth * share + smooth.flip(0) * (1 - share))


def test_the_keys_say_how_batches_are_mixed():
    inputs, labels = numbered(2, 3, 2, 8, 8), torch.tensor([0, 1])
    off = Mixing.from_config(load_config([], []))
    assert off(inputs, labels, np.random.default_rng(0)) == (inputs, labels)
    overrides = ["MIXUP.ENABLE", True, "MIXUP.ALPHA", 0.3, "MIXUP.CUTMIX_ALPHA", 0.4, "MIXUP.PROB", 0.5]
    overrides += [
        "MIXUP.SWITCH_PROB",
        0.6,
        "MIXUP.LABEL_SMOOTH_VALUE",
        0.2,
        "MIXUP.MODE",
        "elem",
        "MODEL.NUM_CLASSES",
        7,
    ]
    assert Mixing.from_config(load_config([], overrides)) == Mixing(7, True, 0.3, 0.4, 0.5, 0.6, 0.2, "elem")
