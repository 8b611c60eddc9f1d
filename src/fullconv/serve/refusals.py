"""What went wrong with a picture, as the answer that its sender gets."""

from __future__ import annotations

from fullconv.errors import FullconvError, MissingExtraError
from fullconv.images.limits import PictureError
from fullconv.serve.problems import BUG, Refusal


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
