"""Warnings as values: results carry them, and only the borders (command line, service, log) print them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

_LOCK = threading.Lock()  # one for all collectors, so that these pickle


@dataclass(frozen=True)
class Notice:
    """Something that a user should know about a result, which was computed nevertheless."""

    code: str
    """What it is about: a short kebab-case word, such as "value-range"."""
    message: str
    """Complete sentences for the user: *where: what is wrong. Fix.*"""
    file: str | None = None
    """The file, or the first of several, that caused it."""
    count: int = 1
    """Number of files or events with this code."""

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in `warnings` of JSON: `code`, `message`, and `file` and `count` where there are any."""
        several = {"count": self.count} if self.count > 1 else {}
        return {"code": self.code, "message": self.message, **({"file": self.file} if self.file else {}), **several}


class NoticeCollector:
    """Keep one notice per code: the first message and file, and the total count. Safe to use from several threads."""

    def __init__(self, notices: Iterable[Notice] = ()) -> None:
        self._notices: dict[str, Notice] = {}
        self.extend(notices)

    def add(self, notice: Notice) -> bool:
        """Add a notice; return whether it is the first of its code."""
        with _LOCK:
            first = self._notices.get(notice.code)
            self._notices[notice.code] = notice if first is None else replace(first, count=first.count + notice.count)
        return first is None

    def extend(self, notices: Iterable[Notice]) -> list[Notice]:
        """Add several notices; return those that are the first of their code."""
        return [notice for notice in notices if self.add(notice)]

    def __iter__(self) -> Iterator[Notice]:
        """Iterate over the notices, one per code, in the order of their first occurrence."""
        return iter(tuple(self._notices.values()))
