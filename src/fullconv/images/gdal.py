"""GDAL through rasterio, of the extra `geo`: raw samples of rasters by windows."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import MissingExtraError, first_line
from fullconv.images.limits import ImageError
from fullconv.images.pixels import Grid, Window

_FIX = "Copy or export it again, or remove it."
_open_lock = threading.Lock()  # filters of warnings belong to the whole process


def import_rasterio(what: str = "predicting a raster by windows") -> Any:
    """Return the package, whose messages on a file come as exceptions alone."""
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo", what) from error
    log = logging.getLogger("rasterio._env")
    if log.level == logging.NOTSET and not log.handlers:  # else the user wants them
        log.setLevel(logging.CRITICAL)
    return rasterio


def raster_errors() -> tuple[type[Exception], ...]:
    """Return what rasterio raises where a file cannot be read or written."""
    rasterio = import_rasterio()
    from rasterio._err import CPLE_BaseError  # GDAL's own, which some calls let through

    return rasterio.errors.RasterioError, CPLE_BaseError, OSError


def raster_reason(error: BaseException) -> str:
    """Return the first line of what the system or GDAL reports."""
    text = getattr(error, "strerror", None) or first_line(error.__cause__ or error)
    return str(text)[:200].rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings about rasters and polygons without georeferencing, which are supported, and GDAL's own messages."""
    with import_rasterio().Env(), warnings.catch_warnings():  # outside of an Env, GDAL writes to stderr
        warnings.filterwarnings("ignore", message=".*geotransform.*|.*not georeferenced.*|.*crs.*was not provided.*")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)  # rasterio 1.4 on affine 3
        yield


def nearest_pixels(
    source: Grid, source_size: tuple[int, int], target: Grid, target_size: tuple[int, int]
) -> NDArray[np.int64]:
    """Return which pixel of one grid lies nearest to each pixel of another one.

    Args:
        source: The grid to take pixels from.
        source_size: Its height and width.
        target: The grid to fill.
        target_size: Its height and width.

    Returns:
        (H, W) of the target: row * width + column of the source, and -1 outside.
    """
    rasterio = import_rasterio("warping masks onto their images' grids")
    from rasterio.warp import Resampling, reproject

    height, width = source_size
    places = [
        np.repeat(np.arange(height, dtype=np.int32)[:, None], width, 1),
        np.tile(np.arange(width, dtype=np.int32), (height, 1)),
    ]
    found = [np.full(target_size, -1, np.int32) for _ in places]
    crs = source.crs or target.crs or None, target.crs or source.crs or None
    if crs[0] == crs[1]:  # any one will do, and transformations are none
        crs = ("EPSG:3857", "EPSG:3857")
    with quiet():
        for place, filled in zip(places, found, strict=True):
            reproject(
                place, filled, src_transform=rasterio.Affine(*source.transform), src_crs=crs[0],
                dst_transform=rasterio.Affine(*target.transform), dst_crs=crs[1], dst_nodata=-1, init_dest_nodata=True,
                resampling=Resampling.nearest, tolerance=0,
            )  # fmt: skip
    row, column = found
    return np.where((row < 0) | (column < 0), -1, row.astype(np.int64) * width + column)


class GdalSamples:
    """The samples of a raster as stored, and which of its pixels have data."""

    def __init__(self, source: Path | bytes, where: str, raw: bool = False, tiff: bool = True) -> None:
        """Open a file.

        Args:
            source: Its path, whose sidecar files count, too; or its bytes.
            where: Its name in messages.
            raw: Without GDAL's conversion of CMYK and Lab to RGB.
            tiff: Whether it is a TIFF; else any raster.
        """
        rasterio = import_rasterio(f"{where}: a TIFF of this kind")
        self.where, self._errors = where, raster_errors()
        self._window, self._env = rasterio.windows.Window, rasterio.Env
        self._memory: Any = None
        try:
            if isinstance(source, bytes):
                from rasterio.io import MemoryFile

                self._memory = MemoryFile(source, ext=".tif")
            path = str(source if self._memory is None else self._memory.name)
            with _open_lock, quiet():
                self.dataset = rasterio.open(
                    f"GTIFF_RAW:{path}" if raw else path, driver="GTiff" if tiff and not raw else None
                )
        except self._errors as error:
            self._close_memory()
            what = "cannot be decoded" if tiff else "cannot be read as a raster"
            raise ImageError("unreadable", f"{where}: {what} ({raster_reason(error)}). {_FIX}") from error
        with rasterio.Env():
            flags = [{flag.name for flag in kinds} for kinds in self.dataset.mask_flag_enums]
            self.nodata: tuple[float | None, ...] = tuple(self.dataset.nodatavals)
            """The value of each band that means no data."""
        self.has_masks = any(not kinds & {"all_valid", "alpha", "nodata"} for kinds in flags)
        """Whether mask bands are stored, of the whole raster or of each band."""

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()
        self._close_memory()

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()

    def read(self, samples: Sequence[int], window: Window) -> NDArray[Any]:
        """Read samples (counted from 0) of a window, (h, w, n)."""
        found = self._read(self.dataset.read, samples, window)
        return np.moveaxis(found, 0, -1)

    def has_data(self, samples: Sequence[int], window: Window) -> NDArray[np.bool_]:
        """Return where the stored mask of any of these samples has data, (h, w)."""
        masks = self._read(self.dataset.read_masks, samples, window)
        return np.asarray(masks.any(axis=0))

    def _read(self, read: Any, samples: Sequence[int], window: Window) -> NDArray[Any]:
        top, bottom, left, right = window
        place = self._window(left, top, right - left, bottom - top)
        try:
            with self._env():  # else GDAL writes its own warnings to stderr
                found: NDArray[Any] = read([index + 1 for index in samples], window=place)
        except self._errors as error:
            reason = raster_reason(error)
            raise ImageError(
                "unreadable",
                f"{self.where}: rows {top} to {bottom} cannot be read: the file is damaged or cut short ({reason}). {_FIX}",
            ) from error
        return found
