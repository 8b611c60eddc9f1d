"""What can be wrong with a data set: one row a code, the words that explain it, and the error that carries them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fullconv.errors import DataError

Severity = Literal["error", "warning", "note"]

SHOWN = 20
"""Files that a problem names; `count` has them all."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set."""

    code: str
    """A row of the table in docs/reference/checks.md."""
    severity: Severity
    """"error" stops training, "warning" is probably a mistake, "note" is good to know."""
    count: int
    """How many files (or classes, groups, ...) it concerns."""
    files: tuple[str, ...]
    """The first of them, relative to the data folder."""
    cause: str
    """What was found and what it means, one sentence."""
    remedy: str
    """The edit or command that mends it; empty where there is nothing to do."""
    stems: frozenset[str] = field(default=frozenset(), repr=False)
    """All samples that cannot be used because of it; `skip_bad` leaves these out."""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Keys of data.toml that mend it; `check --write` writes them."""

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of interface 3.4."""
        return {
            "code": self.code,
            "severity": self.severity,
            "count": self.count,
            "files": list(self.files),
            "cause": self.cause,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        named = ", ".join(self.files[:3]) + (f" and {self.count - 3} more" if self.count > 3 else "")
        return f"{self.cause}{f' ({named})' if named else ''}. {self.remedy}".strip()


def problem(
    code: str,
    severity: Severity,
    files: Sequence[str],
    cause: str,
    remedy: str,
    stems: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Problem:
    """Make a Problem of all the files that it concerns."""
    return Problem(code, severity, len(files), tuple(files[:SHOWN]), cause, remedy, frozenset(stems), settings or {})


def of_head(found: Problem, head: str) -> Problem:
    """Say of which head's masks a problem is, and where in data.toml its remedy goes; "" is the only head."""
    if not head:
        return found
    remedy = re.sub(r"(?:to|at the top of) (data\.toml[^:\n]*:\n)", rf"to \1[heads.{head}]\n", found.remedy)
    settings = {"heads": {head: dict(found.settings)}} if found.settings else {}
    return replace(found, cause=f"head {head}: {found.cause}", remedy=remedy, settings=settings)


class BadDataError(DataError):
    """A data set cannot be used; all that is wrong with it is in `problems` and in the message."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"[{p.code}] {p}" for p in problems]
        super().__init__(f"{where}: " + (lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)))


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Return those that stop training."""
    return [p for p in problems if p.severity == "error"]
