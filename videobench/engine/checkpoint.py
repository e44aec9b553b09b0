"""The checkpoint files of a run: their names, and the newest one that can be read."""

import logging
import platform
import re
from pathlib import Path
from typing import Any

import torch
import yaml

import videobench
from videobench.config import CfgNode
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


def changed_keys(before: str, cfg: CfgNode) -> list[str]:
    """What differs between the configuration text of a checkpoint and ``cfg``, besides keys that change no weights."""
    try:
        old = yaml.safe_load(before) or {}
    except yaml.YAMLError:
        return ["(its configuration text cannot be read)"]
    old, new = _flat(old), _flat(yaml.safe_load(cfg.dump()))
    return [
        f"{key} {old[key]!r} -> {new[key]!r}"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key] and not key.startswith(_HARMLESS)
    ]


_HARMLESS = (
    *("TEST.", "TENSORBOARD.", "DATA_LOADER.", "OUTPUT_DIR", "LOG_PERIOD", "SHARD_ID", "DATA.PATH", "DATA.CLASS_NAMES"),
    *("TRAIN.ENABLE", "TRAIN.AUTO_RESUME", "TRAIN.EVAL_PERIOD", "TRAIN.CHECKPOINT_"),
)


def _flat(node: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
