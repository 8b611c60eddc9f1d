"""What /metrics tells, in a registry of its own."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Measures:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "fullconv_requests",
            "Answers by route, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "fullconv_request_seconds", "From a request's head to its answer.", ["route"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("fullconv_requests_in_flight", "Requests without an answer yet.", registry=registry)
        self.held = Gauge("fullconv_body_bytes", "Bytes of requests that are held.", registry=registry)
        self.queue = Gauge(
            "fullconv_queue_pictures", "Pictures that wait or are computed.", ["model"], registry=registry
        )
        self.pictures = Counter("fullconv_pictures", "Pictures predicted.", ["model", "answer"], registry=registry)
        self.pixels = Counter("fullconv_pixels", "Pixels predicted.", ["model"], registry=registry)
        self.network = Histogram(
            "fullconv_network_seconds", "A batch in the network.", ["model"], buckets=SECONDS, registry=registry
        )
        self.batches = Histogram(
            "fullconv_batch_pictures", "Pictures that went through the network together.", ["model"],
            buckets=(1, 2, 4, 8, 16, 32), registry=registry,
        )  # fmt: skip
        self.copies = Gauge("fullconv_copies_ready", "Processes that take pictures.", ["model"], registry=registry)
        self.restarts = Counter("fullconv_copy_restarts", "Processes started again.", ["model"], registry=registry)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)
