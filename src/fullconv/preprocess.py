"""Image to network input: one rule for training, validation, prediction, service and exports.

Only the functions on tensors load torch. `rescale` uses it where it is installed, so that results are bit-identical to training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.errors import InputError, plural
from fullconv.notices import Notice
from fullconv.system import is_importable

if TYPE_CHECKING:
    from torch import Tensor

UNNAMED = "the image"
"""Name of an image without a file, in messages."""
MIN_DEEP_RANGE = 1023
"""Upper end of a model's range from which 8-bit images cannot be what it was trained on: 10 bits and more."""


def select_bands(image: NDArray[Any], card: Card, name: str = "", stored: bool = False) -> NDArray[Any]:
    """Select the card's bands of an image (H, W, C), or check that it has the number that the network takes.

    Where the image does not have all ``stored`` bands of its file, the network's number of bands is taken as selected.
    """
    channels = image.shape[2]
    has = f"{name}: has" if name else f"{UNNAMED} has"
    if card.bands is not None and (stored or channels != card.in_channels):
        if channels < max(card.bands):
            raise InputError(
                f"{has} {plural(channels, 'band')}, the model expects bands {', '.join(map(str, card.bands))}."
                " Use images of the type that it was trained on."
            )
        return image[:, :, [band - 1 for band in card.bands]]
    if channels == card.in_channels:
        return image
    if channels == 1 and card.in_channels == 3:
        return np.repeat(image, 3, axis=2)  # grey is R = G = B
    if channels == 4 and card.in_channels == 3:
        raise InputError(f"{has} 4 bands, the model expects 3. Convert it to RGB, or give an array of its bands.")
    raise InputError(
        f"{has} {plural(channels, 'band')}, the model expects {card.in_channels}."
        " Use images of the type that it was trained on."
    )


def range_warning(image: NDArray[Any], card: Card, name: str = "") -> Notice | None:
    """Return a notice on an image whose values are certainly not those that the model was trained on.

    That is certain for 16 bits above 255 and a model of 8 bits, and for 8 bits and a model of `MIN_DEEP_RANGE` or more.
    Floats may be anything.
    """
    if card.image_range is None:
        return None
    low, high = card.image_range
    if image.dtype == np.uint16 and high <= 255:
        largest = int(image.max(initial=0))
        if largest <= 255:
            return None
        found, fix = f"16 bits, up to {largest}", f"scale them to {low:g} to {high:g}"
    elif image.dtype == np.uint8 and high >= MIN_DEEP_RANGE:
        found, fix = "8 bits", "use the images as the sensor wrote them"
    else:
        return None
    message = (
        f"{name + ':' if name else UNNAMED} holds {found} ({image.dtype}); the model was trained on values from {low:g} to"
        f" {high:g}, so its labels may be meaningless. To fix it, {fix}. Further images are not reported."
    )
    return Notice("value-range", message, name or None)


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
