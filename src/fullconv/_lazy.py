"""Package doors whose names are loaded on first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose public names stand in ``modules``.

    A door is lazy where some of its names need torch and others do not. Type checkers read the same names from an
    ``if TYPE_CHECKING`` block beside the call; a test compares the two.

    Args:
        package: The package's ``__name__``.
        modules: Module that defines each public name, by name.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted(modules)
