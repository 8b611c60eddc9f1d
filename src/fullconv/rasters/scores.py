"""Scores of a raster from top to bottom: by chunks of rows, each cell once, or by tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.engines import Engine
from fullconv.interpolation import to_numpy
from fullconv.rasters.reader import RasterReader
from fullconv.system import malloc_trim
from fullconv.tiling import TileSpan, tile_row_scores

if TYPE_CHECKING:
    from fullconv.tiling import RowExecutor, RowGraph

Floats = NDArray[np.float32]


class ScoreSource(Protocol):
    """The scores of a raster, band by band; a band is a horizontal part of the raster."""

    bands: int
    """Number of bands."""

    def scores(self, band: int, known: int) -> Floats | None:
        """Compute the scores of a band.

        Args:
            band: Its index; bands are requested in order, from any one on.
            known: Rows of scores of all bands before it.

        Returns:
            (1, K, n, w), the rows after ``known``; None where there are none yet.
        """
        ...

    def total(self) -> int:
        """Return the rows of the whole raster's scores."""
        ...


class WindowReader:
    """Reads windows of a raster, or of its mirror image."""

    def __init__(self, raster: RasterReader, hflip: bool) -> None:
        self.raster, self.hflip = raster, hflip

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Return a window (1, h, w, C) as stored, without what lies beyond the last row and column."""
        height, width = self.raster.height, self.raster.width
        bottom, right = min(rows.stop, height), min(columns.stop, width)
        if not self.hflip:
            return self.raster.read(rows.start, bottom, columns.start, right)
        return self.raster.read(rows.start, bottom, width - right, width - columns.start)[:, :, ::-1]


class TiledScores:
    """Scores by tiles: a band is a row of them.

    Args:
        engine: Computes the scores.
        network: For its strides and channels.
        raster: The raster.
        rows: Tiles along the rows: a band each.
        columns: Tiles along the columns.
        head: Name of the head; "" for the only one.
        hflip: Read the raster's mirror image.
    """

    def __init__(
        self,
        engine: Engine,
        network: Any,
        raster: RasterReader,
        rows: list[TileSpan],
        columns: list[TileSpan],
        head: str,
        hflip: bool,
    ) -> None:
        self.engine, self.network, self.rows, self.columns, self.head = engine, network, rows, columns, head
        self.windows, self.bands = WindowReader(raster, hflip), len(rows)

    def scores(self, band: int, known: int) -> Floats:
        """Compute the scores of a row of tiles."""
        found = tile_row_scores(
            lambda image: self.engine.scores(image)[self.head], self.windows.read, self.rows[band], self.columns
        )
        malloc_trim()
        return found

    def total(self) -> int:
        """Return the rows of all scores, from those of the last tile in a narrow strip."""
        last, raster = self.rows[-1], self.windows.raster
        height = min(last.stop, raster.height) - last.start
        empty = np.zeros((1, height, min(64, raster.width), self.network.in_channels), np.float32)
        return last.start // int(self.network.score_stride) + int(self.engine.scores(empty)[self.head].shape[-2])


class StreamedScores:
    """Scores by chunks of rows: every cell is computed once, layers keep what the next band needs.

    A resumed job begins some bands earlier, so far above that no cell still to come sees where it began. As bands end at
    the same rows, the sums are those of a job that was never stopped, bit for bit.

    Args:
        engine: A `TorchEngine`.
        graph: The engine's network for the raster's size, by rows.
        raster: The raster.
        rows: Rows of a band, a multiple of the stride.
        head: Name of the head; "" for the only one.
        hflip: Read the raster's mirror image.
    """

    def __init__(self, engine: Any, graph: RowGraph, raster: RasterReader, rows: int, head: str, hflip: bool) -> None:
        self.engine, self.graph, self.rows, self.head = engine, graph, rows, head
        self.windows, self.size = WindowReader(raster, hflip), (raster.height, raster.width)
        self.bands = -(-raster.height // rows)
        self._executor: RowExecutor | None = None
        self._next = 0

    def scores(self, band: int, known: int) -> Floats | None:
        """Compute the scores that a band completes."""
        if self._executor is None or self._next != band:
            network = self.graph.network
            reads = known * network.score_stride + int(network.geometry.y.rf_start)
            start = max(0, min(band, reads // self.rows - 1)) if band else 0
            self._executor = self._start(start * self.rows)
            for before in range(start, band):
                self._push(before)
        return self._push(band)

    def total(self) -> int:
        """Return the rows of all scores."""
        return int(self._start(0).total)

    def _start(self, row: int) -> RowExecutor:
        from fullconv.tiling import RowExecutor

        return RowExecutor(self.graph, *self.size, row)

    def _push(self, band: int) -> Floats | None:
        import torch

        assert self._executor is not None
        rows = slice(band * self.rows, min(self.size[0], (band + 1) * self.rows))
        self._next = band + 1
        with torch.inference_mode():
            image = self.windows.read(rows, slice(0, self.size[1]))
            found = self._executor.push(self.engine.prepare(image, self.graph.network))
        malloc_trim()
        if found is None:
            return None
        return to_numpy(found[self.head] if isinstance(found, dict) else found)
