"""How a raster is computed within the memory allowed: by rows, by tiles, or all of it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fullconv.engines import TorchEngine
from fullconv.errors import InputError, NetworkError
from fullconv.rasters.reader import Raster
from fullconv.rasters.scores import BandScores, StreamedScores, TiledScores
from fullconv.segmenter import Segmenter, Tile
from fullconv.tiling import (
    RowGraph,
    TileSpan,
    UnsupportedOpError,
    choose_chunk_rows,
    choose_tile_size,
    default_budget,
    estimate_bytes,
    estimate_chunk_bytes,
    explain_inexact,
    fits,
    memory_warning,
    plan,
)
from fullconv.tta import parse_views

LARGEST_CORE = 4096
"""Pixels; beyond it the margins of tiles cost little and bands only hold more."""
AROUND = 32 * 2**20
"""Bytes beside the scores of a tile or band: a strip of logits in several steps, labels, the packed band."""


@dataclass(frozen=True)
class Way:
    """How a raster is computed; the labels do not depend on it, but for ties at the last bit of a float."""

    tile: int | None
    """Side of a tile's core."""
    rows: int | None
    """Rows of a band, where every cell is computed once; with neither of the two the raster is computed at once."""
    cache: int
    """Bytes of decoded blocks to keep."""
    program: RowGraph | None = None

    def views(self, segmenter: Segmenter, raster: Raster, head: str) -> list[BandScores]:
        """Return what gives the scores of the raster, and of its mirror image where both are averaged."""
        flips = [view.mirrored for view in parse_views(segmenter.tta)]
        if self.rows is not None and self.program is not None:
            return [StreamedScores(segmenter, raster, self.program, self.rows, head, flip) for flip in flips]
        rows, columns = [TileSpan(0, raster.height, 0, None)], [TileSpan(0, raster.width, 0, None)]
        if self.tile is not None:
            rows, columns = plan(segmenter.network, raster.height, raster.width, self.tile)
        return [TiledScores(segmenter, raster, rows, columns, head, flip) for flip in flips]


def choose_way(
    segmenter: Segmenter, raster: Raster, tile: Tile, memory: int | None, begun: Mapping[str, Any] | None
) -> Way:
    """Choose how a raster is computed.

    Args:
        segmenter: The model.
        raster: The raster.
        tile: "auto", "none", or the side of a tile's core.
        memory: Bytes that the job may take; None is the segmenter's, or a quarter of what is free.
        begun: What a stopped job says of itself: what was chosen then holds, however much is free now.

    Raises:
        InputError: ``tile`` is none of these.
        NetworkError: Tiles cannot be exact, and the whole needs more memory than is allowed.
    """
    if tile == "none":
        return _by_tiles(raster, None)
    if tile != "auto":
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise InputError(f'tile is "auto", "none" or a number of pixels from 1, not {tile!r}.')
        align = segmenter.network.stride
        return _by_tiles(raster, -(-tile // align) * align)
    program = _program(segmenter, raster)
    if begun is not None and {"tile", "rows"} <= begun.keys():
        if begun["rows"] is not None and program is not None:
            return _by_rows(raster, program, int(begun["rows"]))
        return _by_tiles(raster, int(begun["tile"]) if begun["tile"] is not None else None)
    item = 2 if segmenter.engine.at(raster.height, raster.width).precision == "bf16" else 4
    allowed = memory or segmenter.memory or default_budget()
    if program is not None:
        free = allowed - AROUND - raster.cache_bytes(0, True)
        if segmenter.tta:
            free = free * 9 // 10  # what layers keep is kept for each view
        rows = choose_chunk_rows(program, raster.height, raster.width, free, item)
        if rows is not None:
            fits(estimate_chunk_bytes(program, raster.height, raster.width, rows, item), free)
            return _by_rows(raster, program, rows)
    return _by_tiles(raster, _core(segmenter, raster, allowed, item, named=bool(memory or segmenter.memory)))


def _by_rows(raster: Raster, program: RowGraph, rows: int) -> Way:
    return Way(None, rows, raster.cache_bytes(rows, True), program)


def _by_tiles(raster: Raster, core: int | None) -> Way:
    return Way(core, None, raster.cache_bytes(core or raster.height, False))


def _program(segmenter: Segmenter, raster: Raster) -> RowGraph | None:
    """Return the network by rows, or None where network or engine have no such form."""
    engine = segmenter.engine.at(raster.height, raster.width)
    if not isinstance(engine, TorchEngine):
        return None
    try:
        return RowGraph(engine.chosen(raster.height, raster.width))
    except UnsupportedOpError:
        return None


def _core(segmenter: Segmenter, raster: Raster, allowed: int, item: int, named: bool) -> int | None:
    """Return the side of a tile's core, or None for the whole at once.

    Raises:
        NetworkError: Tiles cannot be exact, and the whole needs more memory than is allowed.
    """
    network, size = segmenter.network, (raster.height, raster.width)
    free = allowed - AROUND - raster.cache_bytes(0, False)
    core = None if fits(estimate_bytes(network, *size, item), free) else choose_tile_size(network, *size, free, item)
    if named and network.halo is not None:
        segmenter.remark("memory", lambda: memory_warning(network, *size, core, allowed, item))
    if core is None and network.halo is None and estimate_bytes(network, *size, item) > allowed:
        raise NetworkError(
            f"{raster.path}: is too large for the memory allowed, and tiles cannot be exact: {explain_inexact(network)}"
            " Cut it, or use a model whose tiles are exact."
        )
    return None if core is None else min(core, LARGEST_CORE)
