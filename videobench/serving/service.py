"""One network for many requests: places, private files, decoders, batches and counts."""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import numpy as np

from videobench.inference.predictor import Prediction, Predictor
from videobench.serving.batching import Batcher
from videobench.serving.decoders import DecoderPool, Reader, ViewReader
from videobench.serving.limits import Limits, Refusal
from videobench.serving.metrics import Metrics
from videobench.serving.private_folder import private_folder
from videobench.serving.uploads import Body


class Service:
    """Answers requests; use as a context manager around the event loop that serves them.

    Args:
        predictor: the network.
        limits: what requests may take.
        decoders: processes that decode.
        wait: seconds that a batch waits for videos that are being decoded.
        read: how files are read; as a test of the network reads them unless given.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits | None = None,
        *,
        decoders: int = 2,
        wait: float = 0.02,
        read: Reader | None = None,
    ) -> None:
        self.predictor, self.limits = predictor, limits or Limits()
        self._requests = self._decoding = 0
        self.metrics = Metrics(lambda: self._requests)
        read = read or ViewReader(predictor.cfg, predictor.grid, self.limits.video_seconds)
        self._pool = DecoderPool(
            read, decoders, self.limits, lambda code: self.metrics.decoders_replaced.labels(code).inc()
        )
        self._batcher = Batcher(predictor, wait, lambda: self._decoding, self.metrics.batch_videos.observe)
        # Decoded videos fill memory, so decoders stop when enough of them wait for the network: a batch, and one of
        # every decoder while it has the next one.
        self._decoded = asyncio.Semaphore(2 * decoders + predictor.scorer.batch_size)
        self._stack = ExitStack()

    def __enter__(self) -> "Service":
        with ExitStack() as stack:
            self.folder = stack.enter_context(private_folder())
            stack.enter_context(self._pool)
            # Whatever is wrong with the network shows before the first request.
            side = self.predictor.cfg.DATA.TEST_CROP_SIZE
            self.predictor.predict(np.zeros((1, side, side, 3), np.uint8))
            stack.enter_context(self._batcher)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def answer(self, body: Body, top: int) -> dict[str, Any]:
        """The classes of the video in the body of a request.

        Raises:
            Refusal: when there is no answer.
        """
        start = time.perf_counter()
        with self._place(), self._private_file() as path:
            with open(path, "wb") as file:
                await body.write_to(file, self.limits)
            uploaded = time.perf_counter()
            limit = self.limits.answer_seconds
            try:
                with anyio.fail_after(limit):
                    prediction, decoded = await self._predict(path)
            except TimeoutError as error:
                raise Refusal(504, "timeout", f"there was no answer within {limit:g} s") from error
        end = time.perf_counter()
        seconds = {
            "upload": uploaded - start,
            "decode": decoded - uploaded,
            "score": end - decoded,
            "total": end - start,
        }
        for stage, duration in seconds.items():
            self.metrics.seconds.labels(stage).observe(duration)
        return {
            "classes": prediction.listed(top),
            "views": self.views,
            "seconds": {stage: round(duration, 4) for stage, duration in seconds.items()},
        }

    async def _predict(self, path: str) -> tuple[Prediction, float]:
        """What a file shows, and when it was decoded."""
        async with self._decoded:
            self._decoding += 1
            try:
                views = await self._pool.decode(path)
            finally:
                self._decoding -= 1
            decoded = time.perf_counter()
            return await asyncio.wrap_future(self._batcher.submit(views)), decoded

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._requests >= self.limits.requests:
            raise Refusal(503, "busy", f"{self._requests} videos are being worked on or wait; try again later")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextmanager
    def _private_file(self) -> Iterator[str]:
        """A new file that nobody else may read, by a name of our own."""
        handle, path = tempfile.mkstemp(dir=self.folder)
        os.close(handle)
        try:
            yield path
        finally:
            os.unlink(path)

    @property
    def views(self) -> dict[str, int]:
        """How many clips of a video the network sees, with how many crops and frames."""
        clips, crops = self.predictor.grid
        return {"clips": clips, "crops": crops, "frames": self.predictor.cfg.DATA.NUM_FRAMES}

    def health(self) -> dict[str, Any]:
        """Whether it works, and what it takes."""
        return {
            "status": "ok" if self._batcher.alive else "failed",
            "model": self.predictor.cfg.MODEL.MODEL_NAME,
            "classes": sum(map(len, self.predictor.class_names.values())),
            "views": self.views,
            "requests": self._requests,
            "limits": {
                "upload_bytes": self.limits.upload_bytes,
                "video_seconds": self.limits.video_seconds,
                "requests": self.limits.requests,
            },
        }
