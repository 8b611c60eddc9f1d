"""What every file holds: decoded once, several at a time, and remembered in the user's cache by size and time."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.memory import Memory, file_state
from fullconv.data.samples import MaskFile, MaskSource, raw_mask, tiff_mask
from fullconv.errors import DataError, FullconvError
from fullconv.images.color import has_other_colors
from fullconv.images.limits import PictureError
from fullconv.images.read import as_picture, decode, open_source, to_picture
from fullconv.storage import cache_folder

_VERSION = 1
"""Of the facts; old ones are forgotten when it changes."""

MANY = 4096
"""A mask with more colours or numbers than this is no mask; the rest is not counted."""

_WHOLE = 64 << 20  # files up to this size are read once for both digest and decoding


@dataclass
class PictureFacts:
    """What one picture holds."""

    digest: str = ""
    """SHA-256 of the file."""
    size: tuple[int, int] = (0, 0)
    """Height and width after EXIF orientation."""
    channels: int = 0
    dtype: str = ""
    total: list[float] = field(default_factory=list)
    """Sum by channel, over finite numbers."""
    squares: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    strange: int = 0
    """How many numbers are NaN or infinite."""
    error: str = ""
    """Why it cannot be read; empty where it can."""
    code: str = ""
    """The code of that problem."""


@dataclass
class MaskFacts:
    """What one mask holds."""

    digest: str = ""
    size: tuple[int, int] = (0, 0)
    format: str = ""
    """Of the file, as Pillow calls it."""
    in_color: bool = False
    """Whether `counts` is by colour 0xrrggbb instead of number."""
    counts: dict[int, int] = field(default_factory=dict)
    """Pixels by number or colour."""
    many: bool = False
    """Whether there are more than MANY."""
    palette: dict[int, int] = field(default_factory=dict)
    """Of an indexed picture: number -> colour 0xrrggbb, of those that occur."""
    error: str = ""
    code: str = ""


Facts = TypeVar("Facts", PictureFacts, MaskFacts)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def together(facts: Sequence[PictureFacts]) -> PictureFacts:
    """Return what a picture holds whose bands lie in several files of one size."""
    if len(facts) == 1:
        return facts[0]
    wrong = next((found for found in facts if found.error), None)
    if wrong is not None:
        return wrong
    first = facts[0]
    dtype = np.result_type(*(np.dtype(found.dtype) for found in facts)).name
    both = PictureFacts(
        digest=hashlib.sha256("|".join(found.digest for found in facts).encode()).hexdigest(), size=first.size,
        channels=sum(found.channels for found in facts), dtype=dtype, strange=sum(found.strange for found in facts),
    )  # fmt: skip
    for found in facts:
        if found.size != first.size:
            (h, w), (height, width) = found.size, first.size
            both.error, both.code = f"is {w}x{h} pixels, its picture {width}x{height}", "band-size"
        both.total += found.total
        both.squares += found.squares
        both.low += found.low
        both.high += found.high
    return both


def examine_picture(path: Path) -> PictureFacts:
    """Decode one picture and count; what is wrong is in `error`."""
    facts = PictureFacts()

    def count(image: Image.Image) -> NDArray[Any]:
        if _is_plain(image):
            _count_histogram(facts, image)
            return np.empty((0, 0), np.uint8)
        return to_picture(image)

    try:
        data, facts.digest = _load(path)
        array = decode(data, str(path), count)
        if array.size:
            _count_array(facts, as_picture(array, str(path)))
    except FullconvError as error:
        facts.error, facts.code = _told(error)
    return facts


def _is_plain(image: Image.Image) -> bool:
    return image.mode in ("L", "RGB") and "transparency" not in image.info and not has_other_colors(image)


def _count_histogram(facts: PictureFacts, image: Image.Image) -> None:
    bins = np.array(image.histogram(), dtype=np.float64).reshape(-1, 256)
    turned = image.getexif().get(274, 1) in (5, 6, 7, 8) and image.format != "TIFF"
    values = np.arange(256, dtype=np.float64)
    facts.size = (image.width, image.height) if turned else (image.height, image.width)
    facts.channels, facts.dtype = len(bins), "uint8"
    facts.total, facts.squares = (bins @ values).tolist(), (bins @ values**2).tolist()
    facts.low = [float(np.flatnonzero(row)[0]) for row in bins]
    facts.high = [float(np.flatnonzero(row)[-1]) for row in bins]


def _count_array(facts: PictureFacts, array: NDArray[Any]) -> None:
    facts.size, facts.channels, facts.dtype = (array.shape[0], array.shape[1]), array.shape[2], array.dtype.name
    for channel in range(facts.channels):
        plane = array[..., channel].astype(np.float64)
        finite = plane[np.isfinite(plane)]
        facts.strange += plane.size - finite.size
        facts.total.append(float(finite.sum()))
        facts.squares.append(float((finite**2).sum()))
        facts.low.append(float(finite.min()) if finite.size else 0.0)
        facts.high.append(float(finite.max()) if finite.size else 0.0)


def examine_mask(source: MaskSource) -> MaskFacts:
    """Decode one mask and count its numbers or colours; what is wrong is in `error`."""
    facts = MaskFacts()
    where = str(source.path)

    def count(image: Image.Image) -> NDArray[Any]:
        facts.format = image.format or ""
        quick = image.mode in ("L", "P", "RGB") and "exif" not in image.info
        if quick and _count_quickly(facts, image):
            return np.empty((0, 0), np.uint8)
        return raw_mask(image, where, "rgb")

    try:
        if isinstance(source, MaskFile):
            data, facts.digest = _load(source.path)
            array = decode(data, where, count)
            array = tiff_mask(array, where, "rgb") if array.ndim == 3 and not facts.format else array
        else:
            array = source.raw("rgb")
            facts.digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        if array.size:
            _count_mask(facts, array, where)
    except FullconvError as error:
        facts.error, facts.code = _told(error)
    return facts


def _count_quickly(facts: MaskFacts, image: Image.Image) -> bool:
    facts.size = (image.height, image.width)
    if image.mode == "RGB":
        colors: Any = image.getcolors(MANY)
        if colors is None:
            return False
        facts.in_color = True
        facts.counts = {r << 16 | g << 8 | b: n for n, (r, g, b) in colors}
        return True
    facts.counts = {value: n for value, n in enumerate(image.histogram()) if n}
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        table = {i: palette[3 * i : 3 * i + 3] for i in facts.counts}
        facts.palette = {i: c[0] << 16 | c[1] << 8 | c[2] for i, c in table.items() if len(c) == 3}
    return True


def _count_mask(facts: MaskFacts, array: NDArray[Any], where: str) -> None:
    facts.size = (array.shape[0], array.shape[1])
    if array.ndim == 3:
        wide = array[..., :3].astype(np.uint32)
        array = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        facts.in_color = True
    values, counts = np.unique(array, return_counts=True)
    facts.many = len(values) > MANY
    facts.counts = dict(zip(values[:MANY].tolist(), counts[:MANY].tolist(), strict=True))


def _told(error: FullconvError) -> tuple[str, str]:
    if isinstance(error, PictureError):
        return str(error), error.code
    code = (
        "bad-mask"
        if isinstance(error, DataError)
        else "needs-extra"
        if isinstance(error, ImportError)
        else "unreadable"
    )
    return str(error), code


def _load(path: Path) -> tuple[bytes | Path, str]:
    """Return what to decode and the digest of the file; huge files are not held in memory."""
    with open_source(path) as file:
        if os.fstat(file.fileno()).st_size <= _WHOLE:
            data = file.read()
            return data, hashlib.sha256(data).hexdigest()
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return path, digest.hexdigest()


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
        with Memory(self._store, _VERSION) as memory, ThreadPoolExecutor(self.threads) as pool:

            def look_up(item: tuple[Item, str]) -> tuple[str, str, str | None, Item]:
                key, state = item[1], file_state(path_of(item[0]))
                return key, state, memory.get(key, state), item[0]

            def work(found: tuple[str, str, str | None, Item]) -> tuple[str, str, bool, Facts]:
                key, state, known, item = found
                return key, state, known is None, examine(item) if known is None else _restore(kind, known)

            for key, state, new, facts in _in_order(pool, work, map(look_up, items), 4 * self.threads):
                if new and state and not facts.error:
                    memory.put(key, state, json.dumps(asdict(facts)))
                yield facts


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Answer], items: Iterable[Item], ahead: int
) -> Iterator[Answer]:
    """Map over items in threads, in order, with a bounded number on the way."""
    waiting: deque[Future[Answer]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _restore(kind: type[Facts], text: str) -> Facts:
    facts = kind(**json.loads(text))
    facts.size = (facts.size[0], facts.size[1])
    if isinstance(facts, MaskFacts):
        facts.counts = {int(value): n for value, n in facts.counts.items()}
        facts.palette = {int(value): color for value, color in facts.palette.items()}
    return facts
