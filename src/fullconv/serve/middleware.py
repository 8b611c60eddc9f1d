"""The middleware around the application: access, request ids, log and metrics, an orderly end of the connection."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import traceback
import uuid
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fullconv.serve.errors import BUG_MESSAGE, ApiError
from fullconv.serve.monitoring import JsonLog, Metrics
from fullconv.serve.settings import PROTECTED, Settings, is_loopback

DRAIN_SECONDS, MAX_DRAIN_BYTES = 2.0, 64 * 2**20
"""Limits of what is still read of a request that has its response, so that the client sees the response and no reset."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PROBES = ("/healthz", "/readyz", "/metrics")
"""Routes whose successful requests are not logged."""


class RequestMiddleware:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, log: JsonLog) -> None:
        self.app, self.settings, self.metrics, self.log = app, settings, metrics, log
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, receive, send)
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            error = check_request(self.settings, scope["path"], exchange.headers)
            if error is not None:
                await exchange.send_error(error)
            else:
                await self.app(scope, exchange.receive, exchange.send)
        except Exception:
            self.log.write(
                "bug", level="error", request_id=exchange.request_id, traceback=traceback.format_exc(limit=-8)
            )
            if not exchange.has_started:
                await exchange.send_error(ApiError(500, "bug", BUG_MESSAGE))
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)
            status = exchange.status
            route = getattr(scope.get("route"), "path", None) or ("refused" if status in (401, 403, 421) else "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
            seconds = time.perf_counter() - exchange.start
            self.metrics.requests.labels(route, method, str(status)).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            if route not in PROBES or status != 200:
                self.log.write(
                    "request", request_id=exchange.request_id, method=method, route=route, status=status,
                    ms=round(1000 * seconds, 1), bytes_in=exchange.bytes_in, bytes_out=exchange.bytes_out,
                    **scope["state"]["log_fields"],
                )  # fmt: skip


def check_request(settings: Settings, path: str, headers: Headers) -> ApiError | None:
    """Return the error of a request from another origin or host, or without the token; None where it is allowed."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return ApiError(403, "other-origin", "pages of other origins may not use this service.")
    if settings.token is None:
        name = re.sub(r":\d*$", "", host).strip("[]")
        is_guarded = is_loopback(settings.host) and not settings.any_host
        if is_guarded and host and not is_loopback(name):
            return ApiError(421, "other-host", f"this service responds to {settings.host} and localhost only.")
        return None
    if not path.startswith(PROTECTED):
        return None
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), settings.token.encode()):
        return None
    message = "invalid bearer token." if given else "missing bearer token: send 'Authorization: Bearer TOKEN'."
    return ApiError(401, "no-token", message)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.start = time.perf_counter()
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=self.request_id, log_fields={})
        self.status, self.bytes_in, self.bytes_out = 499, 0, 0
        self.has_started = self._is_disconnected = False
        has_body = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        self._is_received = not has_body

    async def receive(self) -> Message:
        """Receive a message, and count its bytes."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
            self._is_received = self._is_received or not message.get("more_body", False)
        else:
            self._is_disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message; a response before the end of its request closes the connection after the rest was read."""
        if message["type"] == "http.response.start":
            self.status, self.has_started = message["status"], True
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            headers.update({**HEADERS, "X-Request-ID": self.request_id})
            if not self._is_received:
                headers["Connection"] = "close"
            await self._send(message)
            return
        self.bytes_out += len(message.get("body", b""))
        if self._is_received or self._is_disconnected or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(), DRAIN_SECONDS)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        limit = self.bytes_in + MAX_DRAIN_BYTES
        while not self._is_received and not self._is_disconnected and self.bytes_in < limit:
            await self.receive()

    async def send_error(self, error: ApiError) -> None:
        """Send an error response."""
        response = JSONResponse(error.body(self.request_id), error.status, error.headers)
        await response(self._scope, self.receive, self.send)
