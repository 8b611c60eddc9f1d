"""Image to network input: one rule for training, validation, prediction, service and exports.

Only the functions on tensors load torch. `rescale` uses it where it is installed, so that results are bit-identical to training.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.errors import InputError, plural
from fullconv.images import ImageFile, Pixels, Source, as_array, open_image_file, read_pixels
from fullconv.notices import Notice
from fullconv.system import is_importable

if TYPE_CHECKING:
    from torch import Tensor

UNNAMED = "the image"
"""Name of an image without a file, in messages."""
MIN_DEEP_RANGE = 1023
"""Upper end of a model's range from which 8-bit images cannot be what it was trained on: 10 bits and more."""
BYTES = (0.0, 255.0)
"""Range of models that were trained on 8-bit images."""
RANGE_SAMPLES = 65536
"""Pixels of an image, evenly spaced, whose values are compared with the model's range."""
_MIN_OUTSIDE, _MIN_OUTSIDE_BYTES = 0.1, 0.01  # share of values beyond what training can have seen
_MOST_OUTSIDE = 0.9  # share of values beyond those of training by anything
_FAR_STD = 4
_MAX_SPREAD = 0.02  # of the range: all values of images that were divided by their largest, or standardized


@dataclass(frozen=True)
class NetworkInput(Pixels):
    """An image in a card's bands, with the mean colour where it has no data."""


def read_input(source: Source | Pixels, card: Card, name: str = "") -> NetworkInput:
    """Read an image as a network takes it.

    Args:
        source: A path, the bytes of a file, or a PIL image, whose bands are selected by the card; or an array, tensor or
            pixels, taken as already selected where they have the card's number of bands.
        card: Bands, range and mean.
        name: The file, for messages.

    Raises:
        InputError: The image cannot be read, or has other bands than the card.
    """
    if isinstance(source, NetworkInput):
        return source
    if isinstance(source, (str, bytes, os.PathLike)):
        with open_image_file(source) as file:
            return prepare_pixels(file.read(None, file_bands(file, card, name)), card, name)
    source = as_array(source)
    if isinstance(source, Pixels):
        pixels = source
    else:
        stored = not isinstance(source, np.ndarray)
        pixels = read_pixels(source, card.bands if stored else None, card.in_channels)
    return prepare_pixels(pixels.select(band_indices(pixels.values.shape[2], card, name)), card, name)


def file_bands(file: ImageFile, card: Card, name: str = "") -> list[int]:
    """Return the numbers of the bands of a file that the network takes, from 1; grey three times for RGB."""
    if card.bands is not None:
        return [index + 1 for index in band_indices(file.bands, card, name, stored=True)]
    bands = file.choose_bands(None, card.in_channels)
    return [bands[index] for index in band_indices(len(bands), card, name)]


def prepare_pixels(pixels: Pixels, card: Card, name: str = "", check: bool = True) -> NetworkInput:
    """Fill what has no data in an image in the card's bands with the mean colour; ``check`` compares it with the range."""
    low, high = card.image_range or card.range
    notices = pixels.notices
    if check and (notice := range_warning(pixels.values, card, name, pixels.nodata)) is not None:
        notices = (*notices, notice)
    mean, _ = _statistics(card)
    return NetworkInput(pixels.filled(mean.tolist(), low, high), pixels.nodata, None, notices)


def _statistics(card: Card) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and std (C,) in the images' own values."""
    low, high = card.range
    return low + np.array(card.mean, np.float64) * (high - low), np.array(card.std, np.float64) * (high - low)


def select_bands(image: NDArray[Any], card: Card, name: str = "", stored: bool = False) -> NDArray[Any]:
    """Select the card's bands of an image (H, W, C), or check that it has the number that the network takes.

    Where the image does not have all ``stored`` bands of its file, the network's number of bands is taken as selected.
    """
    chosen = band_indices(image.shape[2], card, name, stored)
    return image if chosen == list(range(image.shape[2])) else image[:, :, chosen]


def band_indices(channels: int, card: Card, name: str = "", stored: bool = False) -> list[int]:
    """Return which of an image's bands the network takes, from 0; see `select_bands`."""
    has = f"{name}: has" if name else f"{UNNAMED} has"
    if card.bands is not None and (stored or channels != card.in_channels):
        if channels < max(card.bands):
            raise InputError(
                f"{has} {plural(channels, 'band')}, the model expects bands {', '.join(map(str, card.bands))}."
                " Use images of the type that it was trained on."
            )
        return [band - 1 for band in card.bands]
    if channels == card.in_channels:
        return list(range(channels))
    if channels == 1 and card.in_channels == 3:
        return [0, 0, 0]  # grey is R = G = B
    if channels == 4 and card.in_channels == 3:
        raise InputError(f"{has} 4 bands, the model expects 3. Convert it to RGB, or give an array of its bands.")
    raise InputError(
        f"{has} {plural(channels, 'band')}, the model expects {card.in_channels}."
        " Use images of the type that it was trained on."
    )


def range_warning(
    image: NDArray[Any], card: Card, name: str = "", nodata: NDArray[np.bool_] | None = None
) -> Notice | None:
    """Return a notice on an image whose values are certainly not those that the model was trained on.

    One rule for all types. Values far outside the range: a hundredth of the image more than a quarter of the range beyond 0 to
    255, or a tenth more than the whole of another range; or nine tenths outside it by anything. Fractions, nearly all within
    a fiftieth of a range of whole numbers. Values nearly all within a fiftieth of the range, and there four standard
    deviations from the mean. 8 bits for a model of `MIN_DEEP_RANGE` or more. A dark image has none of these.

    Args:
        image: (H, W, C) in the card's bands.
        card: Range, mean and std.
        name: The file.
        nodata: (H, W) pixels that do not count.
    """
    if card.image_range is None:
        return None
    low, high = card.image_range
    if image.dtype == np.uint8 and (low, high) == BYTES:
        return None
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // RANGE_SAMPLES))
    values = image[::step, ::step]
    values = values.reshape(-1, image.shape[2]) if nodata is None else values[~nodata[::step, ::step]]
    values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if not values.size or not _is_foreign(values, image.dtype, card, low, high):
        return None
    message = (
        f"{name + ':' if name else UNNAMED.capitalize()} holds values from {values.min():g} to {values.max():g} ({image.dtype});"
        f" the model was trained on values from {low:g} to {high:g}, so its labels may be meaningless. Scale the image to these"
        " values, or use the images as the sensor wrote them."
    )
    return Notice("value-range", message, name or None)


def _is_foreign(values: NDArray[np.float64], dtype: Any, card: Card, low: float, high: float) -> bool:
    """Return whether values (N, C) are certainly not those of training; see `range_warning`."""
    span, of_bytes = high - low, (low, high) == BYTES
    if dtype == np.uint8 and high >= MIN_DEEP_RANGE:
        return True
    if of_bytes and dtype == np.uint16 and values.max() > high:
        return True
    beyond = span / 4 if of_bytes else span
    outside = np.mean((values < low - beyond) | (values > high + beyond))
    if outside >= (_MIN_OUTSIDE_BYTES if of_bytes else _MIN_OUTSIDE):
        return True
    if np.mean((values < low) | (values > high)) > _MOST_OUTSIDE:
        return True
    first, last = np.percentile(values, (1, 99))
    if dtype == np.uint8 or last - first > _MAX_SPREAD * span:
        return False
    whole_range = low == int(low) and high == int(high) and span >= BYTES[1]
    fractions = np.mean(values != np.rint(values))
    if whole_range and fractions > 0.5:
        return True
    if card.range != card.image_range:  # mean and std of a release are in a range of its own
        return False
    mean, std = _statistics(card)
    return bool((np.abs(np.median(values, axis=0) - mean) / std).min() > _FAR_STD)


def normalization(card: Card) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return factor and shift (C,), so that the network's input is ``value * factor + shift``."""
    low, high = card.range
    mean, std = np.array(card.mean, np.float64), np.array(card.std, np.float64)
    factor = 1 / ((high - low) * std)
    shift = -low * factor - mean / std
    return factor.astype(np.float32), shift.astype(np.float32)


def normalize(images: Tensor, card: Card) -> Tensor:
    """Turn images as stored into the network's input.

    Args:
        images: (N, H, W, C) of any real dtype, in the card's bands.
        card: Range, mean, std and channel order.

    Returns:
        (N, C, H, W) float32 in channels_last memory format, as the stored order is.
    """
    import torch

    factor, shift = (torch.from_numpy(value).to(images.device) for value in normalization(card))
    x = images.to(torch.float32).mul_(factor) if images.dtype != torch.float32 else images * factor
    x = x.add_(shift)
    if card.channel_order == "bgr":
        x = x[..., [2, 1, 0, *range(3, x.shape[-1])]]
    return x.permute(0, 3, 1, 2)


def as_tensor(images: NDArray[Any]) -> Tensor:
    """Return images (N, H, W, C) as a tensor without copying; uint16, which torch hardly supports, becomes float32."""
    import torch

    if images.dtype == np.uint16:
        images = images.astype(np.float32)
    images = np.ascontiguousarray(images)
    return torch.from_numpy(images if images.flags.writeable else images.copy())


def working_size(height: int, width: int, scale: float = 1.0, short_side: int | None = None) -> tuple[int, int]:
    """Return the size at the working resolution, at least 1 x 1.

    Args:
        height: Of the image in pixels.
        width: Likewise.
        scale: Factor.
        short_side: Length of the shorter side before the factor applies, as torchvision's transforms resize; None to keep it.
    """
    if short_side is not None:
        shorter = min(height, width)
        height, width = (int(short_side * side / shorter) for side in (height, width))  # torchvision truncates, too
    return max(1, round(height * scale)), max(1, round(width * scale))


def rescale(images: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize images (N, H, W, C) to a working size, antialiased; integers are rounded."""
    if images.shape[1:3] == size:
        return images
    if is_importable("torch"):
        import torch.nn.functional as F

        x = as_tensor(images).permute(0, 3, 1, 2).float()
        resized = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        result: NDArray[Any] = resized.permute(0, 2, 3, 1).numpy()
    else:
        rows, columns = (_triangle_filter(old, new) for old, new in zip(images.shape[1:3], size, strict=True))
        wide = np.tensordot(images.astype(np.float32), columns, axes=(2, 1))  # (N, H, C, w)
        result = np.tensordot(wide, rows, axes=(1, 1)).transpose(0, 3, 2, 1)
    if images.dtype.kind in "iu":
        result = np.rint(result).clip(0, np.iinfo(images.dtype).max)
    return np.ascontiguousarray(result, images.dtype)


def _triangle_filter(old: int, new: int) -> NDArray[np.float32]:
    """Return the weights (new, old) of bilinear interpolation with half-pixel centres, antialiased where it shrinks."""
    support = max(1.0, old / new)
    centers = (np.arange(new) + 0.5) * (old / new)
    distance = np.abs(np.arange(old) + 0.5 - centers[:, None]) / support
    weights = (1 - distance).clip(min=0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
