"""The page of a run: reads its files, decodes frames of the videos shown, and writes report.html."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from videobench.config import CfgNode, ConfigError, load_config
from videobench.datasets.annotations import split_list
from videobench.datasets.views import ViewLoader
from videobench.datasets.workers import WorkerError
from videobench.engine.results import list_fingerprint
from videobench.reporting.report_page import write_page
from videobench.reporting.run_report import Run
from videobench.reporting.tensorboard import write_test

logger = logging.getLogger(__name__)

# Frames of a strip in a row, rows, pixels of a frame's side and between frames.
_COLUMNS, _ROWS, _SIDE, _GAP = 4, 2, 112, 3


def write_report(output_dir: str | Path, *, with_test: bool = True, tensorboard: bool = False) -> Path:
    """Write curves.png and report.html from what a run left in ``output_dir``.

    Videos, lists or a configuration that are no longer there cost the page the frames of the mistakes, nothing else.

    Args:
        output_dir: the folder of the run.
        with_test: whether the test results in it belong to the run as it stands.
        tensorboard: also write what TensorBoard shows of a test, once: it does not replace pictures, and beside a newer
            file it no longer follows what a training writes.

    Raises:
        RunFileError: for a folder without anything of a run, and for files that are damaged.
        OutputError: when a file cannot be written.
    """
    run = Run.read(output_dir, with_test=with_test)
    wanted = run.mistaken
    strips, missing = {}, {}
    if wanted:
        config = run.folder / "config.yaml"
        try:
            strips, missing = _frame_strips(load_config([str(config)]), wanted, run.results["list_sha256"])
        except (ConfigError, WorkerError) as error:
            missing = dict.fromkeys(wanted, str(error))
        except (ValueError, LookupError) as error:  # of a value that no run accepts: somebody edited the file
            missing = dict.fromkeys(wanted, f"{config} cannot be used: {error}")
        if not strips:
            logger.warning("report.html has no frames of mistaken videos: %s", missing[wanted[0]])
    if tensorboard and (run.folder / "tensorboard").is_dir() and run.heads:
        write_test(run.folder / "tensorboard", run.heads, epoch=int(run.history[-1]["epoch"]) if run.history else 0)
    return write_page(run, strips, missing)


def _frame_strips(cfg: CfgNode, indices: Sequence[int], list_sha256: str) -> tuple[dict[int, bytes], dict[int, str]]:
    """JPEG files of frames of some test videos, and why there are none of others; both by number in the list."""
    videos = split_list(cfg, "test")
    if list_fingerprint(videos) != list_sha256:
        return {}, dict.fromkeys(indices, f"{videos.source} has changed since the test")
    strips, missing = {}, {}
    for views in ViewLoader(cfg, "test", indices=indices):
        if views.failure is not None:
            missing[views.index] = views.failure.cause
        else:
            strips[views.index] = _strip(views.clips()[0])
    return strips, missing


def _strip(clip: Tensor) -> bytes:
    """Frames of a clip [T, 3, H, W], evenly spaced, side by side as a JPEG file."""
    from PIL import Image

    count = min(len(clip), _COLUMNS * _ROWS)
    chosen = np.linspace(0, len(clip) - 1, count).round().astype(int)
    columns = min(count, _COLUMNS)
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, -(-count // columns) * step - _GAP))
    for place, number in enumerate(chosen.tolist()):
        frame = Image.fromarray(clip[number].permute(1, 2, 0).contiguous().numpy())
        sheet.paste(frame.resize((_SIDE, _SIDE)), (place % columns * step, place // columns * step))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=75)
    return file.getvalue()
