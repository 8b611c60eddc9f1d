"""What is to be predicted, and under which names: decided for all pictures before the first one is read.

The pictures are kept in a temporary database of SQLite's, which holds a few MB in memory and the rest on disk, so that
millions of them can be named without holding their names.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fullconv.errors import InputError
from fullconv.predict.inputs import Found

_SCHEMA = """
PRAGMA synchronous = OFF;
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -32768;     -- KiB in memory; the rest is in a temporary file
CREATE TABLE pictures (
    place INTEGER PRIMARY KEY,  -- in the order given
    path BLOB, relative BLOB,   -- as opened; relative to what was given
    real BLOB UNIQUE,           -- where it lies, without links: one file is predicted once
    inside BLOB,                -- path below the folder of results, where it lies there
    part INTEGER,               -- shard
    level INTEGER DEFAULT 0,    -- how much of its path the name of its results keeps
    name BLOB                   -- of its results, without ending
);
"""

_LENGTHEN = "UPDATE pictures SET level = level + 1, name = named(path, relative, level + 1) WHERE place IN "
_LENGTHEN_SHARED = f"""{_LENGTHEN} (
    SELECT place FROM pictures JOIN (
        SELECT folded(name) AS shared, MIN(level) AS least FROM pictures GROUP BY folded(name) HAVING COUNT(*) > 1
    ) ON folded(name) = shared AND level = least)"""
_LENGTHEN_INNER = f"""{_LENGTHEN} (
    SELECT CASE WHEN b.level = 0 OR a.level > 0 THEN b.place ELSE a.place END
    FROM pictures a JOIN pictures b ON folded(b.name) = folded(CAST(a.name || ? AS BLOB)))"""
_DEEPEST = 300
"""No path has more folders."""


class Picture(NamedTuple):
    """One picture of a plan."""

    path: str
    """To be opened."""
    name: str
    """Of its results, with "/" and without ending, relative to the folder of results."""


class Plan:
    """Pictures and the names of their results.

    Args:
        out: The folder of results.
        shard: (i, n) with i from 1: only every n-th picture by a hash of its name, the same on every machine.
    """

    def __init__(self, out: Path, shard: tuple[int, int] | None = None) -> None:
        self.out = out
        self._real_out = os.path.realpath(out)
        self._part, self._parts = (shard[0] - 1, shard[1]) if shard else (0, 1)
        self._base = sqlite3.connect("")
        self._base.executescript(_SCHEMA)
        self._base.create_function("named", 3, _named, deterministic=True)
        self._base.create_function("folded", 1, _key, deterministic=True)

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def add(self, found: Iterable[Found]) -> int:
        """Take in pictures; a file that is there already is not taken twice. Returns how many were found."""
        seen = 0

        def rows() -> Iterator[tuple[bytes | int | None, ...]]:
            nonlocal seen
            for path, relative in found:
                seen += 1
                real = _real(path)
                yield os.fsencode(path), os.fsencode(relative), _key(real), self._inside(real), self._shard(relative)

        insert = "INSERT OR IGNORE INTO pictures (path, relative, real, inside, part) VALUES (?, ?, ?, ?, ?)"
        self._base.executemany(insert, rows())
        return seen

    def settle(self, endings: Sequence[str]) -> None:
        """Give every picture's results a name of their own.

        A name is the relative path without its ending; names that collide keep the ending, and where they still do,
        as many folders above as it takes.

        Args:
            endings: What is written for a picture, for example ".png" and ".overlay.png".

        Raises:
            InputError: A result would replace an input.
        """
        self._base.execute("UPDATE pictures SET name = named(path, relative, 0)")
        self._base.execute("CREATE INDEX by_name ON pictures (folded(name))")
        # the overlay of "a" would have the name of the label map of "a.overlay"
        longer = [ending for ending in endings if ending.endswith(".png") and ".png" in endings]
        inner = [ending.removesuffix(".png") for ending in longer]
        for _ in range(_DEEPEST):
            changed = self._base.execute(_LENGTHEN_SHARED).rowcount
            changed += sum(self._base.execute(_LENGTHEN_INNER, (os.fsencode(e),)).rowcount for e in inner if e)
            if not changed:
                break
        else:
            raise InputError(f"two pictures have the same path when case is ignored, so {self.out} cannot hold both.")
        for ending in endings:
            self._refuse_replacing(ending)

    def count(self) -> int:
        """Return the number of pictures of this shard."""
        return int(self._base.execute("SELECT COUNT(*) FROM pictures WHERE part = ?", (self._part,)).fetchone()[0])

    def __iter__(self) -> Iterator[Picture]:
        """Yield the pictures of this shard in the order given."""
        query = "SELECT path, name FROM pictures WHERE part = ? ORDER BY place"
        with closing(self._base.execute(query, (self._part,))) as rows:
            for path, name in rows:
                yield Picture(os.fsdecode(path), os.fsdecode(name))

    def _refuse_replacing(self, ending: str) -> None:
        query = """
            SELECT a.path, b.path, a.name FROM pictures b
            JOIN pictures a ON folded(CAST(a.name || ? AS BLOB)) = folded(b.inside)
            WHERE b.inside IS NOT NULL LIMIT 1"""
        row = self._base.execute(query, (os.fsencode(ending),)).fetchone()
        if row is not None:
            source, victim, name = (os.fsdecode(value) for value in row)
            raise InputError(
                f"{victim}: is an input, and the result for {source} would replace it ({name}{ending} in {self.out})."
                " Choose another folder with -o."
            )

    def _inside(self, real: str) -> bytes | None:
        lead = os.path.join(self._real_out, "")  # noqa: PTH118  # text, a million times
        return os.fsencode(real[len(lead) :].replace(os.sep, "/")) if real.startswith(lead) else None

    def _shard(self, relative: str) -> int:
        if self._parts == 1:
            return 0
        digest = hashlib.sha256(os.fsencode(relative)).digest()
        return int.from_bytes(digest[:8], "big") % self._parts


def parse_shard(text: str) -> tuple[int, int]:
    """Read "2/8" as (2, 8): the second of eight parts.

    Raises:
        InputError: It is no such pair.
    """
    first, slash, last = text.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise InputError(
            f"--shard {text}: write it as i/n with i from 1 to n, for example 1/8 to 8/8 for eight machines."
        )
    return int(first), int(last)


def _named(path: bytes, relative: bytes, level: int) -> bytes:
    """Return the name of a picture's results at a level: 0 without ending, 1 with it, then with folders above.

    Above the topmost folder come folders named "_": of "/a" and "/a.overlay" one must lie deeper than the other.
    """
    if level == 0:
        folder, slash, last = relative.rpartition(b"/")
        return folder + slash + (last.rpartition(b".")[0] or last)
    if level == 1:
        return relative
    above = [folder for folder in _absolute(path)[: -len(relative)].split(b"/") if folder]
    missing = [b"_"] * (level - 1 - len(above))
    return b"/".join([*missing, *above[-(level - 1) :], relative])


def _absolute(path: bytes) -> bytes:
    """Return a path from the root, with "/", without drive."""
    text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # text, a million times
    return os.fsencode(os.path.splitdrive(text)[1].replace(os.sep, "/").lstrip("/"))


def _key(name: str | bytes) -> bytes:
    """Return what two names share where the file system takes them for one."""
    return os.fsencode(os.path.normcase(os.fsdecode(name)))


@lru_cache(maxsize=65536)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _real(path: str) -> str:
    """Return where a file lies; folders are looked up once."""
    if os.path.islink(path):  # noqa: PTH114  # text, a million times
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)  # noqa: PTH118
