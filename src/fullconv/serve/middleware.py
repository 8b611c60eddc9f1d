"""What every request passes: who may ask, an id, a line in the log, counters, and an end of the connection in peace."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
import traceback
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fullconv.serve.errors import BUG, Refusal
from fullconv.serve.logging import Journal
from fullconv.serve.metrics import Measures
from fullconv.serve.settings import PROTECTED, Settings, is_loopback

DRAIN_SECONDS, DRAIN_BYTES = 2.0, 64 * 2**20
"""What is still read of a request that was answered early, so that its sender sees the answer and no reset."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Gate:
    """The outermost layer of the application.

    Args:
        app: What answers.
        settings: Of the service.
        measures: Counted up on the way.
        journal: The log.
    """

    def __init__(self, app: ASGIApp, settings: Settings, measures: Measures, journal: Journal) -> None:
        self.app, self.settings, self.measures, self.journal = app, settings, measures, journal
        self.in_flight = 0
        self.routes: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        passage = _Passage(scope, receive, send)
        self.in_flight += 1
        self.measures.in_flight.set(self.in_flight)
        try:
            refusal = self._refuse(scope, passage.headers)
            if refusal is not None:
                await passage.refuse(refusal)
            else:
                await self.app(scope, passage.receive, passage.send)
        except Exception:
            self.journal.write(
                "bug", level="error", request_id=passage.request_id, traceback=traceback.format_exc(limit=-8)
            )
            await passage.refuse(Refusal(500, "bug", BUG))
        finally:
            self.in_flight -= 1
            self._tell(scope, passage)
            self.measures.in_flight.set(self.in_flight)

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> Refusal | None:
        """Say why a request may not pass, or None."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return Refusal(403, "other-origin", "pages of other origins may not use this service.")
        if self.settings.token is None:
            name = re.sub(r":\d*$", "", host).strip("[]")
            guarded = is_loopback(self.settings.host) and not self.settings.any_host
            if guarded and host and not is_loopback(name):
                words = f"this service answers under {self.settings.host} and localhost only."
                return Refusal(421, "other-host", words)
            return None
        if not scope["path"].startswith(PROTECTED):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.settings.token.encode()):
            return None
        words = "the token is another one." if given else "a token is wanted: send it as 'Authorization: Bearer TOKEN'."
        return Refusal(401, "no-token", words)

    def _tell(self, scope: Scope, passage: _Passage) -> None:
        route = getattr(scope.get("route"), "path", None) or (
            "refused" if passage.status in (401, 403, 421) else "other"
        )
        seconds = time.perf_counter() - passage.start
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self.measures.requests.labels(route, method, str(passage.status)).inc()
        self.measures.seconds.labels(route).observe(seconds)
        facts = scope.get("state", {}).get("facts", {})
        if route in ("/healthz", "/readyz", "/metrics") and passage.status == 200:
            return
        self.journal.write(
            "request", request_id=passage.request_id, method=method, route=route, status=passage.status,
            ms=round(1000 * seconds, 1), bytes_in=passage.bytes_in, bytes_out=passage.bytes_out, **facts,
        )  # fmt: skip


class _Passage:
    """One request and its answer on the way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.start = time.perf_counter()
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"], state["facts"] = self.request_id, {}
        self.has_body = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        self.status, self.bytes_in, self.bytes_out = 499, 0, 0
        self.started = False
        self._whole = not self.has_body
        self._gone = False

    async def receive(self) -> Message:
        """Take a message, counting."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
            self._whole = self._whole or not message.get("more_body", False)
        else:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on; an answer to a request that is not all here yet ends the connection, but not at once."""
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            extra = [*HEADERS, (b"x-request-id", self.request_id.encode())]
            extra += [] if self._whole else [(b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
            await self._send(message)
            return
        self.bytes_out += len(message.get("body", b""))
        if self._whole or self._gone or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._drain()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, unless an answer has begun."""
        if self.started:
            raise ConnectionAbortedError("an answer broke off")
        body = json.dumps(refusal.body(self.request_id), ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def _drain(self) -> None:
        """Read what still comes, for a while."""

        async def rest() -> None:
            before = self.bytes_in
            while not self._whole and not self._gone and self.bytes_in - before < DRAIN_BYTES:
                await self.receive()

        try:
            await asyncio.wait_for(rest(), DRAIN_SECONDS)
        except asyncio.TimeoutError:
            return
