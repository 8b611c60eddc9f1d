"""TIFF where Pillow is not enough: several bands of 16 bits or floats, planar storage, more than four bands."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fullconv.errors import FullconvError, InputError, MissingExtraError
from fullconv.images.limits import ImageError, check_pixels

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_OWN = (1, 8, 32773, 32946)
"""Compressions that tifffile decodes by itself (none, Deflate, PackBits); GDAL decodes LZW, ZSTD, JPEG and others."""
_OWN_PREDICTORS = (1, 2)
_BITS, _SAMPLES, _ORIENTATION = 258, 277, 274
_KIND, _NO_PAGE = 254, 1 | 4
_MOST_PAGES = 1000
_FIX = "Copy or export it again, or remove it."


def needs_tifffile(image: Image.Image) -> bool:
    """Return whether Pillow would change the values: it reduces several 16-bit channels to 8, and guesses alpha."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return False
    bits = tags.get(_BITS, (1,))
    deepest = max(bits) if isinstance(bits, tuple) else int(bits)
    samples = int(tags.get(_SAMPLES, 1))
    return samples > 4 or (samples > 1 and deepest > 8) or samples == 2 or image.mode in ("RGBA", "RGBX", "RGBa")


def read(file: IO[bytes], where: str) -> NDArray[Any]:
    """Read the first page, (H, W, C) in the file's own type, orientation applied."""
    page, array = _first_page(file, where, decode=True)
    assert array is not None
    if array.ndim == 3 and page.planarconfig == 2:  # (C, H, W)
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise InputError(
            f"{where}: has {array.ndim} dimensions; an image has height, width and bands. Export a single page."
        )
    if page.photometric == 3 and page.colormap is not None:
        table = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
        array = table[array[..., 0]]
    return apply_orientation(array, _orientation(page))


def count_pages(source: bytes | Path) -> int:
    """Count the pages of a decodable file from its tags alone, without thumbnails and masks; 1 for other formats."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        head = file.read(8)
        if not head.startswith(MAGIC):
            return 1
        try:
            tags = ImageFileDirectory_v2(head + file.read(8) if head[2:4] in (b"+\x00", b"\x00+") else head)
            found, seen = 0, set[int]()
            while tags.next and tags.next not in seen and len(seen) < _MOST_PAGES:
                seen.add(tags.next)
                file.seek(tags.next)
                tags.load(file)
                found += not int(tags.get(_KIND, 0)) & _NO_PAGE
        except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # what follows the first page is damaged
            return 1
    return max(found, 1)


def size(file: IO[bytes], where: str) -> tuple[int, int]:
    """Return height and width of the first page, with its orientation applied, without decoding."""
    page, _ = _first_page(file, where, decode=False)
    height, width = int(page.imagelength), int(page.imagewidth)
    return (width, height) if _orientation(page) in (5, 6, 7, 8) else (height, width)


def _orientation(page: Any) -> int:
    tag = page.tags.get(_ORIENTATION)
    return 1 if tag is None else int(tag.value)


def tagged_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width of a TIFF that Pillow has opened, with its orientation applied."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    height, width = int(tags[257]), int(tags[256])
    return (width, height) if tags.get(_ORIENTATION) in (5, 6, 7, 8) else (height, width)


def _first_page(file: IO[bytes], where: str, decode: bool) -> tuple[Any, NDArray[Any] | None]:
    try:
        import tifffile
    except ImportError:
        raise MissingExtraError(
            "tifffile", "geo", f"{where}: a TIFF with several bands or more than 8 bits a band"
        ) from None
    log = logging.getLogger("tifffile")
    if log.level == logging.NOTSET and not log.handlers:  # else the user wants its messages
        log.setLevel(logging.CRITICAL)  # its messages on a file come as exceptions, too
    try:
        with tifffile.TiffFile(file) as tiff:
            if not len(tiff.pages):
                raise ImageError("unreadable", f"{where}: is a TIFF without pages. {_FIX}")
            page = tiff.pages.first
            check_pixels(int(page.imagelength), int(page.imagewidth), where)
            if decode and (page.compression not in _OWN or page.predictor not in _OWN_PREDICTORS):
                return page, _by_gdal(file, page, where)
            return page, page.asarray() if decode else None
    except FullconvError:
        raise
    except Exception as error:  # its decoders raise many types; each means that the file cannot be read
        raise ImageError("unreadable", f"{where}: cannot be decoded ({error}). {_FIX}") from error


def _by_gdal(file: IO[bytes], page: Any, where: str) -> NDArray[Any]:
    """Decode the first page with rasterio, (H, W, C); (C, H, W) where it is planar, as tifffile does."""
    try:
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.io import MemoryFile
    except ImportError:
        raise MissingExtraError("rasterio", "geo", f"{where}: a TIFF compressed as {page.compression.name}") from None
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    warnings.filterwarnings("ignore", category=PendingDeprecationWarning)  # rasterio 1.4 on affine 3
    file.seek(0)
    with MemoryFile(file.read()) as memory, memory.open(driver="GTiff") as data:
        bands = np.asarray(data.read())
    return bands if page.planarconfig == 2 else np.moveaxis(bands, 0, -1)


def apply_orientation(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply EXIF's orientation 1 to 8 to (H, W, C); other values mean 1."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)
