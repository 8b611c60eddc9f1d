"""What every file holds: decoded once, several at a time, and remembered in the user's cache by size and time."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fullconv.data.facts import Facts, MaskFacts, PictureFacts, from_text, to_text
from fullconv.data.looking import examine_mask, examine_picture
from fullconv.data.memory import Memory, file_state
from fullconv.data.samples import MaskSource
from fullconv.storage import cache_folder

_VERSION = 4
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
