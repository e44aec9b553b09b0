"""The course of a training run: history.csv, and curves.png drawn from it."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videobench.reporting.run_files import read_from, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Panels of the figure: title of the axis, and which columns of history.csv go there.
_PANELS = {
    "loss": lambda column: column.endswith("loss"),
    "top-1 accuracy (%)": lambda column: column.endswith(("top1_err", "top1", "top1_acc")),
    "mean average precision (%)": lambda column: column.endswith("map"),
    "learning rate": lambda column: column == "lr",
}

# Names of validation's numbers in files of earlier versions.
_EARLIER = re.compile(r"^val_(?!clip_)(.+)$")


def write_history(output_dir: str | Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Write history.csv: one line per finished epoch, a column for every number that any of them has.

    Errors and accuracies are in percent; ``train_...`` are of training clips, ``val_clip_...`` of single validation
    clips (never of whole videos, as test results are), ``val_clip_ema_...`` of the averaged weights. ``lr`` is that of
    the epoch's last step, ``seconds`` are those of training.

    Raises:
        OutputError: when it cannot be written; the old file is untouched.
    """
    path, text = Path(output_dir) / "history.csv", io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(column for record in history for column in record)))
    writer.writeheader()
    writer.writerows(history)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())
    return path


def read_history(output_dir: str | Path) -> list[dict[str, float]]:
    """The lines of history.csv, without the numbers that an epoch does not have; empty without the file.

    Raises:
        RunFileError: for a file with anything else.
    """
    path, records = Path(output_dir) / "history.csv", []
    if not path.exists():
        return records
    advice = "mend or remove it: the training writes it again after its next epoch"
    with read_from(path, advice), path.open(encoding="utf-8", newline="") as stream:
        lines = csv.reader(stream)
        columns = next(lines, [])
        for cells in lines:
            try:
                record = {name: float(text) for name, text in zip(columns, cells, strict=True) if text}
                if not record.get("epoch", 0) >= 1:
                    raise ValueError("it has no epoch")
            except ValueError as error:
                raise ValueError(f"line {lines.line_num} is not that of an epoch ({error})") from error
            records.append(with_present_names(record))
    return records


def with_present_names(record: Mapping[str, float]) -> dict[str, float]:
    """A record of an epoch under today's names: those of validation did not say before that they count clips."""
    return {_EARLIER.sub(r"val_clip_\1", name): value for name, value in record.items()}


def write_curves(output_dir: str | Path) -> Path | None:
    """Draw curves.png from history.csv: losses, accuracies and the learning rate over the epochs.

    Returns:
        The file, or None when no epoch is finished yet.
    """
    history = read_history(output_dir)
    if not history:
        return None
    path = Path(output_dir) / "curves.png"
    with whole_file(path) as file:
        draw_curves(history).savefig(file, format="png", dpi=110)
    return path


def curve_panels(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What there is to draw of epochs as :func:`read_history` gives them: panel, curve, points (epoch, value).

    Errors have become accuracies.
    """
    columns = list(dict.fromkeys(column for record in history for column in record))
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, belongs in _PANELS.items():
        for column in filter(belongs, columns):
            sign, offset = (-1.0, 100.0) if column.endswith("_err") else (1.0, 0.0)
            points = [(record["epoch"], offset + sign * record[column]) for record in history if column in record]
            panels.setdefault(title, {})[_label(column, columns)] = points
    return panels


def draw_curves(history: Sequence[Mapping[str, float]]) -> "Figure":
    """The figure of :func:`write_curves`, one panel under the other, for epochs as :func:`read_history` gives them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = curve_panels(history)
    figure = Figure(figsize=(8, 0.8 + 2.6 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves) in zip(rows, panels.items(), strict=True):
        for label, points in curves.items():
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1.2, label=label)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        if "%" in title:
            axes.set_ylim(0, 100)
        if len(curves) > 4:  # more names than fit beside the curves
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        elif list(curves) != ["lr"]:
            axes.legend(frameon=False)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _label(column: str, columns: Sequence[str]) -> str:
    """``val_clip_top1_err`` as ``validation clips``, ``train_verb_top1_err`` as ``training verb``."""
    words = {"train": "training", "val": "validation", "clip": "clips", "ema": "averaged weights"}
    left_out = ("loss", "top1", "err", "acc", "map")
    parts = [words.get(part, part) for part in column.split("_") if part not in left_out]
    # Beside the errors of verbs and nouns the plain ones are the action's.
    if column.endswith("_top1_err") and column.replace("top1", "verb_top1") in columns:
        parts.append("action")
    return " ".join(parts) or column
