"""Why masks hold other labels than 0 to K-1: from 1, times a factor, 0 and 255, by instance, 255 as a class, or colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd
from pathlib import Path

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config import config_hint
from fullconv.data.labels.histogram import LabelHistogram
from fullconv.data.problems import Finding
from fullconv.labels import MAX_CLASSES, VOID

_BIT_DEPTH_FACTORS = (256, 257)  # between 8 and 16 bits
_WHITES = (VOID, 65535)  # the largest labels of 8 and 16 bits
_MIN_INSTANCES = 8  # labels from which on they may number objects
_MAX_SHOWN = 40
_EXPORT_CLASSES = "Export the masks again, with one label per class."


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
        for factor in (*_BIT_DEPTH_FACTORS, reduce(gcd, held, 0), reduce(gcd, held - {VOID}, 0)):
            wide = factor in _BIT_DEPTH_FACTORS
            labels = held - {VOID * factor if wide else VOID}
            indices = {value // factor for value in labels} if factor > 1 else set()
            if (
                len(indices - {0}) > (not wide)
                and indices <= set(table)
                and not any(value % factor for value in labels)
            ):
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
        cause = (
            f"masks hold 255, which this format does not define, and otherwise only 0 to {max(others)}: they seem to"
            " number its classes from 0, with 255 for void"
        )
        fix = f"If they do: {config_hint(self.root, self._values(own), ('colors',))}"
        return Finding("off-by-one", self.files, cause=cause, fix=fix, severity="warning")

    def _finding(self, code: str, cause: str, meaning: Mapping[int, int], otherwise: str = "") -> Finding:
        table = self._values(meaning)
        fix = f"{config_hint(self.root, table, ('colors',))}\n{otherwise}".strip()
        return Finding(code, self.files, cause=cause, fix=fix, settings=table)

    def _values(self, meaning: Mapping[int, int]) -> dict[str, object]:
        """Return the keys of data.toml for mask values with the class (or VOID) that each means."""
        names = self.classes or [f"class{i}" for i in range(1 + max(c for c in meaning.values() if c != VOID))]
        values = {value: VOID_NAME if index == VOID else names[index] for value, index in meaning.items()}
        return {**({} if self.classes else {"classes": list(names)}), "values": values}

    def binary(self) -> Finding | None:
        """Masks of 0 and 255 only, or of 0 and 65535."""
        top = max(self.histogram.pixels, default=0)
        if (self.classes and len(self.classes) != 2) or set(self.histogram.pixels) != {0, top} or top not in _WHITES:
            return None
        names = self.classes or ("background", "foreground")
        cause = f"masks hold only 0 and {top}, and " + (
            "255 is void unless a class has it" if top == VOID else f"{top} is no class"
        )
        table = {**({} if self.classes else {"classes": list(names)}), "values": {0: names[0], top: names[1]}}
        fix = config_hint(self.root, table, ("colors",))
        return Finding("binary-mask", self.files, cause=cause, fix=fix, settings=table)

    def scaled(self) -> Finding | None:
        """Masks whose labels were multiplied: by 256 or 257 for 16 bits, or spread over 0 to 255 to be visible."""
        held = set(self.histogram.pixels)
        count = len(self.classes) if self.classes else 0
        if count and max(held, default=0) < count:
            return None
        for factor in (*_BIT_DEPTH_FACTORS, reduce(gcd, held, 0), reduce(gcd, held - {VOID}, 0)):
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
        nested = (
            sum(last.values()) >= 0.9 * histogram.masks
            and len(last) > (2 if self.classes else 3)
            and max(last.values()) <= max(2, histogram.masks // 2)
        )
        rare = sum(histogram.images[value] for value in odd) < 1.5 * len(odd) and len(odd) > 3 * _MIN_INSTANCES
        if not nested and not rare and len(labels) <= MAX_CLASSES:
            return None
        cause = f"masks hold {len(labels)} labels that differ from mask to mask: they number objects, not classes"
        if (self.classes is not None and len(self.classes) > 2) or len(labels) > 4 * MAX_CLASSES:
            return Finding("instance-ids", self.files, cause=cause, fix=_EXPORT_CLASSES)
        names = self.classes or ("background", "object")
        values = {0: names[0]} | {value: names[1] for value in labels if value > 0}
        table = {**({} if self.classes else {"classes": list(names)}), "values": values}
        fix = f"{config_hint(self.root, table, ('colors',))}\nOr export masks with one label per class."
        return Finding("instance-ids", self.files, cause=cause, fix=fix, settings=table)

    def void_as_class(self) -> Finding | None:
        """Masks in which 255, which is void, fills regions, while one class is missing."""
        histogram, names = self.histogram, self.classes
        if names is None or VOID not in histogram.pixels or not has_void_regions(histogram):
            return None
        unused = [i for i in range(len(names)) if not histogram.pixels[i]]
        if len(unused) != 1 or self.labels != [i for i in range(len(names)) if i != unused[0]]:
            return None
        share = 100 * histogram.pixels[VOID] / sum(histogram.pixels.values())
        name = names[unused[0]]
        meaning = {(VOID if i == unused[0] else i): i for i in range(len(names))}
        cause = (
            f"255 is void, but it fills regions in {histogram.void_regions} masks ({share:.2g} % of all pixels),"
            f" and no mask holds {unused[0]} ('{name}')"
        )
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
        table = {
            "classes": [f"class{i}" for i in range(len(labels))],
            "values": {value: f"class{i}" for i, value in enumerate(labels)},
        }
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
    table = {
        "classes": [f"class{i}" for i in range(len(ordered))],
        "colors": {f"#{color:06x}": f"class{i}" for i, color in enumerate(ordered)},
    }
    cause = f"masks are RGB with {len(ordered)} colours that have no class"
    hint = config_hint(root, table, ("values", "ignore_index"))
    fix = f'With your own names ("void" for what is ignored): {hint}'
    return Finding(
        "rgb-mask", files, cause=cause, fix=fix, stems=stems, settings={} if stems or len(ordered) < 2 else table
    )
