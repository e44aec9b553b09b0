"""A disk that takes no more bytes, as far as this process can tell."""

import contextlib
import resource
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def without_room(function: Callable) -> Callable:
    """The function, for which the disk is full."""

    def limited(*args, **options):
        with full_disk():
            return function(*args, **options)

    return limited
