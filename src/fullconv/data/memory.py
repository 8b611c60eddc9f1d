"""What was found in a file, remembered until the file changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def file_state(path: Path) -> str:
    """What changes when a file does; empty where it cannot be asked."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"


class Memory:
    """Facts by file in one SQLite file; without one (read-only home, full disc) everything is examined anew."""

    def __init__(self, path: Path, version: int) -> None:
        self._path = path
        self._version = version
        self._base: sqlite3.Connection | None = None
        self._new: list[tuple[bytes, str, str]] = []

    def __enter__(self) -> Memory:
        try:
            self._open()
        except sqlite3.OperationalError:  # no room, no rights, or locked for too long
            self._base = None
        except sqlite3.DatabaseError:  # damaged: start a new one
            self._base = None
            with suppress(OSError, sqlite3.Error):
                self._path.unlink()
                self._open()
        except OSError:
            self._base = None
        return self

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # the generator that scans may be closed from another thread
        self._base = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
        self._base.execute("PRAGMA synchronous = OFF")  # first: a new file would be waited for
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version != self._version:
            self._base.execute("DROP TABLE IF EXISTS facts")
            self._base.execute(f"PRAGMA user_version = {self._version}")
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, state TEXT, facts TEXT)")

    def __exit__(self, *_: object) -> None:
        self._write()
        if self._base is not None:
            self._base.close()

    def get(self, files: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return what was found of files, by key, when they were in these states."""
        there: dict[tuple[bytes, str], str] = {}
        if self._base is not None and files:
            with suppress(sqlite3.Error):
                marks = ", ".join("?" * len(files))
                query = f"SELECT key, state, facts FROM facts WHERE key IN ({marks})"
                rows = self._base.execute(query, [_key(key) for key, _ in files])
                there = {(bytes(key), state): str(facts) for key, state, facts in rows}
        return [there.get((_key(key), state)) if state else None for key, state in files]

    def put(self, key: str, state: str, facts: str) -> None:
        """Remember what was found."""
        self._new.append((_key(key), state, facts))
        if len(self._new) >= 256:
            self._write()

    def _write(self) -> None:
        """Write in one short transaction, so that other scans of the same folder never wait for it."""
        if self._base is not None and self._new:
            with suppress(sqlite3.Error), self._base:
                self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", self._new)
        self._new.clear()


def _key(key: str) -> bytes:
    """A file name may hold bytes that are no text."""
    return key.encode("utf-8", "surrogateescape")
