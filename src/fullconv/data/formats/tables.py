"""JSON as annotation tools write it, and as it is after somebody's script."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fullconv.data.problems import Problem, problem
from fullconv.data.text_files import read_text
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
        text = read_text(path)
        table = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            table = json.loads(json.dumps(table, ensure_ascii=False).encode("utf-8", "replace"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error}). Save it as UTF-8. {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). {remedy}") from None
    return table


def unreadable(broken: Sequence[tuple[Path, DataError]], root: Path) -> list[Problem]:
    """Name the annotation files of single pictures that cannot be read; the others are not spoilt by them."""
    if not broken:
        return []
    files = [path.relative_to(root).as_posix() for path, _ in broken]
    path, error = broken[0]
    reason = re.split(r"\. (?=[A-Z])", str(error).removeprefix(f"{path}: "), maxsplit=1)[0]
    words = f"annotation files cannot be read (the first {reason})"
    remedy = "Save or export them again, or remove them."
    return [problem("unreadable", "error", files, words, remedy, [re.sub(r"\.\w+$", "", name) for name in files])]
