"""Labels and colours of all masks together: which were interpolated or compressed, and why labels are not 0 to K-1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import comb, gcd
from pathlib import Path
from typing import Any

from fullconv.card import Labels
from fullconv.data.config import BINARY_NAMES, VOID_NAME, config_hint
from fullconv.data.label_mapping import LabelMapping, is_grey_color
from fullconv.data.problems import Finding
from fullconv.data.samples import Sample
from fullconv.data.scan.stats import MaskStats, edge_row_step
from fullconv.data.statistics import holds_labels
from fullconv.errors import percent
from fullconv.labels import MAX_CLASSES, VOID

_SOFT_SHARE = 0.2  # of a mask's edges that are soft where it was interpolated or compressed; drawn masks: below 0.07
_MIN_SOFT_RUNS = 6
_SURE_RUNS = 40  # in one mask, or in all of them where a third are alike
_NOISE_VALUES = 16  # different labels in short runs, where these are half of all runs
_MAX_AREAS = 64  # labels or colours that cover most of any mask, also of a compressed one
_MIN_MASKS = 6  # fewer have no majority
_MAX_LEVELS = 8  # labels along borders that may be classes in an order; JPEG and resizing make more of many labels
_LARGEST_INDEX = 15  # of labels that may be classes by themselves, where none are named
_WIDE_SHARE = 0.2  # three or four pixels wide, of one or two: levels of a field have more, interpolated edges fewer
_DARK, _LIGHT = 32, 223  # where compressed black and white stay
_MIN_BLACK = 0.85  # of the dark pixels are 0; in masks of labels they are classes
_MIN_TWO_SIDED = 0.9  # of the pixels of each binary mask
_MIN_REGION = 8  # pixels; borders of void are thinner

_MIDDLE = 128
_BIT_DEPTH_FACTORS = (256, 257)  # between 8 and 16 bits
_WHITES = (VOID, 65535)  # the largest labels of 8 and 16 bits
_CHANCE = 0.05
_MIN_INSTANCES = 8  # labels from which on they may number objects
_MAX_SHOWN = 40
_EXPORT_CLASSES = "Export the masks again, with one label per class."


@dataclass
class LabelHistogram:
    """Counts over masks, one by one."""

    void: frozenset[int] = frozenset({VOID})
    """Labels that are void whatever they stand for."""
    known: frozenset[int] | None = None
    """Labels and colours that have a meaning; None where classes are to be inferred."""
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
    readable: int = 0
    """Masks that could be decoded, JPEGs, too."""
    _two_sided: int = 0
    """Those that are black and white but for compressed or soft edges."""
    _filled: int = 0
    """Those that hold more than 0."""
    _light: int = 0
    """Those that hold white."""
    _dark_pixels: int = 0
    _zeros: int = 0
    _soft: list[tuple[Sample, int]] = field(default_factory=list)
    """Masks with soft edges, and the number of soft runs."""
    _rims: list[tuple[Sample, int, int]] = field(default_factory=list)
    """Masks with soft edges whose labels are all classes; the number of soft runs, and of wider ones."""
    _single: list[tuple[Sample, int, int, int]] = field(default_factory=list)
    """Masks whose soft runs all have one label, which may be a class of borders; that label, their number, and wider ones."""
    _area_labels: Counter[int] = field(default_factory=Counter)
    """Masks by label that fills more than borders in them."""
    _overshoots: int = 0
    _soft_runs: int = 0

    def add(self, sample: Sample, stats: MaskStats, colors_named: bool = False) -> None:
        """Count one readable mask that is no JPEG."""
        self.masks += 1
        in_color = not holds_labels(stats)
        edges = stats.edges
        void = frozenset() if in_color else self.void
        if is_blurred(stats, void, self.known):
            count = sum(edges.soft_runs.values())
            self._soft.append((sample, count + edges.short * (edges.short_values >= _NOISE_VALUES)))
            self._soft_runs += count
            self._overshoots += sum(edges.overshoots.values())
            return
        has_rims = _has_soft_labels(stats, void)
        if has_rims:
            self._rims.append((sample, sum(edges.soft_runs.values()), edges.wide_runs))
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
        areas = [value for value, n in counts.items() if edges.soft_runs.get(value, 0) * step < 0.15 * n]
        self._area_labels.update(areas)
        if not has_rims and _is_soft(stats, self.void):
            label = next(iter(set(edges.soft_runs) - self.void))
            self._single.append((sample, label, edges.soft_runs[label], edges.wide_runs))
        if VOID in counts and edges.void_run >= _MIN_REGION:
            self.void_regions += 1
            if set(counts) == {0, VOID}:
                self.binary.append(sample)
        held = sorted(set(counts) - self.void)
        if len(held) > 1 and held == list(range(held[0], held[-1] + 1)) and held[0] <= 1:
            self.last_consecutive[held[-1]] += 1

    def add_values(self, stats: MaskStats) -> None:
        """Count one readable mask by how black and white it is; also a JPEG, which has no labels."""
        self.readable += 1
        if not holds_labels(stats):
            return
        counts = {value & VOID if stats.in_color else value: n for value, n in stats.counts.items()} or {0: 0}
        light = sum(n for value, n in counts.items() if _LIGHT <= value <= VOID)
        dark = sum(n for value, n in counts.items() if value <= _DARK)
        self._two_sided += light + dark >= _MIN_TWO_SIDED * sum(counts.values())
        self._light += light > 0
        self._filled += max(counts) > 0
        self._dark_pixels += dark
        self._zeros += counts.get(0, 0)

    @property
    def is_binary(self) -> bool:
        """Whether all masks are black and white, but for what compression or soft edges made of them."""
        black = self._zeros >= _MIN_BLACK * self._dark_pixels
        return black and self._two_sided == self.readable and 2 * self._light > self._filled

    def blurred(self) -> list[Sample]:
        """Return the masks that were interpolated or compressed: the labels along their edges are no classes."""
        return self._selected([*self._soft, *((s, n) for s, label, n, _ in self._areas() if not self._is_known(label))])

    def rims(self) -> list[Sample]:
        """Return masks in which classes lie between two others along most edges, as interpolation and compression do it.

        So do levels of a smooth field, but these are also a little wider in places.
        """
        found = [*self._rims, *((s, n, wide) for s, label, n, wide in self._areas() if self._is_known(label))]
        if sum(wide for _, _, wide in found) >= _WIDE_SHARE * sum(count for _, count, _ in found):
            return []
        return self._selected([(sample, count) for sample, count, _ in found])

    def _areas(self) -> list[tuple[Sample, int, int, int]]:
        """Return the masks with soft runs of one label that also fills regions; as 1 between 0 and 2 it may be a border."""
        return [row for row in self._single if 5 * self._area_labels[row[1]] >= self.images[row[1]]]

    def _is_known(self, label: int) -> bool:
        return label <= _LARGEST_INDEX if self.known is None else label in self.known

    def _selected(self, found: list[tuple[Sample, int]]) -> list[Sample]:
        # In a small drawn mask a few shapes may touch so that one class lies thinly between two others.
        common = 3 * len(found) >= self.masks and sum(count for _, count in found) >= _SURE_RUNS
        return [sample for sample, count in found if common or count >= _SURE_RUNS]

    def blur_cause(self) -> str:
        """Return what most probably blurred the masks."""
        if 4 * self._overshoots > self._soft_runs:
            return "the pattern of JPEG compression, also inside a PNG"
        return "the pattern of anti-aliasing or interpolation"

    def binary_outliers(self) -> tuple[list[Sample], bool]:
        """Return masks of 0 and 255 where no other one holds 255 and the others hold classes, and whether that is sure.

        It is where so few masks of many, or such a choice of masks, would be chance once in twenty times.
        """
        classes = set(self.pixels) - self.void - {0}
        if not classes or self.images[VOID] != len(self.binary):
            return [], False
        chance = 1 / comb(self.masks, len(self.binary))
        return self.binary, chance < _CHANCE or (4 * len(self.binary) <= self.masks and self.masks >= _MIN_MASKS)


def _is_textured(stats: MaskStats) -> bool:
    """Whether most of a mask is short runs: a pattern or noise all over, whose edges prove nothing."""
    height, width = stats.size
    searched = -(-height // edge_row_step(height)) * width
    return 2 * stats.edges.short >= searched


def _is_soft(stats: MaskStats, void: frozenset[int]) -> bool:
    """Whether the edges of a mask pass over labels or colours in between."""
    soft = sum(count for value, count in stats.edges.soft_runs.items() if value not in void)

    if _is_textured(stats) or soft < _MIN_SOFT_RUNS:
        return False
    return soft >= _SOFT_SHARE * (soft + stats.edges.hard_edges)


def _has_soft_labels(stats: MaskStats, void: frozenset[int]) -> bool:
    """Whether edges pass over several labels or colours in between."""
    return len(set(stats.edges.soft_runs) - void) >= 2 and _is_soft(stats, void)


def is_blurred(stats: MaskStats, void: frozenset[int], known: frozenset[int] | None) -> bool:
    """Whether edges pass over several labels or colours in between, or are noise, which no class explains.

    `known` are those that have a meaning; None where small labels may be classes.
    """
    edges = stats.edges
    noisy = not _is_textured(stats) and edges.short_values >= _NOISE_VALUES and 2 * edges.short >= edges.runs
    if not noisy and not _has_soft_labels(stats, void):
        return False
    soft = {value & VOID if stats.in_color and holds_labels(stats) else value for value in edges.soft_runs} - void
    held = {value & VOID if stats.in_color and holds_labels(stats) else value for value in stats.counts} - void
    classes = range(_LARGEST_INDEX + 1) if known is None else known
    if not noisy and len(soft) <= _MAX_LEVELS and all(value in classes for value in held):
        return False
    most = sum(sorted(stats.counts.values(), reverse=True)[:_MAX_AREAS])
    return 2 * most > stats.size[0] * stats.size[1]  # else a photograph


def threshold_fix(root: Path, histogram: LabelHistogram, classes: Sequence[str] | None) -> dict[str, Any]:
    """Return what a finding about blurred masks adds where they are binary: the key `threshold` as fix and settings."""
    if not histogram.is_binary or (classes is not None and len(classes) != 2):
        return {}
    table: dict[str, Any] = {**({} if classes else {"classes": list(BINARY_NAMES)}), "threshold": _MIDDLE}
    hint = config_hint(root, table, ("values", "colors", "ignore_index"))
    return {"fix": f"They are black and white, so a threshold reads them. {hint}", "settings": table}


def known_values(mapping: LabelMapping) -> frozenset[int]:
    """Return the labels and colours that have a meaning."""
    if not mapping.colors:
        return frozenset(mapping.class_values) | void_labels(mapping.labels)
    greys = {color & VOID for color in mapping.colors if is_grey_color(color)}
    return frozenset(mapping.colors) | greys | frozenset(range(_LARGEST_INDEX + 1) if mapping.by_color else ())


def void_labels(labels: Labels) -> frozenset[int]:
    """Return the mask values that are void."""
    values = labels.values or {}
    named = {value for value, index in values.items() if index == VOID}
    return frozenset({VOID, *labels.void_values, *named} - {value for value, index in values.items() if index != VOID})


@dataclass(frozen=True)
class LabelDiagnosis:
    """The labels of a data set's masks; each method returns why they are not those of the classes, or None."""

    root: Path
    """The data folder."""
    files: Sequence[str]
    """Names of the masks."""
    histogram: LabelHistogram
    classes: Sequence[str] | None
    """Their names; None where they are to be inferred."""

    @property
    def labels(self) -> list[int]:
        """Labels in order, without those that are void."""
        return sorted(set(self.histogram.pixels) - self.histogram.void)

    def diagnose(self) -> Finding | None:
        """Return the first known reason."""
        return self.binary() or self.scaled() or self.one_based() or self.instances() or self.void_as_class()

    def diagnose_format(self, table: Mapping[int, int]) -> Finding | None:
        """Return why the labels are not those of a format's own table, label -> class index or VOID."""
        held = set(self.histogram.pixels)
        found = self._shifted(held, table) if held - {VOID} - set(table) else self._train_ids(held, table)
        if found is None and all(value == index for value, index in table.items()):
            found = self.void_as_class()
        return found

    def _shifted(self, held: set[int], table: Mapping[int, int]) -> Finding | None:
        """Find labels that are in the table after a division, or after subtracting 1."""
        for factor in self._factors:
            wide = factor in _BIT_DEPTH_FACTORS
            labels = held - {VOID * factor if wide else VOID}
            divisible = factor > 1 and not any(value % factor for value in labels)
            indices = {value // factor for value in labels} if divisible else set()
            if len(indices - {0}) > (not wide) and indices <= set(table):
                meaning = {value * factor: index for value, index in table.items()}
                if VOID * factor in held:
                    meaning[VOID * factor] = VOID
                return self._finding("scaled-labels", f"masks hold the labels of this format times {factor}", meaning)
        if 0 not in held and len(held - {VOID}) > 1 and {value - 1 for value in held - {VOID}} <= set(table):
            cause = f"masks hold labels up to {max(held - {VOID})} and no 0: each is 1 more than in this format"
            return self._finding("off-by-one", cause, {value + 1: i for value, i in table.items()})
        return None

    def _train_ids(self, held: set[int], table: Mapping[int, int]) -> Finding | None:
        """Find masks that count the classes from 0, with 255 for void, in a format that does not."""
        own = {index: index for index in range(len(self.classes or ()))}
        others = held - {VOID}
        if VOID not in held or VOID in table or not others <= set(own) or all(table[v] == v for v in others):
            return None
        cause = f"masks hold only 0 to {max(others)}, and 255: they seem to number this format's classes from 0"
        fix = f"If they do: {config_hint(self.root, self._values(own), ('colors',))}"
        return Finding("off-by-one", self.files, cause=cause, fix=fix, severity="warning")

    @property
    def _factors(self) -> tuple[int, ...]:
        """What labels may have been multiplied by."""
        held = set(self.histogram.pixels)
        return (*_BIT_DEPTH_FACTORS, reduce(gcd, held, 0), reduce(gcd, held - {VOID}, 0))

    def _finding(
        self, code: str, cause: str, meaning: Mapping[int, int], otherwise: str = "", names: Sequence[str] = ()
    ) -> Finding:
        """Report what mask values mean, with the lines of data.toml that state it; arguments as of `_values`."""
        table = self._values(meaning, names)
        fix = f"{config_hint(self.root, table, ('colors',))}\n{otherwise}".strip()
        return Finding(code, self.files, cause=cause, fix=fix, settings=table)

    def _values(self, meaning: Mapping[int, int], names: Sequence[str] = ()) -> dict[str, object]:
        """Return the keys of data.toml for mask values and their classes (or VOID), which get `names` if they have none."""
        count = 1 + max(index for index in meaning.values() if index != VOID)
        names = self.classes or names or [f"class{i}" for i in range(count)]
        values = {value: VOID_NAME if index == VOID else names[index] for value, index in meaning.items()}
        return {**({} if self.classes else {"classes": list(names)}), "values": values}

    def binary(self) -> Finding | None:
        """Masks of 0 and 255 only, or of 0 and 65535."""
        top = max(self.histogram.pixels, default=0)
        if (self.classes and len(self.classes) != 2) or set(self.histogram.pixels) != {0, top} or top not in _WHITES:
            return None
        what = "255 is void unless a class has it" if top == VOID else f"{top} is no class"
        cause = f"masks hold only 0 and {top}, and {what}"
        return self._finding("binary-mask", cause, {0: 0, top: 1}, names=BINARY_NAMES)

    def scaled(self) -> Finding | None:
        """Masks whose labels were multiplied: by 256 or 257 for 16 bits, or spread over 0 to 255 to be visible."""
        held = set(self.histogram.pixels)
        count = len(self.classes) if self.classes else 0
        if count and max(held, default=0) < count:
            return None
        for factor in self._factors:
            if (found := self._times(held, factor, count)) is not None:
                return self._finding("scaled-labels", f"masks hold the class labels times {factor}", found)
        if (found := self._stretched(held, count)) is not None:
            return self._finding("scaled-labels", "masks hold the class labels spread over 0 to 255", found)
        return None

    def _times(self, held: set[int], factor: int, count: int) -> dict[int, int] | None:
        wide = factor in _BIT_DEPTH_FACTORS
        void = {VOID * factor} if wide else {VOID} if VOID % max(factor, 1) else set()
        labels = held - void
        if factor < 2 or not labels or any(value % factor for value in labels):
            return None
        indices = {value // factor for value in labels}
        enough = wide or count == 2 or len(indices - {0}) > 1
        if not enough or max(indices) >= (count or MAX_CLASSES):
            return None
        if not count and (len(indices) < 2 or indices != set(range(len(indices)))):
            return None
        found = {index * factor: index for index in range(count or len(indices))}
        return found | dict.fromkeys(sorted(held & void - {VOID}), VOID)

    def _stretched(self, held: set[int], count: int) -> dict[int, int] | None:
        levels = count or len(held)
        if levels < 3 or VOID not in held:
            return None
        found = {}
        for value in held:
            index = round(value * (levels - 1) / VOID)
            if abs(value - index * VOID / (levels - 1)) >= 1:
                return None
            found[value] = index
        missing = set(range(levels)) - set(found.values())
        return None if len(missing) > levels // 3 else dict(sorted(found.items()))

    def one_based(self) -> Finding | None:
        """Masks that count classes from 1."""
        labels = self.labels
        last = len(self.classes) if self.classes else max(labels, default=0)
        if not labels or labels[-1] != last or last < 2:
            return None
        if self.classes is None and labels != list(range(1, last + 1)):
            return None
        meaning = {value: value - 1 for value in range(1, last + 1)}
        if labels[0] > 0:
            cause = f"masks hold the labels {labels[0]} to {last} and no 0: they number the {last} classes from 1"
            return self._finding("off-by-one", cause, meaning)
        if 10 * self.histogram.images[last] < self.histogram.masks:
            return None
        cause = f"masks hold 0 to {last}, one more than there are classes: they number from 1, with 0 for void"
        otherwise = f"Or add the missing class to classes, if {last} is one."
        return self._finding("off-by-one", cause, {0: VOID, **meaning}, otherwise)

    def instances(self) -> Finding | None:
        """Masks that number objects one by one, anew in each image."""
        histogram, labels = self.histogram, self.labels
        odd = [value for value in labels if value >= (len(self.classes) if self.classes else 0)]
        if len(odd) < (2 if self.classes else _MIN_INSTANCES) or histogram.masks < 4:
            return None
        last = histogram.last_consecutive
        varied = len(last) > (2 if self.classes else 3) and max(last.values()) <= max(2, histogram.masks // 2)
        nested = varied and sum(last.values()) >= 0.9 * histogram.masks
        rare = sum(histogram.images[value] for value in odd) < 1.5 * len(odd) and len(odd) > 3 * _MIN_INSTANCES
        if not nested and not rare and len(labels) <= MAX_CLASSES:
            return None
        cause = f"masks hold {len(labels)} labels that differ from mask to mask: they number objects, not classes"
        if (self.classes is not None and len(self.classes) > 2) or len(labels) > 4 * MAX_CLASSES:
            return Finding("instance-ids", self.files, cause=cause, fix=_EXPORT_CLASSES)
        meaning = {0: 0, **{value: 1 for value in labels if value > 0}}
        otherwise = "Or export masks with one label per class."
        return self._finding("instance-ids", cause, meaning, otherwise, names=("background", "object"))

    def void_as_class(self) -> Finding | None:
        """Masks in which 255, which is void, fills regions, while one class is missing."""
        histogram, names = self.histogram, self.classes
        if names is None or VOID not in histogram.pixels or not has_void_regions(histogram):
            return None
        unused = [i for i in range(len(names)) if not histogram.pixels[i]]
        if len(unused) != 1 or self.labels != [i for i in range(len(names)) if i != unused[0]]:
            return None
        share = histogram.pixels[VOID] / sum(histogram.pixels.values())
        name = names[unused[0]]
        meaning = {(VOID if i == unused[0] else i): i for i in range(len(names))}
        regions = f"regions in {histogram.void_regions} masks ({percent(share)} of all pixels)"
        cause = f"255 is void, but it fills {regions}, and no mask holds {unused[0]} ('{name}')"
        hint = config_hint(self.root, self._values(dict(sorted(meaning.items()))), ("colors",))
        return Finding("void-as-class", self.files, cause=cause, fix=f"If 255 is '{name}': {hint}")

    def gaps(self) -> Finding:
        """Labels that are not consecutive, or more than there may be classes."""
        labels = self.labels
        if len(labels) > MAX_CLASSES:
            cause = f"masks hold {len(labels)} different labels, more than {MAX_CLASSES} classes"
            return Finding("label-gaps", self.files, cause=cause, fix=_EXPORT_CLASSES)
        shown = ", ".join(map(str, labels[:_MAX_SHOWN])) + (", ..." if len(labels) > _MAX_SHOWN else "")
        cause = f"masks hold the labels {shown}, which are not 0 to {len(labels) - 1}"
        void = ""
        if has_void_regions(self.histogram):  # more likely a class than a border
            labels, void = [*labels, VOID], ' (255 fills regions; write "void" for it if it is no class)'
        table = self._values({value: i for i, value in enumerate(labels)})
        fix = f"With your own names{void}: {config_hint(self.root, table)}"
        return Finding("label-gaps", self.files, cause=cause, fix=fix, settings=table)


def has_void_regions(histogram: LabelHistogram) -> bool:
    """Whether 255 fills regions in half of the masks that hold it, and in two or more."""
    return 2 * histogram.void_regions >= max(2, histogram.images[VOID])


def unnamed_colors(root: Path, files: Sequence[str], histogram: LabelHistogram, stems: Sequence[str] = ()) -> Finding:
    """Describe masks whose colours have no meaning, with the lines that name them."""
    colors = histogram.color_pixels
    masks = len(histogram.colored)
    shared = sum(histogram.color_images.values()) / max(1, len(colors))
    if masks >= 4 and 12 < len(colors) < 60 * masks and shared <= 1.5:
        cause = f"masks hold {len(colors)} colours that differ from mask to mask: they paint objects, not classes"
        fix = "Export the masks again, with one colour or label per class."
        return Finding("instance-ids", files, cause=cause, fix=fix)
    if len(colors) > _MAX_SHOWN:
        cause = f"masks hold {len(colors)} colours or more: they were compressed or resized, or are no masks"
        return Finding("rgb-mask", files, cause=cause, fix="Export the masks again, as indexed PNG.", stems=stems)
    ordered = [color for color, _ in colors.most_common()]
    names = {f"#{color:06x}": f"class{i}" for i, color in enumerate(ordered)}
    table = {"classes": list(names.values()), "colors": names}
    cause = f"masks are RGB with {len(ordered)} colours that have no class"
    hint = config_hint(root, table, ("values", "ignore_index"))
    fix = f'With your own names ("void" for what is ignored): {hint}'
    settings = {} if stems or len(ordered) < 2 else table
    return Finding("rgb-mask", files, cause=cause, fix=fix, stems=stems, settings=settings)
