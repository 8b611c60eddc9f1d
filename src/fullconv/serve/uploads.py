"""A picture out of a request: read in bounds, away from the event loop where it takes long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from fullconv.serve.errors import Refusal, megabytes
from fullconv.serve.metrics import Measures
from fullconv.serve.settings import Settings

HOW = (
    "Send a picture's bytes as the body (curl --data-binary @picture.jpg), or as one file of a multipart form"
    " (curl -F file=@picture.jpg)."
)


class Bodies:
    """Reads bodies, and knows how many bytes of them are held.

    Args:
        settings: Of the service.
        measures: Told of what is held.
    """

    def __init__(self, settings: Settings, measures: Measures) -> None:
        self.settings, self.measures = settings, measures
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator[Holding]:
        """Count what a request holds until it is answered."""
        holding = Holding(self)
        try:
            yield holding
        finally:
            holding.add(-holding.size)

    async def read(self, request: Request, holding: Holding, until: float) -> bytes:
        """Return the picture's file.

        Args:
            request: With a picture as its body, or in a multipart form.
            holding: Of this request.
            until: When it must be there, in seconds of `time.monotonic`.

        Raises:
            Refusal: There is none, it is too large, or too slow.
            ClientDisconnect: Nobody waits for the answer any more.
        """
        kind = request.headers.get("content-type", "")
        self._check_length(request.headers.get("content-length"))
        parts: list[bytes] = []
        stream = request.stream()
        while True:
            try:
                chunk = await asyncio.wait_for(_next(stream), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                limit = f"{self.settings.timeout:g} seconds"
                raise Refusal(
                    408, "body-too-slow", f"the picture had not arrived after {limit}. Send it again."
                ) from None
            if chunk is None:
                break
            parts.append(chunk)
            holding.add(len(chunk))
            if holding.size > self.settings.max_body:
                raise self._too_large()
        body = await asyncio.to_thread(b"".join, parts) if holding.size > 2**20 else b"".join(parts)
        parts.clear()
        if kind.lower().startswith("multipart/"):
            body = await asyncio.to_thread(picture_of_form, body, kind)
        if not body:
            raise Refusal(400, "empty", f"the request holds no picture. {HOW}")
        return body

    def _check_length(self, length: str | None) -> None:
        if length is not None and length.isdigit() and int(length) > self.settings.max_body:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        limit = megabytes(self.settings.max_body)
        return Refusal(
            413,
            "body-too-large",
            f"the request has more than {limit}, the limit of this service. Send a smaller picture.",
        )


class Holding:
    """Bytes that one request holds."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self.size = 0

    def add(self, count: int) -> None:
        """Take or give back bytes.

        Raises:
            Refusal: All requests together hold too many.
        """
        self.size += count
        self.bodies.held += count
        self.bodies.measures.held.set(self.bodies.held)
        if count > 0 and self.bodies.held > self.bodies.settings.body_budget:
            raise Refusal(503, "memory-full", "too many pictures are being received. Try again in a moment.", 2)


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    """Return the next piece, or None at the end."""
    async for chunk in stream:
        return chunk
    return None


class _Form:
    """The files of a multipart form."""

    def __init__(self, boundary: bytes) -> None:
        self.files: list[bytearray] = []
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = b"", b""
        self._file: bytearray | None = None
        self.ended = False
        self.parser = MultipartParser(boundary, {
            "on_part_begin": self._begin, "on_header_field": self._on_field, "on_header_value": self._on_value,
            "on_header_end": self._on_header, "on_headers_finished": self._on_headers, "on_part_data": self._on_data,
            "on_end": self._on_end,
        })  # fmt: skip

    def _begin(self) -> None:
        self._headers, self._file = {}, None

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field, self._value = b"", b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" in options or options.get(b"name") in (b"file", b"image", b"picture"):
            self._file = bytearray()
            self.files.append(self._file)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file += data[start:end]

    def _on_end(self) -> None:
        self.ended = True


def picture_of_form(body: bytes, kind: str) -> bytes:
    """Return the one file of a multipart form.

    Raises:
        Refusal: It is damaged, or holds none or several.
    """
    _, options = parse_options_header(kind)
    boundary = options.get(b"boundary", b"")
    try:
        if not boundary:
            raise MultipartParseError("no boundary")
        form = _Form(boundary)
        form.parser.write(body)
        form.parser.finalize()
    except (MultipartParseError, ValueError) as error:
        raise Refusal(400, "bad-form", f"the multipart form is damaged ({error}). {HOW}") from None
    if not form.ended:
        raise Refusal(400, "bad-form", f"the multipart form ends too early. {HOW}")
    if len(form.files) != 1:
        found = "no file" if not form.files else f"{len(form.files)} files"
        raise Refusal(400, "not-one-file", f"the multipart form holds {found}: send one picture a request.")
    return bytes(form.files[0])
