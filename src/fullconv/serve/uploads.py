"""Images in request bodies: read within a time limit, a size limit, and a limit of all bodies together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from fullconv.serve.errors import ApiError
from fullconv.serve.settings import Settings

FILE_FIELDS = (b"file", b"image", b"picture")
"""Fields of a form that hold a file also without a file name."""
HOW = (
    "Send the bytes of an image as the body (curl --data-binary @image.jpg), or as the only file of a multipart form"
    " (curl -F file=@image.jpg)."
)


class ByteBudget:
    """Limits the bytes of all request bodies in memory."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self.limit, self.gauge = limit, gauge
        self.used = 0

    @contextmanager
    def reserve(self) -> Iterator[Callable[[int], int]]:
        """Yield a function that counts further bytes of a request, until it has its response, and returns all of them."""
        own = 0

        def add(size: int) -> int:
            nonlocal own
            own += size
            self._set(self.used + size)
            if self.used > self.limit:
                raise ApiError(503, "memory-full", "too many images are being received. Try again in a moment.", 2)
            return own

        try:
            yield add
        finally:
            self._set(self.used - own)

    def _set(self, used: int) -> None:
        self.used = used
        self.gauge.set(used)


async def read_image_body(
    request: Request, settings: Settings, reserve: Callable[[int], int], deadline: float
) -> bytes:
    """Return the image file in a request; `deadline` is in seconds of `time.monotonic`."""
    limit = settings.max_body
    size = f"{limit / 1e6:g} MB" if limit >= 10**5 else f"{limit} bytes"
    too_large = ApiError(
        413, "body-too-large", f"the request has more than {size}, the limit of this service. Send a smaller image."
    )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    chunks: list[bytes] = []

    async def receive() -> None:
        async for chunk in request.stream():
            chunks.append(chunk)
            if reserve(len(chunk)) > limit:
                raise too_large

    try:
        await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:
        message = f"the image had not arrived after {settings.timeout:g} seconds. Send it again."
        raise ApiError(408, "body-too-slow", message) from None
    is_large = sum(map(len, chunks)) > 2**20
    body = await asyncio.to_thread(b"".join, chunks) if is_large else b"".join(chunks)
    chunks.clear()
    content_type = request.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/"):
        body = await asyncio.to_thread(read_form_file, body, content_type)
    if not body:
        raise ApiError(400, "empty", f"the request has no image. {HOW}")
    return body


def read_form_file(body: bytes, content_type: str) -> bytes:
    """Return the only file of a multipart form.

    Starlette's ``request.form()`` would write it to disk, and decode a file without a file name as text.
    """
    files: list[bytes] = []
    complete = False

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        files.append(file.file_object.read())

    def on_field(field: Field) -> None:
        if field.field_name in FILE_FIELDS:
            files.append(field.value or b"")

    def on_end() -> None:
        nonlocal complete
        complete = True

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    try:
        if not boundary:
            raise FormParserError("no boundary")
        in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
        parser = FormParser("multipart/form-data", on_field, on_file, on_end, boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise ApiError(400, "bad-form", f"the multipart form is damaged ({error}). {HOW}") from None
    if not complete:
        raise ApiError(400, "bad-form", f"the multipart form ends too early. {HOW}")
    if len(files) != 1:
        found = f"{len(files)} files" if files else "no file"
        raise ApiError(400, "not-one-file", f"the multipart form has {found}: send one image per request.")
    return files[0]
