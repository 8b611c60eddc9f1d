"""Values that describe what is wrong with a data set, and the error that carries them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fullconv.errors import DataError

Severity = Literal["error", "warning", "note"]

MAX_FILES = 20
"""Files that a problem lists; `count` has them all."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set."""

    code: str
    """A row of the table in docs/reference/checks.md."""
    severity: Severity
    """"error" stops training, "warning" is probably a mistake, "note" is informative."""
    count: int
    """Number of files (or classes, groups, ...) concerned."""
    files: tuple[str, ...]
    """The first `MAX_FILES` of them, relative to the data folder."""
    cause: str
    """What was found and what it means, one sentence."""
    remedy: str
    """The edit or command that fixes it; empty where nothing needs to be done."""
    stems: frozenset[str] = field(default=frozenset(), repr=False)
    """All samples that cannot be used because of it; `skip_bad` omits these."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Keys of data.toml that fix it; `check --write` writes them."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of `fullconv check --json`."""
        shown = {key: getattr(self, key) for key in ("code", "severity", "count", "files", "cause", "remedy")}
        return {**shown, "files": list(self.files)}

    def __str__(self) -> str:
        files = ", ".join(self.files[:3]) + (f" and {self.count - 3} more" if self.count > 3 else "")
        return f"{self.cause}{f' ({files})' if files else ''}. {self.remedy}".strip()


def problem(
    code: str,
    severity: Severity,
    files: Sequence[str],
    cause: str,
    remedy: str,
    stems: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Problem:
    """Make a Problem from all files that it concerns."""
    shown = tuple(files[:MAX_FILES])
    return Problem(code, severity, len(files), shown, cause, remedy, frozenset(stems), settings or {})


@dataclass(frozen=True)
class Finding:
    """What a check found; the check's row in `checks.catalog` supplies what is left open here."""

    code: str
    files: Sequence[str] = ()
    """All files concerned, relative to the data folder."""
    detail: str = ""
    """Follows the row's cause."""
    cause: str = ""
    """Replaces the row's cause."""
    fix: str | None = None
    """Replaces the row's fix."""
    severity: Severity | None = None
    """Replaces the row's severity."""
    stems: Iterable[str] = ()
    """Samples that `skip_bad` omits because of it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of data.toml that fix it."""


def display_path(path: Path, root: Path) -> str:
    """Return how problems name a file: relative to the data folder if it lies inside."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def for_head(found: Problem, head: str) -> Problem:
    """Mark a problem as one of a head's masks and move its remedy to the head's table; "" is the only head."""
    if not head:
        return found
    remedy = re.sub(r"(?:to|at the top of) (data\.toml[^:\n]*:\n)", rf"to \1[heads.{head}]\n", found.remedy)
    settings = {"heads": {head: dict(found.settings)}} if found.settings else {}
    return replace(found, cause=f"head {head}: {found.cause}", remedy=remedy, settings=settings)


class BadDataError(DataError):
    """A data set cannot be used; `problems` and the message list everything that is wrong with it."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"[{p.code}] {p}" for p in problems]
        super().__init__(f"{where}: " + (lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)))


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that stop training."""
    return [p for p in problems if p.severity == "error"]
