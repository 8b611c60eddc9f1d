"""Random crops, sizes, flips, rotations and colours; every draw comes from the generator that the caller passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.errors import RecipeError, nearest
from fullconv.images import resize_image, resize_mask
from fullconv.labels import VOID

_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Augmentation:
    """How much a crop may differ from the image; ranges are symmetric around no change."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor of size, drawn evenly on a logarithmic scale."""
    hflip: bool = False
    """Left and right may be swapped."""
    vflip: bool = False
    """Top and bottom may be swapped."""
    rot90: bool = False
    """Rotation by multiples of 90 degrees."""
    brightness: float = 0.0
    """Largest relative change; 0.3 multiplies by 0.7 to 1.3."""
    contrast: float = 0.0
    saturation: float = 0.0
    """Images of three 8-bit channels only."""
    hue: float = 0.0
    """Largest rotation of hue, as a share of the circle; images of three 8-bit channels only."""
    crop: tuple[int, int] = (256, 256)
    """Height and width of the result in pixels."""
    fill_value: tuple[float, ...] = (0.0,)
    """(C,) mean colour in the image's values, for what lies outside of it."""
    value_range: tuple[float, float] = (0.0, 255.0)
    """Values of black and white."""
    mirror_orders: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By head, the class that each class becomes where the crop is a mirror image; a head without them keeps its labels."""


PRESETS = {
    "street": Augmentation(scale=(0.6, 1.8), hflip=True, brightness=0.4, contrast=0.3, saturation=0.3, hue=0.03),
    "aerial": Augmentation(
        scale=(0.67, 1.5), hflip=True, vflip=True, rot90=True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02
    ),
    "microscopy": Augmentation(
        scale=(0.75, 1.33), hflip=True, vflip=True, rot90=True, brightness=0.25, contrast=0.25, saturation=0.1, hue=0.02
    ),
    "none": Augmentation(),
}


def preset(
    name: str, crop: tuple[int, int], fill: tuple[float, ...], value_range: tuple[float, float] = (0.0, 255.0)
) -> Augmentation:
    """Return a preset for crops of a size, and images of a mean colour and value range."""
    if name not in PRESETS:
        raise RecipeError(f"there is no augmentation '{name}'.{nearest(name, PRESETS)} Choose {', '.join(PRESETS)}.")
    return replace(PRESETS[name], crop=crop, fill_value=fill, value_range=value_range)


def augment(
    image: NDArray[Any],
    masks: Mapping[str, NDArray[np.uint8]],
    rng: np.random.Generator,
    settings: Augmentation,
    center: tuple[int, int] | None = None,
) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]]]:
    """Cut one random crop out of an image and its masks.

    Args:
        image: (H, W, C) uint8, uint16 or float32.
        masks: (H, W) uint8, by head.
        rng: Source of all draws; one state gives the same bits on any number of threads.
        settings: A preset with its crop size (h, w).
        center: Row and column of a pixel that lies in the middle half of the crop; None for anywhere.

    Returns:
        (h, w, C) of the image's dtype, mean colour outside the image; (h, w) uint8 by head, VOID outside.
    """
    u = rng.random(10)  # equally many numbers for any settings
    low, high = settings.scale
    scale = low * (high / low) ** u[0]
    hflip, vflip = settings.hflip and u[3] < 0.5, settings.vflip and u[4] < 0.5
    quarter_turns = int(4 * u[5]) if settings.rot90 else 0
    ranges = (settings.brightness, settings.contrast, settings.saturation)
    brightness, contrast, saturation = (1 + ranges[i] * (2 * u[6 + i] - 1) for i in range(3))
    hue = settings.hue * (2 * u[9] - 1)
    out = settings.crop if quarter_turns % 2 == 0 else settings.crop[::-1]
    rows, rows_out = _place(image.shape[0], out[0], scale, u[1], None if center is None else center[0])
    columns, columns_out = _place(image.shape[1], out[1], scale, u[2], None if center is None else center[1])
    size = rows_out.stop - rows_out.start, columns_out.stop - columns_out.start
    # Only the visible part is resized, and colours are changed last: both cost per pixel.
    visible = resize_image(image[rows, columns], size)
    visible = change_colors(visible, brightness, contrast, saturation, hue, settings)
    canvas = np.empty((*out, image.shape[2]), dtype=image.dtype)
    if visible.shape[:2] != out:
        canvas[:] = as_dtype(np.asarray(settings.fill_value, np.float64), image.dtype)
    canvas[rows_out, columns_out] = visible
    cut = {}
    for head, mask in masks.items():
        labels = np.full(out, VOID, dtype=np.uint8)
        labels[rows_out, columns_out] = resize_mask(mask[rows, columns], size)
        cut[head] = _orient(labels, quarter_turns, hflip, vflip)
        if hflip != vflip and head in settings.mirror_orders:  # both together are a rotation
            order = settings.mirror_orders[head]
            table = np.arange(256, dtype=np.uint8)
            table[: len(order)] = order
            cut[head] = table[cut[head]]
    return _orient(canvas, quarter_turns, hflip, vflip), cut


def _place(length: int, out: int, scale: float, u: float, center: int | None) -> tuple[slice, slice]:
    """Place a crop of `out` pixels in an image of `length` pixels enlarged by `scale`; u from 0 to 1 is random.

    Returned are the pixels of the image that are visible, and where they lie in the crop.
    """
    window = max(1, round(out / scale))
    if center is None or window >= length:
        start = math.floor(u * (abs(length - window) + 1))
        start = start if window <= length else -start
    else:  # the pixel lies in the middle half of the crop
        start = round(center - window * (0.25 + 0.5 * u))
        start = min(max(start, 0), length - window)
    first, last = max(start, 0), min(start + window, length)
    begin, end = round((first - start) * out / window), round((last - start) * out / window)
    if end == begin:  # an image so small that its share of the crop rounds to nothing
        begin = min(begin, out - 1)
        end = begin + 1
    return slice(first, last), slice(begin, end)


def _orient(array: NDArray[Any], quarter_turns: int, hflip: bool, vflip: bool) -> NDArray[Any]:
    if quarter_turns:
        array = np.rot90(array, quarter_turns)
    if hflip and array.dtype == np.uint8:
        import torch  # a tenth of numpy's time for 8 bits

        array = torch.from_numpy(array.copy()).flip(1).numpy()
    elif hflip:
        array = array[:, ::-1]
    if vflip:
        array = array[::-1]
    return np.ascontiguousarray(array)


def change_colors(
    image: NDArray[Any], brightness: float, contrast: float, saturation: float, hue: float, settings: Augmentation
) -> NDArray[Any]:
    """Change colours by factors (1 is unchanged) and hue by a share of the circle, in one pass with one rounding.

    All four changes are linear in the channels. Contrast is relative to the data set's mean colour, not the image's.
    torchvision's four functions take 7 ms for 288x384 (hue alone 5), this 0.5 ms.
    """
    low = settings.value_range[0]
    fill = np.broadcast_to(np.asarray(settings.fill_value, np.float64), (image.shape[2],))
    if (brightness, contrast, saturation, hue) == (1, 1, 1, 0):
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        # Saturation moves colours away from (or to) their grey of equal luma; hue rotates the chroma plane of YIQ.
        saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
        cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
        rotate = np.linalg.inv(_TO_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _TO_YIQ
        matrix = contrast * brightness * rotate @ saturate
        shift = (1 - contrast) * fill
        table = tuple(np.column_stack([matrix, shift]).ravel().tolist())
        changed: NDArray[Any] = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("RGB", table))
        return changed
    gain = brightness * contrast
    shift = (1 - contrast) * fill + contrast * (1 - brightness) * low
    if image.dtype == np.uint8:
        levels = np.arange(256)[:, None] * gain + shift
        tables = as_dtype(levels, image.dtype)
        return np.stack([np.take(tables[:, c], image[..., c]) for c in range(image.shape[2])], axis=-1)
    return as_dtype(image.astype(np.float32) * np.float32(gain) + shift.astype(np.float32), image.dtype)


def as_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert floats to an image's dtype; integers are rounded and clipped."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    rounded: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return rounded
