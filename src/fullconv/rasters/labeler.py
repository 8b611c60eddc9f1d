"""Labels in horizontal bands: the last rows of a band's scores stay for the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.labels import VOID
from fullconv.profiling import NETWORK, UPSAMPLING, timed
from fullconv.rasters.reader import Raster
from fullconv.rasters.scores import BandScores
from fullconv.segmenter import Segmenter, best_class
from fullconv.tiling import first_required, row_chunks, rows_available, upsample_rows, upsamples_by_size
from fullconv.tta import mean_logits, parse_views


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
    """Those rows, (K, n, w); of the mirror image behind them, where it is averaged in."""
    found: NDArray[np.float32] | None = None
    """All rows of scores that the band added, where they are kept for probabilities."""


class Bands:
    """The labels of a raster, band by band.

    Args:
        segmenter: The model.
        raster: What it labels.
        views: Scores of the raster, and of its mirror image where both are averaged; or one that gives both, in turn.
        keep: Also hand out all scores that a band adds.
    """

    def __init__(self, segmenter: Segmenter, raster: Raster, views: Sequence[BandScores], keep: bool = False) -> None:
        self.segmenter, self.raster, self.views, self.keep = segmenter, raster, views, keep
        self.averaged = len(parse_views(segmenter.tta)) > 1
        self.size, self.count = (raster.height, raster.width), views[0].bands
        self.total = views[0].total() if upsamples_by_size(segmenter.network) else 0

    def label(self, state: State) -> tuple[State, Iterator[NDArray[np.uint8]]]:
        """Compute the next band.

        Args:
            state: What the band before left.

        Returns:
            What this band leaves, and its rows of labels in row_chunks (rows, W) uint8; void is 255.

        Raises:
            InputError: The raster is damaged there.
        """
        after, logits = self._band(state)
        return after, (self._labels(rows, strip) for rows, strip in logits)

    def probabilities(self, state: State) -> tuple[State, Iterator[NDArray[np.float32]]]:
        """Do the same for probabilities: row_chunks (K, rows, W), rounded to the precision of float16; NaN is void."""
        after, logits = self._band(state)
        return after, (self._chances(rows, strip) for rows, strip in logits)

    def _band(self, state: State) -> tuple[State, Iterator[tuple[tuple[int, int], Tensor]]]:
        """Compute the scores of the next band; returns what it leaves, and its logits in row_chunks with their rows."""
        network, device = self.segmenter.network, self.segmenter.device
        height, last = self.size[0], state.band + 1 == self.count
        kept = [] if state.scores is None else [torch.from_numpy(state.scores).to(device)[None]]
        with torch.inference_mode():
            known = state.first + (kept[0].shape[-2] if kept else 0)
            with timed(NETWORK):
                new = [found for view in self.views if (found := view.scores(state.band, known)) is not None]
            if new:
                kept.append(torch.cat(new, dim=1))
            if not kept:
                return State(state.band + 1), iter(())
            scores = torch.cat(kept, dim=-2)
            known = state.first + scores.shape[-2]
            stop = height if last else max(state.row, rows_available(network, known, height, self.total))
            first = max(state.first, min(known - 1, first_required(network, stop, height, self.total)))
            added = torch.cat(new, dim=1)[0].cpu().numpy() if self.keep and new else None
            left = None if last else scores[0, :, first - state.first :].cpu().contiguous().numpy()
        return State(state.band + 1, stop, first, left, added), self._strips(scores, state.first, state.row, stop)

    def _strips(self, scores: Tensor, first: int, start: int, stop: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Grow scores to logits (K, rows, W), strip by strip."""
        if stop == start:
            return
        for a, b in row_chunks(stop - start, self.size[1], scores.shape[1]):
            rows = start + a, start + b
            with torch.inference_mode(), timed(UPSAMPLING):
                logits = upsample_rows(self.segmenter.network, scores, first, self.total, self.size, rows)
                joined = self._joined(logits[0])
            yield rows, joined

    def _joined(self, logits: Tensor) -> Tensor:
        """Average the probabilities of the raster and of its mirror image, (K, rows, W)."""
        if not self.averaged:
            return logits
        plain, mirrored = logits.chunk(2)
        return mean_logits([plain, mirrored.flip(-1)])

    def _labels(self, rows: tuple[int, int], logits: Tensor) -> NDArray[np.uint8]:
        with timed(UPSAMPLING):
            labels = best_class(logits)
        void = self.raster.void(*rows)
        if void is not None:
            labels[void] = VOID
        return labels

    def _chances(self, rows: tuple[int, int], logits: Tensor) -> NDArray[np.float32]:
        chances = logits.softmax(0).half().float().cpu().numpy()
        void = self.raster.void(*rows)
        if void is not None:
            chances[:, void] = np.nan
        return chances
