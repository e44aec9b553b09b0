"""One network for all requests: views of several videos go through it together."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from videobench.datasets.views import Views
from videobench.inference.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    views: Views
    done: "Future[Prediction]" = field(default_factory=Future)


class Batcher:
    """Scores decoded videos in a thread of its own; use as a context manager.

    A batch begins with the video that waited longest. As long as it has room, it takes whatever is there, and waits a
    moment for videos that are being decoded. While a batch is computed, the next one gathers.

    Args:
        predictor: its batch size is that of the views.
        wait: seconds that a batch waits for more videos.
        coming: how many are being decoded.
        scored: called with the number of videos of every batch.
    """

    def __init__(
        self, predictor: Predictor, wait: float, coming: Callable[[], int], scored: Callable[[int], None]
    ) -> None:
        self._predictor, self._wait, self._coming, self._scored = predictor, wait, coming, scored
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def __enter__(self) -> "Batcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after what is there."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, views: Views) -> "Future[Prediction]":
        """What the views of a video show, later; cancelled ones are left out."""
        job = _Job(views)
        self._jobs.put(job)
        return job.done

    def _run(self) -> None:
        more = True
        while more and (job := self._jobs.get()) is not None:
            jobs, more = self._gather(job)
            if jobs := [job for job in jobs if job.done.set_running_or_notify_cancel()]:
                self._scored(len(jobs))
                self._score(jobs)

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """The videos of a batch, and whether more may follow."""
        jobs, room = [first], self._predictor.scorer.batch_size - len(first.views)
        end = time.monotonic() + self._wait
        while room > 0:
            left = end - time.monotonic() if self._coming() else 0.0
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
            room -= len(job.views)
        return jobs, True

    def _score(self, jobs: list[_Job]) -> None:
        numbered = (replace(job.views, index=number) for number, job in enumerate(jobs))
        try:
            for number, prediction in self._predictor.predict_views(numbered, lambda _: "<upload>"):
                jobs[number].done.set_result(prediction)
        except Exception as error:  # Told to those who wait; the next batch may do better.
            logger.exception("a batch of %d videos failed", len(jobs))
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
