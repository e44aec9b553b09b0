"""Checkpoint files: written atomically, read safely, found by their names."""

import logging
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import videobench
from videobench.models.weights import WeightsError, read_checkpoint

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_epoch_(\d+)\.pyth")


def checkpoint_dir(output_dir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(output_dir) / "checkpoints"


def epoch_path(output_dir: str | Path, epochs: int) -> Path:
    """The checkpoint after a number of finished epochs."""
    return checkpoint_dir(output_dir) / f"checkpoint_epoch_{epochs:05d}.pyth"


def best_path(output_dir: str | Path) -> Path:
    """The checkpoint with the best validation accuracy."""
    return checkpoint_dir(output_dir) / "checkpoint_best.pyth"


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import av

    return {
        "videobench": videobench.__version__,
        "torch": str(torch.__version__),
        "av": av.__version__,
        "python": platform.python_version(),
    }


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader finds the old file or the whole new one, whenever the power goes.

    Raises:
        OSError: when it cannot be written (no space left, say); the file of that name, if any, is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the directory entry too
    finally:
        os.close(folder)


def last_checkpoint(output_dir: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and what it holds; damaged ones are named and passed over."""
    folder = checkpoint_dir(output_dir)
    found = sorted((p for p in folder.glob("*.pyth") if _NAME.fullmatch(p.name)), reverse=True)
    for path in found:
        try:
            content = read_checkpoint(path)
        except WeightsError as error:
            logger.warning("%s; trying the checkpoint before it", error)
            continue
        return path, content
    if found:
        raise WeightsError(
            f"{folder}: none of its {len(found)} checkpoints can be read; move them away to start afresh"
        )
    return None
