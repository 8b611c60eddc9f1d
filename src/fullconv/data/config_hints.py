"""Lines of `data.toml`: how a remedy is written so that it can be pasted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullconv.data.config import read_table, table_file
from fullconv.data.text_files import read_text
from fullconv.recipe import toml_value

_HEADER = re.compile(r"^\s*\[{1,2}[\w.\"' -]+\]{1,2}\s*(#.*)?$", re.MULTILINE)


def advise(root: Path, table: Mapping[str, Any], gone: tuple[str, ...] = ()) -> str:
    """Return the edit of `data.toml` that brings it to these keys, in words and lines.

    Args:
        root: The data folder, whose `data.toml` may have some of the keys.
        table: Keys and values.
        gone: Keys that contradict them and must be taken out where they are there.
    """
    there = read_table(root)
    new = {key: value for key, value in table.items() if key not in there}
    other = {key: value for key, value in table.items() if key in there}
    parts = []
    if any(key in there for key in gone):
        parts.append(f"Take {' and '.join(key for key in gone if key in there)} out of data.toml.")
    if other:
        parts.append("Replace in data.toml:\n" + "\n".join(lines(other)))
    if new:
        # behind the header of a table a line would belong to that table
        place = "at the top of" if there and _HEADER.search(read_text(table_file(root))) else "to"
        parts.append(f"Add {place} data.toml:\n" + "\n".join(lines(new)))
    return "\n".join(parts)


def lines(table: Mapping[str, Any]) -> list[str]:
    """Write keys of `data.toml`, a line each."""
    return [f"{key} = {toml_value(value, literal=True)}" for key, value in table.items()]
