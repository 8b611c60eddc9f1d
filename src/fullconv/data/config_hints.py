"""Edits of `data.toml` that remedies print, ready to be pasted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullconv.data.config import read_table, table_file
from fullconv.data.text_files import read_text
from fullconv.recipe import toml_key, toml_value

_TABLE_HEADER = re.compile(r"^\s*\[{1,2}[\w.\"' -]+\]{1,2}\s*(#.*)?$", re.MULTILINE)


def config_hint(root: Path, table: Mapping[str, Any], remove: tuple[str, ...] = ()) -> str:
    """Return how to edit `data.toml` so that it has these keys, in prose and lines.

    Args:
        root: The data folder, whose `data.toml` may have some of the keys.
        table: Keys and values.
        remove: Keys that contradict them and must go where they are set.
    """
    present = read_table(root)
    new = {key: value for key, value in table.items() if key not in present}
    other = {key: value for key, value in table.items() if key in present}
    parts = []
    if gone := [key for key in remove if key in present]:
        parts.append(f"Remove {' and '.join(gone)} from data.toml.")
    if other:
        parts.append("Replace in data.toml:\n" + "\n".join(toml_lines(other)))
    if new:
        # below the header of a table a line would belong to that table
        place = "at the top of" if present and _TABLE_HEADER.search(read_text(table_file(root))) else "to"
        parts.append(f"Add {place} data.toml:\n" + "\n".join(toml_lines(new)))
    return "\n".join(parts)


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """Write keys of `data.toml` as one line each."""
    return [f"{toml_key(key)} = {toml_value(value, literal=True)}" for key, value in table.items()]
