"""Work on many files at once; a file that brings its process down, or never ends, is named and the rest goes on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from videobench.datasets.containers import VideoError
from videobench.datasets.reading import note_progress, note_reading
from videobench.datasets.workers import WorkerPool

#: Work on one item; it calls its second argument now and then to say that it goes on.
Work = Callable[[Any, Callable[[], None]], Any]


@dataclass(frozen=True)
class Lost:
    """What comes instead of a result when a process did not survive an item."""

    cause: str


def run_jobs(work: Work, items: Sequence[Any], *, workers: int, patience: float) -> Iterator[tuple[int, Any]]:
    """(number of the item, result) as the results come, in any order; `Lost` where there is none.

    Args:
        work: what to do with an item.
        items: tuples that begin with the path of a file.
        workers: processes.
        patience: seconds without a sign of life after which a process is ended.

    Raises:
        WorkerError: with the traceback, for an exception of ``work``: faults of a file are results.
    """

    def load(number: int) -> Any:
        try:
            note_reading(number)
        except VideoError as error:
            return Lost(error.cause)
        return work(items[number], note_progress)

    pool = WorkerPool(
        load,
        workers=min(workers, len(items)),
        videos=len(items),
        path=lambda number: items[number][0],
        timeout=patience,
        limit="--patience",
        item_bytes=0,
    )
    try:
        yield from pool.as_finished(range(len(items)))
    finally:
        pool.close()
