"""What the files in OUTPUT_DIR say of a run, and the result table; report_page.py makes report.html of it."""

import csv
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from videobench.reporting.curves import read_history
from videobench.reporting.diagnosis import Head, mistakes, read_heads
from videobench.reporting.run_files import RunFileError, read_from, read_test

logger = logging.getLogger(__name__)

#: Columns of restarts.csv with numbers.
RESTART_NUMBERS = ("epochs", "steps", "lost_seconds", "ranks", "batch")
# What the report shows of test_results.json, besides metrics.
_SHOWN = (
    *("intervals", "sweep", "videos", "views", "clips", "crops", "scores", "ensemble", "unlabelled", "failed"),
    *("seconds", "videos_per_second", "data_wait_percent", "checkpoint", "list_sha256"),
)


@dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes:
        folder: its OUTPUT_DIR.
        config: the text of config.yaml; empty without it.
        results: test_results.json; None without a test.
        heads: the predictions of the test.
        history: the epochs of history.csv.
        epochs: the lines of json_stats.log of whole training epochs, the latest of each.
        restarts: the lines of restarts.csv, one for every time that the training went on.
    """

    folder: Path
    config: str
    results: Mapping[str, Any] | None
    heads: list[Head]
    history: list[dict[str, float]]
    epochs: list[dict[str, Any]]
    restarts: list[dict[str, str]]

    @classmethod
    def read(cls, output_dir: str | Path, *, with_test: bool = True) -> "Run":
        """Read what is there.

        Args:
            output_dir: the folder of the run.
            with_test: whether the test results in it belong to the run as it stands.

        Lines of the logs that a full disk or a kill cut off are named in the log and left out.

        Raises:
            RunFileError: for a folder without anything of a run, and for files that are damaged.
        """
        folder = Path(output_dir)
        files = {name: folder / name for name in ("config.yaml", "test_results.json", "history.csv", "json_stats.log")}
        if not any(path.is_file() for path in files.values()):
            raise RunFileError(f"{folder} is not the output folder of a run: it has none of {', '.join(files)}")
        results, heads = None, []
        if with_test and files["test_results.json"].exists():
            results, arrays = read_test(folder)
            if missing := _missing(results):
                raise RunFileError(f"{files['test_results.json']}: it has no {', '.join(missing)}; test again")
            heads = read_heads(results, arrays)
        config = ""
        if files["config.yaml"].exists():
            with read_from(files["config.yaml"], "mend or remove it"):
                config = files["config.yaml"].read_text(encoding="utf-8", errors="backslashreplace")
        epochs, restarts = _epoch_lines(files["json_stats.log"]), _restarts(folder / "restarts.csv")
        return cls(folder, config, results, heads, read_history(folder), epochs, restarts)

    @cached_property
    def mistakes(self) -> list[dict[str, list[dict[str, Any]]]]:
        """The mistakes shown, per head; see :func:`~videobench.reporting.diagnosis.mistakes`."""
        return [mistakes(head) for head in self.heads]

    @property
    def mistaken(self) -> list[int]:
        """The numbers in the test list of the videos shown as mistakes."""
        return sorted({row["index"] for head in self.mistakes for kind in head.values() for row in kind})


def result_table(output_dir: str | Path, results: Mapping[str, Any] | None) -> str:
    """The end of a run in a few lines of text."""
    if results is None:
        return f"\ntraining done, no test was asked for; files are in {output_dir}"
    rows = [
        *((name, f"{value:.2f} %{between(interval)}") for name, value, interval in headline(results)),
        *test_facts(results),
    ]
    width = max(len(name) for name, _ in rows)
    line = "-" * (width + 2 + max(len(value) for _, value in rows))
    return "\n".join(["", line, *(f"{name:<{width}}  {value}" for name, value in rows), line])


def headline(results: Mapping[str, Any]) -> list[tuple[str, float, list[float] | None]]:
    """Name, percentage and 95 % interval of the metrics of a test."""
    intervals = results["intervals"]
    # With verbs and nouns the plain names are the action's once more.
    several = any(name.startswith("verb_") for name in intervals)
    names = [name for name in intervals if not (several and name.startswith("top"))]
    return [(_metric(name), results[name], intervals[name]) for name in names]


def test_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What has to be said beside the metrics of a test."""
    unlabelled = f", {results['unlabelled']} without label" if results["unlabelled"] else ""
    speed = f", {results['videos_per_second']:.2f} videos/s" if results["videos_per_second"] else ""
    return [
        ("videos", f"{results['videos']} ({len(results['failed'])} unreadable{unlabelled})"),
        ("views per video", f"{results['views']} ({results['clips']} clips x {results['crops']} crops)"),
        ("scores", f"{results['ensemble']} of {results['scores']}"),
        ("seconds", f"{results['seconds']:.1f}{speed}"),
        ("checkpoint", results["checkpoint"]),
    ]


def between(interval: list[float] | None) -> str:
    """A 95 % interval as text to put behind a percentage."""
    return f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""


def _metric(name: str) -> str:
    """``verb_top5`` as ``verb top-5 accuracy``."""
    words = re.sub(r"top(\d+)$", r"top-\1 accuracy", name).replace("_", " ")
    return words.replace("action joint", "action (pairs)").replace("map", "mean average precision")


def _missing(results: Mapping[str, Any]) -> list[str]:
    """What the report shows of test_results.json and cannot find there."""
    if missing := [name for name in (*_SHOWN, *results.get("intervals", ())) if name not in results]:
        return missing
    views = ("clips", "crops", *(name for name in results["intervals"] if "top" in name or "map" in name))
    classes = [row for head in results["classes"].values() for row in head]
    rows = [(row, ("class", "name", "videos", *["top1"] * ("average_precision" not in row))) for row in classes]
    rows += [(row, views) for row in results["sweep"]] + [(row, ("video", "cause")) for row in results["failed"]]
    return list(dict.fromkeys(name for row, names in rows for name in names if name not in row))


def _epoch_lines(path: Path) -> list[dict[str, Any]]:
    """The ``train_epoch`` lines of json_stats.log by epoch; a run that went on writes some epochs again."""
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            stats = json.loads(line.removeprefix("json_stats: "))
            if stats.get("_type") == "train_epoch":
                times = {name: float(stats[name]) for name in ("dt", "dt_data", "dt_net")}
                found[int(stats["epoch"].partition("/")[0])] = stats | times
        except (ValueError, LookupError, TypeError, AttributeError):  # what a full disk or a kill left of a line
            logger.warning("%s:%d is no json_stats line and is left out of the report", path, number)
    return [stats | {"epoch": epoch} for epoch, stats in sorted(found.items())]


def _restarts(path: Path) -> list[dict[str, str]]:
    """The lines of restarts.csv by its header; none without the file."""
    rows, lines = [], _lines(path)
    for number, line in enumerate(lines[1:], 2):
        try:
            columns, cells = csv.reader([lines[0], line])
            row = dict(zip(columns, cells, strict=True))
            for name in RESTART_NUMBERS:
                float(row[name] or 0)
            rows.append(row)
        except (ValueError, KeyError, csv.Error):
            logger.warning("%s:%d is no restart and is left out of the report", path, number)
    return rows


def _lines(path: Path) -> list[str]:
    """The lines of a text file whatever its bytes; none without the file."""
    if not path.exists():
        return []
    with read_from(path, "mend or remove it"):
        return path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
