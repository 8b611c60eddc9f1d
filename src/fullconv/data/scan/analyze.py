"""Examine one file: decode it once, and count everything that is judged later."""

from __future__ import annotations

import hashlib
import os
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.label_mapping import pack_colors
from fullconv.data.samples import MaskFile, MaskSource, raw_mask, tiff_mask
from fullconv.data.scan.edges import (
    find_color_traces,
    find_traces,
    from_text,
    look_of,
    look_of_array,
    look_of_mask,
    to_text,
)
from fullconv.data.scan.stats import MaskFacts, PictureFacts
from fullconv.errors import DataError, FullconvError
from fullconv.images import apply_orientation, count_pages, decode, has_foreign_profile, open_source, to_array, to_hwc
from fullconv.labels import VOID

MANY = 4096
"""A mask with more colours or numbers than this is no mask; the rest is not counted."""

_COMPARED = 6
_WHOLE = 64 << 20  # files up to this size are read once for both digest and decoding


def examine_picture(path: Path) -> PictureFacts:
    """Decode one picture and count; what is wrong is in `error`."""
    facts = PictureFacts()

    def count(image: Image.Image) -> NDArray[Any]:
        facts.frames = _frames(image)
        if _is_plain(image):
            _count_histogram(facts, image)
            return np.empty((0, 0), np.uint8)
        facts.orientation = _orientation(image)
        return to_array(image)

    try:
        data, facts.digest = _load(path)
        array = decode(data, str(path), count)
        facts.frames = max(facts.frames, count_pages(data))
        if array.size:
            _count_array(facts, to_hwc(array, str(path)))
    except FullconvError as error:
        facts.error, facts.code = _told(error)
    return facts


def _frames(image: Image.Image) -> int:
    """Count the frames of an animation; in other files further ones are thumbnails, or a second camera's."""
    return int(getattr(image, "n_frames", 1)) if image.format in ("GIF", "WEBP", "PNG") else 1


def _is_plain(image: Image.Image) -> bool:
    return image.mode in ("L", "RGB") and "transparency" not in image.info and not has_foreign_profile(image)


def _count_histogram(facts: PictureFacts, image: Image.Image) -> None:
    bins = np.array(image.histogram(), dtype=np.float64).reshape(-1, 256)
    facts.orientation = _orientation(image)
    turned = facts.orientation in (5, 6, 7, 8)
    values = np.arange(256, dtype=np.float64)
    facts.size = (image.width, image.height) if turned else (image.height, image.width)
    facts.levels = int((bins > 0).sum(axis=1).max())
    facts.look = look_of(image)
    if facts.orientation != 1:
        facts.look = to_text(apply_orientation(from_text(facts.look), facts.orientation))
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
        facts.format, facts.frames = image.format or "", _frames(image)
        facts.kind = {"RGBA": "alpha", "LA": "alpha", "F": "float"}.get(image.mode, "")
        quick = image.mode in ("L", "P", "RGB") and "exif" not in image.info
        if quick and _count_quickly(facts, image):
            return np.empty((0, 0), np.uint8)
        return raw_mask(image, where, "rgb")

    try:
        if isinstance(source, MaskFile):
            data, facts.digest = _load(source.path)
            array = decode(data, where, count)
            facts.frames = max(facts.frames, count_pages(data))
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
    numbers = np.asarray(image)
    facts.counts = _counted(image, numbers)
    _look_at_numbers(facts, numbers)
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        table = {i: palette[3 * i : 3 * i + 3] for i in facts.counts}
        facts.palette = {i: c[0] << 16 | c[1] << 8 | c[2] for i, c in table.items() if len(c) == 3}
    return True


def _counted(image: Image.Image, numbers: NDArray[np.uint8]) -> dict[int, int]:
    """Count the pixels by number; comparing with each of a few is faster than a histogram."""
    top = int(numbers.max())
    if top > _COMPARED:
        bins = image.histogram()
        return dict(zip(compress(range(256), bins), filter(None, bins), strict=True))
    counts = [int(np.count_nonzero(numbers == value)) for value in range(1, top + 1)]
    return {value: n for value, n in enumerate([numbers.size - sum(counts), *counts]) if n}


def _look_at_numbers(facts: MaskFacts, numbers: NDArray[Any]) -> None:
    facts.look = look_of_mask(numbers)
    several = len(facts.counts) - (VOID in facts.counts)
    if several > 2 or VOID in facts.counts:  # between two numbers there is none
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
