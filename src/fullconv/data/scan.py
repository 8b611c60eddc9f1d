"""What every file holds: decoded once, several at a time, and remembered in the user's cache by size and time."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.coding import pack_colors
from fullconv.data.memory import Memory, file_state
from fullconv.data.samples import MaskFile, MaskSource, raw_mask, tiff_mask
from fullconv.data.traces import (
    Traces,
    find_color_traces,
    find_traces,
    from_text,
    look_of,
    look_of_array,
    look_of_mask,
    to_text,
)
from fullconv.errors import DataError, FullconvError
from fullconv.images import tiff
from fullconv.images.color import has_other_colors
from fullconv.images.read import as_picture, decode, open_source, to_picture
from fullconv.storage import cache_folder

_VERSION = 2
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
    orientation: int = 1
    """EXIF's, 1 to 8; it has been applied to size and look."""
    levels: int = 0
    """Different numbers in the channel with most of them; 0 where not counted."""
    look: str = ""
    """The picture in 32x32 cells, for comparing (`traces.from_text`)."""
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
    traces: Traces = field(default_factory=Traces)
    """What its edges tell; empty for colours."""
    kind: str = ""
    """"alpha" with an alpha channel that is opaque, "float" where numbers are stored as fractions; else empty."""
    look: str = ""
    """The mask in 32x32 cells, for comparing (`traces.from_text`)."""
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
        orientation=first.orientation, levels=max(found.levels for found in facts), look=first.look,
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
        facts.orientation = _orientation(image)
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
    facts.orientation = _orientation(image)
    turned = facts.orientation in (5, 6, 7, 8)
    values = np.arange(256, dtype=np.float64)
    facts.size = (image.width, image.height) if turned else (image.height, image.width)
    facts.levels = int((bins > 0).sum(axis=1).max())
    facts.look = look_of(image)
    if facts.orientation != 1:
        facts.look = to_text(tiff.orient(from_text(facts.look), facts.orientation))
    facts.channels, facts.dtype = len(bins), "uint8"
    facts.total, facts.squares = (bins @ values).tolist(), (bins @ values**2).tolist()
    facts.low = [float(np.flatnonzero(row)[0]) for row in bins]
    facts.high = [float(np.flatnonzero(row)[-1]) for row in bins]


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of a loaded picture; a TIFF has been turned by Pillow."""
    found = 1 if image.format == "TIFF" else image.getexif().get(274, 1)
    return found if found in range(1, 9) else 1


def _count_array(facts: PictureFacts, array: NDArray[Any]) -> None:
    facts.size, facts.channels, facts.dtype = (array.shape[0], array.shape[1]), array.shape[2], array.dtype.name
    facts.look = look_of_array(array)
    for channel in range(facts.channels):
        if array.dtype == np.uint8:
            facts.levels = max(facts.levels, int((np.bincount(array[..., channel].ravel()) > 0).sum()))
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
        facts.kind = {"RGBA": "alpha", "LA": "alpha", "F": "float"}.get(image.mode, "")
        quick = image.mode in ("L", "P", "RGB") and "exif" not in image.info
        if quick and _count_quickly(facts, image):
            return np.empty((0, 0), np.uint8)
        return raw_mask(image, where, "rgb")

    try:
        if isinstance(source, MaskFile):
            data, facts.digest = _load(source.path)
            array = decode(data, where, count)
            if array.ndim == 3 and not facts.format:  # as the TIFF reader gave it
                facts.kind = "float" if array.dtype.kind == "f" else "alpha" if array.shape[2] in (2, 4) else ""
                array = tiff_mask(array, where, "rgb")
        else:
            array = source.raw("rgb")
            facts.digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        if array.size:
            _count_mask(facts, array)
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
        _look_at_colors(facts, np.asarray(image))
        return True
    _look_at_numbers(facts, np.asarray(image))
    facts.counts = {value: n for value, n in enumerate(image.histogram()) if n}
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        table = {i: palette[3 * i : 3 * i + 3] for i in facts.counts}
        facts.palette = {i: c[0] << 16 | c[1] << 8 | c[2] for i, c in table.items() if len(c) == 3}
    return True


def _look_at_numbers(facts: MaskFacts, numbers: NDArray[Any]) -> None:
    facts.look = look_of_mask(numbers)
    facts.traces = find_traces(numbers)


def _look_at_colors(facts: MaskFacts, planes: NDArray[np.uint8]) -> None:
    facts.look = look_of_mask(planes)
    if all(color >> 16 == color & 255 == (color >> 8) & 255 for color in facts.counts):  # numbers as R = G = B
        facts.traces = find_traces(planes[..., 0])
    elif len(facts.counts) > 2:
        facts.traces = find_color_traces(planes)


def _count_mask(facts: MaskFacts, array: NDArray[Any]) -> None:
    facts.size = (array.shape[0], array.shape[1])
    facts.in_color = array.ndim == 3
    numbers = pack_colors(array[..., :3]) if facts.in_color else array
    _count_values(facts, numbers)
    if facts.in_color:
        _look_at_colors(facts, array[..., :3])
    else:
        _look_at_numbers(facts, array)


def _count_values(facts: MaskFacts, array: NDArray[Any]) -> None:
    values, counts = np.unique(array, return_counts=True)
    facts.many = len(values) > MANY
    if facts.many:
        most = np.sort(np.argpartition(counts, -MANY)[-MANY:])
        values, counts = values[most], counts[most]
    facts.counts = dict(zip(values.tolist(), counts.tolist(), strict=True))


def _told(error: FullconvError) -> tuple[str, str]:
    code = "bad-mask" if isinstance(error, DataError) else "needs-extra" if isinstance(error, ImportError) else ""
    return str(error), getattr(error, "code", code or "unreadable")


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
                    memory.put(key, state, json.dumps(vars(facts), default=vars))
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
        traces: Any = facts.traces
        for key in ("ramps", "rings"):
            traces[key] = {int(value): n for value, n in traces[key].items()}
        facts.traces = Traces(**traces)
    return facts
