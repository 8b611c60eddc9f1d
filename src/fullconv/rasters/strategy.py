"""How a raster is computed from top to bottom within its memory budget: by chunks of rows, by tiles, or at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.engines import Engine
from fullconv.errors import NetworkError
from fullconv.interpolation import to_numpy
from fullconv.notices import Notice
from fullconv.rasters.reader import RasterReader
from fullconv.segmenter import Segmenter, Tile, check_tile, item_bytes
from fullconv.system import malloc_trim
from fullconv.tiling import (
    TileSpan,
    choose_tile_size,
    estimate_bytes,
    explain_inexact,
    fits,
    memory_warning,
    plan,
    tile_row_scores,
)

if TYPE_CHECKING:
    from fullconv.tiling import RowExecutor, RowGraph

Floats = NDArray[np.float32]
MAX_TILE_SIZE = 4096
"""Pixels; beyond it the margins of tiles cost little and bands only take more memory."""
STRIP_BYTES = 32 * 2**20
"""Memory besides the scores of a tile or band: a strip of logits in several steps, labels, the compressed band."""


class ScoreSource(Protocol):
    """The scores of a raster, band by band; a band is a horizontal part of the raster."""

    bands: int
    """Number of bands."""

    def scores(self, band: int, known: int) -> Floats | None:
        """Compute the scores (1, K, n, w) that a band adds to the ``known`` rows before it; None where there are none yet.

        Bands are requested in order, from any one on.
        """
        ...

    def total(self) -> int:
        """Return the rows of the whole raster's scores."""
        ...


def read_window(raster: RasterReader, hflip: bool, rows: slice, columns: slice) -> NDArray[Any]:
    """Return a window (1, h, w, C) of a raster, or of its mirror image, without what lies beyond its edges."""
    bottom, right = min(rows.stop, raster.height), min(columns.stop, raster.width)
    if not hflip:
        return raster.read(rows.start, bottom, columns.start, right)
    return raster.read(rows.start, bottom, raster.width - right, raster.width - columns.start)[:, :, ::-1]


class TiledScores:
    """Scores by tiles: a band is a row of them."""

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
        self.raster, self.read, self.bands = raster, partial(read_window, raster, hflip), len(rows)

    def scores(self, band: int, known: int) -> Floats:
        """Compute the scores of a row of tiles."""
        found = tile_row_scores(
            lambda image: self.engine.scores(image)[self.head], self.read, self.rows[band], self.columns
        )
        malloc_trim()
        return found

    def total(self) -> int:
        """Return the rows of all scores, from those of the last tile in a narrow strip."""
        last, raster = self.rows[-1], self.raster
        height = min(last.stop, raster.height) - last.start
        empty = np.zeros((1, height, min(64, raster.width), self.network.in_channels), np.float32)
        return last.start // int(self.network.score_stride) + int(self.engine.scores(empty)[self.head].shape[-2])


class StreamedScores:
    """Scores by chunks of rows: every cell is computed once, layers keep what the next band needs.

    A resumed job begins some bands earlier, so far above that no cell still to come sees where it began. As bands end at
    the same rows, the sums are those of a job that was never stopped, bit for bit.
    """

    def __init__(self, engine: Any, graph: RowGraph, raster: RasterReader, rows: int, head: str, hflip: bool) -> None:
        self.engine, self.graph, self.rows, self.head = engine, graph, rows, head
        self.read, self.size = partial(read_window, raster, hflip), (raster.height, raster.width)
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
            image = self.read(rows, slice(0, self.size[1]))
            found = self._executor.push(self.engine.prepare(image, self.graph.network))
        malloc_trim()
        if found is None:
            return None
        return to_numpy(found[self.head] if isinstance(found, dict) else found)


@dataclass(frozen=True)
class Strategy:
    """How a raster is computed; the labels do not depend on it, except for ties at the last bit of a float."""

    tile: int | None
    """Side of a tile's core."""
    rows: int | None
    """Rows of a band, where every cell is computed once; with neither of the two the raster is computed at once."""
    cache: int
    """Bytes of decoded blocks to keep."""
    graph: RowGraph | None = None
    notices: tuple[Notice, ...] = ()

    def sources(self, segmenter: Segmenter, raster: RasterReader, head: str) -> list[ScoreSource]:
        """Return the scores of the raster, of its mirror image where both are averaged, and of each engine."""
        network, size = segmenter.network, (raster.height, raster.width)
        rows, columns = [TileSpan(0, size[0], 0, None)], [TileSpan(0, size[1], 0, None)]
        if self.tile is not None:
            rows, columns = plan(network, *size, self.tile)
        found: list[ScoreSource] = []
        for view in segmenter.options.views:
            for engine in (each.for_size(*size) for each in segmenter.engines):
                if self.rows is not None and self.graph is not None:
                    found.append(StreamedScores(engine, self.graph, raster, self.rows, head, view.hflip))
                else:
                    found.append(TiledScores(engine, network, raster, rows, columns, head, view.hflip))
        return found


def choose_strategy(
    segmenter: Segmenter, raster: RasterReader, tile: Tile, memory: int | None, stopped: Mapping[str, Any] | None
) -> Strategy:
    """Choose how a raster is computed."""
    check_tile(tile)
    network, size = segmenter.network, (raster.height, raster.width)
    if tile == "none":
        return _by_tiles(raster, None)
    if tile != "auto":
        return _by_tiles(raster, -(-int(tile) // network.stride) * network.stride)
    graph, engine = None, segmenter.engine.for_size(*size)
    if len(segmenter.engines) == 1 and hasattr(engine, "net_for"):  # only `TorchEngine` has its layers
        from fullconv.tiling import RowGraph, UnsupportedOpError

        with suppress(UnsupportedOpError):
            graph = RowGraph(engine.net_for(*size))
    if stopped is not None and {"tile", "rows"} <= stopped.keys():
        if stopped["rows"] is not None and graph is not None:
            rows = int(stopped["rows"])
            return Strategy(None, rows, raster.cache_bytes(rows, True), graph)
        return _by_tiles(raster, int(stopped["tile"]) if stopped["tile"] is not None else None)
    item, budget = item_bytes(engine), memory or segmenter.options.budget
    if graph is not None:
        from fullconv.tiling import choose_chunk_rows, estimate_chunk_bytes

        free = budget - STRIP_BYTES - raster.cache_bytes(0, True)
        if segmenter.options.tta:
            free = free * 9 // 10  # what layers keep is kept for each view
        chunk = choose_chunk_rows(graph, *size, free, item)
        if chunk is not None:
            fits(estimate_chunk_bytes(graph, *size, chunk, item), free)
            return Strategy(None, chunk, raster.cache_bytes(chunk, True), graph)
    free = budget - STRIP_BYTES - raster.cache_bytes(0, False)
    whole = estimate_bytes(network, *size, item)
    tile_size = None if fits(whole, free) else choose_tile_size(network, *size, free, item)
    notices = []
    if (memory or segmenter.options.memory) and network.halo is not None:
        text = memory_warning(network, *size, tile_size, budget, item)
        notices += [Notice("memory", text, str(raster.path))] if text else []
    if tile_size is None and network.halo is None and whole > budget:
        raise NetworkError(
            f"{raster.path}: is too large for its memory budget, and tiles cannot be exact: {explain_inexact(network)}"
            " Cut it, or use a model whose tiles are exact."
        )
    return _by_tiles(raster, None if tile_size is None else min(tile_size, MAX_TILE_SIZE), notices)


def _by_tiles(raster: RasterReader, size: int | None, notices: list[Notice] | None = None) -> Strategy:
    return Strategy(size, None, raster.cache_bytes(size or raster.height, False), notices=tuple(notices or ()))
