"""The checkpoint files of a run: their names, writing them beside the training, and the newest that can be read."""

import logging
import platform
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import videobench
from videobench.config import CfgNode
from videobench.distributed.group import is_main
from videobench.distributed.parallel import whole
from videobench.models.weights import WeightsError, read_checkpoint, write_checkpoint

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")


class CheckpointError(OSError):
    """A checkpoint that could not be written."""


def checkpoint_dir(output_dir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(output_dir) / "checkpoints"


def epoch_path(output_dir: str | Path, epochs: int) -> Path:
    """The checkpoint after a number of finished epochs."""
    return checkpoint_dir(output_dir) / f"checkpoint_epoch_{epochs:05d}.pyth"


def step_path(output_dir: str | Path, epochs: int, steps: int) -> Path:
    """The checkpoint after a number of finished epochs and some steps of the next one; sorts behind the former's."""
    return checkpoint_dir(output_dir) / f"checkpoint_epoch_{epochs:05d}_step_{steps:07d}.pyth"


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


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run from the oldest to the newest, without the best one."""
    return sorted(path for path in checkpoint_dir(output_dir).glob("*.pyth") if _NAME.fullmatch(path.name))


def last_checkpoint(output_dir: str | Path, *, mmap: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and what it holds; damaged ones are named and passed over.

    With ``mmap`` tensors stay on the disk until they are used.
    """
    found = checkpoints(output_dir)
    for path in reversed(found):
        try:
            content = read_checkpoint(path, mmap=mmap)
        except WeightsError as error:
            logger.warning("%s; trying the checkpoint before it", error)
            continue
        return path, content
    if found:
        raise WeightsError(
            f"{checkpoint_dir(output_dir)}: none of its {len(found)} checkpoints can be read; move them away to start "
            "afresh"
        )
    return None


class CheckpointWriter:
    """Writes a run's checkpoints in a thread while training goes on; every rank has one, and the first rank's writes.

    Args:
        output_dir: the folder of the run.
        keep: how many checkpoints of finished epochs stay, besides the best one; 0 keeps all. Of those within an epoch
            only the newest two files' worth stay: the one to go on from, and one in case that is damaged.
    """

    def __init__(self, output_dir: str | Path, keep: int = 0) -> None:
        self.output_dir, self.keep = output_dir, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future | None = None
        for left in checkpoint_dir(output_dir).glob(".*.pyth.*.tmp") if is_main() else ():
            logger.info("removing %s, which a killed run had not finished writing", left)
            left.unlink(missing_ok=True)

    def write(self, paths: Sequence[Path], content: dict[str, Any]) -> None:
        """Copy ``content`` now and write it to every path later; waits for the write before.

        A collective call where tensors are sharded: they are put together one by one.

        Raises:
            CheckpointError: when the write before failed.
        """
        self.wait()
        copied = main_memory_copy(content)
        if is_main():
            self._running = self._thread.submit(self._write, list(paths), copied)

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            CheckpointError: when the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait as :meth:`wait` does, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, paths: list[Path], content: dict[str, Any]) -> None:
        for path in paths:
            try:
                write_checkpoint(path, content)
            except (OSError, RuntimeError) as error:  # PyTorch's writer reports a short write as a RuntimeError
                raise CheckpointError(self._failure(path, content, error)) from error
        self._prune()

    def _failure(self, path: Path, content: dict[str, Any], error: Exception) -> str:
        need, free = _bytes(content), shutil.disk_usage(path.parent if path.parent.exists() else self.output_dir).free
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        good = checkpoints(self.output_dir)
        return (
            f"{path}: cannot write this checkpoint: {reason}; it takes {_size(need)}, and {_size(free)} are free there "
            "(a quota or limit may allow less). Make room and run the same command again: "
            + (f"it goes on from {good[-1].name}" if good else "there is no earlier checkpoint, it starts afresh")
        )

    def _prune(self) -> None:
        found = checkpoints(self.output_dir)
        of_epochs = [path for path in found if not _NAME.fullmatch(path.name)[2]]
        stay = {*found[-2:], *(of_epochs[-self.keep :] if self.keep else of_epochs)}
        for path in found:
            if path not in stay:
                path.unlink(missing_ok=True)


def main_memory_copy(value: Any) -> Any:
    """The value with its tensors copied to main memory, so that training may go on changing them.

    Sharded tensors are put together one by one, a collective call. Only the first rank gets tensors.
    """
    if isinstance(value, Tensor):
        tensor = whole(value.detach())
        return tensor.to("cpu", copy=True) if is_main() else None
    if isinstance(value, dict):
        return {key: main_memory_copy(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(main_memory_copy, value))
    return value


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def changed_keys(before: str, cfg: CfgNode) -> list[str]:
    """What differs between the configuration text of a checkpoint and ``cfg``, besides keys that change no weights."""
    try:
        old = _flat(yaml.safe_load(before) or {})
    except (yaml.YAMLError, AttributeError):  # no YAML, or something else than keys and values
        return ["(its configuration text cannot be read)"]
    new = _flat(yaml.safe_load(cfg.dump()))
    return [
        f"{key} {old[key]!r} -> {new[key]!r}"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key] and not key.startswith(_HARMLESS)
    ]


_HARMLESS = (
    *("TEST.", "TENSORBOARD.", "DATA_LOADER.", "OUTPUT_DIR", "LOG_PERIOD", "SHARD_ID", "DATA.PATH", "DATA.CLASS_NAMES"),
    *("TRAIN.ENABLE", "TRAIN.AUTO_RESUME", "TRAIN.EVAL_PERIOD", "TRAIN.CHECKPOINT_", "TRAIN.KEEP_CHECKPOINTS"),
    *("TRAIN.MAX_NONFINITE_STEPS", "TRAIN.SHARD"),
)


def _flat(node: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
