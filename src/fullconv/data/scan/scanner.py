"""Analyze files in threads, and keep their stats in the user's cache by path, size and time."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fullconv.data.samples import MaskSource
from fullconv.data.scan.analyze import analyze_image, analyze_mask
from fullconv.data.scan.stats import ImageStats, MaskStats, Stats, from_json, to_json
from fullconv.storage import cache_folder
from fullconv.system import ordered_map

Item = TypeVar("Item")
_Lookup = tuple[Item, str, str, str | None]
"""What to analyze, its key, its file signature, and its cached stats."""

_VERSION = 10  # of the stats: a cache of another version is rebuilt
_BATCH = 8  # files a thread takes at a time: one by one, waiting would take half of the time
_WRITE_EVERY = 256


def file_signature(path: Path) -> str:
    """Return what changes when a file does: size and times; empty where it cannot be read."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"


class ScanCache:
    """Stats by file in one SQLite file; without one (read-only home, full disk) every file is analyzed again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._new: list[tuple[bytes, str, str]] = []

    def __enter__(self) -> ScanCache:
        try:
            self._open()
        except sqlite3.OperationalError:  # disk full, no permission, or locked for too long
            self._database = None
        except sqlite3.DatabaseError:  # damaged: start afresh
            self._database = None
            with suppress(OSError, sqlite3.Error):
                self._path.unlink()
                self._open()
        except OSError:
            self._database = None
        return self

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # the generator that scans may be closed from another thread
        self._database = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
        self._database.execute("PRAGMA synchronous = OFF")  # first: else a new file is synced
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            self._database.execute("DROP TABLE IF EXISTS facts")
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, state TEXT, facts TEXT)")

    def __exit__(self, *_: object) -> None:
        self._write()
        if self._database is not None:
            self._database.close()

    def get(self, files: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return the cached JSON stats of files by key and signature; None where a signature is empty or has changed."""
        there: dict[tuple[bytes, str], str] = {}
        if self._database is not None and files:
            with suppress(sqlite3.Error):
                marks = ", ".join("?" * len(files))
                query = f"SELECT key, state, facts FROM facts WHERE key IN ({marks})"
                rows = self._database.execute(query, [_key(key) for key, _ in files])
                there = {(bytes(key), state): str(facts) for key, state, facts in rows}
        return [there.get((_key(key), state)) if state else None for key, state in files]

    def put(self, key: str, signature: str, stats: str) -> None:
        """Keep the stats of a file."""
        self._new.append((_key(key), signature, stats))
        if len(self._new) >= _WRITE_EVERY:
            self._write()

    def _write(self) -> None:
        """Write in one short transaction, so that other scans of the same folder never wait for it."""
        if self._database is not None and self._new:
            with suppress(sqlite3.Error), self._database:
                self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", self._new)
        self._new.clear()


def _key(key: str) -> bytes:
    """Encode a file name, which may hold bytes that are no text."""
    return key.encode("utf-8", "surrogateescape")


class Scanner:
    """Analyzes files, and keeps their stats in the user's cache folder."""

    def __init__(self, root: Path, threads: int | None = None) -> None:
        self.threads = threads or min(16, os.cpu_count() or 1)
        name = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._store = cache_folder() / "scans" / f"{name}.sqlite"

    def images(self, paths: Iterable[Path], bands: tuple[int, ...] | None = None) -> Iterator[ImageStats]:
        """Yield the stats of some bands (from 1; None for all but alpha) of each image in order."""
        key = "picture" if bands is None else f"picture {','.join(map(str, bands))}"
        analyze = analyze_image if bands is None else partial(analyze_image, bands=bands)
        return self._scan(((path, path, f"{key}|{path}") for path in paths), analyze, ImageStats)

    def masks(self, sources: Iterable[MaskSource]) -> Iterator[MaskStats]:
        """Yield the stats of each mask in order."""
        items = ((source, source.path, f"mask|{source.path}|{source.key}") for source in sources)
        return self._scan(items, analyze_mask, MaskStats)

    def _scan(
        self, items: Iterable[tuple[Item, Path, str]], analyze: Callable[[Item], Stats], kind: type[Stats]
    ) -> Iterator[Stats]:
        """Yield the stats of items, each with its file and its key in the cache."""
        with ScanCache(self._store) as cache:

            def look_up(batch: list[tuple[Item, Path, str]]) -> list[_Lookup[Item]]:
                files = [(key, file_signature(path)) for _, path, key in batch]
                looked_up = zip(batch, files, cache.get(files), strict=True)
                return [(item, key, signature, text) for (item, _, _), (key, signature), text in looked_up]

            def work(batch: list[_Lookup[Item]]) -> list[tuple[str, str, str, Stats]]:
                done = []
                for item, key, signature, text in batch:
                    stats = analyze(item) if text is None else from_json(kind, text)
                    is_new = text is None and signature and not stats.error
                    done.append((key, signature, to_json(stats) if is_new else "", stats))
                return done

            left = iter(items)
            batches = iter(lambda: list(islice(left, _BATCH)), [])
            known = map(look_up, batches)
            for batch in map(work, known) if self.threads == 1 else ordered_map(work, known, self.threads):
                for key, signature, text, stats in batch:
                    if text:
                        cache.put(key, signature, text)
                    yield stats
