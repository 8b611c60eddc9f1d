"""Checks whether the palettes of indexed masks give the labels the same colours as the classes, or as most masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from fullconv.data.checks.aggregates import Aggregates
from fullconv.data.config import VOID_NAME, config_hint
from fullconv.data.label_mapping import LabelMapping, pack_color
from fullconv.data.problems import Finding
from fullconv.data.samples import Sample
from fullconv.labels import VOID, Color

_MIN_MASKS = 4  # of which most have something in common
_MIN_WRONG = 2  # labels with another one's colour; one may be chance
_MAX_SHOWN = 20
_MIN_CONTRAST = 64  # greys apart that one sees: labels 0 and 1 without a palette are both black


def permuted_palettes(scan: Aggregates) -> Iterator[Finding]:
    """Find masks whose colours stand at other labels than those of the classes, or of most masks."""
    mapping, own, tables = scan.mapping, scan.settings, scan.palettes
    if not mapping.by_color and (inverted := _opposite_greys(scan)) is not None:
        yield inverted
    if mapping.by_color or not tables:
        return
    class_colors = own.palette or own.class_colors
    if not class_colors and (scattered := _scattered_palettes(scan)) is not None:
        yield scattered
        return
    if class_colors:
        known = _colors_of_classes(mapping, class_colors)
    else:
        votes: dict[int, Counter[int]] = defaultdict(Counter)
        for table, members in tables.items():
            for label, color in table:
                votes[label][color] += len(members)
        known = {label: colors.most_common(1)[0][0] for label, colors in votes.items()}
    odd = [table for table in tables if _is_permuted(dict(table), known)]
    if not odd:
        return
    samples = [sample for table in odd for sample in tables[table]]
    files = [scan.display(sample.masks[scan.head].path) for sample in samples]
    label, color = next((v, c) for v, c in odd[0] if v in known and known[v] != c)
    place = next((v for v, c in known.items() if c == color), label)
    cause = f"palettes have the colours of {'the classes' if class_colors else 'most masks'} at other labels"
    detail = f"#{color:06x} at {label} instead of {place}, so labels or colours are wrong"
    hint = _colors_hint(scan, known) if class_colors else None
    if hint is None:
        yield Finding("palette-permuted", files, detail, cause, stems=[sample.stem for sample in samples])
        return
    fix = f"If the colours are right: {config_hint(scan.dataset.root, hint, ('values', 'ignore_index'))}"
    fix += "\nIf the numbers are right, remove palette from data.toml."
    yield Finding("palette-permuted", files, detail, cause, fix)


def _opposite_greys(scan: Aggregates) -> Finding | None:
    """Find two labels of which one is much lighter in some masks, and the other in others: an inverting or permuted palette."""
    lighter: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for table, members in scan.greys.items():
        for (low, first), (high, second) in combinations(table, 2):
            if abs(first - second) >= _MIN_CONTRAST:
                lighter[(low, high) if first < second else (high, low)] += members
    found = [(len(members), pair) for pair, members in lighter.items() if lighter.get(pair[::-1])]
    if not found:
        return None
    _, (dark, light) = min(found)
    few, most = lighter[dark, light], lighter[light, dark]
    odd, other = scan.report_path(few[0]), scan.report_path(most[0])
    cause = f"palettes contradict each other: {light} is light and {dark} is dark in these masks, the other way round in others"
    detail = f"as in {odd}, against {other} and {len(most) - 1} more"
    fix = "Look at one of each beside its image, and export one kind again so that equal labels look equal."
    return Finding("palette-permuted", list(map(scan.report_path, few)), detail, cause, fix)


def _colors_of_classes(mapping: LabelMapping, colors: Sequence[Color]) -> dict[int, int]:
    """Return colours 0xrrggbb by mask value; empty where two classes share one."""
    packed = [pack_color(color) for color in colors]
    if len(set(packed)) < len(packed):
        return {}
    values = mapping.labels.values
    if values is None:
        return dict(enumerate(packed))
    first: dict[int, int] = {}
    for value, index in sorted(values.items()):
        if index != VOID and index not in first.values():
            first[value] = index
    return {value: packed[index] for value, index in first.items()}


def _scattered_palettes(scan: Aggregates) -> Finding | None:
    """Find colours that most masks have, but at no label that most agree on."""
    labels: dict[int, Counter[int]] = defaultdict(Counter)
    for table, samples in scan.palettes.items():
        for label, color in table:
            labels[color][label] += len(samples)
    masks = sum(map(len, scan.palettes.values()))
    counts = {color: (sum(found.values()), max(found.values())) for color, found in labels.items()}
    split = [color for color, (total, most) in counts.items() if 2 * total > masks and 3 * most < 2 * total]
    if masks < _MIN_MASKS or len(split) < _MIN_WRONG:
        return None
    files = [scan.display(s.masks[scan.head].path) for members in scan.palettes.values() for s in members]
    cause = "palettes have their colours at other labels from mask to mask, so a label has no fixed meaning"
    detail = f"#{split[0]:06x} at {' and '.join(map(str, sorted(labels[split[0]])))}"
    shown = ", ".join(f"#{color:06x}" for color in sorted(labels)[:_MAX_SHOWN])

    fix = f"Export all masks with one palette; or name each colour ({shown}) in colors of data.toml."
    return Finding("palette-permuted", files, detail, cause, fix)


def _colors_hint(scan: Aggregates, known: Mapping[int, int]) -> dict[str, object] | None:
    """Return the key `colors` for all palettes; None where a colour would have two meanings."""
    names = scan.names
    meaning = {color: names[scan.mapping.class_of(label) or 0] for label, color in known.items()}
    for table in scan.palettes:
        for label, color in table:
            if color not in meaning and scan.mapping.class_of(label) == VOID:
                meaning[color] = VOID_NAME
            elif color not in meaning:
                return None
    return {"colors": {f"#{color:06x}": name for color, name in meaning.items()}}


def _is_permuted(table: Mapping[int, int], known: Mapping[int, int]) -> bool:
    """Whether the known colours all occur, but at other labels."""
    shared = {label: color for label, color in table.items() if label in known}
    colors = set(known.values())
    wrong = sum(color != known[label] for label, color in shared.items())
    return wrong >= _MIN_WRONG and all(color in colors for color in shared.values())
