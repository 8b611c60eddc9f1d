"""What was found in a file, remembered until the file changes.

What every file holds: decoded once, several at a time, and remembered in the user's cache by size and time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fullconv.data.samples import MaskSource
from fullconv.data.scan.analyze import examine_mask, examine_picture
from fullconv.data.scan.stats import Facts, MaskFacts, PictureFacts, from_text, to_text
from fullconv.storage import cache_folder


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


_VERSION = 5
"""Of the facts; old ones are forgotten when it changes."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Known = tuple[Item, str, str, str | None]
"""What to examine, its key and state, and what is remembered of it."""

_BATCH = 8


class Scanner:
    """Examines files, and remembers what it found in the user's cache folder."""

    def __init__(self, root: Path, threads: int | None = None) -> None:
        self.threads = threads or min(16, os.cpu_count() or 1)
        name = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._store = cache_folder() / "scans" / f"{name}.sqlite"

    def pictures(self, paths: Iterable[Path]) -> Iterator[PictureFacts]:
        """Yield the facts of each picture in order."""
        return self._scan(((path, f"picture|{path}") for path in paths), examine_picture, lambda p: p, PictureFacts)

    def masks(self, sources: Iterable[MaskSource]) -> Iterator[MaskFacts]:
        """Yield the facts of each mask in order."""
        items = ((source, f"mask|{source.path}|{source.key}") for source in sources)
        return self._scan(items, examine_mask, lambda source: source.path, MaskFacts)

    def _scan(
        self,
        items: Iterable[tuple[Item, str]],
        examine: Callable[[Item], Facts],
        path_of: Callable[[Item], Path],
        kind: type[Facts],
    ) -> Iterator[Facts]:
        with Memory(self._store, _VERSION) as memory:

            def look_up(batch: list[tuple[Item, str]]) -> list[_Known[Item]]:
                states = [file_state(path_of(item)) for item, _ in batch]
                texts = memory.get([(key, state) for (_, key), state in zip(batch, states, strict=True)])
                return [(item, key, state, text) for (item, key), state, text in zip(batch, states, texts, strict=True)]

            def work(batch: list[_Known[Item]]) -> list[tuple[str, str, str, Facts]]:
                done = []
                for item, key, state, known in batch:
                    facts = examine(item) if known is None else from_text(kind, known)
                    new = known is None and state and not facts.error
                    done.append((key, state, to_text(facts) if new else "", facts))
                return done

            for batch in _in_order(self.threads, work, map(look_up, _batches(items))):
                for key, state, text, facts in batch:
                    if text:
                        memory.put(key, state, text)
                    yield facts


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut into lists: of a file at a time, threads that wait for each other would take half of the time."""
    left = iter(items)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _in_order(threads: int, work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """Map over items in threads, in order, with a bounded number on the way."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Answer]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
