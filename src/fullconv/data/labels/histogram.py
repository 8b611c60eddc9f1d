"""Labels and colours of all masks together, and which masks were interpolated or compressed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fullconv.card import Labels
from fullconv.data.samples import Sample
from fullconv.data.scan.stats import MaskStats, edge_row_step
from fullconv.data.statistics import holds_labels
from fullconv.labels import VOID

_SOFT_SHARE = 0.2  # of a mask's edges that are soft where it was interpolated or compressed; drawn masks: below 0.07
_MIN_SOFT_RUNS = 6
_SURE_RUNS = 40  # in one mask, or in all of them where a third are alike
_NOISE_VALUES = 16  # different labels in short runs, where these are half of all runs
_MAX_AREAS = 64  # labels or colours that cover most of any mask, also of a compressed one
_MIN_MASKS = 6  # fewer have no majority
_MIN_REGION = 8  # pixels; borders of void are thinner


@dataclass
class LabelHistogram:
    """Counts over masks, one by one."""

    void: frozenset[int] = frozenset({VOID})
    """Labels that are void whatever they stand for."""
    masks: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    """By label, of masks of labels."""
    images: Counter[int] = field(default_factory=Counter)
    """Masks by label."""
    color_pixels: Counter[int] = field(default_factory=Counter)
    """By colour, of masks in colour whose colours have no meaning yet."""
    color_images: Counter[int] = field(default_factory=Counter)
    """Masks by colour."""
    colored: list[Sample] = field(default_factory=list)
    """Those in colour."""
    last_consecutive: Counter[int] = field(default_factory=Counter)
    """Masks that hold all labels from 0 or 1 to a last one, by the last."""
    void_regions: int = 0
    """Masks in which 255 fills regions, not borders."""
    binary: list[Sample] = field(default_factory=list)
    """Masks of 0 and 255 only, where 255 fills regions."""
    _soft: list[tuple[Sample, int]] = field(default_factory=list)
    """Masks with soft edges, and the number of soft runs."""
    _single: list[tuple[Sample, int, int]] = field(default_factory=list)
    """Masks whose soft runs all have one label, which may be a class of borders; that label, and their number."""
    _area_labels: Counter[int] = field(default_factory=Counter)
    """Masks by label that fills more than borders in them."""
    _overshoots: int = 0
    _soft_runs: int = 0

    def add(self, sample: Sample, stats: MaskStats, colors_named: bool = False) -> None:
        """Count one readable mask."""
        self.masks += 1
        in_color = not holds_labels(stats)
        edges = stats.edges
        if is_blurred(stats, frozenset() if in_color else self.void):
            count = sum(edges.soft_runs.values())
            self._soft.append((sample, count + edges.short * (edges.short_values >= _NOISE_VALUES)))
            self._soft_runs += count
            self._overshoots += sum(edges.overshoots.values())
            return
        if in_color:
            if not colors_named:
                self.color_pixels.update(stats.counts)
                self.color_images.update(stats.counts.keys())
            self.colored.append(sample)
            return
        counts = {value & VOID if stats.in_color else value: n for value, n in stats.counts.items()}
        self.pixels.update(counts)
        self.images.update(counts.keys())
        step = edge_row_step(stats.size[0])
        self._area_labels.update(
            value for value, n in counts.items() if edges.soft_runs.get(value, 0) * step < 0.15 * n
        )
        if _is_soft(stats, self.void):
            label = next(iter(set(edges.soft_runs) - self.void))
            self._single.append((sample, label, edges.soft_runs[label]))
        if VOID in counts and edges.void_run >= _MIN_REGION:
            self.void_regions += 1
            if set(counts) == {0, VOID}:
                self.binary.append(sample)
        held = sorted(set(counts) - self.void)
        if len(held) > 1 and held == list(range(held[0], held[-1] + 1)) and held[0] <= 1:
            self.last_consecutive[held[-1]] += 1

    def blurred(self) -> list[Sample]:
        """Return the masks that were interpolated or compressed.

        Soft runs of one label, as 1 between 0 and 2, are a class of borders, unless it also fills regions.
        """
        areas = [(s, n) for s, label, n in self._single if 5 * self._area_labels[label] >= self.images[label]]
        found = [*self._soft, *areas]
        # In a small drawn mask a few shapes may touch so that one class lies thinly between two others.
        common = 3 * len(found) >= self.masks and sum(count for _, count in found) >= _SURE_RUNS
        return [sample for sample, count in found if common or count >= _SURE_RUNS]

    def blur_cause(self) -> str:
        """Return what most probably blurred the masks."""
        if 4 * self._overshoots > self._soft_runs:
            return "the pattern of JPEG compression, also inside a PNG"
        return "the pattern of anti-aliasing or interpolation"

    def binary_outliers(self) -> list[Sample]:
        """Return the few masks of 0 and 255 where no other one holds 255, and the others hold classes."""
        few = self.binary if 4 * len(self.binary) <= self.masks and self.masks >= _MIN_MASKS else []
        classes = set(self.pixels) - self.void - {0}
        return few if classes and self.images[VOID] == len(few) else []


def _is_textured(stats: MaskStats) -> bool:
    """Whether most of a mask is short runs: a pattern or noise all over, whose edges prove nothing."""
    height, width = stats.size
    searched = -(-height // edge_row_step(height)) * width
    return 2 * stats.edges.short >= searched


def _is_soft(stats: MaskStats, void: frozenset[int]) -> bool:
    """Whether the edges of a mask pass over labels or colours in between."""
    soft = stats.edges.soft_count(void)
    if _is_textured(stats) or soft < _MIN_SOFT_RUNS:
        return False
    return soft >= _SOFT_SHARE * (soft + stats.edges.hard_edges)


def is_blurred(stats: MaskStats, void: frozenset[int]) -> bool:
    """Whether edges pass over several labels or colours in between, which no class of borders explains, or are noise."""
    edges = stats.edges
    noisy = not _is_textured(stats) and edges.short_values >= _NOISE_VALUES and 2 * edges.short >= edges.runs
    if not noisy and (len(set(edges.soft_runs) - void) < 2 or not _is_soft(stats, void)):
        return False
    most = sum(sorted(stats.counts.values(), reverse=True)[:_MAX_AREAS])
    return 2 * most > stats.size[0] * stats.size[1]  # else a photograph


def void_labels(labels: Labels) -> frozenset[int]:
    """Return the mask values that are void."""
    values = labels.values or {}
    named = {value for value, index in values.items() if index == VOID}
    return frozenset({VOID, *labels.void_values, *named} - {value for value, index in values.items() if index != VOID})
