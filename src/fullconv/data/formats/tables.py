"""JSON as annotation tools write it, and as it is after somebody's script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fullconv.errors import DataError


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file; halves of characters, which no file name or screen can take, become question marks.

    Args:
        path: The file.
        remedy: What to do where it cannot be read.

    Raises:
        DataError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            table = json.loads(json.dumps(table, ensure_ascii=False).encode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). {remedy}") from None
    return table
