"""What report.html says of a run, and what TensorBoard shows of a test."""

import contextlib
import io
import json
import logging
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_fixtures import made_up_scores, write_test, write_test_of_videos, write_training, write_videos

from videobench.engine.report import write_report
from videobench.reporting import diagnosis
from videobench.reporting.curves import write_history
from videobench.reporting.run_files import RunFileError, read_test
from videobench.reporting.run_report import Run, result_table

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["to <jump> & run", "sit", "walk"]


def head(scores, labels, kind="softmax", summed=1, agreement=None):
    count = len(scores)
    return diagnosis.Head(
        name="",
        classes=[f"class {c}" for c in range(len(scores[0]))],
        scores=np.array(scores, float),
        labels=np.array(labels),
        agreement=np.ones(count) if agreement is None else np.array(agreement),
        videos=[f"{i}.mp4" for i in range(count)],
        index=10 + np.arange(count),
        kind=kind,
        summed=summed,
    )


def sections(html: str) -> dict[str, str]:
    """The HTML of every section by its key."""
    return dict(re.findall(r'<section id="([^"]+)"[^>]*>(.*?)</section>', html, re.S))


def chart_data(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture
def tested(tmp_path):
    scores, labels = made_up_scores(60, 3)
    return write_test(write_training(tmp_path / "run"), {"": scores}, {"": labels}, {"": NAMES}, failed=2)


def test_confidence_is_the_mean_probability_of_the_views():
    assert head([[3.0, 1.0]], [0], summed=4).confidence.tolist() == [0.75]
    assert head([[0.9, 0.2]], [0], kind="sigmoid").confidence.tolist() == [0.9]
    logits = np.log([[0.2, 0.5, 0.3]]) + 7
    assert head(2 * logits, [0], kind="logits", summed=2).confidence == pytest.approx([0.5])
    assert head(2 * logits, [0], kind="logits", summed=2).probability(np.array([2])) == pytest.approx([0.3])
    assert np.isfinite(head([[4000.0, -4000.0]], [0], kind="logits").confidence).all()


def test_calibration_compares_confidence_and_accuracy():
    rows, error = diagnosis.calibration(head([[0.95, 0.05], [0.93, 0.07], [0.55, 0.45], [0.0, 1.0]], [0, 1, 0, 1]))
    assert [row["videos"] for row in rows] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert rows[9]["confidence"] == pytest.approx(96.0)
    assert rows[9]["accuracy"] == pytest.approx(200 / 3)
    assert rows[0]["accuracy"] is None
    assert (rows[5]["low"], rows[5]["high"]) == (50, 60)
    assert error == pytest.approx((3 * (96 - 200 / 3) + 45) / 4)


def test_confusions_are_counted_without_the_empty_cells():
    cells = diagnosis.confusion_cells(head(np.eye(400)[[3, 3, 399, 0]], [3, 3, 3, 1]))
    assert cells.tolist() == [[1, 0, 1], [3, 3, 2], [3, 399, 1]]


def test_agreement_by_level_and_in_steps():
    scores, labels = [[1.0, 0.0]] * 4, [0, 0, 1, 0]
    levels = diagnosis.agreement_levels(head(scores, labels, agreement=[1 / 3, 1, 1 / 3, 1]))
    assert levels == [
        {"views": "33 %", "videos": 2, "accuracy": 50.0},
        {"views": "100 %", "videos": 2, "accuracy": 100.0},
    ]
    many = head([[1.0, 0.0]] * 30, [0] * 30, agreement=np.arange(1, 31) / 30)
    levels = diagnosis.agreement_levels(many)
    assert len(levels) == 10
    assert sum(level["videos"] for level in levels) == 30
    assert levels[-1] == {"views": "90 to 100 %", "videos": 4, "accuracy": 100.0}


def test_mistakes_are_the_surest_and_the_worst():
    scores = [[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [0.45, 0.15, 0.4]]
    found = diagnosis.mistakes(head(scores, [1, 2, 1, 0, 1]), count=3)
    assert [row["index"] for row in found["confident"]] == [10, 12, 11]
    assert [(row["index"], row["rank"]) for row in found["worst"]] == [(14, 3), (11, 3), (10, 2)]
    first = found["confident"][0]
    assert (first["label"], first["predicted"], first["percent"]) == ("class 1", "class 0", 90.0)
    assert first["label_percent"] == pytest.approx(10.0)
    several = head([[0.9, 0.1, 0.2], [0.1, 0.8, 0.3]], [[0, 1, 1], [0, 1, 0]], kind="sigmoid")
    (only,) = diagnosis.mistakes(several)["confident"]
    assert (only["label"], only["label_percent"]) == ("class 1; class 2", None)


def test_the_page_has_a_section_for_everything(tested):
    path = write_report(tested)
    assert path == tested / "report.html"
    html = path.read_text(encoding="utf-8")
    parts = sections(html)
    assert list(parts) == [
        *("numbers", "training", "classes", "confusion", "calibration", "agreement", "mistakes", "speed", "failed"),
        "config",
    ]
    results = json.loads((tested / "test_results.json").read_text())
    low, high = results["intervals"]["top1"]
    assert f"{results['top1']:.2f} %" in parts["numbers"]
    assert f"95 % interval {low:.2f} to {high:.2f}" in parts["numbers"]
    assert "broken/1.mp4" in parts["failed"]
    assert "not a video &lt;file&gt;" in parts["failed"]
    assert "PATH_TO_DATA_DIR" in parts["config"]
    assert "12.5 % of the time" in parts["speed"]
    assert "20.0 % of a step" in parts["speed"]
    assert "to &lt;jump&gt; &amp; run" in parts["classes"]
    assert "<jump>" not in html
    assert set(chart_data(html)) >= {"curves0", "classes", "confusion", "calibration", "agreement", "steps"}
    assert sum(videos for _, _, videos in chart_data(html)["confusion"]["cells"]) == 60
    # Nothing is fetched from anywhere.
    assert not re.findall(r'(?:src|href)="(?!#|data:)', re.sub("<script>.*?</script>", "", html, flags=re.S))
    assert (tested / "curves.png").exists()


def test_a_page_of_training_alone_and_of_a_test_alone(tmp_path, tested):
    training = write_report(write_training(tmp_path / "training")).read_text()
    assert list(sections(training)) == ["numbers", "training", "speed", "config"]
    for name in ("history.csv", "json_stats.log", "config.yaml"):
        (tested / name).unlink()
    assert "training" not in sections(write_report(tested).read_text())
    assert list(sections(write_report(write_training(tested), with_test=False).read_text())) == list(sections(training))


def test_numbers_that_are_none_do_not_break_the_page(tmp_path):
    folder = write_training(tmp_path)
    text = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text(text.replace(",1.5,", ",nan,"))
    data = chart_data(write_report(folder).read_text())
    assert data["curves0"]["panel"]["training"][1] == [2.0, None]


def test_verbs_and_nouns_have_sections_of_their_own(tmp_path):
    verbs, nouns = made_up_scores(50, 4, 1), made_up_scores(50, 6, 2)
    scores, labels = ({"verb": verbs[i], "noun": nouns[i]} for i in (0, 1))
    labels["verb"][0] = -1  # has no label
    names = {"verb": list("abcd"), "noun": list("efghij")}
    folder = write_test(tmp_path, scores, labels, names)
    html = write_report(folder).read_text()
    parts = sections(html)
    assert {"verb-confusion", "noun-confusion", "verb-mistakes", "noun-calibration"} <= set(parts)
    assert parts["numbers"].count("<dt>action top-1 accuracy</dt>") == 1
    assert "<dt>top-1 accuracy</dt>" not in parts["numbers"]
    assert "action (pairs) top-5 accuracy" in parts["numbers"]
    assert sum(n for _, _, n in chart_data(html)["verb-confusion"]["cells"]) == 49


def test_several_labels_have_precisions_instead_of_confusions(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (40, 5)).astype(np.uint8)
    labels[:, 4] = 0  # a class without videos
    scores = 4 * np.clip(0.6 * labels + 0.4 * rng.random((40, 5)), 0, 1)
    folder = write_test(tmp_path, {"": scores}, {"": labels}, {"": list("abcde")}, kind="sigmoid")
    parts = sections(write_report(folder).read_text())
    assert "confusion" not in parts
    assert "Average precision per class" in parts["classes"]
    assert "–" in parts["classes"]
    assert "mean average precision" in parts["numbers"]


@pytest.mark.parametrize(
    ("history", "name", "value", "note"),
    [
        (
            [{"val_clip_top1_err": 40.0}, {"val_clip_top1_err": 45.0}],
            *("validation top-1", "55.00 %", "single clips, epoch 2; best 60.00 % in epoch 1"),
        ),
        (
            [{"val_clip_top1_err": 45.0}, {"val_clip_top1_err": 45.0}],
            *("validation top-1", "55.00 %", "single clips, epoch 2"),
        ),
        (
            [
                {"val_clip_ema_top1_err": 40.0, "val_clip_ema_map": 30.0},
                {"val_clip_map": 20.0, "val_clip_ema_map": 25.0},
            ],
            *("validation mean average precision, averaged weights", "25.00 %", "; best 30.00 % in epoch 1"),
        ),
        (
            [{"val_clip_top1_err": 90.0, "val_clip_verb_top1_err": 50.0}],
            *("validation action top-1", "10.00 %", "single clips, epoch 1"),
        ),
    ],
)
def test_the_validation_shown_is_what_chooses_the_best_checkpoint(tmp_path, history, name, value, note):
    write_history(tmp_path, [{"epoch": number} | record for number, record in enumerate(history, 1)])
    numbers = sections(write_report(tmp_path).read_text())["numbers"]
    cards = re.findall("<dt>([^<]*)</dt><dd><strong>([^<]*)</strong><span>([^<]*)</span>", numbers)
    shown = {called: (number, text) for called, number, text in cards}
    assert shown[name][0] == value
    assert shown[name][1].endswith(note)


def test_a_single_class_and_a_test_without_videos(tmp_path):
    folder = write_test(tmp_path / "one", {"": np.ones((3, 1))}, {"": np.zeros(3, int)}, {"": ["all"]}, views=1)
    parts = sections(write_report(folder).read_text())
    assert "Every video is right." in parts["mistakes"]
    assert "No video was taken for another class." in parts["confusion"]
    assert "agreement" not in parts
    none = {"": np.zeros(0, int)}
    folder = write_test(tmp_path / "none", {"": np.zeros((0, 2))}, none, {"": ["a", "b"]}, failed=2000)
    parts = sections(write_report(folder).read_text())
    assert {"numbers", "failed"} <= set(parts)
    assert "The first 1000 of 2000" in parts["failed"]


def test_a_test_without_labels_says_what_was_tested(tmp_path):
    scores, _ = made_up_scores(20, 3)
    parts = sections(write_report(write_test(tmp_path, {"": scores}, {"": np.full(20, -1)}, {"": NAMES})).read_text())
    assert list(parts) == ["numbers", "speed"]
    assert "<td>20 (0 unreadable)</td>" in parts["numbers"]
    assert "<td>checkpoint.pyth</td>" in parts["numbers"]


def test_names_that_are_no_text_survive(tmp_path):
    scores, labels = made_up_scores(3, 2)
    videos = ["bad\udcff name.mp4"] * 3
    folder = write_test(tmp_path, {"": scores}, {"": 1 - scores.argmax(1)}, {"": ["a", "b"]}, videos=videos)
    assert "bad\\udcff name.mp4" in write_report(folder).read_text(encoding="utf-8")
    assert len(labels) == 3


def test_mistakes_show_frames_and_missing_videos_are_named(tmp_path):
    cfg = write_videos(tmp_path / "data", 4)
    folder = write_test_of_videos(tmp_path / "run", cfg, list("abcdefgh"))
    (tmp_path / "data/3.mp4").unlink()
    mistakes = sections(write_report(folder).read_text())["mistakes"]
    assert mistakes.count("data:image/jpeg;base64,") == 2 * 3
    assert len(re.findall("no frames: [^<]*no such file", mistakes, re.I)) == 2
    # Somebody edited the configuration.
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub("SAMPLING_RULE: .*", "SAMPLING_RULE: odd", config))
    mistakes = sections(write_report(folder).read_text())["mistakes"]
    assert f"No frames: {folder / 'config.yaml'} cannot be used: no sampling rule" in mistakes
    # Another list: the numbers of the videos mean nothing any more.
    (folder / "config.yaml").write_text(config)
    (tmp_path / "data/test.csv").write_text("2.mp4 0\n1.mp4 0\n")
    mistakes = sections(write_report(folder).read_text())["mistakes"]
    assert "data:image" not in mistakes
    assert mistakes.count("test.csv has changed since the test") == 1


def test_the_result_table_has_the_intervals(tested):
    results = json.loads((tested / "test_results.json").read_text())
    low, high = results["intervals"]["top1"]
    text = result_table(tested, results)
    assert f"top-1 accuracy       {results['top1']:.2f} % ({low:.2f} to {high:.2f})" in text
    assert "60 (2 unreadable)" in text


def test_tensorboard_has_the_confusion_matrix_and_the_classes(tested):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_report(tested, tensorboard=True)
    assert not (tested / "tensorboard").exists()  # TENSORBOARD.ENABLE False
    (tested / "tensorboard").mkdir()
    write_report(tested, tensorboard=True)
    write_report(tested)  # the page again
    events = EventAccumulator(str(tested / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["test/confusion_matrix"]
    (image,) = events.Images("test/confusion_matrix")
    assert image.step == 12
    assert image.encoded_image_string.startswith(b"\x89PNG")
    (histogram,) = events.Histograms("test/class_accuracy")
    results = json.loads((tested / "test_results.json").read_text())
    shares = [row["top1"] for row in results["classes"][""]]
    assert (histogram.histogram_value.num, histogram.histogram_value.sum) == (3, pytest.approx(sum(shares)))


def test_epochs_written_twice_count_once(tmp_path):
    folder = write_training(tmp_path, epochs=3)
    with (folder / "json_stats.log").open("a") as stream:
        line = {"_type": "train_epoch", "epoch": "3/3", "dt": 1.0, "dt_data": 0.5, "dt_net": 0.5}
        stream.write(f"json_stats: {json.dumps(line)}\n")
        stream.write('json_stats: {"_type": "val_epoch", "epoch": "3/3"}\n')
    assert [(line["epoch"], line["dt"]) for line in Run.read(folder).epochs] == [(1, 0.125), (2, 0.125), (3, 1.0)]


def test_a_line_that_was_cut_off_is_named_and_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videobench"), "propagate", True)  # a run in this process ends it
    folder = write_training(tmp_path, epochs=3)
    path = folder / "json_stats.log"
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, second[:40] + third, third]) + "\n")
    with caplog.at_level("WARNING", "videobench"):
        assert [line["epoch"] for line in Run.read(folder).epochs] == [1, 3]
    assert f"{path}:2 is no json_stats line" in caplog.text


def test_lines_of_logs_that_are_no_lines_are_named_and_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videobench"), "propagate", True)
    folder = write_training(tmp_path, epochs=2)
    odd = [b"\0" * 50, b"\xff\xfe", b"[1]", b'{"_type": "train_epoch"}', b'{"_type": "train_epoch", "epoch": 3}']
    restart = b"2026-01-01T00:00:00+00:00,,,checkpoint.pyth,1,2,0.5,1,8"
    names = b"time,slurm_job,slurm_restarts,checkpoint,epochs,steps,lost_seconds,ranks,batch"
    with (folder / "json_stats.log").open("ab") as stream:
        stream.write(b"\n".join(odd) + b"\n")
    cuts = [restart[:30], restart[:-9] + restart, restart.replace(b"0.5", b"x"), b"\0" * 50]
    (folder / "restarts.csv").write_bytes(b"\n".join([names, restart, *cuts]))
    with caplog.at_level("WARNING", "videobench"):
        parts = sections(write_report(folder).read_text())
    assert "Restarts (1)" in parts["restarts"]
    for number in range(3, 3 + len(odd)):
        assert f"json_stats.log:{number} is no json_stats line" in caplog.text
    for number in range(3, 3 + len(cuts)):
        assert f"restarts.csv:{number} is no restart" in caplog.text


def test_the_tool(tested, tmp_path, monkeypatch, capsys):
    def tool(folder: Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["report.py", str(folder)])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(ROOT / "tools/report.py"), run_name="__main__")
        return done.value.code, *capsys.readouterr()

    assert tool(tested)[:2] == (0, f"{tested / 'report.html'}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, error = tool(empty)
    assert code == 2
    assert error.startswith(f"error: {empty} is not the output folder of a run")
    assert list(empty.iterdir()) == []
    (tested / "report.html").unlink()
    (tested / "report.html").mkdir()  # as good as a folder of somebody else
    code, _, error = tool(tested)
    assert code == 2
    assert error.startswith(f"error: {tested / 'report.html'}: cannot be written: Is a directory")
    assert [path for path in tested.iterdir() if path.suffix == ".tmp"] == []


def damaged(name: str, content) -> pytest.param:
    return pytest.param(name, content, id=f"{name}: {content if isinstance(content, str) else content.__name__}"[:60])


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:200] + bytes(byte ^ 0xFF for byte in content[200:260]) + content[260:]


def without_scores(content: bytes) -> bytes:
    return written({"video": np.array(["a"]), "index": np.zeros(1)})


def of_other_videos(content: bytes) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    return written({name: part[:10] for name, part in arrays.items()})


def of_other_classes(content: bytes) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    return written(arrays | {"scores": np.eye(4)[arrays["label"]]})


def written(arrays: dict) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def renamed_key(content: bytes) -> bytes:
    return content.replace(b'"ensemble"', b'"ensamble"')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(damaged("predictions.npz", how) for how in (cut, flipped, "", "no archive", without_scores)),
        *(damaged("predictions.npz", how) for how in (of_other_videos, of_other_classes)),
        *(damaged("test_results.json", how) for how in (cut, renamed_key, "[]", "", "\0\0\0")),
        *(damaged("history.csv", how) for how in (flipped, "epoch,lr\nx,1\n", "lr\n1\n", "epoch,lr\n1,2,3\n")),
    ],
)
def test_a_damaged_file_is_named(tested, name, content):
    path = tested / name
    path.write_bytes(content(path.read_bytes()) if callable(content) else content.encode())
    with pytest.raises(RunFileError, match=f"^{re.escape(str(path))}: .*; (test again|mend or remove it)"):
        write_report(tested)
    assert not (tested / "report.html").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_predictions_with_any_bytes_changed_are_read_or_refused(tested, data):
    path = tested / "predictions.npz"
    whole = path.read_bytes()
    content = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(RunFileError):
        read_test(tested)
    path.write_bytes(whole)
