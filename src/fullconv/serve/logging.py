"""The log: a JSON object a line on stderr. It tells sizes and times, never pictures, names of files or tokens."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import time
from datetime import datetime, timezone
from typing import Any

LINES_WAITING = 10_000
"""Lines that wait for a reader of stderr that has stopped reading; more are lost, and nobody waits for them."""


class Journal:
    """Writes lines from a thread of its own, so that a stalled reader of stderr does not stop the service."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(LINES_WAITING)
        self._listener = logging.handlers.QueueListener(self._queue, _Lines())
        self._listener.start()
        self.lost = 0
        logging.getLogger("uvicorn").handlers = [_Forward(self)]
        logging.getLogger("uvicorn").propagate = False
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        logging.getLogger("asyncio").handlers = [_Forward(self)]
        logging.getLogger("asyncio").propagate = False

    def write(self, event: str, level: str = "info", **facts: Any) -> None:
        """Write one line."""
        now = datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "event": event, **facts}, ensure_ascii=False, default=str)
        self.say(line)

    def say(self, words: str) -> None:
        """Write a line for people, as the first one is."""
        try:
            self._queue.put_nowait(logging.makeLogRecord({"msg": words}))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Write what waits."""
        if self.lost:
            self.write("lines-lost", level="warning", lines=self.lost)
        for name in ("uvicorn", "asyncio"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True
        self._listener.stop()


class _Lines(logging.Handler):
    """Prints a record's words, whatever else it holds."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(record.msg, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # stderr is closed
            return


class _Forward(logging.Handler):
    """Takes what uvicorn and asyncio have to say into the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self.journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"message": record.getMessage()}
        if record.exc_info:
            facts["traceback"] = logging.Formatter().formatException(record.exc_info)
        self.journal.write(record.name, level=record.levelname.lower(), **facts)
