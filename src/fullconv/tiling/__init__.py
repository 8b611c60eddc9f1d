"""Images of any size with the whole image's result: plans of tiles, stitching, chunks of rows, memory estimates.

Plans, stitching and estimates work without torch; the other names load on first use.
"""

from typing import TYPE_CHECKING

from fullconv._lazy import attach
from fullconv.tiling.memory import (
    choose_chunk_rows,
    choose_tile_size,
    default_budget,
    estimate_bytes,
    estimate_chunk_bytes,
    fits,
    memory_warning,
)
from fullconv.tiling.plan import (
    TileSpan,
    explain_inexact,
    first_required,
    plan,
    plan_axis,
    row_chunks,
    rows_available,
    sliding_window,
    tile_row_scores,
    tiled_scores,
    upsamples_by_size,
)

if TYPE_CHECKING:
    from fullconv.tiling.debug import Divergence, find_divergence, prove_tiles
    from fullconv.tiling.streaming import RowExecutor, RowGraph, UnsupportedOpError, upsample_rows

__all__ = [
    "Divergence",
    "RowExecutor",
    "RowGraph",
    "TileSpan",
    "UnsupportedOpError",
    "choose_chunk_rows",
    "choose_tile_size",
    "default_budget",
    "estimate_bytes",
    "estimate_chunk_bytes",
    "explain_inexact",
    "find_divergence",
    "first_required",
    "fits",
    "memory_warning",
    "plan",
    "plan_axis",
    "prove_tiles",
    "row_chunks",
    "rows_available",
    "sliding_window",
    "tile_row_scores",
    "tiled_scores",
    "upsample_rows",
    "upsamples_by_size",
]

if not TYPE_CHECKING:  # else every name would exist for type checkers
    __getattr__, _ = attach(
        __name__,
        {
            "Divergence": "fullconv.tiling.debug",
            "find_divergence": "fullconv.tiling.debug",
            "prove_tiles": "fullconv.tiling.debug",
            **dict.fromkeys(
                ("RowExecutor", "RowGraph", "UnsupportedOpError", "upsample_rows"), "fullconv.tiling.streaming"
            ),
        },
    )
