"""What a run leaves for people: history.csv, the result table and report.html, all made from files in OUTPUT_DIR."""

import base64
import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLUMNS = ("epoch", "lr", "train_loss", "train_top1_err", "val_top1_err", "val_top5_err", "seconds")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }}
img {{ max-width: 100%; background: #fff; border-radius: 4px; }}
pre {{ overflow-x: auto; padding: 1rem; border: 1px solid #8884; border-radius: 4px; font-size: .85rem; }}
</style></head><body>
<h1>{title}</h1>
{sections}
</body></html>
"""


def write_history(output_dir: str | Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write one line per finished epoch to history.csv."""
    with (Path(output_dir) / "history.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS)
        writer.writeheader()
        writer.writerows(history)


def result_table(output_dir: str | Path, results: Mapping[str, Any] | None) -> str:
    """The end of a run in a few lines of text."""
    if results is None:
        return f"\ntraining done, no test was asked for; files are in {output_dir}"
    rows = [(name, value) for name, value in _headline(results)]
    width = max(len(name) for name, _ in rows)
    line = "-" * (width + 2 + max(len(value) for _, value in rows))
    return "\n".join(["", line, *(f"{name:<{width}}  {value}" for name, value in rows), line])


def write_report(output_dir: str | Path, *, with_test: bool = True) -> Path:
    """Write report.html: one file with everything in it, from what training and test left in ``output_dir``.

    Args:
        output_dir: the folder of the run.
        with_test: whether the test results in it belong to the run as it stands.
    """
    output = Path(output_dir)
    sections: list[str] = []
    results_file, history_file = output / "test_results.json", output / "history.csv"
    if with_test and results_file.exists():
        results = json.loads(results_file.read_text())
        sections += ["<h2>Test</h2>", _table(("", ""), _headline(results))]
        predictions = np.load(output / "predictions.npz")
        if len(predictions["label"]):
            sections += _class_sections(predictions["scores"], predictions["label"], results["class_names"])
        if results["failed"]:
            rows = [(f["video"], f["cause"]) for f in results["failed"]]
            sections += ["<h2>Unreadable videos</h2>", _table(("video", "cause"), rows)]
    if history_file.exists():
        with history_file.open(newline="") as stream:
            sections += ["<h2>Training</h2>", _curves(list(csv.DictReader(stream)))]
    sections += ["<h2>Configuration</h2>", f"<pre>{html.escape((output / 'config.yaml').read_text())}</pre>"]
    path = output / "report.html"
    path.write_text(
        _PAGE.format(title=html.escape(f"videobench: {output.name}"), sections="\n".join(sections)), encoding="utf-8"
    )
    return path


def _headline(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    accuracies = [(f"top-{k[3:]} accuracy", f"{v:.2f} %") for k, v in results.items() if k[:3] == "top"]
    return [
        *accuracies,
        ("videos", f"{results['videos']} ({len(results['failed'])} unreadable)"),
        ("views per video", f"{results['views']} ({results['clips']} clips x {results['crops']} crops)"),
        ("scores", f"{results['ensemble']} of {results['scores']}"),
        ("seconds", f"{results['seconds']:.1f}"),
        ("checkpoint", results["checkpoint"]),
    ]


def _class_sections(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[str]:
    classes = scores.shape[1]
    names = names or [str(number) for number in range(classes)]
    predicted = scores.argmax(1)
    matrix = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    totals = matrix.sum(1)
    rows = [(names[c], f"{100 * matrix[c, c] / totals[c]:.1f} %", str(totals[c])) for c in range(classes) if totals[c]]
    return [
        "<h2>Accuracy per class</h2>",
        _table(("class", "top-1 accuracy", "videos"), rows),
        "<h2>Confusion matrix</h2>",
        _confusion(matrix, names),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(v))}</{tag}>" for v in values) + "</tr>"

    header = cells("th", head) if any(head) else ""
    return "<table>" + header + "".join(cells("td", row) for row in rows) + "</table>"


def _confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    figure, axes = _figure(min(12.0, 3 + 0.4 * len(names)), min(10.0, 2 + 0.4 * len(names)))
    image = axes.imshow(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 30:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, label="share of the true class")
    return _image(figure, "Confusion matrix: rows are true classes, columns predicted ones")


def _curves(history: Sequence[Mapping[str, str]]) -> str:
    figure, axes = _figure(8, 3.5)
    epochs = [int(row["epoch"]) for row in history]
    axes.plot(epochs, [float(row["train_loss"]) for row in history], label="training loss", color="tab:blue")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    other = axes.twinx()
    accuracy = [100 - float(row["train_top1_err"]) for row in history]
    other.plot(epochs, accuracy, "--", label="training", color="tab:gray")
    measured = [row for row in history if row["val_top1_err"]]
    other.plot(
        [int(row["epoch"]) for row in measured],
        [100 - float(row["val_top1_err"]) for row in measured],
        "o-",
        label="validation, one clip",
        color="tab:orange",
    )
    other.set_ylabel("top-1 accuracy (%)")
    other.set_ylim(0, 100)
    figure.legend(loc="outside upper center", ncol=3, frameon=False)
    return _image(figure, "Training loss, training accuracy and clip-level validation accuracy per epoch")


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _image(figure, description: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{encoded}">'
