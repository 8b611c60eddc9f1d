"""How masks are numbered where it is not 0 to K-1: from 1, times a factor, 0 and 255, by instance, with 255 as a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd
from pathlib import Path

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config_hints import advise
from fullconv.data.labels.histogram import Census
from fullconv.data.problems import Problem, problem
from fullconv.labels import MAX_CLASSES, VOID

_WIDE = (256, 257)
"""Factors between 8 and 16 bits."""

_TOPS = (VOID, 65535)
"""The largest numbers of 8 and 16 bits, which are white."""

_MANY = 8
"""Numbers from which on they may count instances."""


@dataclass(frozen=True)
class Numbering:
    """The numbers of a data set's masks.

    Args:
        root: The data folder.
        files: The masks' names.
        census: What they hold.
        classes: Their names, or None where nobody named them.
    """

    root: Path
    files: Sequence[str]
    census: Census
    classes: Sequence[str] | None

    @property
    def values(self) -> list[int]:
        """Numbers in order, without those that are void."""
        return sorted(set(self.census.numbers) - self.census.void)

    def diagnose(self) -> list[Problem]:
        """Return why the numbers are not those of the named classes; nothing where they are, or no cause is known."""
        for found in (self.binary(), self.scaled(), self.from_one(), self.instances()):
            if found is not None:
                return [found]
        found = self.void_regions()
        return [] if found is None else [found]

    def diagnose_format(self, table: Mapping[int, int]) -> list[Problem]:
        """Return why the numbers are not those of a format's own table, number -> class index or VOID.

        Numbers that it does not hold but would if they were divided by a factor or counted from one less say so; so
        does 255 that it does not know, where all others are the classes' own indices.
        """
        held = set(self.census.numbers)
        found = self._moved(held, table) if held - {VOID} - set(table) else self._own_numbers(held, table)
        if found is None and all(value == index for value, index in table.items()):
            found = self.void_regions()
        return [] if found is None else [found]

    def _moved(self, held: set[int], table: Mapping[int, int]) -> Problem | None:
        for factor in (*_WIDE, reduce(gcd, held, 0), reduce(gcd, held - {VOID}, 0)):
            numbers = held - {VOID * factor if factor in _WIDE else VOID}
            indices = {value // factor for value in numbers} if factor > 1 else set()
            enough = len(indices - {0}) > (factor not in _WIDE)
            if enough and indices <= set(table) and not any(value % factor for value in numbers):
                meaning = {value * factor: index for value, index in table.items()}
                if VOID * factor in held:
                    meaning[VOID * factor] = VOID
                words = f"masks hold the numbers of this format times {factor}"
                return self._problem("scaled-labels", words, self._table(meaning))
        if 0 not in held and len(held - {VOID}) > 1 and {value - 1 for value in held - {VOID}} <= set(table):
            words = f"masks hold {max(held - {VOID})} and no 0, so they count one further than this format does"
            return self._problem("off-by-one", words, self._table({value + 1: i for value, i in table.items()}))
        return None

    def _own_numbers(self, held: set[int], table: Mapping[int, int]) -> Problem | None:
        """Masks that count the classes from 0, with 255 for void, in a format that does otherwise."""
        names = self.classes or ()
        own = {index: index for index in range(len(names))}
        others = held - {VOID}
        if VOID not in held or VOID in table or not others <= set(own) or all(table[v] == v for v in others):
            return None
        words = (
            f"masks hold 255, which this format does not know, and else only 0 to {max(others)}: they seem to count"
            " its classes from 0, with 255 for void"
        )
        remedy = f"If they do: {advise(self.root, self._table(own), ('colors',))}"
        return problem("off-by-one", "warning", self.files, words, remedy)

    def _problem(self, code: str, words: str, table: Mapping[str, object] | None, otherwise: str = "") -> Problem:
        if table is None:
            return problem(code, "error", self.files, words, otherwise)
        remedy = advise(self.root, table, ("colors",))
        return problem(code, "error", self.files, words, f"{remedy}\n{otherwise}".strip(), settings=table)

    def _table(self, meaning: Mapping[int, int]) -> dict[str, object]:
        """Return the keys of data.toml for mask values with the class (or VOID) that each means."""
        named = self.classes or [f"class{i}" for i in range(1 + max(c for c in meaning.values() if c != VOID))]
        values = {value: VOID_NAME if index == VOID else named[index] for value, index in meaning.items()}
        table: dict[str, object] = {} if self.classes else {"classes": list(named)}
        return {**table, "values": values}

    def binary(self) -> Problem | None:
        """Masks of 0 and 255 only, or of 0 and 65535."""
        top = max(self.census.numbers, default=0)
        if (self.classes and len(self.classes) != 2) or set(self.census.numbers) != {0, top} or top not in _TOPS:
            return None
        first, second = self.classes or ("background", "foreground")
        table: dict[str, object] = {} if self.classes else {"classes": [first, second]}
        table["values"] = {0: first, top: second}
        means = "255 is void unless it is named as a class" if top == VOID else f"{top} is no class unless it is named"
        words = f"masks hold only 0 and {top}, and {means}"
        return self._problem("binary-mask", words, table)

    def scaled(self) -> Problem | None:
        """Masks whose numbers were multiplied: by 256 or 257 for 16 bits, or spread over 0 to 255 to be seen."""
        held = set(self.census.numbers)
        count = len(self.classes) if self.classes else 0
        if count and max(held, default=0) < count:
            return None
        for factor in (*_WIDE, reduce(gcd, held, 0), reduce(gcd, held - {VOID}, 0)):
            found = self._times(held, factor, count)
            if found is not None:
                words = f"masks hold the class numbers times {factor}"
                return self._problem("scaled-labels", words, self._table(found))
        spread = self._spread(held, count)
        if spread is None:
            return None
        return self._problem("scaled-labels", "masks hold the class numbers spread over 0 to 255", self._table(spread))

    def _times(self, held: set[int], factor: int, count: int) -> dict[int, int] | None:
        void = {VOID * factor} if factor in _WIDE else {VOID} if VOID % max(factor, 1) else set()
        numbers = held - void
        if factor < 2 or not numbers or any(value % factor for value in numbers):
            return None
        indices = {value // factor for value in numbers}
        enough = factor in _WIDE or count == 2 or len(indices - {0}) > 1
        if not enough or max(indices) >= (count or MAX_CLASSES) or (not count and indices != set(range(len(indices)))):
            return None
        if not count and len(indices) < 2:
            return None
        found = {index * factor: index for index in range(count or len(indices))}
        return found | dict.fromkeys(sorted(held & void - {VOID}), VOID)

    def _spread(self, held: set[int], count: int) -> dict[int, int] | None:
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

    def from_one(self) -> Problem | None:
        """Masks that count classes from 1."""
        values = self.values
        last = len(self.classes) if self.classes else max(values, default=0)
        if not values or values[-1] != last or last < 2 or any(value > last for value in values):
            return None
        if self.classes is None and values != list(range(1, last + 1)):
            return None
        if values[0] == 0 and 10 * self.census.holders[last] < self.census.masks:
            return None
        meaning = {value: value - 1 for value in range(1, last + 1)}
        if values[0] == 0:
            words = (
                f"masks hold 0 to {last}, one more than there are classes, so they count from 1, with 0 for no class"
            )
            otherwise = f"Or add the class that is missing to classes, if {last} is one more."
            return self._problem("off-by-one", words, self._table({0: VOID, **meaning}), otherwise)
        words = f"masks hold the labels {values[0]} to {last} and no 0, so they count the {last} classes from 1"
        return self._problem("off-by-one", words, self._table(meaning))

    def instances(self) -> Problem | None:
        """Masks that number things one by one, anew in each picture."""
        census, values = self.census, self.values
        odd = [value for value in values if value >= (len(self.classes) if self.classes else 0)]
        if len(odd) < (2 if self.classes else _MANY) or census.masks < 4:
            return None
        counted = sum(census.tops.values())
        nested = (
            counted >= 0.9 * census.masks
            and len(census.tops) > (2 if self.classes else 3)
            and max(census.tops.values()) <= max(2, census.masks // 2)
        )
        rare = sum(census.holders[value] for value in odd) < 1.5 * len(odd) and len(odd) > 3 * _MANY
        if not nested and not rare and len(values) <= MAX_CLASSES:
            return None
        words = (
            f"masks hold {len(values)} numbers that differ from mask to mask, so they count single things, not classes"
        )
        if (self.classes is not None and len(self.classes) > 2) or len(values) > 4 * MAX_CLASSES:
            return self._problem("instance-ids", words, None, "Export the masks again, with a number a class.")
        first, second = self.classes or ("background", "object")
        table: dict[str, object] = {} if self.classes else {"classes": [first, second]}
        table["values"] = {0: first} | {value: second for value in values if value > 0}
        return self._problem("instance-ids", words, table, "Or export masks with a number a class.")

    def void_regions(self) -> Problem | None:
        """Masks in which 255, which is void, fills regions, while a class is missing."""
        census = self.census
        if VOID not in census.numbers or 2 * census.thick_void < max(2, census.holders[VOID]):
            return None
        if self.classes is None:
            return None
        share = 100 * census.numbers[VOID] / sum(census.numbers.values())
        said = f"255 is void, but it fills regions in {census.thick_void} masks ({share:.2g} % of all pixels)"
        unused = [i for i in range(len(self.classes)) if not census.numbers[i]]
        if len(unused) != 1 or self.values != [i for i in range(len(self.classes)) if i != unused[0]]:
            return None
        name = self.classes[unused[0]]
        meaning = {(VOID if i == unused[0] else i): i for i in range(len(self.classes))}
        table = self._table(dict(sorted(meaning.items())))
        words = f"{said}, and no mask holds {unused[0]} ('{name}')"
        remedy = f"If 255 is '{name}': {advise(self.root, table, ('colors',))}"
        return problem("void-as-class", "warning", self.files, words, remedy)
