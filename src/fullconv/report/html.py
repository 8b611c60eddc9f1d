"""Render the pages: the jinja2 environment, the formats of numbers, images as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from fullconv.profiling import duration
from fullconv.storage import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

MISSING = "—"
MAX_IMAGE_BYTES = 18_000_000
"""Encoded images of one page; further ones are omitted, so that the file stays under 20 MB."""


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction as percent without its sign; a dash for None and NaN.

    >>> percent(0.6537), percent(None)
    ('65.4', '—')
    """
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Format an interval of fractions in percent; a dash where there is none.

    >>> interval((0.61, 0.6734))
    '61.0–67.3'
    """
    return MISSING if bounds is None or math.isnan(bounds[0]) else "–".join(percent(value) for value in bounds)


def count(value: float, noun: str = "") -> str:
    """Format a count with thin spaces between thousands, and a noun that agrees with it.

    >>> count(1234567, "pixel").replace(chr(0x202f), " "), count(1, "image")
    ('1 234 567 pixels', '1 image')
    """
    number = f"{round(value):,}".replace(",", "\u202f")
    return f"{number} {noun}{'s' * (value != 1)}" if noun else number


def short(value: float) -> str:
    """Format a number with few digits.

    >>> short(0.002), short(1234.5), short(2e-05), short(0)
    ('0.002', '1234', '2e-05', '0')
    """
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def setting(value: Any) -> str:
    """Format a setting: yes and no, lists with commas, numbers with few digits."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(item) for item in value) or MISSING
    return str(value)


def data_uri(image: Image.Image, format: Literal["JPEG", "PNG"]) -> str:  # noqa: A002
    """Encode a PIL image as a data URI; JPEG without chroma subsampling, so that thin coloured marks stay sharp."""
    buffer = io.BytesIO()
    # JPEG is not optimized: Pillow sizes its buffer by the pixels, and noise without subsampling overflows it.
    image.save(buffer, format, **({"quality": 82, "subsampling": 0} if format == "JPEG" else {"optimize": True}))
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@cache
def environment() -> Environment:
    """Return the environment that loads and escapes the package's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    created = Environment(
        loader=PackageLoader("fullconv.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    filters = (percent, interval, count, setting, duration)
    created.filters.update({function.__name__: function for function in filters})
    return created


def write_page(path: str | Path, template: str, **context: Any) -> None:
    """Render a template and write it atomically as one HTML file that loads nothing."""
    write_text(path, environment().get_template(template).render(context))
