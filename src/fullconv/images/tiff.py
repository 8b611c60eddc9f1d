"""TIFF: its tags, and the meaning of its samples, which GDAL or Pillow decode.

The interpretation is here, once: photometric, palette, alpha, orientation, few bits, nodata, profile. Raw samples come from
GDAL for whole images and windows alike; without the extra `geo` Pillow decodes those kinds of which it gives the same.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fullconv.errors import FullconvError, InputError, MissingExtraError, first_line
from fullconv.images import colour, png
from fullconv.images.gdal import GdalSamples
from fullconv.images.limits import ImageError, check_pixels
from fullconv.images.pixels import (
    AlphaCount,
    Grid,
    ImageFile,
    Pixels,
    Window,
    apply_orientation,
    first_of_notice,
    has_no_value,
    not_finite_notice,
    stored_window,
    to_hwc,
)
from fullconv.notices import Notice
from fullconv.system import is_importable

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_COLOUR_SAMPLES = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3, 9: 3, 10: 3}
_JPEG = (6, 7)
_PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
_PILLOW_ONE_BAND = {("u", 1), ("u", 2), ("u", 4), ("u", 8), ("u", 16), ("f", 32)}
_GEO_TAGS = {33550, 33922, 34264, 34735}
"""Pixel scale, tie points, transformation, keys: what makes a TIFF a GeoTIFF."""
KIND_TAG, NO_PAGE, _MASK_PAGE = 254, 1 | 4, 4
_MOST_PAGES = 1000
_FIX = "Copy or export it again, or remove it."
_ALMOST_FLOAT_MAX = 1e30  # nodata values beyond are written with too few digits


@dataclass(frozen=True)
class Layout:
    """What the samples of a raster mean."""

    height: int
    """As stored, before orientation."""
    width: int
    samples: int
    kind: str
    """"u", "i", "f" or "c": unsigned, signed, float, complex."""
    bits: int
    photometric: int
    orientation: int = 1
    alpha: int | None = None
    """Index of the alpha sample."""
    palette: NDArray[np.uint8] | None = None
    """(N, 3)."""
    profile: bytes | None = None
    grid: Grid | None = None
    """Of the pixels as stored."""
    compression: int = 1
    planar: bool = False
    has_mask: bool = False
    """Whether a page of the file masks it."""
    pages: int = 1
    """Without thumbnails and masks."""
    nodata: float | None = None

    @property
    def is_few_bits(self) -> bool:
        """Whether samples are of 8 bits or less and unsigned, and so mean light from 0 to the largest number."""
        return self.kind == "u" and self.bits <= 8

    @property
    def is_plain(self) -> bool:
        """Whether samples are values of bands as they are."""
        scaled = self.is_few_bits and (self.bits < 8 or self.photometric == MIN_IS_WHITE)
        return not (self.colours or scaled or self.profile) and self.orientation not in range(2, 9)

    @property
    def colours(self) -> int:
        """Samples that the bands of RGB are computed from; 0 where bands are samples."""
        if self.photometric == PALETTE and self.palette is not None:
            return 1
        if self.is_few_bits and self.bits == 8:
            if self.photometric == CMYK and self.samples >= 4:
                return 4
            if self.photometric == LAB and self.samples >= 3:
                return 3
            if self.photometric in (RGB, YCBCR) and self.samples >= 3 and colour.changes_rgb(self.profile):
                return 3
        return 0


class Samples(Protocol):
    """Where raw samples come from."""

    has_masks: bool
    nodata: tuple[float | None, ...]

    def read(self, samples: Sequence[int], window: Window) -> NDArray[Any]:
        """Read samples of a window, (h, w, n)."""
        ...

    def has_data(self, samples: Sequence[int], window: Window) -> NDArray[np.bool_]:
        """Return where the stored mask has data."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class PillowSamples:
    """The samples of a TIFF that Pillow decodes, the whole at once."""

    has_masks = False

    def __init__(self, source: Path | bytes, layout: Layout, where: str) -> None:
        self.nodata = (layout.nodata,) * layout.samples
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            png.keep_small_grey(image)
            try:
                image.load()
            except Exception as error:
                raise ImageError("unreadable", f"{where}: cannot be decoded ({first_line(error)}). {_FIX}") from error
            self._values = self._raw(image, layout)

    @staticmethod
    def _raw(image: Image.Image, layout: Layout) -> NDArray[Any]:
        if image.mode == "LAB":
            array = np.frombuffer(image.tobytes("raw", "LAB"), np.uint8).reshape(image.height, image.width, 3)
        else:
            array = np.asarray(image)
            array = array[..., None] if array.ndim == 2 else array
        if layout.photometric == MIN_IS_WHITE and layout.is_few_bits:
            array = ~array if array.dtype == bool else 255 - array
        turned = array.shape[:2] != (layout.height, layout.width) or 274 not in image.getexif()
        if layout.orientation in range(2, 9) and turned:  # newer versions of Pillow apply it themselves
            array = apply_orientation(array, {6: 8, 8: 6}.get(layout.orientation, layout.orientation))
        return array

    def read(self, samples: Sequence[int], window: Window) -> NDArray[Any]:
        """Read samples of a window, (h, w, n)."""
        top, bottom, left, right = window
        return self._values[top:bottom, left:right, list(samples)]

    def has_data(self, samples: Sequence[int], window: Window) -> NDArray[np.bool_]:
        """Return where the stored mask has data: it has none."""
        raise AssertionError((samples, window))

    def close(self) -> None:
        """Nothing is open."""


def pillow_decodes(layout: Layout) -> bool:
    """Return whether Pillow gives the very samples that GDAL gives."""
    if layout.has_mask or layout.compression not in _PILLOW_COMPRESSIONS:
        return False
    if layout.samples == 1:
        small = layout.bits in (2, 4) and layout.photometric == MIN_IS_WHITE
        odd = layout.planar and layout.bits != 8  # one plane is what chunky is, but Pillow knows no such mode
        return (layout.kind, layout.bits) in _PILLOW_ONE_BAND and not small and not odd
    if layout.kind != "u" or layout.bits != 8 or layout.planar:
        return False
    return (layout.photometric, layout.samples) in {(RGB, 3), (CMYK, 4), (LAB, 3)}


class SampleImage(ImageFile):
    """A raster as an image: its samples, and what they mean."""

    def __init__(self, raw: Any, layout: Layout, where: str) -> None:
        self.raw: Samples = raw
        self.layout, self.where = layout, where
        stored = layout.height, layout.width
        self.height, self.width = stored[::-1] if layout.orientation in (5, 6, 7, 8) else stored
        self._alpha_count, self._has_none = AlphaCount(), False
        self._plain = layout.colours  # samples before it are colours
        self._first = 3 if self._plain else 0
        self.bands = self._first + layout.samples - self._plain
        if layout.alpha is not None:
            self.alpha = layout.alpha - self._plain + self._first + 1
        if layout.grid is not None:
            self.grid = layout.grid.upright(self.height, self.width, layout.orientation)

    @property
    def dataset(self) -> Any:
        """The open dataset of rasterio."""
        assert isinstance(self.raw, GdalSamples)
        return self.raw.dataset

    def close(self) -> None:
        """Close the file."""
        self.raw.close()

    def notices(self) -> list[Notice]:
        """Return warnings about all that was read."""
        found = [not_finite_notice(self.where)] if self._has_none else []
        found += first_of_notice(self.where, self.layout.pages)
        effect = "It is omitted; where it is 0 there is no data."
        notice = self._alpha_count.notice(self.where, self.bands, effect)
        return found if notice is None else [*found, notice]

    def may_lack_data(self, bands: Sequence[int]) -> bool:
        """Return whether pixels may have no data in these bands."""
        named = any(value is not None for value in self.raw.nodata)
        masked = self.alpha is not None and self.alpha not in bands
        return named or masked or self.raw.has_masks or self.layout.kind == "f"

    def _sources(self, bands: Sequence[int]) -> list[int]:
        """Return the samples that bands are made of."""
        found: set[int] = set()
        for band in bands:
            found |= set(range(self._plain)) if band <= self._first else {band - 1 - self._first + self._plain}
        return sorted(found)

    def read(self, window: Window | None = None, bands: Sequence[int] | None = None) -> Pixels:
        """Read the image or a window of it; see `ImageFile.read`."""
        chosen, layout = self.choose_bands(bands), self.layout
        needed = self._sources(chosen)
        masked = layout.alpha is not None and self.alpha not in chosen
        everything = sorted({*needed, *([layout.alpha] if masked and layout.alpha is not None else [])})
        place = stored_window(window or (0, self.height, 0, self.width), self.height, self.width, layout.orientation)
        samples = self.raw.read(everything, place)
        of = {index: samples[..., position] for position, index in enumerate(everything)}
        nodata, missing = self._nodata({index: of[index] for index in needed}, chosen, place)
        if masked:
            assert layout.alpha is not None
            alpha = of[layout.alpha]
            clear = alpha == 0
            nodata = clear if nodata is None else nodata | clear
            self._alpha_count.add(alpha)
        values = self._values(of, chosen)
        if nodata is not None:
            nodata = apply_orientation(nodata, layout.orientation) if nodata.any() else None
        if missing is not None:
            missing = apply_orientation(missing, layout.orientation)
        values = to_hwc(apply_orientation(values, layout.orientation), self.where)
        return Pixels(values, nodata, missing, tuple(self.notices()))

    def read_labels(self) -> NDArray[Any]:
        """Read the samples of a mask (H, W, C), orientation applied: indices of a palette, few bits as numbers."""
        layout = self.layout
        samples = self.raw.read(range(layout.samples), (0, layout.height, 0, layout.width))
        if layout.photometric == MIN_IS_WHITE and layout.is_few_bits:
            samples = ((1 << layout.bits) - 1) - samples.astype(np.uint8)
        return apply_orientation(samples, layout.orientation)

    def _nodata(
        self, samples: dict[int, NDArray[Any]], chosen: Sequence[int], place: Window
    ) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
        """Return pixels without data, and bands of others without data (h, w, C)."""
        nodata: NDArray[np.bool_] | None = None
        missing: NDArray[np.bool_] | None = None
        holes = {
            index: hole
            for index, plane in samples.items()
            if (hole := equals_nodata(plane, self.raw.nodata[index])) is not None
        }
        if holes:
            planes = np.stack([holes.get(index, np.zeros(p.shape, np.bool_)) for index, p in samples.items()], axis=-1)
            every = np.asarray(planes.all(axis=-1))
            nodata = every
            if not np.array_equal(every, planes.any(axis=-1)):
                order = list(samples)
                some = planes & ~every[..., None]
                missing = np.stack(
                    [some[..., [order.index(i) for i in self._sources([b])]].any(-1) for b in chosen], -1
                )
        if self.raw.has_masks:
            empty = ~self.raw.has_data(list(samples), place)
            nodata = empty if nodata is None else nodata | empty
        first = next(iter(samples.values()))
        if first.dtype.kind == "f":
            none = has_no_value(np.stack(list(samples.values()), axis=-1))
            if none is not None:
                declared = [self.raw.nodata[index] for index in samples]
                self._has_none |= not any(value is not None and not np.isfinite(value) for value in declared)
                nodata = none if nodata is None else nodata | none
        return nodata, missing

    def _values(self, samples: dict[int, NDArray[Any]], chosen: Sequence[int]) -> NDArray[Any]:
        layout, planes = self.layout, []
        rgb = None
        if self._plain and any(band <= self._first for band in chosen):
            rgb = self._to_rgb([samples[index] for index in range(self._plain)])
        for band in chosen:
            if band <= self._first:
                assert rgb is not None
                planes.append(rgb[..., band - 1])
                continue
            index = band - 1 - self._first + self._plain
            plane = samples[index]
            if layout.is_few_bits and layout.photometric != PALETTE and layout.bits < 8:
                plane = (plane.astype(np.uint16) * 255 // ((1 << layout.bits) - 1)).astype(np.uint8)
            if layout.photometric == MIN_IS_WHITE and layout.is_few_bits and index == 0:
                plane = 255 - plane
            if layout.photometric in (MIN_IS_WHITE, MIN_IS_BLACK) and index == 0 and plane.dtype == np.uint8:
                plane = colour.grey_to_srgb(plane, layout.profile)
            planes.append(plane)
        return np.stack(planes, axis=-1)

    def _to_rgb(self, planes: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
        layout = self.layout
        if layout.photometric == PALETTE:
            assert layout.palette is not None
            table = colour.array_to_srgb(layout.palette[None], "RGB", layout.profile)[0]
            return np.asarray(table[np.minimum(planes[0], len(table) - 1)])
        mode = {CMYK: "CMYK", LAB: "LAB"}.get(layout.photometric, "RGB")
        return colour.array_to_srgb(np.stack(planes, axis=-1), mode, layout.profile)


def equals_nodata(samples: NDArray[Any], value: float | None) -> NDArray[np.bool_] | None:
    """Return where samples have the nodata value; None where none has."""
    if value is None or not np.isfinite(value):
        return None
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype)
        if value != int(value) or not limits.min <= value <= limits.max:
            return None
        found = samples == samples.dtype.type(int(value))
    elif abs(value) > _ALMOST_FLOAT_MAX:
        found = np.isclose(samples, value, rtol=1e-5, atol=0)
    else:
        found = samples == samples.dtype.type(value)
    return found if found.any() else None


def open_tiff(source: Path | bytes, where: str, path: Path | None = None) -> SampleImage:
    """Open a TIFF.

    Args:
        source: Its path, or its bytes.
        where: Its name in messages.
        path: Of a file whose bytes are given, so that its sidecar files count.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        layout = read_layout(file, where)
    check_pixels(layout.height, layout.width, where)
    if layout.kind == "c":
        raise InputError(f"{where}: holds complex numbers. Convert them to real ones.")
    place = path or source
    if not is_importable("rasterio"):
        beside = isinstance(place, Path) and place.with_name(f"{place.name}.msk").exists()
        if not pillow_decodes(layout) or beside:
            what = "a TIFF with several bands, a mask, or more than 8 bits a band"
            if layout.compression not in _PILLOW_COMPRESSIONS or layout.photometric == YCBCR:
                what = "a TIFF of this compression"
            raise MissingExtraError("rasterio", "geo", f"{where}: {what}")
        return SampleImage(PillowSamples(source, layout, where), layout, where)
    raw = GdalSamples(place, where, raw=layout.photometric in (CMYK, LAB, 9, 10))
    data = raw.dataset
    if (data.count, data.height, data.width) != (layout.samples, layout.height, layout.width):
        raw.close()
        raise ImageError(
            "unreadable",
            f"{where}: decodes to {data.count} bands of {data.width}x{data.height}, its header states {layout.samples} of"
            f" {layout.width}x{layout.height}. {_FIX}",
        )
    return SampleImage(raw, layout, where)


def open_raster(path: Path) -> SampleImage:
    """Open a raster of another format that GDAL reads, such as a VRT."""
    where = str(path)
    raw = GdalSamples(path, where, tiff=False)
    data = raw.dataset
    names = [interpretation.name for interpretation in data.colorinterp]
    if not names:
        inside = ", ".join(data.subdatasets[:3])
        raw.close()
        hint = f" It holds other rasters: {inside}. Extract one." if inside else f" {_FIX}"
        raise InputError(f"{where}: has no band.{hint}")
    kinds = [np.dtype(name).kind if "complex" not in name else "c" for name in data.dtypes]
    if "c" in kinds:
        raw.close()
        raise InputError(f"{where}: holds complex numbers. Convert them to real ones.")
    palette = None
    if names[0] == "palette" and kinds[0] == "u":
        table = data.colormap(1)
        palette = np.array([table.get(index, (0, 0, 0))[:3] for index in range(max(table) + 1)], np.uint8)
    grid = None
    if not data.transform.is_identity:
        code = data.crs.to_epsg() if data.crs is not None else None
        grid = Grid(f"EPSG:{code}" if code else "", tuple(data.transform)[:6])
    layout = Layout(
        data.height, data.width, data.count, kinds[0], 8 * np.dtype(data.dtypes[0]).itemsize,
        MIN_IS_BLACK if palette is None else PALETTE, alpha=names.index("alpha") if "alpha" in names else None,
        palette=palette, grid=grid,
    )  # fmt: skip
    return SampleImage(raw, layout, where)


def read_layout(file: IO[bytes], where: str) -> Layout:
    """Read what the tags of the first page say."""
    try:
        tags = _first_tags(file)
        if tags is None:
            raise ImageError("unreadable", f"{where}: is a TIFF without pages. {_FIX}")
        layout = _parse(tags)
        kinds = [_numbers(tags, KIND_TAG, (0,))[0], *_pages(file, tags)]
        pages = max(1, sum(not kind & NO_PAGE for kind in kinds))
        return replace(layout, has_mask=any(kind & _MASK_PAGE for kind in kinds[1:]), pages=pages)
    except FullconvError:
        raise
    except Exception as error:  # Pillow raises whatever damaged tags make it
        raise ImageError("unreadable", f"{where}: its header is damaged ({first_line(error)}). {_FIX}") from error


def _first_tags(file: IO[bytes]) -> ImageFileDirectory_v2 | None:
    file.seek(0)
    head = file.read(8)
    tags = ImageFileDirectory_v2(head + file.read(8) if head[2:4] in (b"+\x00", b"\x00+") else head)
    if not tags.next:
        return None
    file.seek(tags.next)
    tags.load(file)
    return tags


def _numbers(tags: ImageFileDirectory_v2, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    found = tags.get(tag)
    if found is None:
        return default
    return tuple(int(value) for value in found) if isinstance(found, tuple) else (int(found),)


def _parse(tags: ImageFileDirectory_v2) -> Layout:
    samples = _numbers(tags, 277, (1,))[0]
    photometric = _numbers(tags, 262, (MIN_IS_BLACK,))[0]
    kind = {2: "i", 3: "f", 5: "c", 6: "c"}.get(_numbers(tags, 339, (1,))[0], "u")
    bits = max(_numbers(tags, 258, (1,)))
    extra = samples - _COLOUR_SAMPLES.get(photometric, 1)
    meanings = _numbers(tags, 338, ())[-extra:] if extra > 0 else ()
    alpha = next((samples - len(meanings) + i for i, meaning in enumerate(meanings) if meaning in (1, 2)), None)
    profile = tags.get(34675)
    text = tags.get(42113)
    return Layout(
        _numbers(tags, 257, (0,))[0], _numbers(tags, 256, (0,))[0], samples, kind, bits, photometric,
        orientation=_numbers(tags, 274, (1,))[0], alpha=alpha,
        palette=_palette(_numbers(tags, 320, ())) if photometric == PALETTE else None,
        profile=profile if isinstance(profile, bytes) else None, grid=_grid(tags),
        compression=_numbers(tags, 259, (1,))[0], planar=_numbers(tags, 284, (1,))[0] == 2,
        nodata=_to_float(text) if isinstance(text, str) else None,
    )  # fmt: skip


def _palette(colormap: tuple[int, ...]) -> NDArray[np.uint8] | None:
    if not colormap or len(colormap) % 3:
        return None
    table = np.array(colormap, np.uint16).reshape(3, -1).T
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)  # some programs write 8 bits


def _to_float(text: str) -> float | None:
    try:
        return float(text.strip("\0 \n"))
    except ValueError:
        return None


def _grid(tags: ImageFileDirectory_v2) -> Grid | None:
    """Return the georeferencing of GeoTIFF's tags, for the corners of pixels."""
    keys = _numbers(tags, 34735, ())
    codes = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4) if keys[i + 1] == 0}
    shift = 0.5 if codes.get(1025) == 2 else 0.0  # the coordinates are those of a pixel's centre
    matrix, scale, tie = (tags.get(tag) for tag in (34264, 33550, 33922))
    if isinstance(matrix, tuple) and len(matrix) >= 8:
        a, b, _, c, d, e, _, f = (float(value) for value in matrix[:8])
    elif isinstance(scale, tuple) and isinstance(tie, tuple) and len(scale) >= 2 and len(tie) == 6:
        a, b, d, e = float(scale[0]), 0.0, 0.0, -float(scale[1])
        c, f = float(tie[3]) - float(tie[0]) * a, float(tie[4]) - float(tie[1]) * e
    else:
        return None
    if a * e - b * d == 0:
        return None
    code = codes.get(3072) or codes.get(2048)
    crs = f"EPSG:{code}" if code and code < 32767 else ""
    return Grid(crs, (a, b, c - shift * (a + b), d, e, f - shift * (d + e)))


def _pages(file: IO[bytes], tags: ImageFileDirectory_v2) -> list[int]:
    """Return the kinds of the pages that follow; what follows the first page may be damaged."""
    kinds, seen = list[int](), set[int]()
    try:
        while tags.next and tags.next not in seen and len(seen) < _MOST_PAGES:
            seen.add(tags.next)
            file.seek(tags.next)
            tags.load(file)
            kinds.append(_numbers(tags, KIND_TAG, (0,))[0])
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        pass
    return kinds


def count_pages(source: bytes | Path) -> int:
    """Count the pages of a file from its tags alone, without thumbnails and masks; 1 for other and damaged files."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            return read_layout(file, "").pages if file.read(8).startswith(MAGIC) else 1
        except ImageError:
            return 1


def is_tiff(source: bytes | Path) -> bool:
    """Return whether a readable file, or its bytes, is a TIFF."""
    if isinstance(source, bytes):
        return source.startswith(MAGIC)
    if not source.is_file():  # to open a pipe would block
        return False
    with source.open("rb") as file:
        return file.read(4).startswith(MAGIC)


def read_grid(path: Path) -> Grid | None:
    """Return where a TIFF lies on a map, upright; None for other files, and where it states nothing or cannot be read."""
    if not is_tiff(path):
        return None
    try:
        with path.open("rb") as file:
            layout = read_layout(file, str(path))
    except (OSError, FullconvError):
        return None
    turned = layout.orientation in (5, 6, 7, 8)
    size = (layout.width, layout.height) if turned else (layout.height, layout.width)
    return None if layout.grid is None else layout.grid.upright(*size, layout.orientation)


def is_georeferenced(path: str | Path) -> bool:
    """Return whether a file is a TIFF with georeferencing in its header; needs no reader.

    False for files that are no TIFF or cannot be read: their reader reports what is wrong.
    """
    if not Path(path).is_file():  # to open a pipe would block
        return False
    try:
        with Path(path).open("rb") as file:
            if not file.read(4).startswith(MAGIC):
                return False
            tags = _first_tags(file)
    except Exception:  # Pillow raises whatever damaged tags make it
        return False
    return tags is not None and any(tag in tags for tag in _GEO_TAGS)
