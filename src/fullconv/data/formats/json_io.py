"""JSON as annotation tools write it, also after other programs have edited it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fullconv.data.text_files import read_text
from fullconv.errors import DataError

MAX_COORDINATE = 100_000
"""Larger coordinates are not pixels."""


def read_json(path: Path, fix: str) -> Any:
    """Read a JSON file, else DataError that ends with `fix`.

    Lone surrogates, which no file name or terminal accepts, become question marks.
    """
    try:
        table = json.loads(text := read_text(path))
        if "\\ud" in text or "\\uD" in text:
            table = json.loads(json.dumps(table, ensure_ascii=False).encode("utf-8", "replace"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8. {fix}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). {fix}") from None
    return table


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds an object; anything else is an empty one."""
    table = read_json(path, fix)
    return table if isinstance(table, dict) else {}


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; none if it is not a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Return a finite number of pixels, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -MAX_COORDINATE <= value <= MAX_COORDINATE else None  # NaN and huge integers are neither


def numbers(table: dict[str, Any], *keys: str) -> tuple[float, ...] | None:
    """Return the numbers of some keys; None unless all are numbers."""
    found = tuple(value for key in keys if (value := number(table.get(key))) is not None)
    return found if len(found) == len(keys) else None


def points(value: object, least: int = 1) -> tuple[tuple[float, float], ...] | None:
    """Return a list [[x, y], ...] as tuples; None if it is not one, or has fewer than `least`."""
    if not isinstance(value, list) or len(value) < least:
        return None
    pairs = [pair[:2] for pair in value if isinstance(pair, list) and len(pair) > 1]
    found = tuple((x, y) for a, b in pairs if (x := number(a)) is not None and (y := number(b)) is not None)
    return found if len(found) == len(value) else None


def size(height: object, width: object) -> tuple[int, int] | None:
    """Return an image size if both are positive integers, else None."""
    return (height, width) if type(height) is int and type(width) is int and min(height, width) > 0 else None
