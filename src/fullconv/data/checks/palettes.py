"""Whether the colours of indexed masks say the same about their numbers as the classes' colours do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from fullconv.data.checks.catalog import shown
from fullconv.data.class_files import VOID_NAME
from fullconv.data.config_hints import advise
from fullconv.data.dataset import Dataset
from fullconv.data.label_mapping import MaskCoding
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.scan.stats import MaskFacts
from fullconv.labels import VOID, format_color

_SOME = 4  # masks, of which one can say what most have
_SHOWN = 20
_FEWEST = 2  # numbers that stand for another one's colour; one may be chance


@dataclass
class Palettes:
    """Colours by number, mask by mask."""

    tables: Counter[tuple[tuple[int, int], ...]] = field(default_factory=Counter)
    """How many masks have which (number, colour) pairs."""
    samples: dict[tuple[tuple[int, int], ...], list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def add(self, sample: Sample, facts: MaskFacts) -> None:
        """Take one mask; those without a palette, or with one of greys, say nothing."""
        colors = set(facts.palette.values())
        if len(colors) > 1 and any(color >> 16 != color & 255 for color in colors):
            table = tuple(sorted(facts.palette.items()))
            self.tables[table] += 1
            self.samples[table].append(sample)

    def problems(self, dataset: Dataset, head: str) -> list[Problem]:
        """Return the masks whose colours stand at other numbers than those of the classes, or of most masks."""
        coding, own = dataset.codings[head], dataset.settings.of_head(head)
        if coding.by_color or not self.tables:
            return []
        named = own.palette or own.class_colors
        if not named and (place := self._without_majority()) is not None:
            return [self._each_its_own(dataset, head, place)]
        known = _of_classes(coding, named) if named else self._of_most()
        odd = [table for table in self.tables if _permuted(dict(table), known)]
        if not odd:
            return []
        samples = [sample for table in odd for sample in self.samples[table]]
        files = [shown(sample.masks[head].path, dataset.root) for sample in samples]
        number, color = next((v, c) for v, c in odd[0] if v in known and known[v] != c)
        place = next((v for v, c in known.items() if c == color), number)
        whose = "the classes" if named else "most masks"
        words = (
            f"palettes have the colours of {whose} at other numbers, as {format_color(_split(color))} at {number}"
            f" instead of {place}, so numbers or colours are wrong"
        )
        table = self._colors(coding, known) if named else None
        if table is None:
            remedy = "Export these masks again with the palette of the others."
            stems = [sample.stem for sample in samples]
            return [problem("palette-permuted", "error", files, words, remedy, stems)]
        remedy = f"If the colours are right: {advise(dataset.root, table, ('values', 'ignore_index'))}"
        remedy += "\nIf the numbers are right, take palette out of data.toml."
        return [problem("palette-permuted", "error", files, words, remedy)]

    def _of_most(self) -> dict[int, int]:
        votes: dict[int, Counter[int]] = defaultdict(Counter)
        for table, count in self.tables.items():
            for number, color in table:
                votes[number][color] += count
        return {number: colors.most_common(1)[0][0] for number, colors in votes.items()}

    def _without_majority(self) -> int | None:
        """Return a colour of those that most masks have, but in no place that most agree on; None where they do."""
        places: dict[int, Counter[int]] = defaultdict(Counter)
        for table, count in self.tables.items():
            for number, color in table:
                places[color][number] += count
        masks = sum(self.tables.values())
        torn = [
            color
            for color, found in places.items()
            if 2 * sum(found.values()) > masks and 3 * max(found.values()) < 2 * sum(found.values())
        ]
        return torn[0] if masks >= _SOME and len(torn) >= _FEWEST else None

    def _each_its_own(self, dataset: Dataset, head: str, color: int) -> Problem:
        files = [
            shown(sample.masks[head].path, dataset.root) for members in self.samples.values() for sample in members
        ]
        numbers = sorted({number for table in self.tables for number, found in table if found == color})
        words = (
            f"palettes have their colours at other numbers from mask to mask, as {format_color(_split(color))} at"
            f" {' and '.join(map(str, numbers))}, so a number does not always mean the same"
        )
        colors = sorted({found for table in self.tables for _, found in table})[:_SHOWN]
        said = ", ".join(format_color(_split(found)) for found in colors)
        remedy = f"Export all masks with one palette; or name each colour ({said}) in colors of data.toml."
        return problem("palette-permuted", "error", files, words, remedy)

    def _colors(self, coding: MaskCoding, known: Mapping[int, int]) -> dict[str, object] | None:
        """Return the key `colors` for all palettes; None where a colour would mean two things."""
        names = coding.labels.classes
        meaning = {color: names[coding.meaning(number) or 0] for number, color in known.items()}
        for table in self.tables:
            for number, color in table:
                if color not in meaning and coding.meaning(number) == VOID:
                    meaning[color] = VOID_NAME
                elif color not in meaning:
                    return None
        return {"colors": {format_color(_split(color)): name for color, name in meaning.items()}}


def _of_classes(coding: MaskCoding, colors: object) -> dict[int, int]:
    """Return colours by mask number, where the classes' colours are told apart."""
    packed = [red << 16 | green << 8 | blue for red, green, blue in colors]  # type: ignore[attr-defined]
    if len(set(packed)) < len(packed):
        return {}
    values = coding.labels.values
    if values is None:
        return dict(enumerate(packed))
    first: dict[int, int] = {}
    for value, index in sorted(values.items()):
        if index != VOID and index not in first.values():
            first[value] = index
    return {value: packed[index] for value, index in first.items()}


def _permuted(table: Mapping[int, int], known: Mapping[int, int]) -> bool:
    """Whether the known colours all occur, but at other numbers."""
    shared = {number: color for number, color in table.items() if number in known}
    colors = set(known.values())
    wrong = sum(color != known[number] for number, color in shared.items())
    return wrong >= _FEWEST and all(color in colors for color in shared.values())


def _split(color: int) -> tuple[int, int, int]:
    return color >> 16, (color >> 8) & 255, color & 255
