"""The seam: pictures as stored in, scores out."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fullconv.nn import Scores


class Engine(Protocol):
    """A runtime that holds a network and its preprocessing.

    Tiles, stitching and upsampling are not its business, so that the answer is put together in one way everywhere.
    """

    @property
    def name(self) -> str:
        """One of torch, openvino and onnxruntime; several of them where sizes were computed by different ones."""
        ...

    @property
    def precision(self) -> str:
        """One of fp32, bf16 and int8; several likewise."""
        ...

    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored, in the card's bands, to scores (N, K, h, w) float32, or a dict by head."""
        ...

    def at(self, height: int, width: int) -> Engine:
        """Return the engine for pictures of a size, all tiles of one included: itself, or what "auto" chose for it."""
        ...


class ForeignProgramError(RuntimeError):
    """A program holds what an exported network never does."""
