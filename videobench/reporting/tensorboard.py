"""TensorBoard scalars."""

from collections.abc import Mapping
from pathlib import Path


class Scalars:
    """Writes scalars to a folder; does nothing, and imports nothing, when it has none."""

    def __init__(self, folder: str | Path | None) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write every value under its name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is written."""
        if self._writer is not None:
            self._writer.close()
