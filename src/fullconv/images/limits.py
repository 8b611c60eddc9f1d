"""Why an image cannot be read, and the limit of its size, so that a small file cannot fill the memory."""

from __future__ import annotations

import os

from fullconv.errors import InputError


class ImageError(InputError):
    """A file cannot be read as an image; `code` is a check code (docs/reference/checks.md)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def max_pixels() -> int:
    """Return the limit of an image's pixels: the environment's FULLCONV_MAX_PIXELS or 179 million."""
    text = os.environ.get("FULLCONV_MAX_PIXELS") or "178956970"  # Pillow's own default
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"FULLCONV_MAX_PIXELS={text} is not a number of pixels. Set it to an integer, or unset it.")
    return int(text)


def check_pixels(height: int, width: int, where: str) -> None:
    """Raise ImageError if an image is larger than the limit; a small file could fill the memory."""
    limit = max_pixels()
    if height * width > limit:
        raise ImageError(
            "too-large",
            f"{where}: {width}x{height} is {height * width:,} pixels, the limit is {limit:,}."
            f" If that is right, set FULLCONV_MAX_PIXELS={height * width} in the environment.",
        )
