"""Where uploads lie: a folder that goes with its server, and what killed servers left behind."""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_PREFIX = "videobench-serve-"


@contextmanager
def private_folder() -> Iterator[str]:
    """A new folder that nobody else may enter, and the end of those whose servers were killed.

    A server holds a lock on its folder, which ends with its process however that ends. Only a locked folder gets the
    name that others look for.
    """
    _remove_left()
    new = Path(tempfile.mkdtemp(prefix="videobench-new-"))
    handle = os.open(new, os.O_RDONLY)
    try:
        with suppress(OSError):  # where the file system has no locks, nobody takes its folders for left ones
            fcntl.flock(handle, fcntl.LOCK_EX)
        folder = new.rename(new.with_name(new.name.replace("videobench-new-", _PREFIX)))
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(handle)


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or one that is just being removed
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid() and _unlocked(handle):
                    logger.warning("%s was left by a server that was killed; it is removed", folder)
                    shutil.rmtree(folder)
            finally:
                os.close(handle)


def _unlocked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
