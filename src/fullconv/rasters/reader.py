"""A raster, read by windows in the card's bands, with its nodata mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.errors import InputError
from fullconv.images import ImageFile, SampleImage, import_rasterio, is_raster, open_image_file, open_raster
from fullconv.notices import Notice
from fullconv.preprocess import file_bands, prepare_pixels, range_warning
from fullconv.profiling import READING, timed

CACHE_BYTES = 64 * 2**20
"""Bytes of decoded blocks that are kept; a raster in strips, which cross all tiles of a band, gets more."""
MAX_CACHE_BYTES = 512 * 2**20
_WINDOW_SAMPLES, _MAX_SAMPLES = 256, 2**18
"""Pixels of a window, and of a raster, whose values are compared with the card's range."""


class RasterReader:
    """A raster file, open for reading."""

    def __init__(self, path: str | Path, card: Card) -> None:
        import_rasterio()
        self.path, self.card = Path(path), card
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "no such file"
            raise InputError(f"{self.path}: {what}. Name a raster, for example a GeoTIFF.")
        self._image: ImageFile = open_raster(self.path) if is_raster(self.path) else open_image_file(self.path)
        try:
            source = self._image if isinstance(self._image, SampleImage) else open_raster(self.path)
            self._source: SampleImage = source
            self.dataset = source.dataset
            """Opened by rasterio: blocks and georeferencing."""
            self.height, self.width = self._image.height, self._image.width
            self.bands = file_bands(self._image, card, str(self.path))
        except BaseException:
            self._image.close()
            raise
        self._samples: list[NDArray[Any]] = []

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()
        self._source.close()

    @property
    def orientation(self) -> int:
        """The orientation, which is applied; with another one than 1 the grid is not the file's."""
        return self._source.layout.orientation

    @property
    def transform(self) -> Any:
        """The affine transform of the upright raster."""
        if self.orientation == 1 or self._image.grid is None:
            return self.dataset.transform
        return type(self.dataset.transform)(*self._image.grid.transform)

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """Read a window as the network's preprocessing takes it, (1, h, w, C).

        Pixels without data whose values cannot have occurred in training (NaN, or outside the card's range) become the
        mean, as the padding around an image is; all others are as stored.

        Raises:
            InputError: The file is damaged there.
        """
        with timed(READING):  # GDAL decodes in the same call
            pixels = self._image.read((top, bottom, left, right), self.bands)
        if len(self._samples) * _WINDOW_SAMPLES < _MAX_SAMPLES:
            flat = pixels.values.reshape(-1, len(self.bands))
            flat = flat if pixels.nodata is None else flat[~pixels.nodata.reshape(-1)]
            self._samples.append(flat[:: max(1, len(flat) // _WINDOW_SAMPLES)].copy())
        return prepare_pixels(pixels, self.card, check=False).values[None]

    def nodata(self, top: int, bottom: int) -> NDArray[np.bool_] | None:
        """Return the nodata mask of some rows, (rows, W); None where all have data."""
        if not self._image.may_lack_data(self.bands):
            return None
        with timed(READING):
            return self._image.read((top, bottom, 0, self.width), self.bands).nodata

    def notices(self) -> list[Notice]:
        """Return warnings about all that was read."""
        found = self._image.notices()
        samples = [part for part in self._samples if len(part)]
        if samples:
            notice = range_warning(np.concatenate(samples)[:, None], self.card, str(self.path))
            found += [] if notice is None else [notice]
        return found

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
        bands = self.bands[:1] if len(set(self.bands)) == 1 else self.bands  # grey, as 0.1.0 noted it
        found = {"files": [list(stat) for stat in stats], "size": [self.height, self.width], "bands": bands}
        # 0.1.0 read these in another way, so its jobs do not continue
        return found if self._source.layout.is_plain and self._image is self._source else {**found, "reader": 2}
