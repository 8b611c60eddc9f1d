"""A raster, read by windows in the card's bands, with its nodata mask."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.errors import InputError, MissingExtraError, first_line
from fullconv.images import read_image
from fullconv.preprocess import select_bands
from fullconv.profiling import READING, timed

CACHE_BYTES = 64 * 2**20
"""Bytes of decoded blocks that are kept; a raster in strips, which cross all tiles of a band, gets more."""
MAX_CACHE_BYTES = 512 * 2**20
_GEO_TAGS = {33550, 33922, 34264, 34735}
"""Pixel scale, tie points, transformation, keys: what makes a TIFF a GeoTIFF."""
_FIX = "Copy or export it again"


def import_rasterio(purpose: str = "predicting a raster by windows") -> Any:
    """Return the package, or name what it is needed for."""
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo", purpose) from error
    return rasterio


def raster_errors() -> tuple[type[Exception], ...]:
    """Return what rasterio raises where a file cannot be read or written."""
    rasterio = import_rasterio()
    from rasterio._err import CPLE_BaseError  # GDAL's own, which some calls let through

    return rasterio.errors.RasterioError, CPLE_BaseError, OSError


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings about rasters and polygons without georeferencing, which are supported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*geotransform.*|.*not georeferenced.*|.*crs.*was not provided.*")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)  # rasterio 1.4 on affine 3
        yield


class RasterReader:
    """A raster file, open for reading."""

    def __init__(self, path: str | Path, card: Card, on_window: Callable[[NDArray[Any]], None] | None = None) -> None:
        rasterio = import_rasterio()
        self.path, self.card, self.on_window = Path(path), card, on_window
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "no such file"
            raise InputError(f"{self.path}: {what}. Name a raster, for example a GeoTIFF.")
        self._window = rasterio.windows.Window
        self._errors = raster_errors()
        try:
            with quiet():
                self.dataset = rasterio.open(self.path)
        except self._errors as error:
            raise InputError(f"{self.path}: cannot be read as a raster ({raster_reason(error)}). {_FIX}.") from error
        try:
            self.height, self.width = int(self.dataset.height), int(self.dataset.width)
            self.bands = _choose_bands(self.dataset, card, str(self.path))
            types = {band: str(self.dataset.dtypes[band - 1]) for band in self.bands}
            for band, name in types.items():
                if "complex" in name:
                    raise InputError(f"{self.path}: band {band} holds {name} numbers. Convert it to real ones.")
            kinds = {flag.name for band in self.bands for flag in self.dataset.mask_flag_enums[band - 1]}
            as_image = "alpha" in kinds and _alpha(self.dataset) in self.bands  # the card uses that band as image data
            self._masked = not kinds <= {"all_valid"} and not as_image
            self._floats = any(np.dtype(name).kind == "f" for name in types.values())
        except BaseException:
            self.dataset.close()
            raise

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.dataset.close()

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """Read a window as the network's preprocessing takes it, (1, h, w, C).

        Pixels without data whose values cannot have occurred in training (NaN, or outside the card's range) become the
        mean, as the padding around an image is; all others are as stored.

        Raises:
            InputError: The file is damaged there.
        """
        window = self._window(left, top, right - left, bottom - top)
        pixels = self._read(self.dataset.read, window)
        nodata = self._nodata(pixels, window)
        if nodata is not None and nodata.any():
            low, high = self.card.range
            with np.errstate(invalid="ignore"):
                unseen = nodata & ~((pixels >= low) & (pixels <= high)).all(axis=0)
            if unseen.any():
                mean = np.array(self.card.mean, np.float64) * (high - low) + low
                mean = mean if pixels.dtype.kind == "f" else np.rint(mean)
                pixels = np.where(unseen, mean.astype(pixels.dtype)[: len(pixels), None, None], pixels)
        image = read_image(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
        if len(self.bands) == 1 and self.card.in_channels == 3:
            image = np.repeat(image, 3, axis=2)  # grey is R = G = B
        if self.on_window is not None:
            self.on_window(image)
        return image[None]

    def nodata(self, top: int, bottom: int) -> NDArray[np.bool_] | None:
        """Return the nodata mask of some rows, (rows, W); None where the whole raster has data."""
        if not (self._masked or self._floats):
            return None
        window = self._window(0, top, self.width, bottom - top)
        return self._nodata(self._read(self.dataset.read, window) if self._floats else None, window)

    def cache_bytes(self, rows: int, whole_rows: bool) -> int:
        """Return the bytes of decoded blocks to keep, so that none is decoded twice in a band."""
        block_height, block_width = self.dataset.block_shapes[0]
        row = self.width * self.dataset.count * np.dtype(self.dataset.dtypes[0]).itemsize
        if whole_rows:  # the row of blocks in which a band ends is read again by the next
            return int(min(MAX_CACHE_BYTES, max(CACHE_BYTES, block_height * row * 5 // 4)))
        if block_width < self.width:
            return CACHE_BYTES
        return int(min(MAX_CACHE_BYTES, max(CACHE_BYTES, (rows + 2 * block_height) * row * 5 // 4)))

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies this raster: its files' names, sizes and times, its size and bands."""
        files = [Path(name) for name in self.dataset.files] or [self.path]
        kept = [file for file in files if file.is_file() and not file.name.endswith((".aux.xml", ".ovr"))]
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in kept]
        return {"files": [list(stat) for stat in stats], "size": [self.height, self.width], "bands": self.bands}

    def _read(self, read: Any, window: Any) -> NDArray[Any]:
        try:
            with timed(READING):  # GDAL decodes in the same call
                return cast("NDArray[Any]", read(self.bands, window=window))
        except self._errors as error:
            a, b = window.row_off, window.row_off + window.height
            raise InputError(
                f"{self.path}: rows {a} to {b} cannot be read: the file is damaged or cut short ({raster_reason(error)})."
                f" {_FIX}."
            ) from error

    def _nodata(self, pixels: NDArray[Any] | None, window: Any) -> NDArray[np.bool_] | None:
        """Return where no band has data, or one is NaN or infinite."""
        nodata = ~self._read(self.dataset.read_masks, window).any(axis=0) if self._masked else None
        if self._floats and pixels is not None:
            none = ~np.isfinite(pixels).all(axis=0)
            nodata = none if nodata is None else nodata | none
        return cast("NDArray[np.bool_] | None", nodata)


def _alpha(dataset: Any) -> int | None:
    """Return the number of the alpha band, counted from 1."""
    names = [interpretation.name for interpretation in dataset.colorinterp]
    return names.index("alpha") + 1 if "alpha" in names else None


def _choose_bands(dataset: Any, card: Card, where: str) -> list[int]:
    """Return the numbers of the bands that the network gets, from 1."""
    count = int(dataset.count)
    if count == 0:
        inside = ", ".join(dataset.subdatasets[:3])
        hint = f" It holds other rasters: {inside}. Extract one." if inside else f" {_FIX}."
        raise InputError(f"{where}: has no band, the model expects {card.in_channels}.{hint}")
    if count == 1 and dataset.colorinterp[0].name == "palette" and card.in_channels != 1:
        raise InputError(
            f"{where}: has a palette, the model expects {card.in_channels} bands."
            " Expand it first: gdal_translate -expand rgb"
        )
    numbers = list(range(1, count + 1))
    alpha = _alpha(dataset)
    if card.bands is None and alpha is not None and count != card.in_channels:
        numbers.remove(alpha)
    stored = np.array(numbers, np.int64).reshape(1, 1, -1)
    chosen = select_bands(stored, card, where, stored=True).reshape(-1).tolist()
    if card.bands is None and len(set(chosen)) == 1:  # grey, read once
        return [int(chosen[0])]
    return [int(band) for band in chosen]


def raster_reason(error: BaseException) -> str:
    """Return the first line of what the system or GDAL reports."""
    text = getattr(error, "strerror", None) or first_line(error.__cause__ or error)
    return str(text)[:200].rstrip(".")


def is_georeferenced(path: str | Path) -> bool:
    """Return whether a file is a TIFF with georeferencing in its header; needs no reader.

    False for files that are no TIFF or cannot be read: their reader reports what is wrong.
    """
    if not Path(path).is_file():  # to open a pipe would block
        return False
    try:
        with Path(path).open("rb") as file:
            start = file.read(16)
            order = {b"II": "<", b"MM": ">"}.get(start[:2])
            if order is None or len(start) < 16:
                return False
            version = struct.unpack(order + "H", start[2:4])[0]
            if version not in (42, 43):
                return False
            offset = struct.unpack(*((order + "I", start[4:8]) if version == 42 else (order + "Q", start[8:16])))[0]
            count_format, entry = (order + "H", 12) if version == 42 else (order + "Q", 20)
            file.seek(offset)
            size = struct.calcsize(count_format)
            count = min(4096, struct.unpack(count_format, file.read(size))[0])
            entries = file.read(count * entry)
            tags = {struct.unpack_from(order + "H", entries, at)[0] for at in range(0, len(entries) - 1, entry)}
    except (OSError, struct.error, ValueError, OverflowError):
        return False
    return bool(tags & _GEO_TAGS)
