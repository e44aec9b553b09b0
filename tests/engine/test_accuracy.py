"""Metrics against their definitions, written out in loops; intervals against resampled videos."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videobench.engine import accuracy
from videobench.engine.results import evaluate


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_the_rank_of_a_label_is_the_number_of_classes_before_it(rng):
    scores, labels = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    order = np.argsort(-scores, 1)
    expected = [order[i].tolist().index(labels[i]) for i in range(50)]
    assert accuracy.label_ranks(scores, labels).tolist() == expected


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=2, max_size=6))
def test_ties_have_one_order(scores):
    row = np.array([scores])
    ranks = [int(accuracy.label_ranks(row, np.array([c]))[0]) for c in range(len(scores))]
    assert sorted(ranks) == list(range(len(scores)))


def test_top_k_never_asks_for_more_than_there_is(rng):
    found = evaluate({"": rng.random((20, 2))}, {"": rng.integers(0, 2, 20)}, ks=[1, 5])
    assert found.metrics["top5"] == 100.0
    assert found.intervals["top5"] == [100.0, 100.0]


def test_mean_class_accuracy_leaves_out_classes_without_videos():
    scores = np.eye(4)[[0, 1, 0, 0]]
    found = evaluate({"": scores}, {"": np.array([0, 0, 0, 3])}, ks=[1])
    assert found.metrics == {"top1": 50.0, "mean_class_accuracy": pytest.approx((200 / 3 + 0) / 2)}
    assert [entry["top1"] for entry in found.classes[""]] == [pytest.approx(200 / 3), None, None, 0.0]


@pytest.mark.parametrize("kind", ["softmax", "logits"])
def test_actions_are_verb_and_noun_and_pairs_are_products(rng, kind):
    count, verbs, nouns, views = 60, 4, 6, 3
    logits = [3 * rng.normal(size=(count, n)) for n in (verbs, nouns)]
    chances = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in logits]
    summed = [views * x for x in (chances if kind == "softmax" else logits)]
    verb, noun = rng.integers(0, verbs, count), rng.integers(0, nouns, count)
    labels = {"verb": verb, "noun": noun}
    found = evaluate({"verb": summed[0], "noun": summed[1]}, labels, kind=kind, views=views, ks=[1, 2])
    for k in (1, 2):
        right = [
            verb[i] in np.argsort(-summed[0][i])[:k] and noun[i] in np.argsort(-summed[1][i])[:k] for i in range(count)
        ]
        assert found.metrics[f"action_top{k}"] == found.metrics[f"top{k}"] == pytest.approx(100 * np.mean(right))
        pairs = np.einsum("na,nb->nab", *chances).reshape(count, -1)
        joint = [verb[i] * nouns + noun[i] in np.argsort(-pairs[i])[:k] for i in range(count)]
        assert found.metrics[f"action_joint_top{k}"] == pytest.approx(100 * np.mean(joint))
    assert found.metrics["action_joint_top1"] == found.metrics["action_top1"]
    assert found.metrics["action_joint_top2"] != found.metrics["action_top2"]
    assert {"verb_top1", "noun_top2", "verb_mean_class_accuracy"} <= found.metrics.keys()
    assert [len(found.classes[head]) for head in ("verb", "noun")] == [verbs, nouns]


def test_videos_without_a_label_do_not_count(rng):
    scores, labels = rng.random((6, 3)), np.array([0, -1, 2, 1, -1, 0])
    known = labels >= 0
    assert evaluate({"": scores}, {"": labels}).metrics == evaluate({"": scores[known]}, {"": labels[known]}).metrics


def plain_precision(scores, labels):
    """Every threshold by itself."""
    result, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = labels[taken].sum() / labels.sum()
        result += (recall - before) * labels[taken].mean()
        before = recall
    return 100 * result


def test_mean_average_precision_is_over_classes_with_positives(rng):
    labels = (rng.random((40, 5)) < 0.3).astype(np.int64)
    labels[:, 3] = 0
    scores = rng.integers(0, 8, (40, 5)) / 8  # with ties
    there = [0, 1, 2, 4]
    expected = [plain_precision(scores[:, c], labels[:, c]) for c in there]
    found = evaluate({"": scores}, {"": labels}, kind="sigmoid")
    assert found.metrics == {"map": pytest.approx(np.mean(expected))}
    assert [found.classes[""][c]["average_precision"] for c in there] == pytest.approx(expected)
    assert found.classes[""][3]["average_precision"] is None
    low, high = found.intervals["map"]
    assert low < found.metrics["map"] < high


def test_the_interval_of_map_has_the_spread_of_resampled_videos(rng):
    labels = (rng.random((60, 3)) < 0.4).astype(np.int64)
    scores = labels + rng.normal(size=(60, 3))
    drawn = []
    for _ in range(600):
        rows = rng.integers(0, 60, 60)
        drawn.append(accuracy.mean_average_precision(accuracy.average_precision(scores[rows], labels[rows])))
    low, high = evaluate({"": scores}, {"": labels}).intervals["map"]
    assert high - low == pytest.approx(np.diff(accuracy.interval(drawn))[0], rel=0.15)


def test_weights_of_average_precision_repeat_rows(rng):
    labels, scores = rng.integers(0, 2, (12, 3)), rng.integers(0, 5, (12, 3)).astype(float)
    weights = rng.integers(0, 3, 12)
    repeated = np.repeat(np.arange(12), weights)
    expected = accuracy.average_precision(scores[repeated], labels[repeated])
    np.testing.assert_allclose(accuracy.average_precision(scores, labels, weights.astype(float)), expected)


def test_intervals_are_those_of_resampled_videos(rng):
    labels = rng.integers(0, 5, 300)
    first = rng.random(300) < 0.2 + 0.15 * labels
    second = rng.random(300) < 0.5
    accuracies, means, differences = [], [], []
    for _ in range(4000):
        drawn = rng.integers(0, 300, 300)
        accuracies.append(100 * first[drawn].mean())
        means.append(np.nanmean(accuracy.class_accuracy(first[drawn], labels[drawn], 5)[0]))
        differences.append(100 * (second[drawn].mean() - first[drawn].mean()))
    found = (
        accuracy.mean_interval(first),
        accuracy.class_mean_interval(first, labels, 5),
        accuracy.difference_interval(first, second),
    )
    for drawn, ends in zip((accuracies, means, differences), found, strict=True):
        np.testing.assert_allclose(ends, accuracy.interval(drawn), atol=0.8)


@settings(max_examples=25)
@given(st.integers(0, 30), st.integers(1, 4))
def test_intervals_hold_the_value_and_do_not_change(count, classes):
    rng = np.random.default_rng(count)
    scores, labels = {"": rng.random((count, classes))}, {"": rng.integers(0, classes, count)}
    found, again = evaluate(scores, labels), evaluate(scores, labels)
    assert found == again
    for name, ends in found.intervals.items():
        if count == 0:
            assert ends is None
        elif "class" not in name:
            assert ends[0] <= found.metrics[name] <= ends[1]
