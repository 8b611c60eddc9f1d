"""JSON values with one value replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value inside nested lists and tables."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def copy_with_parent(value: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return a deep copy, and the list or table in it that holds the value at a path."""
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    return value, parent


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """Return a copy with another value at a path."""
    value, parent = copy_with_parent(value, path)
    parent[path[-1]] = other
    return value
