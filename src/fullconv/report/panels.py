"""Pictures side by side: picture, truth, prediction, errors; and a cut-out where the errors are densest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Labels
from fullconv.errors import InputError
from fullconv.labels import VOID, full_palette
from fullconv.metrics import confusion_matrix
from fullconv.prediction import display
from fullconv.report.html import data_uri, percent, swatch, text

SIDES = (800, 560, 400, 240)
"""Longest side of thumbnails in pixels; the next smaller one where a picture takes more than its share of the page."""

PICTURE_BYTES = 900_000
ERROR = (226, 38, 58)
VOID_STRIPES = ((205, 210, 216), (236, 239, 242))
MOST_IN_LEGEND = 24

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels."""


@dataclass(frozen=True)
class ReportPicture:
    """One picture of the report."""

    stem: str
    image: NDArray[Any]
    """(H, W, C) uint8, uint16 or float32 as stored."""
    truth: NDArray[np.uint8]
    """(H, W), 255 is void."""
    prediction: NDArray[np.uint8]
    """(H, W)."""
    score: float
    """Mean IU of this picture by itself."""


def article(picture: ReportPicture, labels: Labels) -> str:
    """Return a picture's part of the page, at most about `PICTURE_BYTES` long.

    Raises:
        InputError: Picture, truth and prediction differ in size.
    """
    shapes = {picture.image.shape[:2], picture.truth.shape, picture.prediction.shape}
    if len(shapes) > 1:
        raise InputError(f"'{picture.stem}': picture, truth and prediction differ in size: {sorted(shapes)}.")
    wrong = (picture.truth != VOID) & (picture.truth != picture.prediction)
    box = densest(wrong)
    rgb = display(picture.image)
    small = ""
    for side in SIDES:
        small = _row(picture, labels, rgb, wrong, (0, 0, *wrong.shape), side, box)
        if len(small) <= PICTURE_BYTES:
            break
    close = "" if box is None else _row(picture, labels, rgb, wrong, box, max(box), None)
    legend = ""
    if len(labels.classes) > MOST_IN_LEGEND:
        both = np.union1d(np.unique(picture.truth), np.unique(picture.prediction))
        legend = legend_of(labels, [int(k) for k in both if k < len(labels.classes)])
    return (
        f"<article><header><h4>{text(picture.stem)}</h4><span>mean IU <b>{percent(picture.score)}</b></span>"
        f'<span class="soft">{text(_worst_confusion(picture, labels))}</span>'
        f'<label class="zoom"><input type="checkbox"> larger</label></header>{legend}{small}{close}</article>'
    )


def legend_of(labels: Labels, indices: Iterable[int]) -> str:
    """Return the colours of classes, of void and of errors with their names."""
    entries = [f"<li>{swatch(labels.palette[k])}{text(labels.classes[k])}</li>" for k in indices]
    entries.append('<li><i class="swatch void"></i>void</li>')
    entries.append(f"<li>{swatch(ERROR)}error</li>")
    return f'<ul class="legend" aria-label="colours">{"".join(entries)}</ul>'


def densest(wrong: NDArray[np.bool_]) -> Box | None:
    """Return the square with the most errors, half as high as the picture and at most 256 pixels.

    None where there is no error, or the picture is so small that all of it is seen anyway.
    """
    height, width = wrong.shape
    side = min(max(min(height, width) // 2, 64), 256)
    if max(height, width) <= 256 or min(height, width) < side or not wrong.any():
        return None
    step = max(1, side // 8)
    # Errors by cells of side/8, then by windows of cells: a full-size running sum of a large picture takes gigabytes.
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    cells = np.add.reduceat(np.add.reduceat(wrong, rows, axis=0, dtype=np.int64), columns, axis=1)
    sums = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = min(8, *cells.shape)
    windows = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
    y, x = np.unravel_index(int(windows.argmax()), windows.shape)
    top, left = min(int(y) * step, height - side), min(int(x) * step, width - side)
    return top, left, top + side, left + side


def _row(
    picture: ReportPicture,
    labels: Labels,
    rgb: NDArray[np.uint8],
    wrong: NDArray[np.bool_],
    part: Box,
    side: int,
    box: Box | None,
) -> str:
    """Return the four panels of a part of the picture, no side longer than `side`; `box` is outlined in each."""
    top, left, bottom, right = part
    window = (slice(top, bottom), slice(left, right))
    factor = min(1.0, side / max(bottom - top, right - left))
    size = (max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor)))  # width first, as PIL
    image = Image.fromarray(np.ascontiguousarray(rgb[window])).resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    truth = _shrunk(picture.truth[window], size)
    panels = {
        "picture": data_uri(image, "JPEG"),
        "truth": data_uri(_painted(truth, labels), "PNG"),
        "prediction": data_uri(_painted(_shrunk(picture.prediction[window], size), labels), "PNG"),
        "errors": data_uri(_errors(image, wrong[window], truth == VOID), "JPEG"),
    }
    whole = box is not None or part == (0, 0, *wrong.shape)
    outline = "" if box is None else _outline(box, wrong.shape)
    kind = "" if whole else " close"
    shown = "" if whole else f", {right - left}x{bottom - top} pixels at the worst error"
    figures = "".join(
        f'<figure><div class="frame"><img src="{uri}" width="{size[0]}" height="{size[1]}" loading="lazy"'
        f' alt="{text(name)} of {text(picture.stem)}{shown}"'
        f"{' class=flat' if name != 'picture' or max(size) < 200 else ''}>{outline}</div>"
        f"{f'<figcaption>{name}</figcaption>' if whole else ''}</figure>"
        for name, uri in panels.items()
    )
    note = "" if whole else f'<p class="soft">Cut-out at the worst error, {right - left} × {bottom - top} pixels</p>'
    return f'{note}<div class="panels{kind}">{figures}</div>'


def _outline(box: Box, shape: Sequence[int]) -> str:
    top, left, bottom, right = box
    height, width = shape
    return (
        f'<i class="box" style="left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;'
        f'width:{100 * (right - left) / width:.2f}%;height:{100 * (bottom - top) / height:.2f}%"></i>'
    )


def _shrunk(label_map: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(label_map))
    return np.array(image if image.size == size else image.resize(size, Image.Resampling.NEAREST))


def _painted(label_map: NDArray[np.uint8], labels: Labels) -> Image.Image:
    """Paint classes with their colours, and void as stripes that no palette has."""
    palette = full_palette(labels.palette)
    dark, light = VOID_STRIPES
    palette[VOID] = dark
    shown = label_map
    if len(labels.classes) < VOID - 1:
        palette[VOID - 1] = light
        y, x = (np.arange(side) for side in label_map.shape)
        shown = np.where((label_map == VOID) & ((y[:, None] + x) // 4 % 2 == 0), np.uint8(VOID - 1), label_map)
    image = Image.fromarray(shown)
    image.putpalette([channel for color in palette for channel in color])
    return image


def _errors(image: Image.Image, wrong: NDArray[np.bool_], void: NDArray[np.bool_]) -> Image.Image:
    """Mark errors on a pale grey copy of the picture; where it shrinks, also those thinner than a pixel."""
    grey = np.asarray(image.convert("L"), np.float32) * 0.45 + 125
    grey[void] = 225
    share = Image.fromarray(wrong * np.uint8(255)).resize(image.size, Image.Resampling.BOX)
    strength = np.minimum(np.asarray(share, np.float32) / 255 * 2, 1)[..., None]
    mixed = grey[..., None] * (1 - strength) + np.array(ERROR, np.float32) * strength
    return Image.fromarray(mixed.astype(np.uint8))


def _worst_confusion(picture: ReportPicture, labels: Labels) -> str:
    """Say which class was most often taken for which."""
    confusion = confusion_matrix(picture.truth, picture.prediction, len(labels.classes))
    pixels = int(confusion.sum())
    np.fill_diagonal(confusion, 0)
    if not confusion.any():
        return "no errors" if pixels else "all void"
    i, j = divmod(int(confusion.argmax()), len(labels.classes))
    return f"{labels.classes[i]} taken for {labels.classes[j]}: {percent(confusion[i, j] / pixels)} % of pixels"
