"""Analyze one file: decode it once and record everything that is checked later."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.label_mapping import is_grey_color, pack_colors
from fullconv.data.samples import MaskFile, MaskSource, ShapeSource, WarpedMask, check_pages, raw_mask, tiff_mask
from fullconv.data.scan.stats import THUMBNAIL_SIDE, EdgeStats, ImageStats, MaskStats, edge_row_step, encode_thumbnail
from fullconv.errors import DataError, FullconvError
from fullconv.images import (
    Pixels,
    apply_orientation,
    count_frames,
    count_pages,
    decode,
    from_layers,
    has_foreign_profile,
    is_tiff,
    open_image_file,
    open_source,
    to_layers,
)
from fullconv.labels import VOID

MAX_COUNTED = 4096
"""A mask with more colors or labels than this is no mask; the rest is not counted."""

_MAX_COMPARED = 6  # labels up to which comparing with each is faster than a histogram
_MAX_BUFFERED_BYTES = 64 << 20  # files up to this size are read once for both digest and decoding
_MAX_SHORT = 2  # pixels of a short run; a mask that was doubled in size has longer ones
_MAX_EDGE_VALUES = 64


def analyze_image(path: Path, bands: tuple[int, ...] | None = None) -> ImageStats:
    """Decode some bands of one image (from 1; None for all but alpha) and count; `error` has what is wrong."""
    stats = ImageStats()

    def count(image: Image.Image) -> NDArray[Any]:
        stats.frames = count_frames(image)
        stats.orientation = _orientation(image)
        plain = image.mode in ("L", "RGB") and "transparency" not in image.info and not has_foreign_profile(image)
        if plain and bands in (None, tuple(range(1, len(image.mode) + 1))):
            _count_histogram(stats, image)
            return np.empty((0, 0), np.uint8)
        return to_layers(image)

    try:
        data, stats.digest = _load(path)
        if is_tiff(data):
            with open_image_file(path) as file:
                _count_pixels(stats, file.read(None, file.choose_bands(bands)))
            stats.frames = count_pages(data)
        else:
            layers = decode(data, str(path), count)
            if layers.size:
                _count_pixels(stats, from_layers(layers, str(path), bands))
    except FullconvError as error:
        stats.error, stats.code = _describe(error)
    return stats


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; Pillow has applied a TIFF's."""
    found = 1 if image.format == "TIFF" else image.getexif().get(274, 1)
    return found if found in range(1, 9) else 1


def _count_histogram(stats: ImageStats, image: Image.Image) -> None:
    bins = np.array(image.histogram(), dtype=np.float64).reshape(-1, 256)
    values = np.arange(256, dtype=np.float64)
    swapped = stats.orientation in (5, 6, 7, 8)
    stats.size = (image.width, image.height) if swapped else (image.height, image.width)
    stats.max_unique = int((bins > 0).sum(axis=1).max())
    cells = np.asarray(_shrink(image).convert("RGB"))
    stats.thumbnail = encode_thumbnail(apply_orientation(cells, stats.orientation) if stats.orientation != 1 else cells)
    stats.channels, stats.dtype = len(bins), "uint8"
    stats.valid = [image.width * image.height] * len(bins)
    stats.total, stats.squares = (bins @ values).tolist(), (bins @ values**2).tolist()
    stats.low = [float(np.flatnonzero(row)[0]) for row in bins]
    stats.high = [float(np.flatnonzero(row)[-1]) for row in bins]


def _count_pixels(stats: ImageStats, pixels: Pixels) -> None:
    array, missing = pixels.values, pixels.missing
    stats.notices = {notice.code: notice.message for notice in pixels.notices}
    stats.size, stats.channels, stats.dtype = (array.shape[0], array.shape[1]), array.shape[2], array.dtype.name
    has_data = None if pixels.nodata is None else ~pixels.nodata
    for channel in range(stats.channels):
        plane = array[..., channel]
        valid = has_data
        if missing is not None:
            valid = ~missing[..., channel] if valid is None else valid & ~missing[..., channel]
        values = plane.ravel() if valid is None else plane[valid]
        if array.dtype == np.uint8:
            stats.max_unique = max(stats.max_unique, int((np.bincount(values) > 0).sum()))
        finite = values.astype(np.float64)
        stats.valid.append(finite.size)
        stats.total.append(float(finite.sum()))
        stats.squares.append(float((finite**2).sum()))
        stats.low.append(float(finite.min()) if finite.size else np.inf)
        stats.high.append(float(finite.max()) if finite.size else -np.inf)
    stats.thumbnail = encode_thumbnail(_thumbnail(stats, pixels))


def _thumbnail(stats: ImageStats, pixels: Pixels) -> NDArray[np.uint8]:
    shown = pixels.values[..., : 3 if stats.channels >= 3 else 1].astype(np.float32)
    empty = pixels.nodata if pixels.missing is None else pixels.missing.any(axis=2)
    if empty is not None and pixels.nodata is not None:
        empty = empty | pixels.nodata
    if empty is not None:
        mean = [total / max(count, 1) for total, count in zip(stats.total, stats.valid, strict=True)]
        shown[empty] = mean[: shown.shape[2]]
    planes = [_shrink(Image.fromarray(np.ascontiguousarray(shown[..., i]))) for i in range(shown.shape[2])]
    cells = np.stack([np.asarray(planes[i % len(planes)]) for i in range(3)], axis=-1)
    if pixels.values.dtype != np.uint8:
        low, high = float(cells.min()), float(cells.max())
        cells = (cells - low) * (255 / (high - low) if high > low else 1)
    return cells.round().clip(0, 255).astype(np.uint8)


def _shrink(image: Image.Image) -> Image.Image:
    # not BOX: which of two cells gets a pixel between them would depend on the orientation of the image
    return image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def analyze_mask(source: MaskSource) -> MaskStats:
    """Decode one mask and count its labels or colors; `error` has what is wrong."""
    stats = MaskStats()
    where = str(source.path)

    def count(image: Image.Image) -> NDArray[Any]:
        stats.format, stats.frames = image.format or "", count_frames(image)
        stats.encoding = {"RGBA": "alpha", "LA": "alpha", "F": "float"}.get(image.mode, "")
        quick = image.mode in ("L", "P", "RGB") and "exif" not in image.info
        if quick and _count_quickly(stats, image):
            return np.empty((0, 0), np.uint8)
        return raw_mask(image, where, "rgb")

    try:
        if isinstance(source, MaskFile):
            data, stats.digest = _load(source.path)
            check_pages(source.path)
            array = decode(data, where, count)
            stats.frames = max(stats.frames, count_pages(data))
            if array.ndim == 3 and not stats.format:  # from the TIFF reader
                stats.encoding = "float" if array.dtype.kind == "f" else "alpha" if array.shape[2] in (2, 4) else ""
                array = tiff_mask(array, where, "rgb")
        else:
            if isinstance(source, ShapeSource):
                array, found = source.with_hidden()
                stats.drawn, stats.hidden = found.drawn, found.hidden
            else:
                array = source.raw("rgb")
            stats.digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        if array.size:
            _count_mask(stats, array)
        if isinstance(source, WarpedMask) and (outside := int(source.outside().sum())):
            first = (
                int(pack_colors(array[source.outside()][:1, :3])[0])
                if stats.in_color
                else int(array[source.outside()][0])
            )
            stats.counts[first] -= outside
            stats.counts = {value: count for value, count in stats.counts.items() if count}
    except FullconvError as error:
        stats.error, stats.code = _describe(error)
    return stats


def _count_quickly(stats: MaskStats, image: Image.Image) -> bool:
    stats.size = (image.height, image.width)
    if image.mode == "RGB":
        colors: Any = image.getcolors(MAX_COUNTED)
        if colors is None:
            return False
        stats.in_color = True
        stats.counts = {r << 16 | g << 8 | b: n for n, (r, g, b) in colors}
        _measure_colors(stats, np.asarray(image))
        return True
    labels = np.asarray(image)
    top = int(labels.max())
    if top > _MAX_COMPARED:
        bins = image.histogram()
        stats.counts = dict(zip(compress(range(256), bins), filter(None, bins), strict=True))
    else:
        counts = [int(np.count_nonzero(labels == value)) for value in range(1, top + 1)]
        stats.counts = {value: n for value, n in enumerate([labels.size - sum(counts), *counts]) if n}
    _measure_labels(stats, labels)
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        table = {i: palette[3 * i : 3 * i + 3] for i in stats.counts}
        stats.palette = {i: c[0] << 16 | c[1] << 8 | c[2] for i, c in table.items() if len(c) == 3}
    return True


def _count_mask(stats: MaskStats, array: NDArray[Any]) -> None:
    stats.size = (array.shape[0], array.shape[1])
    stats.in_color = array.ndim == 3
    values, counts = np.unique(pack_colors(array[..., :3]) if stats.in_color else array, return_counts=True)
    stats.overflowed = len(values) > MAX_COUNTED
    if stats.overflowed:
        most = np.sort(np.argpartition(counts, -MAX_COUNTED)[-MAX_COUNTED:])
        values, counts = values[most], counts[most]
    stats.counts = dict(zip(values.tolist(), counts.tolist(), strict=True))
    if stats.in_color:
        _measure_colors(stats, array[..., :3])
    else:
        _measure_labels(stats, array)


def _measure_labels(stats: MaskStats, labels: NDArray[Any]) -> None:
    stats.thumbnail = mask_thumbnail(labels)
    if len(stats.counts) - (VOID in stats.counts) > 2 or VOID in stats.counts:  # between two labels there is none
        stats.edges = measure_edges(labels)


def _measure_colors(stats: MaskStats, planes: NDArray[np.uint8]) -> None:
    stats.thumbnail = mask_thumbnail(planes)
    if all(map(is_grey_color, stats.counts)):  # labels as R = G = B
        stats.edges = measure_edges(planes[..., 0])
    elif len(stats.counts) > 2:
        stats.edges = measure_edges(planes)


def mask_thumbnail(mask: NDArray[Any]) -> str:
    """Return labels (H, W) or colors (H, W, 3) as a thumbnail; values of more than 8 bits by their rank."""
    height, width = mask.shape[:2]
    cells = mask[_cell_centers(height)[:, None], _cell_centers(width)]
    if cells.ndim == 3:
        cells = pack_colors(cells)
    if cells.dtype != np.uint8:
        ranks = np.unique(cells, return_inverse=True)[1].reshape(cells.shape)
        cells = np.minimum(ranks, 255).astype(np.uint8)
    return encode_thumbnail(cells)


@lru_cache(64)
def _cell_centers(side: int) -> NDArray[np.intp]:
    return ((2 * np.arange(THUMBNAIL_SIDE) + 1) * side // (2 * THUMBNAIL_SIDE)).astype(np.intp)


def measure_edges(mask: NDArray[Any]) -> EdgeStats:
    """Count the edges along some rows of labels (H, W) or colors (H, W, 3).

    All edges of colors are hard; their soft runs lie between both sides in all channels.
    """
    step = edge_row_step(mask.shape[0])
    rows = np.ascontiguousarray(mask[step // 2 :: step]).reshape(-1, *mask.shape[2:])
    flat = pack_colors(rows) if mask.ndim == 3 else rows
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = EdgeStats()
    if len(starts) < 2:
        return edges
    inside = starts % mask.shape[1] != 0  # the others lead from the end of one row to the next
    whole = inside[:-1] & inside[1:]
    length = np.diff(starts)
    short = np.flatnonzero((length <= _MAX_SHORT) & whole)
    edges.runs, edges.short = int(np.count_nonzero(whole)), len(short)
    wide = np.flatnonzero((length > _MAX_SHORT) & (length <= 2 * _MAX_SHORT) & whole)
    edges.wide_runs = int(np.count_nonzero(_lies_between(rows, starts, wide)))
    values = flat[starts]
    own = rows[starts[short]].astype(np.int64)
    left, right = rows[starts[short] - 1] - own, rows[starts[short + 1]] - own
    between = left * right <= 0
    edges.short_values = len(np.unique(values[short]))
    if mask.ndim == 3:
        edges.hard_edges = int(np.count_nonzero(inside))
        edges.soft_runs = _value_counts(values[short][between.all(axis=1)])
        return edges
    edges.hard_edges = int(np.count_nonzero((np.abs(values.astype(np.int32) - flat[starts - 1]) >= 2) & inside))
    edges.soft_runs = _value_counts(own[between])
    edges.overshoots = _value_counts(own[~between & (np.abs(left) <= 2) & (np.abs(right) <= 2)])
    if len(lengths := length[values[:-1] == VOID]):
        edges.void_run = int(np.median(lengths))
    return edges


def _lies_between(rows: NDArray[Any], starts: NDArray[np.intp], runs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which runs, by the index of their start, lie between a smaller and a larger label, in all channels."""
    own = rows[starts[runs]].astype(np.int64)
    between = (rows[starts[runs] - 1] - own) * (rows[starts[runs + 1]] - own) <= 0
    return np.asarray(between.all(axis=1) if between.ndim == 2 else between)


def _value_counts(values: NDArray[Any]) -> dict[int, int]:
    return dict(Counter(values.tolist()).most_common(_MAX_EDGE_VALUES))


def _describe(error: FullconvError) -> tuple[str, str]:
    code = "bad-mask" if isinstance(error, DataError) else "needs-extra" if isinstance(error, ImportError) else ""
    return str(error), getattr(error, "code", code or "unreadable")


def _load(path: Path) -> tuple[bytes | Path, str]:
    """Return what to decode and the digest of the file; huge files are not held in memory."""
    with open_source(path) as file:
        if os.fstat(file.fileno()).st_size <= _MAX_BUFFERED_BYTES:
            data = file.read()
            return data, hashlib.sha256(data).hexdigest()
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return path, digest.hexdigest()
