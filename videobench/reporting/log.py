"""Log lines on stdout and in OUTPUT_DIR, in the form that scripts around SlowFast-like code bases parse."""

import decimal
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simplejson

from videobench.reporting.progress import ROUTINE

_FORMAT = "[%(asctime)s][%(levelname)s] %(filename)s: %(lineno)3d: %(message)s"

logger = logging.getLogger(__name__)


def setup_logging(output_dir: str | Path | None, *, main: bool = True) -> None:
    """Send the package's log to stdout and OUTPUT_DIR/stdout.log; ranks other than the first only warn, on stderr."""
    package = logging.getLogger("videobench")
    for handler in list(package.handlers):
        package.removeHandler(handler)
        handler.close()
    package.propagate = False
    package.setLevel(logging.INFO)
    formatter = logging.Formatter(_FORMAT, datefmt="%m/%d %H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout if main else sys.stderr)]
    if not main:
        handlers[0].setLevel(logging.WARNING)
    elif output_dir is not None:
        handlers.append(logging.FileHandler(Path(output_dir) / "stdout.log"))
    for handler in handlers:
        handler.setFormatter(formatter)
        package.addHandler(handler)


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
    """
    line = format_json_stats(stats)
    logger.info(line, extra=ROUTINE if routine else None)
    if output_dir is not None:
        with (Path(output_dir) / "json_stats.log").open("a") as stream:
            stream.write(line + "\n")
