"""Why a picture cannot be read, and the largest that is, so that a small file cannot fill the memory."""

from __future__ import annotations

import os

from fullconv.errors import InputError


class PictureError(InputError):
    """A file cannot be read as a picture; `code` sorts the reasons (docs/reference/checks.md)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


DEFAULT_MAX_PIXELS = 178_956_970
"""Where Pillow stops by default, too."""


def max_pixels() -> int:
    """Return the largest number of pixels that is read: the environment's FULLCONV_MAX_PIXELS or 179 million."""
    text = os.environ.get("FULLCONV_MAX_PIXELS", "")
    if not text:
        return DEFAULT_MAX_PIXELS
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"FULLCONV_MAX_PIXELS={text} is no number of pixels. Set it to a whole number, or unset it.")
    return int(text)


def check_pixels(height: int, width: int, where: str) -> None:
    """Raise InputError if a picture is larger than allowed; it may be a small file that fills the memory."""
    limit = max_pixels()
    if height * width > limit:
        raise PictureError(
            "too-large",
            f"{where}: {width}x{height} is {height * width:,} pixels, the limit is {limit:,}."
            f" If that is right, set FULLCONV_MAX_PIXELS={height * width} in the environment.",
        )
