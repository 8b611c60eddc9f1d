"""Picture to network input: one rule for training, validation, prediction, service and exports."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fullconv.card import Card
from fullconv.errors import InputError

LOG = logging.getLogger("fullconv")
PLAIN = "the picture"
"""What a picture without a file is called."""
DEEP = 1023
"""Largest value of a model's range from which on 8 bits cannot be what it was trained on: 10 bits and more."""


def select_bands(image: NDArray[Any], card: Card, name: str = "", stored: bool = False) -> NDArray[Any]:
    """Take the card's bands of a picture (H, W, C), or check that it has as many as the network wants.

    Args:
        image: The picture.
        card: Its `bands` are those of a file; None is all.
        name: Its file, for the message; "" where it has none.
        stored: Whether the picture is as a file holds it; else one with as many bands as the network wants is taken to
            have them chosen already.

    Raises:
        InputError: The picture has other bands than the card.
    """
    channels = image.shape[2]
    has = f"{name}: has" if name else f"{PLAIN} has"
    if card.bands is not None and (stored or channels != card.in_channels):
        if channels < max(card.bands):
            raise InputError(
                f"{has} {channels} bands, the model wants bands {', '.join(map(str, card.bands))}."
                " Give pictures of the kind that it was trained on."
            )
        return image[:, :, [band - 1 for band in card.bands]]
    if channels == card.in_channels:
        return image
    if channels == 1 and card.in_channels == 3:
        return np.repeat(image, 3, axis=2)  # grey is R = G = B
    if channels == 4 and card.in_channels == 3:
        raise InputError(f"{has} 4 bands, the model wants 3. Convert it to RGB, or give an array of its bands.")
    raise InputError(
        f"{has} {channels} band{'s' * (channels != 1)}, the model wants {card.in_channels}."
        " Give pictures of the kind that it was trained on."
    )


class Remarks:
    """Tells what a user should know about pictures, once a subject however many pictures there are."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, subject: str, find: Callable[[], str | None]) -> None:
        """Tell the sentence that ``find`` returns, if it is the first of its subject."""
        if subject in self._told or (text := find()) is None:
            return
        with self._lock:  # pictures are read in several threads
            first = subject not in self._told
            self._told.add(subject)
        if first:
            LOG.warning(text)


def range_remark(image: NDArray[Any], card: Card, name: str = "") -> str | None:
    """Return a sentence on a picture whose values are certainly not those that the model was trained on, or None.

    Certain is: 16 bits above 255 for a model of 8 bits, and 8 bits for one of `DEEP` or more. Floats may be anything.

    Args:
        image: The picture as stored.
        card: Its `range` are the values in training.
        name: Its file; "" where it has none.
    """
    high = card.range[1]
    if image.dtype == np.uint16 and high <= 255:
        most = int(image.max(initial=0))
        if most <= 255:
            return None
        holds, cure = f"16 bits, up to {most}", f"scale them to {card.range[0]:g} to {high:g}"
    elif image.dtype == np.uint8 and high >= DEEP:
        holds, cure = "8 bits", "give the pictures as the sensor wrote them"
    else:
        return None
    what = f"{name}:" if name else PLAIN
    return (
        f"{what} holds {holds} ({image.dtype}); the model was trained on values from {card.range[0]:g} to"
        f" {high:g}, so its labels may mean nothing. To mend it, {cure}. Further pictures are not told."
    )


def normalization(card: Card) -> tuple[Tensor, Tensor]:
    """Return factor and shift (C,) float32, so that the network's input is ``value * factor + shift``."""
    low, high = card.range
    mean = torch.tensor(card.mean, dtype=torch.float64)
    std = torch.tensor(card.std, dtype=torch.float64)
    factor = 1 / ((high - low) * std)
    shift = -low * factor - mean / std
    return factor.float(), shift.float()


def normalize(images: Tensor, card: Card) -> Tensor:
    """Turn pictures as stored into the network's input.

    Args:
        images: (N, H, W, C) of any real dtype, in the card's bands.
        card: Range, mean, std and channel order.

    Returns:
        (N, C, H, W) float32 in channels_last memory format, as the stored order is.
    """
    factor, shift = (value.to(images.device) for value in normalization(card))
    x = images.to(torch.float32).mul_(factor) if images.dtype != torch.float32 else images * factor
    x = x.add_(shift)
    if card.channel_order == "bgr":
        order = [2, 1, 0, *range(3, x.shape[-1])]
        x = x[..., order]
    return x.permute(0, 3, 1, 2)


def as_tensor(image: NDArray[Any]) -> Tensor:
    """Return a picture (H, W, C) as (1, H, W, C), several as they are; uint16 becomes float32: torch does little on it."""
    if image.dtype == np.uint16:
        image = image.astype(np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(image))
    return tensor[None] if tensor.ndim == 3 else tensor


def working_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the size at the working resolution, at least 1 x 1."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def rescale(images: Tensor, scale: float) -> Tensor:
    """Resize pictures (N, H, W, C) to the working resolution, antialiased; integers are rounded and stay what they are.

    Returns:
        (N, h, w, C) of the same dtype.
    """
    if scale == 1:
        return images
    size = working_size(images.shape[1], images.shape[2], scale)
    x = images.permute(0, 3, 1, 2).to(torch.float32)
    x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False).permute(0, 2, 3, 1)
    if not images.dtype.is_floating_point:
        x = x.round_().clamp_(0, torch.iinfo(images.dtype).max)
    return x.to(images.dtype).contiguous()
