"""history.csv and the curves drawn from it."""

import csv

import pytest

from videobench.reporting.curves import draw_curves, read_history, write_curves, write_history

HISTORY = [
    {"epoch": 1, "lr": 0.001, "train_loss": 2.5, "train_top1_err": 90.0, "seconds": 3.25},
    {"epoch": 2, "lr": 0.0005, "train_loss": 1.5, "train_top1_err": 40.0, "seconds": 3.0, "val_clip_top1_err": 30.0},
    {"epoch": 3, "lr": 1e-6, "train_loss": 1.25, "train_top1_err": 35.5, "seconds": 3.0, "val_clip_ema_top1_err": 25.0},
]


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_the_history_has_every_number_of_every_epoch(tmp_path):
    write_history(tmp_path, HISTORY[:1])
    path = write_history(tmp_path, HISTORY)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [*HISTORY[1], "val_clip_ema_top1_err"]
    assert rows[0]["val_clip_top1_err"] == ""
    assert read_history(tmp_path) == HISTORY
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_an_earlier_file_is_read_under_today_s_names(tmp_path):
    path = write_history(tmp_path, HISTORY)
    path.write_text(path.read_text().replace("val_clip_", "val_"))
    assert "val_ema_top1_err" in path.read_text()
    assert read_history(tmp_path) == HISTORY


def test_the_figure_shows_the_numbers():
    loss, accuracy, rate = draw_curves(HISTORY).axes
    assert lines(loss) == {"training": [(1, 2.5), (2, 1.5), (3, 1.25)]}
    assert lines(accuracy) == {
        "training": [(1, 10.0), (2, 60.0), (3, 64.5)],
        "validation clips": [(2, 70.0)],
        "validation clips averaged weights": [(3, 75.0)],
    }
    assert [tuple(point) for point in zip(*rate.lines[0].get_data(), strict=True)] == [(1, 1e-3), (2, 5e-4), (3, 1e-6)]
    assert (loss.get_ylabel(), accuracy.get_ylabel(), rate.get_ylabel()) == (
        *("loss", "top-1 accuracy (%)", "learning rate"),
    )


def test_verbs_nouns_and_actions_are_told_apart():
    history = [{"epoch": 1, "train_loss": 2.5, "train_top1_err": 90.0}]
    history[0] |= {"train_verb_top1_err": 60.0, "train_noun_top1_err": 70.0, "val_clip_ema_top1_err": 80.0}
    history[0] |= {"val_clip_ema_verb_top1_err": 50.0}
    loss, accuracy = draw_curves(history).axes
    assert set(lines(loss)) == {"training"}
    assert lines(accuracy) == {
        "training action": [(1, 10.0)],
        "training verb": [(1, 40.0)],
        "training noun": [(1, 30.0)],
        "validation clips averaged weights action": [(1, 20.0)],
        "validation clips averaged weights verb": [(1, 50.0)],
    }


def test_mean_average_precision_has_a_panel_of_its_own():
    history = [{"epoch": 1, "train_top1_err": 40.0, "val_clip_map": 12.0, "val_clip_ema_map": 9.0}]
    accuracy, precision = draw_curves(history).axes
    assert lines(accuracy) == {"training": [(1, 60.0)]}
    assert lines(precision) == {"validation clips": [(1, 12.0)], "validation clips averaged weights": [(1, 9.0)]}
    assert precision.get_ylabel() == "mean average precision (%)"
    assert precision.get_ylim() == (0, 100)


def test_the_picture_is_written_beside_the_history(tmp_path):
    assert write_curves(tmp_path) is None
    write_history(tmp_path, HISTORY)
    path = write_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_history_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_history(tmp_path, HISTORY)
    with pytest.raises(TypeError):
        write_history(tmp_path, [None])
    assert read_history(tmp_path) == HISTORY
