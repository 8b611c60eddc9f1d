"""Scores of a raster from top to bottom: by rows, each cell once, or by tiles."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor

from fullconv.engines import TorchEngine
from fullconv.nn import Scores
from fullconv.preprocess import normalize
from fullconv.rasters.reader import Raster
from fullconv.segmenter import Segmenter
from fullconv.system import malloc_trim
from fullconv.tiling import RowExecutor, RowGraph, TileSpan, tile_row_scores


class BandScores(Protocol):
    """What gives the scores of a raster, band by band."""

    bands: int
    """How many bands there are."""

    def scores(self, band: int, known: int) -> Tensor | None:
        """Compute the scores of a band.

        Args:
            band: Bands are asked for in order, from any on.
            known: Rows of scores of all bands before it.

        Returns:
            (1, K, n, w) float32, the rows behind ``known``; None where there are none yet.
        """
        ...

    def total(self) -> int:
        """Return the rows of the whole raster's scores."""
        ...


class _Windows:
    """Reads windows of a raster, or of its mirror image."""

    def __init__(self, raster: Raster, mirrored: bool) -> None:
        self.raster, self.mirrored = raster, mirrored

    def read(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Return a window (1, h, w, C) as stored; what lies beyond the last row and column is left out."""
        height, width = self.raster.height, self.raster.width
        bottom, right = min(bottom, height), min(right, width)
        if not self.mirrored:
            return self.raster.read(top, bottom, left, right)
        return self.raster.read(top, bottom, width - right, width - left).flip(2)


class TiledScores:
    """Scores by tiles: a band is a row of them.

    Args:
        segmenter: The model.
        raster: What it reads.
        rows: Plan of the rows: a band each.
        columns: Plan of the columns.
        head: The head's name, or "" for networks of one without a name.
        mirrored: Read the raster's mirror image.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        raster: Raster,
        rows: list[TileSpan],
        columns: list[TileSpan],
        head: str,
        mirrored: bool,
    ) -> None:
        self.segmenter, self.rows, self.columns, self.head = segmenter, rows, columns, head
        self.engine = segmenter.engine.at(raster.height, raster.width)
        self.windows, self.bands = _Windows(raster, mirrored), len(rows)

    def scores(self, band: int, known: int) -> Tensor:
        """Compute the scores of a row of tiles."""

        def read(rows: slice, columns: slice) -> Tensor:
            return self.windows.read(rows.start, rows.stop, columns.start, columns.stop)

        def compute(image: Tensor) -> Tensor:
            return _of_head(self.engine.scores(image), self.head)

        found = tile_row_scores(compute, read, self.rows[band], self.columns)
        malloc_trim()
        return found

    def total(self) -> int:
        """Return the rows of all scores, from those of the last tile in a narrow strip."""
        last, network = self.rows[-1], self.segmenter.network
        height = min(last.stop, self.windows.raster.height) - last.start
        empty = torch.zeros(1, height, min(64, self.windows.raster.width), network.in_channels)
        part = _of_head(self.engine.scores(empty), self.head)
        return last.start // network.score_stride + int(part.shape[-2])


class StreamedScores:
    """Scores by rows: every cell is computed once, layers keep what the next band needs.

    A job that goes on begins some bands earlier, so far above that no cell which is still to come sees where it began.
    As bands end at the same rows then, the sums are those of a job that was never stopped, bit for bit.

    Args:
        segmenter: The model, on the engine torch.
        raster: What it reads.
        program: Of the network that the engine chose for the raster.
        rows: Rows of a band, a multiple of the stride.
        head: The head's name, or "" for networks of one without a name.
        mirrored: Read the raster's mirror image.
    """

    def __init__(
        self, segmenter: Segmenter, raster: Raster, program: RowGraph, rows: int, head: str, mirrored: bool
    ) -> None:
        self.segmenter, self.program, self.rows, self.head = segmenter, program, rows, head
        self.windows, self.size = _Windows(raster, mirrored), (raster.height, raster.width)
        self.bands = -(-raster.height // rows)
        self._stream: RowExecutor | None = None
        self._next = 0

    def scores(self, band: int, known: int) -> Tensor | None:
        """Compute the scores that a band completes."""
        if self._stream is None or self._next != band:
            self._begin(band, known)
        return self._push(band)

    def total(self) -> int:
        """Return the rows of all scores."""
        return RowExecutor(self.program, *self.size).total

    def _begin(self, band: int, known: int) -> None:
        """Begin at a band, or so far above it that its cells do not see it."""
        network = self.program.network
        reads = known * network.score_stride + int(network.geometry.y.lo)
        start = max(0, min(band, reads // self.rows - 1)) if band else 0
        self._stream = RowExecutor(self.program, *self.size, start * self.rows)
        for before in range(start, band):
            self._push(before)

    def _push(self, band: int) -> Tensor | None:
        assert self._stream is not None
        top = band * self.rows
        self._next = band + 1
        found = self._stream.push(self._input(top, min(self.size[0], top + self.rows)))
        malloc_trim()
        return None if found is None else _of_head(found, self.head).float()

    def _input(self, top: int, bottom: int) -> Tensor:
        engine = cast(TorchEngine, self.segmenter.engine.at(*self.size))
        pixels = self.windows.read(top, bottom, 0, self.size[1])
        weight = next(self.program.network.parameters())
        return normalize(pixels.to(engine.device, non_blocking=True), engine.card).to(weight.dtype)


def _of_head(scores: Scores, head: str) -> Tensor:
    return scores[head] if isinstance(scores, dict) else scores
