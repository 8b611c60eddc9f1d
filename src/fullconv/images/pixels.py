"""Pixels with what is known of them, an opened image file, and its place on a map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError, plural
from fullconv.images.limits import ImageError
from fullconv.labels import VOID
from fullconv.notices import Notice

Window = tuple[int, int, int, int]
"""Top, bottom, left and right edge, in pixels of the upright image."""

MIN_PARTIAL_ALPHA = 0.25
"""Share of pixels with neither full nor no alpha from which the channel may hold something else."""
MIN_ALPHA_LEVELS = 16
"""Different values of such pixels; an even transparency has one, rims have a few pixels."""
_AS_STORED = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}
_TO_FLOAT = ("int8", "int16", "int32", "uint32", "float16", "float64")
_SAME_GRID_PX = 0.1  # georeferencing is written with rounded numbers


@dataclass(frozen=True)
class Pixels:
    """An image, or a window of one, with the pixels that have no data."""

    values: NDArray[Any]
    """(H, W, C) uint8, uint16 or float32."""
    nodata: NDArray[np.bool_] | None = None
    """(H, W) where there is no data: the nodata value in all bands, a mask, alpha 0 of a TIFF, NaN; None where everywhere is."""
    missing: NDArray[np.bool_] | None = None
    """(H, W, C) samples with the nodata value in pixels that have data in other bands; None where there are none."""
    notices: tuple[Notice, ...] = ()
    """Warnings about the image."""

    def select(self, bands: Sequence[int]) -> Pixels:
        """Return some bands, counted from 0."""
        if list(bands) == list(range(self.values.shape[2])):
            return self
        missing = None if self.missing is None else self.missing[..., bands]
        return replace(self, values=np.ascontiguousarray(self.values[..., bands]), missing=missing)

    def with_void(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a mask or label map (H, W) uint8 that is void where there is no data."""
        if self.nodata is None or self.nodata.shape != mask.shape:
            return mask
        return np.where(self.nodata, np.uint8(VOID), mask)

    def filled(self, mean: Sequence[float], low: float, high: float) -> NDArray[Any]:
        """Return the values, with those without data that cannot have occurred in training as the mean color.

        Args:
            mean: (C,) in the image's own values.
            low: The smallest value of training.
            high: The largest one.
        """
        if self.nodata is None and self.missing is None:
            return self.values
        values = self.values
        with np.errstate(invalid="ignore"):
            unseen = ~((values >= low) & (values <= high))
        gone = np.zeros(values.shape, np.bool_) if self.missing is None else self.missing & unseen
        if self.nodata is not None:
            gone |= (self.nodata & unseen.any(axis=2))[..., None]
        if not gone.any():
            return values
        color = np.array(mean, np.float64)
        color = color if values.dtype.kind == "f" else np.rint(color).clip(0, np.iinfo(values.dtype).max)
        return np.where(gone, color.astype(values.dtype), values)


def has_no_value(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where a band of (H, W, C) is NaN or infinite, (H, W); None where none is."""
    if values.dtype.kind != "f":
        return None
    none = ~np.isfinite(values).all(axis=2)
    return none if none.any() else None


def not_finite_notice(where: str) -> Notice:
    """Return a notice on NaN that no nodata value announces."""
    return Notice(
        "not-finite",
        f"{where}: holds NaN or infinite values. These pixels become void. If they are no mistake, set NaN as the nodata"
        " value of the file.",
        where,
    )


def first_of_notice(where: str, count: int) -> list[Notice]:
    """Return a notice on a file of several pages or frames; none on others."""
    message = (
        f"{where}: holds {count} pages or frames, of which the first is read. Save the others as files of their own."
    )
    return [Notice("several-frames", message, where)] if count > 1 else []


class AlphaCount:
    """Counts how much of an alpha channel lies between transparent and opaque."""

    def __init__(self) -> None:
        self._pixels = self._partial = 0
        self._levels: set[int] = set()

    def add(self, alpha: NDArray[Any]) -> None:
        """Count a window of the channel."""
        if alpha.dtype.kind != "u":
            return
        partial = alpha[(alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)]
        self._pixels += alpha.size
        self._partial += partial.size
        if len(self._levels) < MIN_ALPHA_LEVELS:
            self._levels.update(np.unique(partial[:65536]).tolist())

    def notice(self, where: str, bands: int, effect: str) -> Notice | None:
        """Return a notice on a channel with many values in between.

        Args:
            where: The file.
            bands: Number of all bands, of which alpha is one.
            effect: What is done with it.
        """
        if self._partial < MIN_PARTIAL_ALPHA * max(self._pixels, 1) or len(self._levels) < MIN_ALPHA_LEVELS:
            return None
        return Notice(
            "alpha-values",
            f"{where}: {100 * self._partial / self._pixels:.0f} % of the alpha channel lies between transparent and opaque,"
            f" as infrared does that was stored as alpha. {effect} If it is a band, write"
            f" bands = {list(range(1, bands + 1))} in data.toml.",
            where,
        )


def to_hwc(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return an array as (H, W, C) uint8, uint16 or float32."""
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{where}: an image has the shape (H, W) or (H, W, C) and at least one pixel, not {array.shape}."
        )
    image = array[..., None] if array.ndim == 2 else array
    name = image.dtype.newbyteorder("=").name
    if name in _AS_STORED:
        stored: NDArray[Any] = np.ascontiguousarray(image, dtype=_AS_STORED[name])
        return stored if stored.flags.writeable else stored.copy()  # torch warns of arrays that it must not write to
    if name == "bool":
        return np.where(image, 255, 0).astype(np.uint8)
    if name in _TO_FLOAT:
        return np.ascontiguousarray(image, dtype=np.float32)
    raise InputError(f"{where}: {name} cannot be an image. Convert it to uint8, uint16 or float32.")


def apply_orientation(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply EXIF's orientation 1 to 8 to (H, W, ...); other values mean 1."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def stored_window(window: Window, height: int, width: int, orientation: int) -> Window:
    """Return the place in the file of a window of the upright image (height, width)."""
    top, bottom, left, right = window
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    return (left, right, top, bottom) if orientation in (5, 6, 7, 8) else (top, bottom, left, right)


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an image lie on a map."""

    crs: str
    """The coordinate reference system, for example "EPSG:32632"; empty where it is not stated by a code."""
    transform: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f): x = a * column + b * row + c, y = d * column + e * row + f, of pixel corners."""

    def __str__(self) -> str:
        a, b, c, d, e, f = self.transform
        turned = "" if b == d == 0 else f", rotation ({b:g}, {d:g})"
        return f"{self.crs or 'no EPSG code'}, origin ({c:.10g}, {f:.10g}), pixel size ({a:g}, {e:g}){turned}"

    def upright(self, height: int, width: int, orientation: int) -> Grid:
        """Return the grid of the image (height, width) after its orientation is applied."""
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1]], np.float64)
        x, y = corners[:, 0].copy(), corners[:, 1].copy()
        x = width - x if orientation in (2, 3, 6, 7) else x
        y = height - y if orientation in (3, 4, 7, 8) else y
        if orientation in (5, 6, 7, 8):
            x, y = y, x
        a, b, c, d, e, f = self.transform
        matrix = np.linalg.solve(corners, np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)).T
        rounded = [float(np.float64(f"{value:.15g}")) for value in matrix.reshape(-1)]
        return self if orientation not in range(2, 9) else Grid(self.crs, tuple(rounded))  # type: ignore[arg-type]

    def differs(self, other: Grid, height: int, width: int) -> bool:
        """Return whether another grid places the pixels of an image (height, width) elsewhere for certain."""
        if self.crs and other.crs and self.crs != other.crs:
            return True
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)
        own, theirs = (np.array(grid.transform).reshape(2, 3) for grid in (self, other))
        shift = np.abs(corners @ (own - theirs).T).max()
        return bool(shift > _SAME_GRID_PX * np.hypot(own[:, 0], own[:, 1]).max())


def check_bands(bands: Sequence[int] | None, there: int, where: str) -> None:
    """Raise ImageError unless there are bands of these numbers, from 1."""
    if bands is not None and max(bands) > there:
        has = f"has {plural(there, 'band')}, data.toml asks for band {max(bands)}"
        raise ImageError("missing-band", f"{where}: {has}. Correct bands.")


class ImageFile(ABC):
    """An image file, open for reading; bands are numbered from 1 in the order of the file, alpha among them."""

    where: str
    """Its name in messages."""
    height: int
    """Of the upright image: orientation is applied."""
    width: int
    bands: int
    """Number of bands, alpha among them."""
    alpha: int | None = None
    """The number of the alpha channel, from 1. It is no band of the image unless it is asked for."""
    grid: Grid | None = None
    """None where the file is not georeferenced."""

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def read(self, window: Window | None = None, bands: Sequence[int] | None = None) -> Pixels:
        """Read the image or a window of it; the same pixels in either case.

        Args:
            window: Top, bottom, left and right edge; None for the whole.
            bands: Numbers of bands from 1; None for all but alpha. Alpha that is among them is a band like the others,
                and masks nothing.

        Raises:
            ImageError: The file is damaged there.
        """

    def notices(self) -> list[Notice]:
        """Return warnings about all that was read."""
        return []

    def may_lack_data(self, bands: Sequence[int]) -> bool:
        """Return whether pixels may have no data in these bands."""
        return True

    def choose_bands(self, bands: Sequence[int] | None, channels: int | None = None) -> list[int]:
        """Return the numbers of the bands to read: ``bands``, or all but alpha.

        Alpha is included where a network of as many channels as the file stores names no bands, as those of 0.1.0.
        """
        check_bands(bands, self.bands, self.where)
        if bands is not None:
            return list(bands)
        everything = list(range(1, self.bands + 1))
        return everything if channels == self.bands else [band for band in everything if band != self.alpha]
