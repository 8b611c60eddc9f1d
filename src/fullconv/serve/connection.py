"""One HTTP connection: uvicorn's, with patience that ends, and an answer also for who has stopped sending."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""For a request's head, from the connection or from its first byte."""
READ_SECONDS = 60.0
"""For a client that does not take its answer."""
MOST = 4096
"""Connections at a time; beyond, the one that has waited longest without a request is closed."""


class Connection(H11Protocol):
    """uvicorn's connection, guarded against clients that send nothing, slowly, or do not read."""

    _waiting_for_head: asyncio.TimerHandle | None = None
    _waiting_for_reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        if len(self.connections) >= MOST:
            idle = [other for other in self.connections if getattr(other, "idle", False)]
            if idle:
                min(idle, key=lambda other: getattr(other, "since", 0.0)).transport.abort()
        super().connection_made(transport)
        self.since = self.loop.time()
        self._wait_for_head()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_waiting()
        if self._waiting_for_reader is not None:
            self._waiting_for_reader.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that has begun must end in time."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # garbage behind a request that is being answered
            self.transport.abort()
            return
        if self.conn.their_state is not h11.IDLE or not self.idle:
            self._stop_waiting()
        elif self._waiting_for_head is None:
            self._wait_for_head()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a whole request before closing, although its sender will send no more."""
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return True
        return None

    def pause_writing(self) -> None:
        """Begin to wait for a reader."""
        super().pause_writing()
        if self._waiting_for_reader is None:
            self._waiting_for_reader = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader reads."""
        super().resume_writing()
        if self._waiting_for_reader is not None:
            self._waiting_for_reader.cancel()
            self._waiting_for_reader = None

    def _wait_for_head(self) -> None:
        self._waiting_for_head = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def _stop_waiting(self) -> None:
        if self._waiting_for_head is not None:
            self._waiting_for_head.cancel()
            self._waiting_for_head = None

    def _close_if_idle(self) -> None:
        self._waiting_for_head = None
        if self.idle and not self.transport.is_closing():
            self.transport.close()
