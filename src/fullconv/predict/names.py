"""The images to predict and the names of their results, settled before the first image is read.

An image costs its path and 14 bytes: names are computed when they are needed, and compared by hashes first.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError
from fullconv.predict.inputs import Found

MAX_LEVEL = 300
"""No path has more folders."""

_real_folder = lru_cache(maxsize=65536)(os.path.realpath)


class InputImage(NamedTuple):
    """One image to predict."""

    path: str
    """To be opened."""
    name: str
    """Of its results, with "/" and without ending, relative to the output folder."""


class ImageList:
    """Images in the order given, and the names of their results.

    Of a shard (i, n) with i from 1 only every n-th image by a hash of its name, the same on every machine.
    """

    def __init__(self, out: Path, shard: tuple[int, int] | None = None) -> None:
        self.out = out
        self._shard, self._shards = (shard[0] - 1, shard[1]) if shard else (0, 1)
        self._paths: list[str] = []
        self._tails = array("L")  # length of the path relative to what was given, which is its end
        self._files = array("q")  # hash of where the file lies, without links
        self._levels: NDArray[np.uint16] = np.zeros(0, np.uint16)  # how much of its path a name keeps

    def add(self, found: Iterable[Found]) -> int:
        """Add images; returns how many were found."""
        before = len(self._paths)
        for path, relative in found:
            self._paths.append(path)
            self._tails.append(len(relative))
            self._files.append(hash(_real(path)))
        return len(self._paths) - before

    def assign_names(self, endings: Sequence[str]) -> None:
        """Drop files that were given twice, and give the results of each image a name of their own.

        A name is the relative path without its ending. Names that collide keep the ending, and where they still do, as
        many folders above as it takes. `endings` are those of the files written for an image, such as ".overlay.png".
        """
        files = np.array(self._files, np.int64)
        groups = _groups(files, lambda place: _real(self._paths[place]))
        if later := {place for group in groups for place in group[1:]}:
            kept = [place for place in range(len(files)) if place not in later]
            self._paths = [self._paths[place] for place in kept]
            self._tails = array("L", [self._tails[place] for place in kept])
        self._files = array("q")
        self._levels = np.zeros(len(self._paths), np.uint16)
        # the overlay of "a" would have the name of the label map of "a.overlay"
        inner = [e.removesuffix(".png") for e in endings if e.endswith(".png") and ".png" in endings and e != ".png"]
        hashes = np.fromiter((hash(self._key(place)) for place in range(len(self._paths))), np.int64, len(self._paths))
        for _ in range(MAX_LEVEL):
            colliding: set[int] = set()  # of the images with one name those that keep least of their path
            for group in _groups(hashes, self._key):
                least = min(self._levels[place] for place in group)
                colliding.update(place for place in group if self._levels[place] == least)
            changed = self._lengthen(colliding, hashes)
            for ending in inner:
                changed += self._lengthen(self._colliding_with(ending), hashes)
            if not changed:
                break
        else:
            raise InputError(f"two images have the same path when case is ignored, so {self.out} cannot hold both.")
        self._refuse_overwriting(endings)

    def __len__(self) -> int:
        return len(self._paths) if self._shards == 1 else sum(1 for _ in self._places())

    def __iter__(self) -> Iterator[InputImage]:
        """Yield the images of this shard in the order given."""
        return (InputImage(self._paths[place], self._name(place)) for place in self._places())

    def _places(self) -> Iterator[int]:
        for place in range(len(self._paths)):
            if self._shards > 1:
                digest = hashlib.sha256(os.fsencode(self._relative(place))).digest()
                if int.from_bytes(digest[:8], "big") % self._shards != self._shard:
                    continue
            yield place

    def _relative(self, place: int) -> str:
        return self._paths[place][-self._tails[place] :].replace(os.sep, "/")

    def _name(self, place: int) -> str:
        """Return the name of an image's results at its level: 0 without ending, 1 with it, then with folders above.

        Above the topmost folder come folders named "_": of "/a" and "/a.overlay" one must lie deeper than the other.
        """
        level, relative = int(self._levels[place]), self._relative(place)
        if level == 0:
            folder, slash, last = relative.rpartition("/")
            return folder + slash + (last.rpartition(".")[0] or last)
        if level == 1:
            return relative
        absolute = os.path.splitdrive(os.path.abspath(self._paths[place]))[1].replace(os.sep, "/")  # noqa: PTH100
        above = [folder for folder in absolute[: -len(relative)].split("/") if folder]
        return "/".join([*["_"] * (level - 1 - len(above)), *above[-(level - 1) :], relative])

    def _key(self, place: int) -> str:
        """Return what two names share where the file system takes them for one."""
        return os.path.normcase(self._name(place))

    def _colliding_with(self, ending: str) -> set[int]:
        """Return the images to rename where the name of one is that of another with an ending."""
        folded = os.path.normcase(ending)
        longer: dict[str, list[int]] = {}
        for place in range(len(self._paths)):
            if (key := self._key(place)).endswith(folded):
                longer.setdefault(key[: -len(folded)], []).append(place)
        found: set[int] = set()
        for place in range(len(self._paths)) if longer else ():
            for other in longer.get(self._key(place), ()):
                found.add(other if self._levels[other] == 0 or self._levels[place] > 0 else place)
        return found

    def _lengthen(self, places: set[int], hashes: NDArray[np.int64]) -> int:
        for place in places:
            self._levels[place] += 1
            hashes[place] = hash(self._key(place))
        return len(places)

    def _refuse_overwriting(self, endings: Sequence[str]) -> None:
        lead = os.path.normcase(os.path.join(os.path.realpath(self.out), ""))  # noqa: PTH118
        inside = {}
        for path in self._paths:
            if (real := _real(path)).startswith(lead):
                inside[os.path.normcase(real[len(lead) :].replace(os.sep, "/"))] = path
        for place in range(len(self._paths)) if inside else ():
            for ending in endings:
                if victim := inside.get(os.path.normcase(self._name(place) + ending)):
                    raise InputError(
                        f"{victim}: is an input, and the result for {self._paths[place]} would overwrite it"
                        f" ({self._name(place)}{ending} in {self.out}). Choose another folder with -o."
                    )


def _groups(hashes: NDArray[np.int64], key: Callable[[int], Any]) -> Iterator[list[int]]:
    """Yield the places that share a key, in order, given the keys' hashes; places without others are left out."""
    order = np.argsort(hashes, kind="stable")
    same = np.diff(hashes[order]) == 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))  # runs of equal hashes
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        by_key: dict[Any, list[int]] = {}
        for place in order[first : last + 1].tolist():
            by_key.setdefault(key(place), []).append(place)
        yield from (group for group in by_key.values() if len(group) > 1)


def parse_shard(text: str) -> tuple[int, int]:
    """Read "2/8" as (2, 8): the second of eight parts."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise InputError(
            f"--shard {text}: write it as i/n with i from 1 to n, for example 1/8 to 8/8 for eight machines."
        )
    return int(first), int(last)


def _real(path: str) -> str:
    """Return where a file lies, as the file system compares names; folders are looked up once."""
    if os.path.islink(path):  # noqa: PTH114  # text, a million times
        return os.path.normcase(os.path.realpath(path))
    folder, name = os.path.split(path)
    return os.path.normcase(os.path.join(_real_folder(folder), name))  # noqa: PTH118
