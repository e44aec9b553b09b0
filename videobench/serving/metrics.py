"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Type of what `Metrics.text` gives.
TEXT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server.

    Args:
        at_hand: requests that are worked on or wait.
    """

    def __init__(self, at_hand: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "videobench_requests",
            "Videos sent, by status and code of the answer.",
            ["status", "code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "videobench_stage_seconds",
            "Seconds that answered videos took: upload, decode and score with the wait for them, and all together.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_videos = Histogram(
            "videobench_batch_videos",
            "Videos that were scored together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.decoders_replaced = Counter(
            "videobench_decoders_replaced",
            "Decoder processes replaced, by what ended them.",
            ["code"],
            registry=registry,
        )
        Gauge("videobench_requests_at_hand", "Videos worked on or waiting.", registry=registry).set_function(at_hand)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
