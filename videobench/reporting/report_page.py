"""The text of report.html: sections of tables and places for charts, which page/report.js draws with ECharts."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from videobench.reporting import diagnosis, markup
from videobench.reporting.curves import curve_panels, write_curves
from videobench.reporting.run_files import whole_file
from videobench.reporting.run_report import RESTART_NUMBERS, Run, headline, test_facts

# Rows of long lists; what is left out is counted, and the files that have it are named.
_CONFUSIONS, _FAILED = 200, 1000
# Cells of a confusion matrix that a browser draws at ease.
_CELLS = 100_000


def write_page(run: Run, strips: Mapping[int, bytes], missing: Mapping[int, str]) -> Path:
    """Write curves.png, and report.html, which needs nothing beside itself.

    Args:
        run: what to show.
        strips: JPEG files with frames of the mistaken videos, by their numbers in the test list.
        missing: why there is none.
    """
    write_curves(run.folder)
    path = run.folder / "report.html"
    page = _page(run, strips, missing)
    with whole_file(path) as file:
        file.write(page.encode(errors="backslashreplace"))  # names of files may hold bytes that are no characters
    return path


def _page(run: Run, strips: Mapping[int, bytes], missing: Mapping[int, str]) -> str:
    page = _Sections(run, strips, missing)
    parts = files("videobench.reporting") / "page"
    return Template((parts / "report.html").read_text(encoding="utf-8")).substitute(
        title=markup.escape(f"videobench: {run.folder.resolve().name}"),
        style=(parts / "report.css").read_text(encoding="utf-8"),
        nav="".join(f'<a href="#{key}">{markup.escape(title)}</a>' for key, title, _ in page.sections),
        content="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">'
            f'<h2 id="{key}-title">{markup.escape(title)}</h2>{body}</section>'
            for key, title, body in page.sections
        ),
        data=json.dumps(_finite(page.charts), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        library=(parts / "echarts/echarts.min.js").read_text(encoding="utf-8"),
        script=(parts / "report.js").read_text(encoding="utf-8"),
    )


class _Sections:
    """Sections (key, title, HTML) and the data of their charts."""

    def __init__(self, run: Run, strips: Mapping[int, bytes], missing: Mapping[int, str]) -> None:
        self.run, self.strips, self.missing = run, strips, missing
        causes = set(missing.values())
        # Why there are no frames at all, to be said once.
        self.nothing = causes.pop() if not strips and len(causes) == 1 else ""
        self.sections: list[tuple[str, str, str]] = []
        self.charts: dict[str, dict[str, Any]] = {}
        self._numbers()
        self._training()
        self._restarts()
        for head, found in zip(run.heads, run.mistakes, strict=True):
            self._head(head, found)
        self._speed()
        self._failed()
        if run.config:
            self._add(
                "config",
                "Configuration",
                markup.details("config.yaml", markup.preformatted(run.config, "config.yaml")),
            )

    def _add(self, key: str, title: str, *parts: str) -> None:
        self.sections.append((key, title, "".join(parts)))

    def _chart(self, key: str, kind: str, label: str, shape: str = "", **data: Any) -> str:
        self.charts[key] = {"kind": kind, **data}
        return f'<div class="chart {shape}" role="img" aria-label="{markup.escape(label)}" data-chart="{key}"></div>'

    def _numbers(self) -> None:
        run, numbers, parts = self.run, [], []
        if run.results:
            for name, value, interval in headline(run.results):
                note = f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
                numbers.append((name, f"{value:.2f} %", note))
            parts = [markup.facts(test_facts(run.results)), self._sweep(run.results)]
        numbers += _training_numbers(run.history)
        if numbers:
            parts.insert(0, markup.number_cards(numbers))
        if parts:
            self._add("numbers", "Results", *parts)

    def _sweep(self, results: Mapping[str, Any]) -> str:
        if not results["sweep"]:
            return ""
        names = [name for name in results["intervals"] if "top" in name or "map" in name]
        rows = [
            [
                markup.cell(f"{entry['clips']} x {entry['crops']}"),
                *(markup.cell(f"{entry[name]:.2f}", entry[name]) for name in names),
            ]
            for entry in results["sweep"]
        ]
        head = ["clips x crops", *(f"{name.replace('_', ' ')} (%)" for name in names)]
        return "<h3>Other numbers of views</h3>" + markup.table(
            "sweep", "Accuracy by number of views", head, rows, numbers=range(1, len(head))
        )

    def _training(self) -> None:
        panels = curve_panels(self.run.history)
        charts = []
        for number, (unit, panel) in enumerate(panels.items()):
            limits = {"low": 0, "high": 100} if "%" in unit else {}
            label = f"{unit} over the epochs: {', '.join(panel)}"
            chart = self._chart(f"curves{number}", "curves", label, panel=panel, unit=unit, **limits)
            charts.append(f"<div><h3>{markup.escape(unit[0].upper() + unit[1:])}</h3>{chart}</div>")
        if charts:
            text = "<p class=soft>Accuracies of single clips; those of the test are of whole videos.</p>"
            columns = list(dict.fromkeys(column for record in self.run.history for column in record))
            rows = [
                [
                    markup.cell(f"{record[c]:g}", record[c]) if c in record else markup.cell("", math.nan)
                    for c in columns
                ]
                for record in self.run.history
            ]
            table = markup.details(
                "The numbers", markup.table("history", "Numbers of every epoch", columns, rows, all_numbers=True)
            )
            self._add("training", "Training", text, f'<div class="charts">{"".join(charts)}</div>', table)

    def _restarts(self) -> None:
        rows = self.run.restarts
        if not rows:
            return
        columns = list(rows[0])
        numbers = [n for n, name in enumerate(columns) if name in RESTART_NUMBERS]
        body = [
            [
                markup.cell(row[name], float(row[name] or math.nan) if n in numbers else None)
                for n, name in enumerate(columns)
            ]
            for row in rows
        ]
        text = "<p class=soft>When the training went on, from which checkpoint, and with which ranks and batch.</p>"
        head = [name.replace("_", " ") for name in columns]
        self._add(
            "restarts",
            f"Restarts ({len(rows)})",
            text,
            markup.table("restarts-table", "Restarts", head, body, numbers=numbers),
        )

    def _head(self, head: diagnosis.Head, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        key, of = (f"{head.name}-", f", {head.name}") if head.name else ("", "")
        cells = diagnosis.confusion_cells(head) if head.one_label else None
        self._classes(head, key, of, cells)
        if cells is not None:
            self._confusion(head, key, of, cells)
        self._calibration(head, key, of)
        self._agreement(head, key, of)
        self._mistakes(key, of, found)

    def _classes(self, head: diagnosis.Head, key: str, of: str, cells: np.ndarray | None) -> None:
        rows = self.run.results["classes"].get(head.name, [])
        metric, title = ("top1", "Accuracy") if head.one_label else ("average_precision", "Average precision")
        known = [row for row in rows if row[metric] is not None]
        if not known:
            return
        counts = np.histogram([row[metric] for row in known], bins=10, range=(0, 100))[0].tolist()
        names = [f"{10 * n}–{10 * n + 10}" for n in range(10)]
        chart = self._chart(
            f"{key}classes",
            "bars",
            f"Number of classes by {title.lower()}, in steps of 10 %: {counts}",
            names=names,
            values={"classes": counts},
            unit="classes",
            across=f"{title.lower()} (%)",
        )
        # What videos of a class are taken for most often.
        taken: dict[int, tuple[int, int]] = {}
        for true, predicted, videos in [] if cells is None else cells.tolist():
            if true != predicted and videos > taken.get(true, (0, 0))[1]:
                taken[true] = predicted, videos
        body = []
        for row in sorted(rows, key=lambda row: (row[metric] is None, row[metric])):
            value, other = row[metric], taken.get(row["class"])
            body.append(
                [
                    markup.cell(row["name"], header=True),
                    markup.percent(value, bar=True),
                    markup.cell(str(row["videos"]), row["videos"]),
                    *(
                        []
                        if cells is None
                        else [markup.cell(f"{head.classes[other[0]]} ({other[1]})" if other else "")]
                    ),
                ]
            )
        columns = ["class", title.lower(), "videos", *([] if cells is None else ["most often taken for"])]
        table = markup.table(f"{key}class-table", f"{title} per class{of}", columns, body, numbers=(1, 2))
        self._add(
            f"{key}classes",
            f"{title} per class{of}",
            chart,
            markup.find(f"{key}class-table", "class", len(body)),
            table,
        )

    def _confusion(self, head: diagnosis.Head, key: str, of: str, cells: np.ndarray) -> None:
        totals = np.bincount(head.labels, minlength=len(head.classes))
        shown, note = cells, ""
        if len(cells) > _CELLS:
            shown = cells[np.argsort(-cells[:, 2], kind="stable")[:_CELLS]]
            note = f" The {_CELLS} fullest of {len(cells)} cells are shown."
        chart = self._chart(
            f"{key}confusion",
            "matrix",
            f"Confusion matrix of {len(head.classes)} classes; the table below names the most frequent confusions",
            "matrix",
            names=list(head.classes),
            cells=shown.tolist(),
            totals=totals.tolist(),
        )
        wrong = cells[cells[:, 0] != cells[:, 1]]
        wrong = wrong[np.argsort(-wrong[:, 2], kind="stable")]
        rows = []
        for true, predicted, videos in wrong[:_CONFUSIONS].tolist():
            share = 100 * videos / int(totals[true])
            names = (markup.cell(head.classes[true], header=True), markup.cell(head.classes[predicted]))
            rows.append([*names, markup.cell(str(videos), videos), markup.percent(share, bar=True)])
        more = f"<p class=soft>The {_CONFUSIONS} most frequent of {len(wrong)}.</p>" if len(wrong) > len(rows) else ""
        head_row = ["true class", "taken for", "videos", "share of the class"]
        table = markup.table(f"{key}confusions", f"Most frequent confusions{of}", head_row, rows, numbers=(2, 3))
        text = f"<p class=soft>Rows are true classes, columns predicted ones; point at a cell or touch it.{note}</p>"
        below = (
            f"<h3>Most frequent confusions</h3>{table}{more}"
            if rows
            else "<p>No video was taken for another class.</p>"
        )
        self._add(f"{key}confusion", f"Confusion matrix{of}", text, chart, below)

    def _calibration(self, head: diagnosis.Head, key: str, of: str) -> None:
        bins, error = diagnosis.calibration(head)
        text = (
            f"<p>The probability of the predicted class, and how often it is right. Expected calibration error: "
            f"<strong>{error:.1f}</strong> percent points.</p>"
        )
        chart = self._chart(f"{key}calibration", "calibration", f"Accuracy by confidence{of}", bins=bins)
        rows = [
            [
                markup.cell(f"{row['low']:g} to {row['high']:g} %", row["low"]),
                markup.cell(str(row["videos"]), row["videos"]),
                *(markup.percent(row[name]) for name in ("confidence", "accuracy")),
            ]
            for row in bins
        ]
        columns = ["confidence", "videos", "mean confidence", "right"]
        table = markup.table(f"{key}calibration-table", f"Calibration{of}", columns, rows, all_numbers=True)
        self._add(f"{key}calibration", f"Calibration{of}", text, chart, markup.details("The numbers", table))

    def _agreement(self, head: diagnosis.Head, key: str, of: str) -> None:
        if self.run.results["views"] < 2:
            return
        levels = diagnosis.agreement_levels(head)
        mean = 100.0 * float(head.agreement.mean())
        text = f"<p>On average {mean:.1f} % of a video's views have the class that all views together have.</p>"
        chart = self._chart(f"{key}agreement", "agreement", f"Videos and accuracy by agreement{of}", levels=levels)
        rows = [
            [
                markup.cell(row["views"], number),
                markup.cell(str(row["videos"]), row["videos"]),
                markup.percent(row["accuracy"]),
            ]
            for number, row in enumerate(levels)
        ]
        columns = ["views that agree", "videos", "right"]
        table = markup.table(f"{key}agreement-table", f"Agreement of views{of}", columns, rows, all_numbers=True)
        self._add(f"{key}agreement", f"Agreement of views{of}", text, chart, markup.details("The numbers", table))

    def _mistakes(self, key: str, of: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        titles = {"confident": "Most confident", "worst": "Label furthest from the top"}
        parts = [
            f"<h3>{titles[kind]}</h3><ul class=cards>{''.join(map(self._mistake, rows))}</ul>"
            for kind, rows in found.items()
            if rows
        ]
        if parts and self.nothing:
            parts.insert(0, f"<p class=soft>No frames: {markup.escape(self.nothing)}.</p>")
        self._add(f"{key}mistakes", f"Mistakes{of}", *(parts or ["<p>Every video is right.</p>"]))

    def _mistake(self, row: Mapping[str, Any]) -> str:
        picture = ""
        if (strip := self.strips.get(row["index"])) is not None:
            source = f"data:image/jpeg;base64,{base64.b64encode(strip).decode()}"
            picture = f'<img alt="frames of a clip of {markup.escape(row["label"])}" src="{source}">'
        elif not self.nothing:
            cause = self.missing.get(row["index"], "not read")
            picture = f"<div class=missing>no frames: {markup.escape(cause)}</div>"
        label = ""
        if row["label_percent"] is not None:
            label = f" (got {row['label_percent']:.1f}\u00a0%, place {row['rank']})"
        said = f"<span class=said>{markup.escape(row['predicted'])}</span> {row['percent']:.1f}\u00a0%"
        return (
            f"<li><figure>{picture}<figcaption>taken for {said}<br>is <b>{markup.escape(row['label'])}</b>{label}"
            f"<small>{markup.escape(row['video'])}</small></figcaption></figure></li>"
        )

    def _speed(self) -> None:
        parts = []
        if results := self.run.results:
            speed = results["videos_per_second"]
            facts = [("test", f"{results['seconds']:.1f} s" + (f", {speed:.2f} videos/s" if speed else ""))]
            facts += [("test: waiting for frames", f"{results['data_wait_percent']:.1f} % of the time")]
            parts.append(markup.facts(facts))
        if epochs := self.run.epochs:
            seconds = [record["seconds"] for record in self.run.history if "seconds" in record]
            waits, steps = (sum(line[name] for line in epochs) for name in ("dt_data", "dt"))
            facts = [("training: mean epoch", f"{np.mean(seconds):.1f} s")] if seconds else []
            facts += [("training: waiting for data", f"{100 * waits / steps:.1f} % of a step")] if steps else []
            chart = self._chart(
                "steps",
                "bars",
                "Milliseconds of a step over the epochs: waiting for data, and computing",
                names=[line["epoch"] for line in epochs],
                values={
                    "waiting for data": [round(1000 * line["dt_data"], 3) for line in epochs],
                    "computing": [round(1000 * line["dt_net"], 3) for line in epochs],
                },
                unit="ms per step",
                across="epoch",
                stack=True,
            )
            parts += [markup.facts(facts), "<h3>A training step (median)</h3>", chart]
        if parts:
            self._add("speed", "Speed", *parts)

    def _failed(self) -> None:
        failed = self.run.results["failed"] if self.run.results else []
        if not failed:
            return
        rows = [[markup.cell(entry["video"], header=True), markup.cell(entry["cause"])] for entry in failed[:_FAILED]]
        more = ""
        if len(failed) > _FAILED:
            more = f"<p>The first {_FAILED} of {len(failed)}; test_results.json has all of them.</p>"
        table = markup.table("failed-table", "Unreadable videos", ["video", "cause"], rows)
        self._add("failed", f"Unreadable videos ({len(failed)})", more, table)


def _training_numbers(history: Sequence[Mapping[str, float]]) -> Iterable[tuple[str, str, str]]:
    """The last and the best validation of single clips, by what chooses the best checkpoint."""
    columns = {column for record in history for column in record}
    metric, name, sign, offset = "top1_err", "top-1", -1, 100
    if "val_clip_map" in columns:
        metric, name, sign, offset = "map", "mean average precision", 1, 0
    elif "val_clip_verb_top1_err" in columns:
        name = "action top-1"
    for which, of in (("", ""), ("ema_", ", averaged weights")):
        column = f"val_clip_{which}{metric}"
        points = [(record["epoch"], offset + sign * record[column]) for record in history if column in record]
        if points:
            (epoch, last), (at, best) = points[-1], max(points, key=itemgetter(1))
            note = f"single clips, epoch {epoch:g}"
            if best > last:
                note += f"; best {best:.2f} % in epoch {at:g}"
            yield f"validation {name}{of}", f"{last:.2f} %", note
    if history and "train_loss" in history[-1]:
        yield "training loss", f"{history[-1]['train_loss']:.3f}", f"epoch {history[-1]['epoch']:g}"


def _finite(value: Any) -> Any:
    """The same data with None for numbers that JSON has no form for."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
