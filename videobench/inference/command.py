"""The work of tools/predict.py: predictions of many files as a table, JSON or CSV."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from videobench.datasets.containers import VideoError, cause_of
from videobench.datasets.preparation.files import printable
from videobench.exit_status import DONE, WRONG_INPUT
from videobench.inference.given import GivenVideos, Source, find_files
from videobench.inference.overlay import check_target, write_heatmap, write_labelled
from videobench.inference.predictor import Prediction, Predictor

#: Exit status besides those of all commands: some files could not be read.
UNREADABLE = 1
FORMS = ("table", "json", "csv")


def predict_files(
    names: Sequence[str],
    predictor: Predictor,
    *,
    form: str = "table",
    top: int = 5,
    show: str | Path | None = None,
    heatmap: str | Path | None = None,
    out: TextIO | None = None,
) -> int:
    """Print what files show; those that cannot be read are named at the end.

    Args:
        names: files, folders, shell patterns, or ``-`` alone for a file on standard input.
        predictor: what predicts.
        form: table, json (one object per line and video) or csv.
        top: classes per video.
        show: a video file to write: the (only) video with its classes over it.
        heatmap: a video file to write: where the network looked.
        out: where to print; standard output unless given.

    Returns:
        0 when all were read, 1 when some were not, 2 when nothing was named that could be, or videos cannot be written.
    """
    out = out or sys.stdout
    try:
        sources = _sources(names, predictor)
        _check_targets([target for target in (heatmap, show) if target], sources)
    except (VideoError, ValueError) as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    failures: list[VideoError] = []

    def good() -> Iterator[Prediction]:
        # The bar is for people: nothing is drawn where nobody looks.
        with tqdm(total=len(sources), unit="video", disable=None if len(sources) > 1 else True) as bar:
            for prediction in predictor.predict_each(sources):
                bar.update()
                if isinstance(prediction, VideoError):
                    failures.append(prediction)
                else:
                    bar.clear()  # what is printed now may share a terminal with it
                    yield prediction

    for prediction in _written(good(), form, top, out):
        try:
            if heatmap:
                write_heatmap(heatmap, predictor, sources[0], prediction, top)
            if show:
                write_labelled(show, predictor, sources[0], prediction, top)
        except VideoError as error:  # a part that no view has
            failures.append(error)
        except OSError as error:
            print(f"--show or --heatmap cannot be written: {cause_of(error)}", file=sys.stderr)
            return WRONG_INPUT
    for error in failures:
        print(f"unreadable: {printable(error.path)}: {error.cause}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(sources)} files could not be read", file=sys.stderr)
    return UNREADABLE if failures else DONE


def _sources(names: Sequence[str], predictor: Predictor) -> Sequence[Source]:
    if "-" not in names:
        return find_files(names, GivenVideos.of(predictor.cfg, ()).pictures)
    if len(names) > 1:
        raise ValueError(f"- (standard input) stands alone, {len(names)} names were given; ./- is a file of that name")
    return [sys.stdin.buffer.read()]


def _check_targets(targets: Sequence[str | Path], sources: Sequence[Source]) -> None:
    if targets and len(sources) > 1:
        raise ValueError(f"--show and --heatmap take one video, {len(sources)} were named")
    files = [source for source in sources if isinstance(source, (str, Path))]
    for number, target in enumerate(targets):
        check_target(target, [*files, *targets[:number]])


def _written(predictions: Iterator[Prediction], form: str, top: int, out: TextIO) -> Iterator[Prediction]:
    """Write predictions as they come, and hand them on."""
    table = csv.writer(out, lineterminator="\n")
    if form == "csv":
        table.writerow(["video", "head", "rank", "class", "probability"])
    for prediction in predictions:
        heads = {head: prediction.top(top, head) for head in prediction.probabilities}
        source = printable(prediction.source)
        if form == "json":
            print(json.dumps({"video": source, "classes": prediction.listed(top)}), file=out, flush=True)
        elif form == "csv":
            for head, found in heads.items():
                table.writerows([source, head, rank, name, f"{p:.6f}"] for rank, (name, p) in enumerate(found, start=1))
        else:
            print(source, file=out)
            for head, found in heads.items():
                for name, share in found:
                    print(f"  {share:7.2%}  {f'{head}: ' if head else ''}{name}", file=out)
        yield prediction
