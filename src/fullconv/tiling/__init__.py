"""Pictures of any size with the whole picture's answer: plans of tiles, stitching, rows, memory."""

from fullconv.tiling.difference import Difference, first_difference
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
from fullconv.tiling.plans import Span, plan, plan_axis, why_not
from fullconv.tiling.reader import UnreadableError
from fullconv.tiling.rows import first_needed, grows_by_size, rows_ready, strips, upsample_rows
from fullconv.tiling.stitching import band_scores, blended_scores, stitched_scores
from fullconv.tiling.stream import RowProgram, RowStream

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
