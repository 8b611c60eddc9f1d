"""Classes, palettes and label-map files: what a value in a mask means, and how it is written."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.errors import InputError

VOID = 255
"""Value of void. In memory every mask is (H, W) uint8 with classes 0..K-1 and this value, however its file stores it."""

MAX_CLASSES = 255

BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg")
"""Class names that stand for unlabeled pixels."""

Color = tuple[int, int, int]


_SIDES = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R"}


def left_right_pairs(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of classes whose names differ in left and right, or in a lone l and r, only.

    >>> left_right_pairs(["LeftEye", "RightEye", "r_brow", "l_brow", "cleft"])
    [('LeftEye', 'RightEye'), ('l_brow', 'r_brow')]
    """
    pairs = []
    for name in classes:
        for pattern in (r"left", r"(?<![a-z])l(?![a-z])"):
            other = re.sub(pattern, lambda found: _SIDES.get(found[0], found[0]), name, flags=re.IGNORECASE)
            if other != name and other in classes:
                pairs.append((name, other))
                break
    return pairs


def voc_palette(size: int = 256) -> list[Color]:
    """Return the colours of PASCAL VOC: the bits of the index spread over R, G and B from the highest bit down.

    Source: VOCdevkit, VOClabelcolormap.

    >>> voc_palette(3)
    [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    """
    colors = []
    for index in range(size):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((color[0], color[1], color[2]))
    return colors


def parse_color(text: str) -> Color:
    """Read ``"#800000"`` as (128, 0, 0).

    Raises:
        InputError: The text is not ``#rrggbb``.
    """
    digits = text.removeprefix("#")
    if len(digits) != 6 or any(d not in "0123456789abcdefABCDEF" for d in digits):
        raise InputError(f"'{text}' is not a colour; write it as '#rrggbb', for example '#800000'.")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def format_color(color: Sequence[int]) -> str:
    """Write (128, 0, 0) as ``"#800000"``."""
    return "#" + "".join(f"{int(channel):02x}" for channel in color)


def full_palette(palette: Sequence[Sequence[int]]) -> list[Color]:
    """Extend the colours of K classes to 256 entries with VOC's, in which void (255) is almost white."""
    colors = voc_palette()
    for index, color in enumerate(palette):
        colors[index] = (int(color[0]), int(color[1]), int(color[2]))
    return colors


def colorize(label_map: NDArray[np.uint8], palette: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Color a label map (H, W) uint8 with a palette of 0..255 RGB rows; returns (H, W, 3) uint8."""
    table = np.asarray(full_palette(palette), dtype=np.uint8)
    painted: NDArray[np.uint8] = table[label_map]
    return painted


def indexed_image(label_map: NDArray[np.uint8], palette: Sequence[Sequence[int]]) -> Image.Image:
    """Return a label map (H, W) uint8 as an 8-bit indexed PIL image with its palette."""
    if label_map.ndim != 2 or label_map.dtype != np.uint8:
        raise InputError(f"a label map must be (H, W) uint8, not {label_map.shape} {label_map.dtype}.")
    image = Image.fromarray(np.ascontiguousarray(label_map))
    image.putpalette([channel for color in full_palette(palette) for channel in color])
    return image


def encode_label_map(label_map: NDArray[np.uint8], palette: Sequence[Sequence[int]] | None) -> bytes:
    """Encode a label map (H, W) uint8 as PNG bytes: indexed with the palette, or plain grey where it is None."""
    image = Image.fromarray(np.ascontiguousarray(label_map)) if palette is None else indexed_image(label_map, palette)
    return encode_png(image)


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG bytes, fast."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def read_label_map(path: str | Path) -> NDArray[Any]:
    """Read the values of a one-channel PNG, (H, W) uint8 or uint16; a palette is ignored.

    Raises:
        InputError: The file is not an image, or has colours instead of values.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I;16", "I"):
                raise InputError(f"{path}: a label map has one channel, this image is {image.mode}.")
            return np.asarray(image)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error}).") from error
