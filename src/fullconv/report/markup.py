"""Text, numbers and encoded pictures in HTML."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any, Literal

from PIL import Image

DASH = "–"
MISSING = "—"


def text(value: Any) -> str:
    """Escape a value for HTML text and attributes.

    >>> text('<a "b">')
    '&lt;a &quot;b&quot;&gt;'
    """
    return escape(str(value), quote=True)


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as percent without its sign; a dash for None and NaN.

    >>> percent(0.6537), percent(None)
    ('65.4', '—')
    """
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def interval(low: float, high: float) -> str:
    """Write an interval of fractions in percent; a dash where there is none.

    >>> interval(0.61, 0.6734)
    '61.0–67.3'
    """
    return MISSING if math.isnan(low) else f"{percent(low)}{DASH}{percent(high)}"


def whole(value: float) -> str:
    """Write a count with thin spaces between thousands.

    >>> whole(1234567).replace(chr(0x202f), " ")
    '1 234 567'
    """
    return f"{round(value):,}".replace(",", "\u202f")


def short(value: float) -> str:
    """Write a number in few digits.

    >>> short(0.002), short(1234.5), short(2e-05), short(0)
    ('0.002', '1234', '2e-05', '0')
    """
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def plain(value: Any) -> str:
    """Write a setting as a reader would: yes and no, lists with commas, numbers in few digits."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or MISSING
    return str(value)


def swatch(color: Sequence[int]) -> str:
    """Return a small square of a colour (RGB 0..255)."""
    return f'<i class="swatch" style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'


def data_uri(image: Image.Image, kind: Literal["JPEG", "PNG"], quality: int = 82) -> str:
    """Encode a PIL image as a data URI; JPEG without chroma subsampling, so that thin coloured marks stay sharp."""
    buffer = io.BytesIO()
    if kind == "JPEG":
        # Not optimized: Pillow sizes its buffer by the pixels, and noise without subsampling overflows it.
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "PNG", optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
