"""Where the processes of one start of torchrun find one another, and none of an earlier start.

torchrun's agent keeps one store for all the starts of a job (``--max-restarts``). What processes that are gone wrote into
it is still there when the next ones ask for one another's addresses: whoever asks before the other has written anew waits
for an address where nobody listens, until the timeout. Source: https://github.com/pytorch/pytorch/issues/135712. How often
torchrun has started is no remedy: each machine's agent counts for itself. So those who are there agree on a name that no
others had.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Protocol

from fullconv.errors import RunError

_ROOM = "fullconv/meeting"
_PAUSE = 0.01
"""Seconds between two looks into the store."""


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> object:
        """Write."""

    def get(self, key: str) -> bytes:
        """Read what is there."""

    def check(self, keys: list[str]) -> bool:
        """Say whether all are there."""


def agree(store: Store, rank: int, ranks: int, patience: timedelta) -> str:
    """Return a name that all processes of this start get alike, and no other start had.

    Each writes a word of its own. The first offers a name together with the words that it finds, anew whenever one has
    changed; only who finds its own word in an offer answers, under the offered name; and when all have answered, the first
    closes the round.

    Args:
        store: Seen by all; may hold what earlier processes wrote.
        rank: Of this process.
        ranks: How many there are.
        patience: How long to wait for the others.

    Raises:
        RunError: Some did not come.
    """
    word = secrets.token_hex(8)
    store.set(f"{_ROOM}/{rank}", word)
    looks = _looks(patience, rank, ranks)
    return _lead(store, ranks, looks) if rank == 0 else _follow(store, rank, word, looks)


def _lead(store: Store, ranks: int, looks: Iterator[None]) -> str:
    others = list(range(1, ranks))
    offered: list[str] | None = None
    name = ""
    for _ in looks:
        if not store.check([f"{_ROOM}/{rank}" for rank in others]):
            continue
        words = [store.get(f"{_ROOM}/{rank}").decode() for rank in others]
        if words != offered:
            offered, name = words, secrets.token_hex(8)
            store.set(f"{_ROOM}/offer", json.dumps([name, *words]))
        if store.check([f"{_ROOM}/{name}/{rank}" for rank in others]):
            break
    store.set(f"{_ROOM}/{name}/all", "")
    return name


def _follow(store: Store, rank: int, word: str, looks: Iterator[None]) -> str:
    answered = ""
    for _ in looks:
        if store.check([f"{_ROOM}/offer"]):
            name, *words = json.loads(store.get(f"{_ROOM}/offer"))
            if name != answered and words[rank - 1 : rank] == [word]:
                store.set(f"{_ROOM}/{name}/{rank}", "")
                answered = name
        if answered and store.check([f"{_ROOM}/{answered}/all"]):
            break
    return answered


def _looks(patience: timedelta, rank: int, ranks: int, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    end = clock() + patience.total_seconds()
    while clock() < end:
        yield
        time.sleep(_PAUSE)
    raise RunError(f"the processes do not find one another: process {rank} waited {patience} for all {ranks} of them.")
