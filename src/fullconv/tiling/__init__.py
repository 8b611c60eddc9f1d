"""Pictures of any size with the whole picture's answer: plans of tiles, stitching, rows, memory."""

from fullconv.tiling.debug import Difference, first_difference
from fullconv.tiling.memory import (
    band_bytes,
    band_rows,
    fits,
    hand_back,
    memory_allowed,
    memory_free,
    memory_remark,
    tile_core,
    whole_bytes,
)
from fullconv.tiling.plan import Span, band_scores, blended_scores, plan, plan_axis, stitched_scores, why_not
from fullconv.tiling.streaming.executor import (
    RowProgram,
    RowStream,
    first_needed,
    grows_by_size,
    rows_ready,
    strips,
    upsample_rows,
)
from fullconv.tiling.streaming.lowering import UnreadableError

__all__ = [
    "Difference",
    "RowProgram",
    "RowStream",
    "Span",
    "UnreadableError",
    "band_bytes",
    "band_rows",
    "band_scores",
    "blended_scores",
    "first_difference",
    "first_needed",
    "fits",
    "grows_by_size",
    "hand_back",
    "memory_allowed",
    "memory_free",
    "memory_remark",
    "plan",
    "plan_axis",
    "rows_ready",
    "stitched_scores",
    "strips",
    "tile_core",
    "upsample_rows",
    "whole_bytes",
    "why_not",
]
