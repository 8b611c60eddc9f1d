"""Labels of a raster in horizontal bands: the last rows of a band's scores are kept for the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Labels
from fullconv.interpolation import ScoreLayout, argmax, hflip, mean_logits, softmax, to_numpy
from fullconv.labels import VOID
from fullconv.profiling import NETWORK, UPSAMPLING, timed
from fullconv.rasters.reader import RasterReader
from fullconv.rasters.strategy import ScoreSource
from fullconv.segmenter import Segmenter
from fullconv.tiling import first_required, row_chunks, rows_available, upsamples_by_size


@dataclass(frozen=True)
class StripState:
    """What one band hands to the next."""

    band: int = 0
    """Finished bands."""
    row: int = 0
    """Finished rows of labels."""
    first: int = 0
    """First row of scores that the next rows of labels read."""
    scores: NDArray[np.float32] | None = None
    """These rows of scores, (K, n, w); those of further views follow along the first axis."""
    added_scores: NDArray[np.float32] | None = None
    """All rows of scores that the band added, where they are kept for probabilities."""


class StripLabeler:
    """The labels of a raster, band by band."""

    def __init__(
        self,
        segmenter: Segmenter,
        raster: RasterReader,
        sources: Sequence[ScoreSource],
        labels: Labels,
        keep: bool = False,
    ) -> None:
        self.segmenter, self.raster, self.sources, self.keep = segmenter, raster, sources, keep
        self.mirror_order = labels.mirror_order if labels.mirror_pairs else ()
        self.flips = [view.hflip for view in segmenter.options.views for _ in segmenter.engines]
        self.size, self.count = (raster.height, raster.width), sources[0].bands
        self.total = sources[0].total() if upsamples_by_size(segmenter.network) else 0

    def label(self, state: StripState) -> tuple[StripState, Iterator[NDArray[np.uint8]]]:
        """Compute the next band; returns the state after it, and its labels in strips (rows, W) uint8, void is 255."""
        after, strips = self._band(state)
        return after, (_labels(logits, nodata) for logits, nodata in strips)

    def probabilities(self, state: StripState) -> tuple[StripState, Iterator[NDArray[np.float32]]]:
        """Compute the next band's probabilities in strips (K, rows, W), rounded to float16; void is NaN."""
        after, strips = self._band(state)
        return after, (_probabilities(logits, nodata) for logits, nodata in strips)

    def _band(self, state: StripState) -> tuple[StripState, Iterator[tuple[Any, NDArray[np.bool_] | None]]]:
        """Compute the scores of the next band; returns the state after it, and its logits and nodata mask in strips."""
        network, height = self.segmenter.network, self.size[0]
        parts = [] if state.scores is None else [state.scores[None]]
        known = state.first + (parts[0].shape[-2] if parts else 0)
        with timed(NETWORK):
            views = [found for source in self.sources if (found := source.scores(state.band, known)) is not None]
        new = np.concatenate(views, axis=1) if views else None
        if new is not None:
            parts.append(new)
        if not parts:
            return StripState(state.band + 1), iter(())
        scores = np.concatenate(parts, axis=-2)
        known = state.first + scores.shape[-2]
        last = state.band + 1 == self.count
        stop = height if last else max(state.row, rows_available(network, known, height, self.total))
        first = max(state.first, min(known - 1, first_required(network, stop, height, self.total)))
        rest = None if last else np.ascontiguousarray(scores[0, :, first - state.first :])
        added = new[0] if self.keep and new is not None else None
        after = StripState(state.band + 1, stop, first, rest, added)
        return after, self._strips(scores, state.first, state.row, stop)

    def _strips(
        self, scores: NDArray[np.float32], first: int, start: int, stop: int
    ) -> Iterator[tuple[Any, NDArray[np.bool_] | None]]:
        """Upsample scores to logits (K, rows, W), strip by strip, each with its nodata mask (rows, W)."""
        if stop == start:
            return
        network: Any = self.segmenter.network
        if not isinstance(network, ScoreLayout):
            import torch

            from fullconv.tiling import upsample_rows

            source = torch.from_numpy(scores).to(self.segmenter.device)
        for a, b in row_chunks(stop - start, self.size[1], scores.shape[1]):
            rows = start + a, start + b
            with timed(UPSAMPLING):
                if isinstance(network, ScoreLayout):
                    logits = network.upsample(scores, self.size, rows, None, first, self.total or None)[0]
                else:
                    logits = upsample_rows(network, source, first, self.total, self.size, rows)[0]
                if len(self.flips) > 1:
                    count = len(logits) // len(self.flips)
                    views = [logits[index * count : (index + 1) * count] for index in range(len(self.flips))]
                    flipped = zip(views, self.flips, strict=True)
                    logits = mean_logits([hflip(view, self.mirror_order) if flip else view for view, flip in flipped])
            yield logits, self.raster.nodata(*rows)


def _labels(logits: Any, nodata: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    with timed(UPSAMPLING):
        labels = argmax(logits)
    if nodata is not None:
        labels[nodata] = VOID
    return labels


def _probabilities(logits: Any, nodata: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    chances = to_numpy(softmax(logits)).astype(np.float16).astype(np.float32)
    if nodata is not None:
        chances[:, nodata] = np.nan
    return chances
