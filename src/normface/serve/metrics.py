"""Metrics for Prometheus: counts and times by route, never by person."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "normface_requests", "Answers by route, method and status.", ["route", "method", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "normface_request_seconds", "From a request's head to its answer's end.", ["route"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "normface_refused", "Requests told to come back, by the limit they met.", ["limit"], registry=self.registry
        )
        self.batches = Histogram(
            "normface_batch_photographs", "Photographs looked at together.", buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "normface_batch_seconds", "Decoding, detecting, aligning and embedding of a batch.", buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(size)
        self.batch_seconds.observe(seconds)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value `read` gives."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
