"""What all masks of a data set hold together: the ground on which their coding is judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fullconv.card import Labels
from fullconv.data.samples import Sample
from fullconv.data.scan.edges import lines_apart, share_of_ramps
from fullconv.data.scan.stats import MaskFacts
from fullconv.data.statistics import all_grey
from fullconv.labels import VOID

SOFT = 0.2
"""Share of edges over a number in between from which on a mask was interpolated or compressed; drawn ones: below 0.07."""

_FEW_RAMPS = 6
_SURE = 40  # places; in one mask, or in all of them where a third are alike
_KINDS = 16  # different numbers in runs of a pixel or two, where these are half of all runs
_REGIONS = 64  # numbers or colours that cover most of any mask, also of a compressed one
_SOME = 6  # masks, fewer of which have no usual kind
_THICK = 8  # pixels; borders of void are thinner, regions are not


@dataclass
class Census:
    """Counts over masks, one by one."""

    void: frozenset[int] = frozenset({VOID})
    """Numbers that are void whatever they stand for."""
    masks: int = 0
    numbers: Counter[int] = field(default_factory=Counter)
    """Pixels by number, of masks of numbers."""
    holders: Counter[int] = field(default_factory=Counter)
    """Masks by number."""
    colors: Counter[int] = field(default_factory=Counter)
    """Pixels by colour, of masks in colour."""
    painters: Counter[int] = field(default_factory=Counter)
    """Masks by colour."""
    colored: list[Sample] = field(default_factory=list)
    """Those in colour."""
    soft: list[tuple[Sample, int]] = field(default_factory=list)
    """Those whose edges go over numbers in between, and at how many places they were seen to."""
    single: list[tuple[Sample, int, int]] = field(default_factory=list)
    """Those where that is one and the same number, which may be a class of borders."""
    firm: Counter[int] = field(default_factory=Counter)
    """Masks by number in which it fills more than borders."""
    rings: int = 0
    """Of the soft ones, as `Traces` counts them."""
    ramps: int = 0
    many: int = 0
    """Masks with more colours than any mask has."""
    tops: Counter[int] = field(default_factory=Counter)
    """Masks that hold all numbers from 0 or 1 to one, by that one."""
    two_valued: list[Sample] = field(default_factory=list)
    """Those of 0 and 255 only, where 255 fills regions."""
    thick_void: int = 0
    """Masks in which 255 fills regions, not borders."""

    def add(self, sample: Sample, facts: MaskFacts, by_color: bool = False) -> None:
        """Count one mask that can be read; `by_color` where colours have names."""
        self.masks += 1
        in_color = facts.in_color and not all_grey(facts)
        if is_blurred(facts, frozenset() if in_color else self.void):
            seen = sum(facts.traces.ramps.values())
            self.soft.append((sample, seen + facts.traces.short * (facts.traces.kinds >= _KINDS)))
            self.ramps += seen
            self.rings += sum(facts.traces.rings.values())
            return
        if in_color:
            self.many += facts.many
            if not by_color:
                self.colors.update(facts.counts)
                self.painters.update(facts.counts.keys())
            self.colored.append(sample)
            return
        counts = {value & VOID if facts.in_color else value: n for value, n in facts.counts.items()}
        self.numbers.update(counts)
        self.holders.update(counts.keys())
        self._look_at_edges(sample, facts, counts)
        if VOID in counts and facts.traces.void_run >= _THICK:
            self.thick_void += 1
            if set(counts) == {0, VOID}:
                self.two_valued.append(sample)
        held = sorted(set(counts) - self.void)
        if len(held) > 1 and held == list(range(held[0], held[-1] + 1)) and held[0] <= 1:
            self.tops[held[-1]] += 1

    def _look_at_edges(self, sample: Sample, facts: MaskFacts, counts: dict[int, int]) -> None:
        ramps = facts.traces.ramps
        scale = lines_apart(facts.size[0])
        self.firm.update(value for value, n in counts.items() if ramps.get(value, 0) * scale < 0.15 * n)
        if is_soft(facts, self.void):
            value = next(iter(set(ramps) - self.void))
            self.single.append((sample, value, ramps[value]))

    def blurred(self) -> list[Sample]:
        """Return the masks that were interpolated or compressed.

        Where all go over one number, as 1 between 0 and 2, that is a class of borders, unless it also fills regions.
        """
        odd = [(sample, seen) for sample, value, seen in self.single if 5 * self.firm[value] >= self.holders[value]]
        found = [*self.soft, *odd]
        # In a small drawn mask a few shapes may touch so that one class lies thinly between two others.
        common = 3 * len(found) >= self.masks and sum(seen for _, seen in found) >= _SURE
        return [sample for sample, seen in found if common or seen >= _SURE]

    def other_binary(self) -> list[Sample]:
        """Return the few masks of 0 and 255 where no other one holds 255, and the others hold classes."""
        few = self.two_valued if 4 * len(self.two_valued) <= self.masks and self.masks >= _SOME else []
        classes = set(self.numbers) - self.void - {0}
        return few if classes and self.holders[VOID] == len(few) else []

    def cause(self) -> str:
        """Say what most probably made the numbers in between."""
        if 4 * self.rings > self.ramps:
            return "as JPEG leaves them, also inside a PNG"
        return "as anti-aliasing and resizing with interpolation leave them"


def is_textured(facts: MaskFacts) -> bool:
    """Whether most of a mask is runs of a pixel or two: a pattern or noise all over, whose edges tell nothing."""
    height, width = facts.size
    searched = -(-height // lines_apart(height)) * width
    return 2 * facts.traces.short >= searched


def is_soft(facts: MaskFacts, void: frozenset[int]) -> bool:
    """Whether the edges of a mask go over numbers or colours in between."""
    if is_textured(facts):
        return False
    ramps = sum(count for value, count in facts.traces.ramps.items() if value not in void)
    return ramps >= _FEW_RAMPS and share_of_ramps(facts.traces, void) >= SOFT


def is_blurred(facts: MaskFacts, void: frozenset[int]) -> bool:
    """Whether it does so over several of them, which no class of borders explains, or is noise there."""
    traces = facts.traces
    noisy = not is_textured(facts) and traces.kinds >= _KINDS and 2 * traces.short >= traces.runs
    if not noisy and (len(set(traces.ramps) - void) < 2 or not is_soft(facts, void)):
        return False
    most = sum(sorted(facts.counts.values(), reverse=True)[:_REGIONS])
    return 2 * most > facts.size[0] * facts.size[1]  # else a photograph


def void_numbers(labels: Labels) -> frozenset[int]:
    """Return the mask values that are void."""
    named = () if labels.values is None else (value for value, index in labels.values.items() if index == VOID)
    return frozenset({VOID, *labels.void_values, *named} - {v for v, i in (labels.values or {}).items() if i != VOID})
