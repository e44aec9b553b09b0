"""A live line on a terminal; elsewhere nothing, and the log lines say the same."""

import logging
import os
import sys
from types import TracebackType

from tqdm import tqdm

#: Mark of log records that a live line makes superfluous on the terminal: ``logger.info(..., extra=ROUTINE)``.
ROUTINE = {"routine": True}


class Progress:
    """One line that counts to ``total``, shown while stdout is a terminal; log lines appear above it."""

    def __init__(self, description: str, total: int, done: int = 0, *, enabled: bool = True) -> None:
        self._bar = None
        if enabled and sys.stdout.isatty() and _has_room():
            self._bar = tqdm(
                total=total, initial=done, desc=description, file=sys.stdout, leave=False, dynamic_ncols=True
            )
        self._consoles: list[tuple[logging.Handler, object]] = []

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            for handler in logging.getLogger("videobench").handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                    self._consoles.append((handler, handler.emit))
                    handler.emit = self._above(handler)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handler, emit in self._consoles:
            handler.emit = emit
        if self._bar is not None:
            self._bar.close()

    def step(self) -> None:
        """One more is done."""
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """What stands at the end of the line."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    @staticmethod
    def _above(handler: logging.Handler):
        def emit(record: logging.LogRecord) -> None:
            if not getattr(record, "routine", False):
                tqdm.write(handler.format(record), file=sys.stdout)

        return emit


def _has_room() -> bool:
    """Whether the terminal has a size: those of containers and of ``script`` may have none, and would stay empty."""
    try:
        return all(os.get_terminal_size(sys.stdout.fileno()))
    except OSError:
        return True
