"""What a service reports: its log, one JSON object per line on stderr, and its metrics; no images, file names or tokens."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
from datetime import datetime, timezone
from functools import partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

MAX_QUEUED_LINES = 10_000
"""Lines that wait for a stalled reader of stderr; further ones are dropped and counted."""
CAPTURED = ("uvicorn", "asyncio")
"""Loggers whose warnings and errors go to this log."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class JsonLog:
    """Writes lines from a thread, so that a stalled reader of stderr does not block the service."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(MAX_QUEUED_LINES)
        self._listener = logging.handlers.QueueListener(self._queue, _StderrHandler())
        self._listener.start()
        self.dropped = 0
        for name in CAPTURED:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [_CaptureHandler(self)], False
        logging.getLogger("uvicorn").setLevel(logging.ERROR)

    def write(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write an event."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.print(json.dumps({"time": now, "level": level, "event": event, **fields}, ensure_ascii=False, default=str))

    def print(self, line: str) -> None:
        """Write a line as it is."""
        try:
            self._queue.put_nowait(logging.makeLogRecord({"msg": line}))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, and stop."""
        if self.dropped:
            self.write("lines-lost", level="warning", lines=self.dropped)
        for name in CAPTURED:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [], True
        self._listener.stop()


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(record.msg, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # stderr is closed
            return


class _CaptureHandler(logging.Handler):
    def __init__(self, log: JsonLog) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        self.log.write(record.name, level=record.levelname.lower(), **fields)


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
