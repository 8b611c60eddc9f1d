"""How a raster is computed within its memory budget: by chunks of rows, by tiles, or all of it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fullconv.errors import NetworkError
from fullconv.notices import Notice
from fullconv.rasters.reader import RasterReader
from fullconv.rasters.scores import ScoreSource, StreamedScores, TiledScores
from fullconv.segmenter import Segmenter, Tile, check_tile, item_bytes
from fullconv.tiling import (
    TileSpan,
    choose_tile_size,
    estimate_bytes,
    explain_inexact,
    fits,
    memory_warning,
    plan,
)

if TYPE_CHECKING:
    from fullconv.tiling import RowGraph

MAX_TILE_SIZE = 4096
"""Pixels; beyond it the margins of tiles cost little and bands only take more memory."""
STRIP_BYTES = 32 * 2**20
"""Memory besides the scores of a tile or band: a strip of logits in several steps, labels, the compressed band."""


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
    """Choose how a raster is computed.

    Args:
        segmenter: The model.
        raster: The raster.
        tile: "auto", "none", or the side of a tile's core.
        memory: Bytes that the job may take; None is the segmenter's budget.
        stopped: The description of a stopped job: its choice is kept, however much memory is available now.

    Raises:
        InputError: ``tile`` is none of these.
        NetworkError: Tiles cannot be exact, and the whole needs more memory than its budget.
    """
    check_tile(tile)
    network, size = segmenter.network, (raster.height, raster.width)
    if tile == "none":
        return _by_tiles(raster, None)
    if tile != "auto":
        return _by_tiles(raster, -(-int(tile) // network.stride) * network.stride)
    graph = _row_graph(segmenter, raster)
    if stopped is not None and {"tile", "rows"} <= stopped.keys():
        if stopped["rows"] is not None and graph is not None:
            return _by_rows(raster, graph, int(stopped["rows"]))
        return _by_tiles(raster, int(stopped["tile"]) if stopped["tile"] is not None else None)
    item = item_bytes(segmenter.engine.for_size(*size))
    budget = memory or segmenter.options.budget
    if graph is not None:
        from fullconv.tiling import choose_chunk_rows, estimate_chunk_bytes

        free = budget - STRIP_BYTES - raster.cache_bytes(0, True)
        if segmenter.options.tta:
            free = free * 9 // 10  # what layers keep is kept for each view
        rows = choose_chunk_rows(graph, *size, free, item)
        if rows is not None:
            fits(estimate_chunk_bytes(graph, *size, rows, item), free)
            return _by_rows(raster, graph, rows)
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


def _by_rows(raster: RasterReader, graph: RowGraph, rows: int) -> Strategy:
    return Strategy(None, rows, raster.cache_bytes(rows, True), graph)


def _by_tiles(raster: RasterReader, size: int | None, notices: list[Notice] | None = None) -> Strategy:
    return Strategy(size, None, raster.cache_bytes(size or raster.height, False), notices=tuple(notices or ()))


def _row_graph(segmenter: Segmenter, raster: RasterReader) -> RowGraph | None:
    """Return the network by rows; None where network or engine have no such form."""
    engine = segmenter.engine.for_size(raster.height, raster.width)
    if len(segmenter.engines) > 1 or not hasattr(engine, "net_for"):  # only `TorchEngine` has its layers
        return None
    from fullconv.tiling import RowGraph, UnsupportedOpError

    try:
        return RowGraph(engine.net_for(raster.height, raster.width))
    except UnsupportedOpError:
        return None
