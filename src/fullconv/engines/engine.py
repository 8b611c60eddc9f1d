"""The interface of an engine (images as stored in, scores out, both as numpy arrays), and the names and checksum of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.errors import ModelFileError

Scores = dict[str, NDArray[np.float32]]
"""Scores (N, K, h, w) by head; a network with one unnamed head has the key ""."""

INPUT = "images"
"""Name of a graph's input."""
CHECKSUM_KEY = "fullconv_checksum"
"""Of an exported file, over each of its bytes and those of the weights beside it; stands beside the card."""
MARK = "sha256:"
BLANK = MARK + "0" * 64
"""Stands in the file while the checksum is computed."""
MIN_BF16_SIDE = 64
"""Images with a shorter side are not computed in bf16 by networks that do not pad them to it: bf16 convolutions of
oneDNN, which OpenVINO contains too, go wrong on maps one cell wide."""


class Engine(Protocol):
    """A runtime that holds a network and its preprocessing.

    Tiling, stitching and upsampling happen outside, so that every engine's scores are put together in the same way.
    """

    name: str
    """One of torch, openvino and onnxruntime; several where sizes were computed by different ones."""
    precision: str
    """One of fp32, bf16 and int8; several likewise."""

    def scores(self, images: NDArray[Any]) -> Scores:
        """Map images (N, H, W, C) as stored, in the card's bands, to scores (N, K, h, w) by head."""
        ...

    def for_size(self, height: int, width: int) -> Engine:
        """Return the engine for images of a size and their tiles: itself, or the one that "auto" chose for it."""
        return self


class UnsafeProgramError(RuntimeError):
    """A program contains something that an exported network never does."""


def bf16_unsafe(height: int, width: int, min_size: int) -> bool:
    """Return whether an image of a size may have maps one cell wide, which bf16 computes wrongly."""
    return max(min(height, width), min_size) < MIN_BF16_SIDE


def head_names(card: Card) -> list[str]:
    """Return the names of the heads; "" for the only one."""
    return [""] if card.heads is None else list(card.heads)


def output_names(prefix: str, card: Card) -> list[str]:
    """Return the names of a graph's outputs: the prefix, or one for each head."""
    return [f"{prefix}_{name}" if name else prefix for name in head_names(card)]


def by_head(scores: Sequence[NDArray[np.float32]], card: Card) -> Scores:
    """Return the outputs of a graph by the name of their head."""
    return dict(zip(head_names(card), scores, strict=True))


def bytes_or_floats(images: NDArray[Any]) -> NDArray[Any]:
    """Return images as uint8 or float32, the two input types of the graphs."""
    return images if images.dtype == np.uint8 else images.astype(np.float32, copy=False)


def add_checksum(content: bytes, weights: bytes = b"") -> bytes:
    """Return a file's bytes with the checksum in place of `BLANK`."""
    return content.replace(BLANK.encode(), _checksum(content, weights), 1)


def verify_checksum(path: Path, stored: str | None, content: bytes, weights: bytes = b"") -> None:
    """Compare a file with its stored checksum; None, as in files of earlier versions, is accepted."""
    if (
        stored is not None
        and _checksum(content.replace(stored.encode(), BLANK.encode(), 1), weights) != stored.encode()
    ):
        raise ModelFileError(f"{path}: damaged, or changed after it was exported. Export it again.")


def verify_trailing_checksum(path: Path) -> bool:
    """Return whether a file that `add_checksum` wrote with `BLANK` as its last bytes is complete and undamaged."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            left = path.stat().st_size - len(BLANK)
            while left > 0:
                part = file.read(min(left, 2**20))
                if not part:
                    return False
                digest.update(part)
                left -= len(part)
            digest.update(BLANK.encode())
            return file.read() == (MARK + digest.hexdigest()).encode()
    except OSError:
        return False


def _checksum(content: bytes, weights: bytes) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(weights)
    return (MARK + digest.hexdigest()).encode()
