"""The files in OUTPUT_DIR: written whole or not at all, read with care, and errors that name them."""

import contextlib
import csv
import errno
import json
import os
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_TEST_AGAIN = "test again (TRAIN.ENABLE False)"
# What damaged files make their readers raise.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError, TypeError, MemoryError),
    *(csv.Error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class OutputError(OSError):
    """A file of a run that cannot be written."""


class RunFileError(ValueError):
    """A file of a run that is damaged or not what it should be."""


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """A part of the program in which errors of the system are those of writing a file.

    Raises:
        OutputError: naming the file, the reason and what to do.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        advice = "mend that"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            folder = next(place for place in path.absolute().parents if place.exists())
            free = shutil.disk_usage(folder).free / 1e6
            advice = f"{free:.2f} MB are free there (a quota or limit may allow less): make room"
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written: {reason}; {advice} and run the same command again") from error


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` when all is written: a reader finds the old or the new one.

    Raises:
        OutputError: when it cannot be written; a file of that name is untouched.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with written_to(path):
        try:
            with beside.open("wb") as file:
                yield file
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def read_from(path: Path, advice: str) -> Iterator[None]:
    """A part of the program in which the errors of readers are those of one file.

    Raises:
        RunFileError: naming the file, the reason, and what to do.
    """
    try:
        yield
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RunFileError(f"{path}: cannot be read: {reason}; {advice}") from error


def read_test(output_dir: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a test left in ``output_dir``: test_results.json, and the arrays of predictions.npz.

    Raises:
        RunFileError: when one of them is missing or damaged, or they do not belong together.
    """
    results_file, arrays_file = (Path(output_dir) / name for name in ("test_results.json", "predictions.npz"))
    with read_from(results_file, _TEST_AGAIN):
        results = json.loads(results_file.read_text(encoding="utf-8"))
        if not isinstance(results, dict) or not isinstance(results.get("classes"), dict):
            raise ValueError("these are no results of a test")
    with read_from(arrays_file, _TEST_AGAIN):
        with np.load(arrays_file) as archive:
            arrays = dict(archive)
        heads = [name.removesuffix("scores") for name in arrays if name.endswith("scores")]
        parts = ("scores", "label", "agreement")
        names = ["video", "index", *(head + part for head in heads or [""] for part in parts)]
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"it has no {', '.join(missing)}")
        wrong = [name for name in names if arrays[name].shape[:1] != (results.get("videos"),)]
        for head in heads:
            classes = results["classes"].get(head.removesuffix("_")) or arrays[f"{head}scores"].T
            wrong += [f"{head}scores"] * (arrays[f"{head}scores"].shape[1:] != (len(classes),))
        if wrong:
            shapes = ", ".join(f"{name} {list(arrays[name].shape)}" for name in dict.fromkeys(wrong))
            raise ValueError(f"it does not belong to {results_file.name}: {shapes}")
    return results, arrays
