"""The metrics of /metrics, in a registry of their own."""

from __future__ import annotations

from functools import partial

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
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Metrics of one service."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=SECONDS)
        self.requests = counter(
            "fullconv_requests", "Responses by route, method and status.", ["route", "method", "status"]
        )
        self.request_seconds = histogram(
            "fullconv_request_seconds", "Time from a request's headers to its response.", ["route"]
        )
        self.in_flight = gauge("fullconv_requests_in_flight", "Requests without a response yet.")
        self.body_bytes = gauge("fullconv_body_bytes", "Bytes of request bodies in memory.")
        self.queue = gauge("fullconv_queue_pictures", "Images that are queued or computed.", ["model"])
        self.images = counter("fullconv_pictures", "Images predicted.", ["model", "answer"])
        self.pixels = counter("fullconv_pixels", "Pixels predicted.", ["model"])
        self.network_seconds = histogram("fullconv_network_seconds", "Time of a batch in the network.", ["model"])
        self.batch_images = histogram("fullconv_batch_pictures", "Images per batch.", ["model"], buckets=BATCH_SIZES)
        self.ready_workers = gauge("fullconv_copies_ready", "Worker processes that accept images.", ["model"])
        self.restarts = counter("fullconv_copy_restarts", "Restarts of worker processes.", ["model"])

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
