"""The log: one JSON object per line on stderr. It has sizes and times, but no images, file names or tokens."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
from datetime import datetime, timezone
from typing import Any

MAX_QUEUED_LINES = 10_000
"""Lines that wait for a stalled reader of stderr; further ones are dropped and counted."""
CAPTURED = ("uvicorn", "asyncio")
"""Loggers whose warnings and errors go to this log."""


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
