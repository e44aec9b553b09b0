"""Log lines on stdout and in OUTPUT_DIR, in the form that scripts around SlowFast-like code bases parse."""

import decimal
import io
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simplejson

from videobench.reporting.progress import ROUTINE
from videobench.reporting.run_files import written_to

_FORMAT = "[%(asctime)s][%(levelname)s] %(filename)s: %(lineno)3d: %(message)s"

logger = logging.getLogger(__name__)


def setup_logging(output_dir: str | Path | None, *, main: bool = True) -> None:
    """Send the package's log to stdout and OUTPUT_DIR/stdout.log; ranks other than the first only warn, on stderr.

    Raises:
        OutputError: when stdout.log cannot be opened.
    """
    package = logging.getLogger("videobench")
    for handler in list(package.handlers):
        package.removeHandler(handler)
        handler.close()
    package.propagate = False
    package.setLevel(logging.INFO)
    formatter = logging.Formatter(_FORMAT, datefmt="%m/%d %H:%M:%S")
    if main and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of videos may hold bytes that are no characters
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout if main else sys.stderr)]
    if not main:
        handlers[0].setLevel(logging.WARNING)
    elif output_dir is not None:
        path = Path(output_dir) / "stdout.log"
        with written_to(path):
            handlers.append(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(formatter)
        package.addHandler(handler)


class _LogFile(logging.FileHandler):
    """A disk that takes no more lines is told of once: they are on stdout, too."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            text = f"{self.baseFilename}: cannot be written: {error.strerror}; further lines are on stdout alone"
            print(text, file=sys.stderr, flush=True)


def format_json_stats(stats: Mapping[str, Any]) -> str:
    """``json_stats: {...}`` with sorted keys and five decimals."""
    rounded = {k: decimal.Decimal(f"{v:.5f}") if isinstance(v, float) else v for k, v in stats.items()}
    return "json_stats: " + simplejson.dumps(rounded, sort_keys=True, use_decimal=True)


def log_json_stats(stats: Mapping[str, Any], output_dir: str | Path | None = None, *, routine: bool = False) -> None:
    """Log one ``json_stats:`` line.

    Args:
        stats: its content.
        output_dir: also append it to json_stats.log there (whole epochs).
        routine: a live line on a terminal says the same; see :mod:`videobench.reporting.progress`.

    Raises:
        OutputError: when json_stats.log cannot be written.
    """
    line = format_json_stats(stats)
    logger.info(line, extra=ROUTINE if routine else None)
    if output_dir is not None:
        path = Path(output_dir) / "json_stats.log"
        with written_to(path), path.open("a") as stream:
            stream.write(line + "\n")
