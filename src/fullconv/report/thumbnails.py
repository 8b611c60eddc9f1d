"""Images for the pages: panels of a prediction and its errors, thumbnails of a data set's samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Labels
from fullconv.data import Dataset, Sample
from fullconv.errors import FullconvError, InputError
from fullconv.images import read_image
from fullconv.labels import VOID, Color, colorize, full_palette, voc_palette
from fullconv.metrics import confusion_matrix
from fullconv.prediction import to_rgb8
from fullconv.report.html import data_uri, percent

PANEL_SIDES = (800, 560, 400, 240)
"""Longest side of a panel in pixels; the next smaller one where the panels of an image exceed `MAX_PANEL_BYTES`."""
MAX_PANEL_BYTES = 900_000
ERROR = (226, 38, 58)
VOID_STRIPES = ((205, 210, 216), (236, 239, 242))
MAX_LEGEND_CLASSES = 24
"""More classes have a legend per image, of the classes in it."""
SAMPLE_SIDE = 300
"""Longest side of a sample's thumbnail in pixels."""

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels."""


class Thumbnail(NamedTuple):
    """An encoded image."""

    uri: str
    width: int
    height: int
    is_pixelated: bool
    """Whether a browser must not smooth it."""


@dataclass(frozen=True)
class ReportImage:
    """One image of the report."""

    stem: str
    image: NDArray[Any]
    """(H, W, C) uint8, uint16 or float32 as stored."""
    mask: NDArray[np.uint8]
    """Ground truth (H, W); 255 is void."""
    prediction: NDArray[np.uint8]
    """(H, W)."""
    score: float
    """mIoU of this image alone."""


@dataclass(frozen=True)
class ErrorPanels:
    """What the run page shows of an image: image, mask, prediction and errors."""

    stem: str
    score: float
    worst: str
    """The largest confusion, as text."""
    panels: dict[str, Thumbnail]
    box: list[float] | None
    """Left, top, width and height of the window with the most errors, in percent."""
    close: dict[str, Thumbnail]
    """The window at full resolution; empty where there is none."""
    legend: list[tuple[str, Color | None]]
    """Classes in this image; empty where one legend serves all images."""

    @property
    def nbytes(self) -> int:
        """Length of the encoded images."""
        return sum(len(image.uri) for image in (*self.panels.values(), *self.close.values()))


def error_panels(shown: ReportImage, labels: Labels) -> ErrorPanels:
    """Encode an image, its mask, its prediction and its errors."""
    shapes = {shown.image.shape[:2], shown.mask.shape, shown.prediction.shape}
    if len(shapes) > 1:
        raise InputError(f"'{shown.stem}': image, mask and prediction differ in size: {sorted(shapes)}.")
    height, width = shown.mask.shape
    errors = (shown.mask != VOID) & (shown.mask != shown.prediction)
    rgb = to_rgb8(shown.image)
    for side in PANEL_SIDES:
        panels = _panels(shown, labels, rgb, errors, (0, 0, height, width), side)
        if sum(len(panel.uri) for panel in panels.values()) <= MAX_PANEL_BYTES:
            break
    place, close = None, {}
    if (box := densest_window(errors)) is not None:
        top, left, bottom, right = box
        place = [100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height]
        close = _panels(shown, labels, rgb, errors, box, bottom - top)
    legend = []
    if len(labels.classes) > MAX_LEGEND_CLASSES:
        present = np.union1d(np.unique(shown.mask), np.unique(shown.prediction))
        legend = legend_entries(labels, [int(k) for k in present if k < len(labels.classes)])
    return ErrorPanels(shown.stem, shown.score, _worst_confusion(shown, labels), panels, place, close, legend)


def legend_entries(labels: Labels, indices: Iterable[int]) -> list[tuple[str, Color | None]]:
    """Return names and colours of classes, of void (no colour: stripes) and of errors."""
    return [*((labels.classes[k], labels.palette[k]) for k in indices), ("void", None), ("error", ERROR)]


def densest_window(errors: NDArray[np.bool_]) -> Box | None:
    """Return the square with the most errors, half as high as the image and at most 256 pixels.

    None where there is no error, or the image is so small that its panels show every pixel.
    """
    height, width = errors.shape
    side = min(max(min(height, width) // 2, 64), 256)
    if max(height, width) <= 256 or min(height, width) < side or not errors.any():
        return None
    step = max(1, side // 8)
    # Errors by cells of side/8, then by windows of cells: a full-size running sum of a large image takes gigabytes.
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    cells = np.add.reduceat(np.add.reduceat(errors, rows, axis=0, dtype=np.int64), columns, axis=1)
    sums = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = min(8, *cells.shape)
    windows = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
    y, x = np.unravel_index(int(windows.argmax()), windows.shape)
    top, left = min(int(y) * step, height - side), min(int(x) * step, width - side)
    return top, left, top + side, left + side


def _panels(
    shown: ReportImage, labels: Labels, rgb: NDArray[np.uint8], errors: NDArray[np.bool_], box: Box, side: int
) -> dict[str, Thumbnail]:
    """Encode the four panels of a part of an image, no side longer than `side`."""
    top, left, bottom, right = box
    window = (slice(top, bottom), slice(left, right))
    factor = min(1.0, side / max(bottom - top, right - left))
    size = (max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor)))  # width first, as PIL

    def shrink(label_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
        full = Image.fromarray(np.ascontiguousarray(label_map))
        return np.array(full if full.size == size else full.resize(size, Image.Resampling.NEAREST))

    image = Image.fromarray(np.ascontiguousarray(rgb[window])).resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    mask = shrink(shown.mask[window])
    # Errors on a pale grey copy of the image; where it shrinks, also those thinner than a pixel.
    grey = np.asarray(image.convert("L"), np.float32) * 0.45 + 125
    grey[mask == VOID] = 225
    share = Image.fromarray(errors[window] * np.uint8(255)).resize(image.size, Image.Resampling.BOX)
    strength = np.minimum(np.asarray(share, np.float32) / 255 * 2, 1)[..., None]
    mixed = grey[..., None] * (1 - strength) + np.array(ERROR, np.float32) * strength
    return {
        "image": _encode(image, "JPEG"),
        "ground truth": _encode(_paint(mask, labels), "PNG", is_pixelated=True),
        "prediction": _encode(_paint(shrink(shown.prediction[window]), labels), "PNG", is_pixelated=True),
        "errors": _encode(Image.fromarray(mixed.astype(np.uint8)), "JPEG", is_pixelated=True),
    }


def _encode(image: Image.Image, format: Literal["JPEG", "PNG"], is_pixelated: bool = False) -> Thumbnail:  # noqa: A002
    return Thumbnail(data_uri(image, format), *image.size, is_pixelated or max(image.size) < 200)


def _paint(label_map: NDArray[np.uint8], labels: Labels) -> Image.Image:
    """Paint classes with their colours, and void as stripes that no palette has."""
    palette = full_palette(labels.palette)
    dark, light = VOID_STRIPES
    palette[VOID] = dark
    if len(labels.classes) < VOID - 1:
        palette[VOID - 1] = light
        y, x = (np.arange(side) for side in label_map.shape)
        light_stripe = (label_map == VOID) & ((y[:, None] + x) // 4 % 2 == 0)
        label_map = np.where(light_stripe, np.uint8(VOID - 1), label_map)
    image = Image.fromarray(label_map)
    image.putpalette([channel for color in palette for channel in color])
    return image


def _worst_confusion(shown: ReportImage, labels: Labels) -> str:
    confusion = confusion_matrix(shown.mask, shown.prediction, len(labels.classes))
    pixels = int(confusion.sum())
    np.fill_diagonal(confusion, 0)
    if not confusion.any():
        return "no errors" if pixels else "all void"
    i, j = divmod(int(confusion.argmax()), len(labels.classes))
    return f"{labels.classes[i]} predicted as {labels.classes[j]}: {percent(confusion[i, j] / pixels)} % of pixels"


class SampleThumbnails:
    """Thumbnails of images, masks, and masks over images.

    A thumbnail is a `Thumbnail`, or the text of the error where a file is unreadable.
    """

    def __init__(self, root: Path, dataset: Dataset | None) -> None:
        self.root, self.dataset = root, dataset
        self._samples: dict[str, Sample] = {}
        for sample in dataset.samples("all") if dataset is not None else ():
            for path in (sample.image, sample.report_path()):
                name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
                self._samples.setdefault(name, sample)
            self._samples.setdefault(sample.stem, sample)

    def of_files(self, names: Iterable[str], limit: int) -> dict[str, dict[str, Thumbnail | str]]:
        """Return the thumbnails of the first files of a problem that are images, each sample once."""
        seen: set[str] = set()
        found: dict[str, dict[str, Thumbnail | str]] = {}
        for name in names:
            sample = self._samples.get(name)
            key = sample.stem if sample is not None else name
            if key in seen or len(found) == limit:
                continue
            seen.add(key)
            if sample is not None:
                found[name] = self.of_sample(sample)
            elif (self.root / name).is_file():
                found[name] = {"image": _thumbnail(_read(self.root / name))}
        return found

    def of_sample(self, sample: Sample) -> dict[str, Thumbnail | str]:
        """Return thumbnails of an image, its mask, and the mask over the image."""
        image, mask = _read(sample.image), self._read_mask(sample)
        found = {"image": _thumbnail(image), "mask": _thumbnail(mask, "PNG")}
        if not isinstance(image, str) and not isinstance(mask, str):
            over = mask if mask.size == image.size else mask.resize(image.size, Image.Resampling.NEAREST)
            found["mask over image"] = _thumbnail(Image.blend(image, over, 0.55))
        return found

    def _read_mask(self, sample: Sample) -> Image.Image | str:
        """Paint a mask in the colours of its classes, or of its raw values where it cannot be decoded."""
        assert self.dataset is not None
        head = self.dataset.heads[0]
        try:
            return _shrink(colorize(self.dataset.read_mask(sample), self.dataset.labels[head].palette))
        except FullconvError:
            pass
        try:
            raw = sample.masks[head].raw("rgb")
        except FullconvError as error:
            return str(error)
        if raw.ndim == 3:
            return _shrink(raw[..., :3].astype(np.uint8))
        colors = np.array(voc_palette(), np.uint8)
        colors[VOID] = 255
        return _shrink(colors[raw & 255])


def _read(path: Path) -> Image.Image | str:
    try:
        return _shrink(to_rgb8(read_image(path)))
    except FullconvError as error:
        return str(error).removeprefix(f"{path}: ")


def _shrink(rgb: NDArray[np.uint8]) -> Image.Image:
    """Shrink by nearest pixels: an error in a mask must not be averaged away."""
    factor = max(1.0, max(rgb.shape[:2]) / SAMPLE_SIDE)
    height, width = (max(1, round(side / factor)) for side in rgb.shape[:2])
    return Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), Image.Resampling.NEAREST)


def _thumbnail(image: Image.Image | str, format: Literal["JPEG", "PNG"] = "JPEG") -> Thumbnail | str:  # noqa: A002
    if isinstance(image, str):
        return image.partition(". ")[0]
    return _encode(image, format, is_pixelated=format == "PNG")
