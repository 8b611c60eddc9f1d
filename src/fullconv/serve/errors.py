"""Why a request is not answered with a result: a status, a code for programs, and a sentence for people.

What went wrong with a picture, as the answer that its sender gets.
"""

from __future__ import annotations

from typing import Any

from fullconv.errors import FullconvError, MissingExtraError
from fullconv.images.limits import PictureError

BUG = "this went wrong inside the service; its log tells more under this request's id."


class Refusal(Exception):  # noqa: N818  (an answer, not a fault of the program)
    """A request is refused.

    Args:
        status: Of HTTP.
        code: A word that does not change.
        message: What happened, and what to do.
        retry_after: Seconds after which it is worth trying again.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def body(self, request_id: str) -> dict[str, Any]:
        """Return what stands in the answer."""
        return {"error": {"code": self.code, "message": self.message}, "request_id": request_id}

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says beside its body."""
        found = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            found["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            found["WWW-Authenticate"] = 'Bearer realm="fullconv"'
        return found


def megabytes(size: int) -> str:
    """Write a number of bytes.

    >>> megabytes(64_000_000), megabytes(1500)
    ('64 MB', '1500 bytes')
    """
    return f"{size / 1e6:g} MB" if size >= 10**5 else f"{size} bytes"


def as_refusal(error: Exception) -> Refusal:
    """Turn what went wrong with a picture into an answer."""
    if isinstance(error, Refusal):
        return error
    words = str(error).removeprefix("bytes: ")
    if isinstance(error, PictureError) and error.code == "too-large":
        words = words.partition(" If that is right")[0]
        return Refusal(413, "too-many-pixels", f"the picture: {words} Send a smaller one, or cut it.")
    if isinstance(error, PictureError):
        status = 415 if error.code == "not-a-picture" else 422
        return Refusal(
            status, error.code, f"the picture {words}" if words.startswith("is ") else f"the picture: {words}"
        )
    if isinstance(error, MissingExtraError):
        return Refusal(415, "unreadable-here", words)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in words and "alloc" in words):
        return Refusal(413, "too-large", "this picture does not fit the memory here. Send a smaller one.")
    if isinstance(error, FullconvError):
        return Refusal(422, "cannot-predict", words)
    return Refusal(500, "bug", BUG)
