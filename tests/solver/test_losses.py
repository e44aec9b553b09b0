"""Training losses against timm's and the formulas."""

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch.nn import functional as F

from videobench.config.checks import LOSSES
from videobench.solver.losses import MULTI_LABEL, SINGLE_LABEL, training_loss

RNG = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 5, generator=RNG) * 3
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
SOFT = torch.rand(6, 5, generator=RNG).softmax(1)
SEVERAL = (torch.rand(6, 5, generator=RNG) > 0.5).float()


def test_the_configuration_knows_every_loss():
    assert set(LOSSES) == set(SINGLE_LABEL + MULTI_LABEL)


@pytest.mark.parametrize("smoothing", [0.1, 0.2])
def test_label_smoothing_equals_timm_s(smoothing):
    expected = LabelSmoothingCrossEntropy(smoothing)(LOGITS, LABELS)
    torch.testing.assert_close(training_loss("cross_entropy", LOGITS, LABELS, smoothing=smoothing), expected)


def test_soft_targets_equal_timm_s():
    torch.testing.assert_close(
        training_loss("soft_cross_entropy", LOGITS, SOFT), SoftTargetCrossEntropy()(LOGITS, SOFT)
    )
    hard = training_loss("soft_cross_entropy", LOGITS, LABELS)
    torch.testing.assert_close(hard, training_loss("soft_cross_entropy", LOGITS, F.one_hot(LABELS, 5).float()))
    torch.testing.assert_close(hard, training_loss("cross_entropy", LOGITS, LABELS))


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_several_labels(name):
    p = LOGITS.double().sigmoid()
    expected = -(SEVERAL * p.log() + (1 - SEVERAL) * (1 - p).log()).mean()
    torch.testing.assert_close(training_loss(name, LOGITS, SEVERAL).double(), expected, atol=1e-6, rtol=0)
    one_hot = training_loss(name, LOGITS, F.one_hot(LABELS, 5).float())
    torch.testing.assert_close(training_loss(name, LOGITS, LABELS), one_hot)


@pytest.mark.parametrize(
    ("name", "targets"), [("cross_entropy", LABELS), ("soft_cross_entropy", SOFT), ("bce", SEVERAL)]
)
def test_low_precision_logits_are_lifted_and_float64_is_kept(name, targets):
    low = LOGITS.bfloat16()
    loss = training_loss(name, low, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, training_loss(name, low.float(), targets))
    assert training_loss(name, LOGITS.double(), targets).dtype == torch.float64
    # Far from what float16 can hold after an exponential.
    assert training_loss(name, torch.full((6, 5), 6e4, dtype=torch.float16), targets).isfinite()


def test_heads_count_alike():
    heads = {"verb": LOGITS, "noun": LOGITS[:, :3] * 2}
    for smoothing in (0.0, 0.2):
        labels = {"verb": LABELS, "noun": LABELS % 3}
        parts = [training_loss("cross_entropy", heads[k], labels[k], smoothing=smoothing) for k in heads]
        mean = training_loss("cross_entropy", heads, labels, smoothing=smoothing)
        torch.testing.assert_close(mean, sum(parts) / 2)
    both = training_loss("cross_entropy", {"cls": LOGITS, "mean": LOGITS * 2}, LABELS)
    parts = [training_loss("cross_entropy", logits, LABELS) for logits in (LOGITS, LOGITS * 2)]
    torch.testing.assert_close(both, sum(parts) / 2)


@pytest.mark.parametrize(
    ("name", "targets", "smoothing", "message"),
    [
        ("cross_entropy", SOFT, 0.0, "use soft_cross_entropy or bce"),
        ("soft_cross_entropy", SOFT, 0.1, "SOLVER.SMOOTHING"),
        ("bce", SEVERAL, 0.1, "SOLVER.SMOOTHING"),
        ("focal", LABELS, 0.0, "no loss 'focal'; use cross_entropy"),
    ],
)
def test_combinations_that_make_no_sense(name, targets, smoothing, message):
    with pytest.raises(ValueError, match=message):
        training_loss(name, LOGITS, targets, smoothing=smoothing)
