"""Labels in horizontal bands: tiles give scores, the last rows of a band's scores stay for the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.labels import VOID
from fullconv.rasters.source import Raster
from fullconv.segmenter import Segmenter, best_class
from fullconv.tiling import Span, band_scores, first_needed, grows_by_size, rows_ready, strips, upsample_rows


@dataclass(frozen=True)
class State:
    """What one band hands to the next."""

    band: int = 0
    """Bands that are finished."""
    row: int = 0
    """Rows of labels that are finished."""
    first: int = 0
    """Place of the first row of scores that the next rows of labels read."""
    scores: NDArray[np.float32] | None = None
    """Those rows, (K, n, w)."""


class Bands:
    """The labels of a raster, band by band.

    Args:
        segmenter: The model.
        raster: What it labels.
        rows: Plan of the rows: a band each.
        columns: Plan of the columns.
        head: The head's name, or "" for networks of one without a name.
    """

    def __init__(self, segmenter: Segmenter, raster: Raster, rows: list[Span], columns: list[Span], head: str) -> None:
        self.segmenter, self.raster, self.rows, self.columns, self.head = segmenter, raster, rows, columns, head
        self.size = raster.height, raster.width
        self.total = self._count_rows() if grows_by_size(segmenter.network) else 0

    def label(self, state: State) -> tuple[State, Iterator[NDArray[np.uint8]]]:
        """Compute the next band.

        Args:
            state: What the band before left.

        Returns:
            What this band leaves, and its rows of labels in strips (rows, W) uint8; void is 255.

        Raises:
            InputError: The raster is damaged there.
        """
        network, device = self.segmenter.network, self.segmenter.device
        height = self.size[0]
        with torch.inference_mode():
            new = self._scores(self.rows[state.band])
            kept = [] if state.scores is None else [torch.from_numpy(state.scores).to(device)[None]]
            scores = torch.cat([*kept, new], dim=-2)
            known = state.first + scores.shape[-2]
            last = state.band + 1 == len(self.rows)
            stop = height if last else max(state.row, rows_ready(network, known, height, self.total))
            first = max(state.first, min(known - 1, first_needed(network, stop, height, self.total)))
            left = None if last else scores[0, :, first - state.first :].cpu().contiguous().numpy()
        return State(state.band + 1, stop, first, left), self._strips(scores, state.first, state.row, stop)

    def _strips(self, scores: Tensor, first: int, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        if stop == start:
            return
        for a, b in strips(stop - start, self.size[1], scores.shape[1]):
            rows = start + a, start + b
            with torch.inference_mode():
                logits = upsample_rows(self.segmenter.network, scores, first, self.total, self.size, rows)
                labels = best_class(logits[0])
            void = self.raster.void(*rows)
            if void is not None:
                labels[void] = VOID
            yield labels

    def _scores(self, row: Span) -> Tensor:
        """Compute one row of tiles, (1, K, n, w)."""

        def read(row: Span, column: Span) -> Tensor:
            return self.raster.read(
                row.start, min(row.stop, self.size[0]), column.start, min(column.stop, self.size[1])
            )

        def compute(image: Tensor) -> Tensor:
            scores = self.segmenter.engine.scores(image)
            return scores[self.head] if isinstance(scores, dict) else scores

        scores = band_scores(compute, read, row, self.columns)
        assert isinstance(scores, Tensor)
        return scores

    def _count_rows(self) -> int:
        """Return the rows of the whole picture's scores, from those of the last tile in a narrow strip."""
        last = self.rows[-1]
        height = min(last.stop, self.size[0]) - last.start
        empty = torch.zeros(1, height, min(64, self.size[1]), self.segmenter.network.in_channels)
        scores = self.segmenter.engine.scores(empty)
        part = scores[self.head] if isinstance(scores, dict) else scores
        return last.start // self.segmenter.network.score_stride + int(part.shape[-2])
