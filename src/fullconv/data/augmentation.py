"""Random crops, sizes, flips, turns and colours; every draw comes from the generator that the caller passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.errors import RecipeError, nearest
from fullconv.images import resize_image, resize_mask
from fullconv.labels import VOID


@dataclass(frozen=True)
class Augmentation:
    """How much a crop may differ from the picture; ranges are symmetric around no change."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor of size, drawn evenly on a logarithmic scale."""
    mirror: bool = False
    """Left and right may be swapped."""
    flip: bool = False
    """Top and bottom may be swapped."""
    turn: bool = False
    """Quarter turns."""
    brightness: float = 0.0
    """Largest relative change; 0.3 multiplies by 0.7 to 1.3."""
    contrast: float = 0.0
    saturation: float = 0.0
    """Images of three 8-bit channels only."""
    hue: float = 0.0
    """Largest rotation of hue, as a share of the circle; pictures of three 8-bit channels only."""
    crop: tuple[int, int] = (256, 256)
    """Height and width of what comes out."""
    fill: tuple[float, ...] = (0.0,)
    """Mean colour in the picture's numbers, for what lies outside of it."""
    range: tuple[float, float] = (0.0, 255.0)
    """Values that count as black and white."""


PRESETS = {
    "street": Augmentation(scale=(0.6, 1.8), mirror=True, brightness=0.4, contrast=0.3, saturation=0.3, hue=0.03),
    "aerial": Augmentation(
        scale=(0.67, 1.5), mirror=True, flip=True, turn=True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02
    ),
    "microscopy": Augmentation(
        scale=(0.75, 1.33), mirror=True, flip=True, turn=True, brightness=0.25, contrast=0.25, saturation=0.1, hue=0.02
    ),
    "none": Augmentation(),
}


def preset(
    name: str, crop: tuple[int, int], fill: tuple[float, ...], value_range: tuple[float, float] = (0.0, 255.0)
) -> Augmentation:
    """Return a preset for crops of a size, and pictures of a mean colour and value range.

    Raises:
        RecipeError: There is no such preset.
    """
    if name not in PRESETS:
        raise RecipeError(f"there is no augmentation '{name}'.{nearest(name, PRESETS)} They are {', '.join(PRESETS)}.")
    return replace(PRESETS[name], crop=crop, fill=fill, range=value_range)


@dataclass(frozen=True)
class _Draw:
    """All that is random about one crop. As many numbers are drawn whatever the settings."""

    scale: float
    top: float
    left: float
    mirror: bool
    flip: bool
    turns: int
    brightness: float
    contrast: float
    saturation: float
    hue: float


def _draw(rng: np.random.Generator, settings: Augmentation) -> _Draw:
    u = rng.random(10)
    low, high = settings.scale
    return _Draw(
        scale=low * (high / low) ** u[0],
        top=u[1],
        left=u[2],
        mirror=settings.mirror and u[3] < 0.5,
        flip=settings.flip and u[4] < 0.5,
        turns=int(4 * u[5]) if settings.turn else 0,
        brightness=1 + settings.brightness * (2 * u[6] - 1),
        contrast=1 + settings.contrast * (2 * u[7] - 1),
        saturation=1 + settings.saturation * (2 * u[8] - 1),
        hue=settings.hue * (2 * u[9] - 1),
    )


def augment(
    image: NDArray[Any],
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
    settings: Augmentation,
    focus: tuple[int, int] | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Cut one random crop out of a picture and its mask.

    Args:
        image: (H, W, C) uint8, uint16 or float32.
        mask: (H, W) uint8.
        rng: Where all draws come from; the same state gives the same bits on any number of threads.
        settings: A preset with its crop size (h, w).
        focus: Row and column of a pixel near which the crop lies; None for anywhere.

    Returns:
        (h, w, C) of the image's dtype, mean colour outside the picture; (h, w) uint8, VOID outside.
    """
    picture, masks = augment_all(image, {"": mask}, rng, settings, focus)
    return picture, masks[""]


def augment_all(
    image: NDArray[Any],
    masks: Mapping[str, NDArray[np.uint8]],
    rng: np.random.Generator,
    settings: Augmentation,
    focus: tuple[int, int] | None = None,
) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]]]:
    """Cut the same random crop out of a picture and the masks of several heads; see `augment`."""
    draw = _draw(rng, settings)
    out = settings.crop if draw.turns % 2 == 0 else settings.crop[::-1]
    rows = _place(image.shape[0], out[0], draw.scale, draw.top, None if focus is None else focus[0])
    columns = _place(image.shape[1], out[1], draw.scale, draw.left, None if focus is None else focus[1])
    # Only what is seen is resized, and colours are changed last: both cost by the pixel.
    seen = resize_image(image[rows.source, columns.source], (rows.size, columns.size))
    seen = change_colors(seen, draw.brightness, draw.contrast, draw.saturation, draw.hue, settings)
    picture = np.empty((*out, image.shape[2]), dtype=image.dtype)
    if seen.shape[:2] != out:
        picture[:] = as_dtype(np.asarray(settings.fill, np.float64), image.dtype)
    picture[rows.target, columns.target] = seen
    cut = {}
    for head, mask in masks.items():
        cut[head] = np.full(out, VOID, dtype=np.uint8)
        cut[head][rows.target, columns.target] = resize_mask(
            mask[rows.source, columns.source], (rows.size, columns.size)
        )
    return _turn(picture, draw), {head: _turn(mask, draw) for head, mask in cut.items()}


@dataclass(frozen=True)
class _Span:
    """Where a crop lies along one axis."""

    source: slice
    """In the picture."""
    target: slice
    """In the crop."""

    @property
    def size(self) -> int:
        """Pixels of the crop that show the picture."""
        return int(self.target.stop - self.target.start)


def _place(length: int, out: int, scale: float, u: float, focus: int | None) -> _Span:
    """Lay a crop of `out` pixels over a picture of `length` pixels enlarged by `scale`."""
    window = max(1, round(out / scale))
    if focus is None or window >= length:
        start = math.floor(u * (abs(length - window) + 1))
        start = start if window <= length else -start
    else:  # the pixel is in the middle half of the crop
        start = round(focus - window * (0.25 + 0.5 * u))
        start = min(max(start, 0), length - window)
    first, last = max(start, 0), min(start + window, length)
    begin, end = round((first - start) * out / window), round((last - start) * out / window)
    if end == begin:  # a picture so small that its share of the crop rounds to nothing
        begin = min(begin, out - 1)
        end = begin + 1
    return _Span(slice(first, last), slice(begin, end))


def _turn(array: NDArray[Any], draw: _Draw) -> NDArray[Any]:
    if draw.turns:
        array = np.rot90(array, draw.turns)
    if draw.mirror:
        array = _mirrored(array)
    if draw.flip:
        array = array[::-1]
    return np.ascontiguousarray(array)


def _mirrored(array: NDArray[Any]) -> NDArray[Any]:
    """Swap left and right of (h, w) or (h, w, C); for 8 bits by torch, in a tenth of the time that numpy takes."""
    if array.dtype != np.uint8:
        return array[:, ::-1]
    import torch

    return torch.from_numpy(array.copy()).flip(1).numpy()


def change_colors(
    image: NDArray[Any], brightness: float, contrast: float, saturation: float, hue: float, settings: Augmentation
) -> NDArray[Any]:
    """Change colours by factors (1 is as it was) and hue by a share of the circle, in one pass and one rounding.

    All four changes are linear in the channels. Contrast turns about the data set's mean colour, not the picture's.
    torchvision's four functions take 7 ms for 288x384 (hue alone 5), this 0.5 ms.
    """
    low = settings.range[0]
    fill = np.broadcast_to(np.asarray(settings.fill, np.float64), (image.shape[2],))
    if (brightness, contrast, saturation, hue) == (1, 1, 1, 0):
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        matrix = contrast * brightness * _hue_matrix(hue) @ _saturation_matrix(saturation)
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
    """Return floats as a picture's numbers, rounded and cut off where these are whole."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    rounded: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return rounded


_LUMA = np.array([0.299, 0.587, 0.114])


def _saturation_matrix(factor: float) -> NDArray[np.float64]:
    """Move colours away from (or to) their grey of equal luma."""
    return factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def _hue_matrix(share: float) -> NDArray[np.float64]:
    """Turn the chroma plane of YIQ by a share of the circle; greys stay."""
    angle = 2 * math.pi * share
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    back: NDArray[np.float64] = np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    return back
