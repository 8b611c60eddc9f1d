"""uvicorn's HTTP connection with time limits for clients that send or read slowly."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 15.0
"""For a request's headers, from the connection or from their first byte."""
READ_TIMEOUT_S = 60.0
"""For a client that does not read its response."""
MAX_CONNECTIONS = 4096
"""With more, the connection that has been idle for longest is closed."""


class Connection(H11Protocol):
    """A connection that closes on clients that send nothing, slowly, or do not read."""

    _header_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a request."""
        if len(self.connections) >= MAX_CONNECTIONS:
            idle = [other for other in self.connections if getattr(other, "is_idle", False)]
            if idle:
                min(idle, key=lambda other: getattr(other, "since", 0.0)).transport.abort()
        super().connection_made(transport)
        self.since = self.loop.time()
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_header_timeout)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being handled."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._cancel_header_timer()
        self._cancel_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle bytes; headers that have begun must end in time."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # garbage behind a request that is being handled
            self.transport.abort()
            return
        if self.conn.their_state is not h11.IDLE or not self.is_idle:
            self._cancel_header_timer()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_header_timeout)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Respond to a complete request although its client has closed its side."""
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return True
        return None

    def pause_writing(self) -> None:
        """Wait for a client that does not read."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue, because the client reads."""
        super().resume_writing()
        self._cancel_read_timer()

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self.is_idle and not self.transport.is_closing():
            self.transport.close()
