"""TensorBoard scalars, histograms and the confusion matrix of a test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videobench.reporting.diagnosis import Head, confusion_cells
from videobench.reporting.run_files import written_to

if TYPE_CHECKING:
    from torch import Tensor


class Scalars:
    """Writes scalars to a folder; does nothing, and imports nothing, when it has none.

    All of it raises OutputError when the folder cannot be written.

    Args:
        folder: where to.
        first_step: steps that are done: the run goes on from there.
    """

    def __init__(self, folder: str | Path | None, first_step: int = 0) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._folder = Path(folder)
            with written_to(self._folder):
                # What a killed run wrote after the checkpoint that this one goes on from is hidden.
                self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write every value under its name."""
        if self._writer is not None:
            with written_to(self._folder):
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def add_histograms(self, values: Mapping[str, "Tensor"], step: int) -> None:
        """Write the distribution of every tensor under its name."""
        if self._writer is not None:
            with written_to(self._folder):
                for name, tensor in values.items():
                    self._writer.add_histogram(name.replace(".", "/"), tensor.detach().float().cpu(), step)

    def close(self) -> None:
        """Flush what is written."""
        if self._writer is not None:
            with written_to(self._folder):
                self._writer.close()


# More classes than this make no picture: the matrix of ImageNet-21K has 367 million entries.
_MATRIX_CLASSES = 1000
# Names are legible up to here.
_NAMED_CLASSES = 30


def write_test(folder: str | Path, heads: Sequence[Head], epoch: int) -> None:
    """Write the confusion matrix and the distribution of the accuracies of classes; several labels have neither.

    Args:
        folder: where to.
        heads: the predictions of a test.
        epoch: where they stand on TensorBoard's axis: the finished epochs of the run.

    Raises:
        OutputError: when the folder cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    with written_to(Path(folder)), SummaryWriter(str(folder)) as writer:
        for head in heads:
            if not head.one_label:
                continue
            prefix = f"test/{head.name}_" if head.name else "test/"
            classes, totals = np.unique(head.labels, return_counts=True)
            right = np.bincount(head.labels[head.right], minlength=len(head.classes))[classes]
            writer.add_histogram(f"{prefix}class_accuracy", 100.0 * right / totals, epoch)
            if len(head.classes) <= _MATRIX_CLASSES:
                writer.add_figure(f"{prefix}confusion_matrix", _confusion_figure(head), epoch)


def _confusion_figure(head: Head):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(head.classes)
    matrix = np.zeros((count, count), np.float32)
    rows, columns, videos = confusion_cells(head).T
    matrix[rows, columns] = videos / np.bincount(head.labels, minlength=count)[rows]
    side = 4 + 0.25 * min(count, _NAMED_CLASSES)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    if count <= _NAMED_CLASSES:
        axes.set_xticks(range(count), head.classes, rotation=60, ha="right")
        axes.set_yticks(range(count), head.classes)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, label="share of the true class")
    return figure
