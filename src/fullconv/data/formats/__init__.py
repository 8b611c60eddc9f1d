"""The formats that are recognised, one small module each.

A format is a row of `FORMATS`. `detect` looks at names only and answers with its evidence, or None; `read` pairs
pictures with masks. To add one, write a module with these two functions, and add its row; masks that are not files of
their own implement `fullconv.data.samples.MaskSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.problems import Problem
from fullconv.data.samples import MaskSource, Sample

__all__ = ["Folder", "Format", "Found", "MaskSource", "Sample"]


@dataclass
class Found:
    """What a format found: samples by split, and what it knows about the classes."""

    splits: dict[str, list[Sample]]
    """By "train", "val", "test"; "" where the format does not split."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Keys of data.toml that follow from the format (classes, values, colors, ...); what the user says comes first."""
    problems: list[Problem] = field(default_factory=list)
    partial: frozenset[str] = frozenset()
    """Stems of pictures that have no mask; `splits` does not hold them."""


class Format(NamedTuple):
    """A row of the table of formats."""

    name: str
    """What `--format` and data.toml call it."""
    family: str
    """What is reported as the format."""
    detect: Callable[[Folder, DataSettings], str | None]
    """Its evidence in words, or None where it does not fit."""
    read: Callable[[Folder, DataSettings], Found]
