"""An image with its masks, and where a mask comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fullconv.errors import DataError, plural
from fullconv.images import count_pages, decode, image_size, nearest_pixels, read_grid, read_pages
from fullconv.labels import VOID

JPEG_FORMATS = ("JPEG", "MPO")
"""Pillow's names for files that cannot hold a mask."""

TIFF_SUFFIXES = (".tif", ".tiff")
WARP = 'Write align = "nearest" in data.toml to warp masks onto the grids of their images, or warp them yourself.'

Masks = dict[str, NDArray[np.uint8]]
"""Class indices and VOID, each (H, W), by head."""

Colors = Literal["none", "rgb", "all"]
"""Where colours count: nowhere (equal channels are labels, others stay colours), in RGB files, or in palettes, too."""


class MaskError(DataError):
    """A mask holds no class labels; `code` is a check's (docs/reference/checks.md)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class MaskSource(Protocol):
    """Where the mask of one image comes from: a file of its own, or shapes in an annotation file."""

    @property
    def path(self) -> Path:
        """The file that error messages name."""
        ...

    @property
    def key(self) -> str:
        """Distinguishes masks in one file; empty for a file of its own."""
        ...

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Read labels (H, W) uint8 or uint16, or colours (H, W, 3) uint8.

        Raises:
            DataError, InputError: It cannot be read; the message names the file.
        """
        ...


@dataclass
class HiddenPixels:
    """Pixels that shapes draw, and those of them that a larger shape of another class, drawn later, hides."""

    drawn: dict[int, int] = field(default_factory=dict)
    """By class."""
    hidden: dict[int, dict[int, int]] = field(default_factory=dict)
    """By class, and the class that hides it."""

    def add(self, label: int, labels: NDArray[np.uint8], areas: NDArray[np.int32]) -> None:
        """Count a shape that is drawn where labels and areas of the shapes on top are as given."""
        if label == VOID:
            return
        self.drawn[label] = self.drawn.get(label, 0) + int(np.count_nonzero((labels != label) | (areas == 0)))
        lost = np.bincount(labels[(areas > 0) & (areas < len(labels)) & (labels != label) & (labels != VOID)])
        for other in np.flatnonzero(lost).tolist():
            by = self.hidden.setdefault(other, {})
            by[label] = by.get(label, 0) + int(lost[other])


@runtime_checkable
class ShapeSource(MaskSource, Protocol):
    """A mask that is drawn from shapes."""

    def with_hidden(self) -> tuple[NDArray[np.uint8], HiddenPixels]:
        """Return `raw`, and how much of each class larger shapes drawn later hide."""
        ...


@dataclass(frozen=True)
class MaskFile:
    """A mask file."""

    path: Path
    key: str = ""

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Read labels or colours."""
        where = str(self.path)
        check_pages(self.path)
        array = decode(self.path, where, lambda image: raw_mask(image, where, colors))
        return array if array.ndim == 2 else tiff_mask(array, where, colors)


@dataclass(frozen=True)
class LayeredMask:
    """A mask of layers, one per class or object: what is not 0 in a layer is of its class; later layers lie on top."""

    layers: tuple[Path, ...]
    """Several files, or one whose pages are the layers."""
    classes: tuple[int, ...]
    """Class index (or VOID) of each layer."""
    rest: int = 0
    """Of what is 0 in all layers."""

    @property
    def path(self) -> Path:
        """The file, or the first one."""
        return self.layers[0]

    @property
    def key(self) -> str:
        """The classes, and what changes when a further file does."""
        found = [path.stat() for path in self.layers[1:] if path.exists()]
        files = (
            f"{len(self.layers)} {sum(stat.st_size for stat in found)} {max((s.st_mtime_ns for s in found), default=0)}"
        )
        return f"{self.classes} {self.rest} {files}"

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Read class indices, whatever `colors`."""
        labels: NDArray[np.uint8] | None = None
        for path, layer, index in self._read():
            inside = layer.any(axis=2) if layer.ndim == 3 else layer != 0
            labels = np.full(inside.shape, self.rest, np.uint8) if labels is None else labels
            if inside.shape != labels.shape:
                (h, w), (height, width) = inside.shape, labels.shape
                raise DataError(
                    f"{path}: is {w}x{h} pixels, the layers before it {width}x{height}. Export them at one size."
                )
            labels[inside] = index
        assert labels is not None
        return labels

    def _read(self) -> Iterator[tuple[Path, NDArray[Any], int]]:
        if len(self.layers) > 1:
            for path, index in zip(self.layers, self.classes, strict=True):
                yield path, MaskFile(path).raw(), index
            return
        pages = list(read_pages(self.path, lambda image: raw_mask(image, str(self.path))))
        if len(pages) != len(self.classes):
            there = f"has {plural(len(pages), 'page')}, pages in data.toml names {len(self.classes)}"
            raise MaskError("pages-differ", f'{self.path}: {there}. Name one class per page, or "void".')
        for page, index in zip(pages, self.classes, strict=True):
            yield self.path, page, index


def check_pages(path: Path) -> None:
    """Raise MaskError where a mask file has several pages and these differ: the first alone would be read."""
    if path.suffix.lower() not in (*TIFF_SUFFIXES, ".gif") or (path.suffix.lower() != ".gif" and count_pages(path) < 2):
        return
    first: NDArray[Any] | None = None
    for number, page in enumerate(read_pages(path, np.asarray), 1):
        first = page if first is None else first
        if not np.array_equal(page, first):
            message = f"{path}: page {number} is another mask than the first. Name the class of each page in data.toml:"
            raise MaskError("pages-differ", f'{message} pages = ["class of page 1", ...]')


@dataclass(frozen=True)
class WarpedMask:
    """A mask file on another grid than its image, warped onto the image's: each pixel has the label of the nearest one."""

    file: MaskFile
    image: Path

    @property
    def path(self) -> Path:
        """The mask's file."""
        return self.file.path

    @property
    def key(self) -> str:
        """The image's grid: what the result depends on beside the file."""
        return f"{read_grid(self.image)} {image_size(self.image)}"

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Read labels or colours; outside the mask's file those of its first pixel, which `outside` tells apart."""
        labels = self.file.raw(colors)
        return labels.reshape(-1, *labels.shape[2:])[np.maximum(self._nearest(), 0)]

    def outside(self) -> NDArray[np.bool_]:
        """Return which pixels of the image lie outside the mask's file, (H, W): they are void."""
        return self._nearest() < 0

    def _nearest(self) -> NDArray[np.int64]:
        own, grid = read_grid(self.path), read_grid(self.image)
        if own is None or grid is None:
            raise DataError(f"{self.path}: has no georeferencing any more. Open the data set again.")
        return _nearest(own, image_size(self.path), grid, image_size(self.image))


_nearest = lru_cache(maxsize=2)(nearest_pixels)


@dataclass(frozen=True)
class Sample:
    """One image with its masks."""

    stem: str
    """POSIX path without suffix, unique in the data set."""
    image: Path
    masks: Mapping[str, MaskSource] = field(hash=False)
    """By head; "" is the only one."""
    group: str | None = None
    """Images of one group stay in one split."""
    more: Path | None = None
    """An image of the same size whose bands follow this one's."""

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The files that hold the image's bands."""
        return (self.image,) if self.more is None else (self.image, self.more)

    def grids_differ(self, head: str) -> str:
        """Return how the grids of the image and a mask file differ; empty where they agree or one is not georeferenced."""
        mask = self.masks[head]
        paths = self.image, mask.path
        if not isinstance(mask, MaskFile) or any(path.suffix.lower() not in TIFF_SUFFIXES for path in paths):
            return ""
        grid, other = map(read_grid, paths)
        if grid is None or other is None or not grid.differs(other, *image_size(self.image)):
            return ""
        return f"the mask's grid is {other}; its image's is {grid}"

    def report_path(self, head: str | None = None) -> Path:
        """Return the file that a problem with a head's mask (of the first by default) names.

        It is the mask, the annotation file of this image alone, or the image where one file annotates many.
        """
        mask = self.masks[next(iter(self.masks)) if head is None else head]
        own = isinstance(mask, (MaskFile, LayeredMask, WarpedMask)) or mask.path.stem.startswith(self.image.stem)
        return mask.path if own else self.image

    @property
    def mask(self) -> Path:
        """The file of the first head's mask."""
        return next(iter(self.masks.values())).path


def raw_mask(image: Image.Image, where: str, colors: Colors = "none") -> NDArray[Any]:
    """Return the labels or colours of a loaded PIL image that is a mask, with its EXIF orientation applied."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode in ("RGBA", "LA") and np.asarray(image.getchannel("A")).min() != 255:
            raise _transparent(where)
        image = image.convert("L" if image.mode in ("LA", "La") else "RGB")
    if colors == "all" and image.mode in ("L", "P", "1"):
        image = image.convert("RGB")
    if image.mode == "RGB":
        planes = np.asarray(image)
        return planes[..., 0].copy() if colors == "none" and is_grey(planes) else planes
    if image.mode in ("L", "P"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    return _whole_numbers(np.asarray(image), where)


def tiff_mask(array: NDArray[Any], where: str, colors: Colors = "none") -> NDArray[Any]:
    """Return the labels or colours of a mask that the TIFF reader returned as (H, W, C)."""
    if array.shape[2] in (2, 4) and array.dtype == np.uint8:
        if array[..., -1].min() != 255:
            raise _transparent(where)
        array = array[..., :-1]
    if array.shape[2] == 3 and array.dtype == np.uint8:
        return array[..., 0].copy() if colors == "none" and is_grey(array) else array
    return _whole_numbers(array, where)


def _transparent(where: str) -> MaskError:
    message = "the mask is transparent in places, so its labels are ambiguous. Save it without an alpha channel."
    return MaskError("mask-alpha", f"{where}: {message}")


def is_grey(planes: NDArray[Any]) -> bool:
    """Whether all channels of (H, W, 3) are equal, so that they are labels."""
    return np.array_equal(planes[..., 0], planes[..., 1]) and np.array_equal(planes[..., 0], planes[..., 2])


def _whole_numbers(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        cause = f"a mask has one channel, or RGB colours, not {array.shape}"
        raise MaskError("bad-mask", f"{where}: {cause}. Save it as an indexed PNG.")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MaskError("not-finite", f"{where}: the mask holds NaN or infinity. Save it as whole numbers.")
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        cause = f"the mask holds fractions from {low:g} to {high:g}: it was scaled or averaged"
        raise MaskError("float-mask", f"{where}: {cause}. Save it as whole numbers.")
    if low < 0 or high > 65535:
        cause = f"the mask holds {low:g} to {high:g}; labels are 0 to 65535"
        raise MaskError("bad-mask", f"{where}: {cause}. Save it as class labels.")
    return array.astype(np.uint16 if high > 255 else np.uint8)
