"""Error responses: an HTTP status, a code for programs, a message for people."""

from __future__ import annotations

from typing import Any

from fullconv.errors import FullconvError, MissingExtraError
from fullconv.images import ImageError

BUG_MESSAGE = "internal error; the service's log has the details under this request id."


class ApiError(Exception):
    """A request cannot be fulfilled."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {"error": {"code": self.code, "message": self.message}, "request_id": request_id}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="fullconv"'
        return headers


def to_api_error(error: Exception) -> ApiError:
    """Convert an error of an image or of its prediction to a response."""
    if isinstance(error, ApiError):
        return error
    message = str(error).removeprefix("bytes: ")
    if isinstance(error, ImageError):
        if error.code == "too-large":
            reason = message.partition(" If that is right")[0]
            return ApiError(413, "too-many-pixels", f"the image: {reason} Send a smaller one, or crop it.")
        status = 415 if error.code == "not-a-picture" else 422
        subject = "the image" if message.startswith("is ") else "the image:"
        return ApiError(status, error.code, f"{subject} {message}")
    if isinstance(error, MissingExtraError):
        return ApiError(415, "unreadable-here", message)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "memory" in message and "alloc" in message
    ):
        return ApiError(413, "too-large", "the image does not fit into the memory of this machine. Send a smaller one.")
    if isinstance(error, FullconvError):
        return ApiError(422, "cannot-predict", message)
    return ApiError(500, "bug", BUG_MESSAGE)
