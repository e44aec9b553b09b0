"""Two tests side by side."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from videobench.engine import accuracy
from videobench.engine.compare import CompareError, compare, comparison_text
from videobench.engine.results import evaluate

ROOT = Path(__file__).resolve().parents[2]


def write_run(folder: Path, scores: dict, labels: dict, *, names=None, index=None, sha="a" * 64) -> Path:
    """A folder as a test leaves it, as far as `compare` looks at it."""
    folder.mkdir()
    found = evaluate(scores, labels, names=names)
    count = len(next(iter(labels.values())))
    results = {"list": "test.csv", "list_sha256": sha, "videos": count, "classes": found.classes, **found.metrics}
    (folder / "test_results.json").write_text(json.dumps(results))
    index = np.arange(count) if index is None else np.asarray(index)
    arrays = {"video": np.array([f"{i}.mp4" for i in index]), "index": index}
    for head, part in scores.items():
        prefix = head and f"{head}_"
        arrays |= {f"{prefix}scores": part, f"{prefix}label": labels[head], f"{prefix}agreement": np.ones(count)}
    np.savez_compressed(folder / "predictions.npz", **arrays)
    return folder


def one_hot(classes, count=3):
    return np.eye(count)[classes]


@pytest.fixture
def pair(tmp_path):
    names = {"": ["run", "jump", "swim"]}
    labels = {"": np.array([0, 0, 0, 1, 1, 2])}
    a = write_run(tmp_path / "a", {"": one_hot([0, 1, 1, 1, 0, 1])}, labels, names=names)
    b = write_run(tmp_path / "b", {"": one_hot([0, 0, 0, 0, 0, 1])}, labels, names=names)
    return a, b


def test_differences_classes_and_videos(pair):
    found = compare(*pair)
    (target,) = found.targets
    assert (found.videos, found.left_out) == (6, [])
    assert (target.name, target.metric) == ("class", "top1")
    assert (target.first, target.second) == (pytest.approx(100 * 2 / 6), pytest.approx(100 * 3 / 6))
    low, high = target.interval
    assert low < 0 < 100 / 6 < high
    assert [(c["name"], c["first"], c["second"], c["videos"]) for c in target.classes] == [
        ("run", pytest.approx(100 / 3), 100.0, 3),
        ("jump", 50.0, 0.0, 2),
    ]
    assert [(c["video"], c["label"], c["first"], c["second"], c["right"]) for c in target.changed] == [
        ("1.mp4", "run", "jump", "run", "B"),
        ("2.mp4", "run", "jump", "run", "B"),
        ("3.mp4", "jump", "jump", "run", "A"),
    ]
    text = comparison_text(found)
    assert "A 33.33 %, B 50.00 %, B - A +16.67 points" in text
    assert "more than chance" not in text
    assert "classes gained: 1\n    run: 33.3 -> 100.0 % of 3" in text
    assert "videos that A got right and B wrong: 1\n    3.mp4: jump; A says jump, B says run" in text


def test_a_run_equals_itself(pair):
    (target,) = compare(pair[0], pair[0]).targets
    assert target.interval == [0.0, 0.0]
    assert target.classes == target.changed == []


def test_a_sure_difference_is_called_one(tmp_path):
    labels = {"": np.zeros(200, int)}
    a = write_run(tmp_path / "a", {"": one_hot(np.arange(200) % 2)}, labels)
    b = write_run(tmp_path / "b", {"": one_hot(np.zeros(200, int))}, labels)
    assert "+50.00 points" in comparison_text(compare(a, b))
    assert "more than chance" in comparison_text(compare(a, b))


def test_videos_that_only_one_run_could_read_are_left_out(pair, tmp_path):
    labels = {"": np.array([0, 0, 1, 1, 2])}
    c = write_run(
        tmp_path / "c",
        {"": one_hot([0, 0, 0, 1, 2])},
        labels,
        index=[0, 1, 3, 4, 5],
        names={"": ["run", "jump", "swim"]},
    )
    found = compare(pair[0], c)
    assert (found.videos, found.left_out) == (5, ["2.mp4"])
    assert found.targets[0].first == pytest.approx(40.0)
    assert "left out, because only one run could read them: 2.mp4\n" in comparison_text(found)
    many = dataclasses.replace(found, left_out=[f"{i}.mp4" for i in range(1000)])
    assert "9.mp4 and 990 more\n" in comparison_text(many)


def test_other_numbers_for_the_same_names_are_the_same_labels(pair, tmp_path):
    labels = {"": np.array([2, 2, 2, 1, 1, 0])}
    c = write_run(tmp_path / "c", {"": one_hot([2, 2, 2, 2, 2, 1])}, labels, names={"": ["swim", "jump", "run"]})
    assert compare(pair[1], c).targets[0].changed == []


def test_what_cannot_be_compared(pair, tmp_path):
    labels = {"": np.array([0, 0, 0, 1, 1, 2])}
    scores = {"": one_hot([0, 1, 1, 1, 0, 1])}
    other = write_run(tmp_path / "other", scores, labels, sha="b" * 64)
    with pytest.raises(CompareError, match=r"tested different lists: .* 6 of 6 and 6 paths are the same"):
        compare(pair[0], other)
    numbered = write_run(tmp_path / "numbered", scores, labels)
    with pytest.raises(CompareError, match="give 6 videos other labels"):
        compare(pair[0], numbered)
    epic = write_run(
        tmp_path / "epic", {"verb": scores[""], "noun": scores[""]}, {"verb": labels[""], "noun": labels[""]}
    )
    with pytest.raises(CompareError, match="predict different things"):
        compare(pair[0], epic)
    with pytest.raises(CompareError, match="no test results to read there"):
        compare(pair[0], tmp_path)


@pytest.mark.parametrize("left", [0, 300])
def test_predictions_that_are_cut_short(pair, left):
    file = pair[1] / "predictions.npz"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(CompareError, match=f"{pair[1]}: no test results to read there"):
        compare(*pair)


def test_verbs_nouns_and_actions(tmp_path):
    labels = {"verb": np.array([0, 1, 2]), "noun": np.array([1, 1, 0])}
    a = write_run(tmp_path / "a", {"verb": one_hot([0, 1, 2]), "noun": one_hot([1, 0, 0])}, labels)
    b = write_run(tmp_path / "b", {"verb": one_hot([0, 0, 2]), "noun": one_hot([1, 1, 0])}, labels)
    found = {target.name: target for target in compare(a, b).targets}
    assert list(found) == ["action", "verb", "noun"]
    assert found["action"].first == found["action"].second == pytest.approx(200 / 3)
    assert (found["verb"].second, found["noun"].second) == (pytest.approx(200 / 3), 100.0)
    action, verb, noun = comparison_text(compare(a, b)).split("\n\n")[1:]
    assert action.startswith("action top1: A 66.67 %, B 66.67 %")
    assert "\n" not in action  # which of them changed is said below
    assert "videos that A got right and B wrong: 1\n    1.mp4" in verb
    assert "videos that B got right and A wrong: 1\n    1.mp4" in noun


def test_several_labels_are_compared_by_mean_average_precision(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((50, 4)) < 0.4).astype(int)
    a = write_run(tmp_path / "a", {"": rng.random((50, 4))}, {"": labels})
    b = write_run(tmp_path / "b", {"": labels + rng.random((50, 4))}, {"": labels})
    (target,) = compare(a, b).targets
    assert target.metric == "map"
    assert target.second - target.first == pytest.approx(
        np.mean(accuracy.average_precision(labels + 0.0, labels)) - target.first
    )
    assert 0 < target.interval[0] < target.second - target.first < target.interval[1]
    text = comparison_text(compare(a, b))
    assert "classes gained: 4" in text
    assert "got right" not in text


def test_the_tool(pair, tmp_path):
    def tool(*arguments):
        command = [sys.executable, "tools/compare.py", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    done = tool(*pair, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"][0]["second"] == 50.0
    refused = tool(pair[0], tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
