"""Classes counted from the masks where nobody named them; where they are unclear, the lines to add to data.toml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fullconv.data.findings import Findings
from fullconv.data.problems import BadDataError, Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.scan import MaskFacts
from fullconv.data.settings import LabelSettings
from fullconv.data.statistics import all_grey
from fullconv.labels import MAX_CLASSES, VOID

_COLORS_SHOWN = 40


def infer_classes(
    root: Path,
    settings: LabelSettings,
    samples: Sequence[Sample],
    facts: Iterable[MaskFacts],
    skip_bad: bool,
    head: str = "",
) -> tuple[str, ...]:
    """Name the classes class0, class1, ... that the masks of a head hold.

    Raises:
        BadDataError: There are fewer than two, they have gaps, or are 0 and 255 or colours; has the lines to add.
    """
    numbers: Counter[int] = Counter()
    colors: Counter[int] = Counter()
    colored: list[str] = []
    broken = Findings(root)
    names = [sample.masks[head].path.relative_to(root).as_posix() for sample in samples]
    for sample, name, found in zip(samples, names, facts, strict=True):
        if found.error:
            broken.unreadable(found.code, sample, sample.masks[head].path, found.error)
        elif found.in_color and not all_grey(found):
            colors.update(found.counts)
            colored.append(name)
        else:
            numbers.update({value & 255 if found.in_color else value: n for value, n in found.counts.items()})
    if (problems := broken.problems()) and not skip_bad:
        raise BadDataError(str(root), problems)
    if colored:
        raise BadDataError(str(root), [color_problem(colored, colors)])
    void = set(settings.void_values())
    values = sorted(set(numbers) - void - {VOID})
    if (VOID in numbers and values in ([], [0])) and VOID not in void:
        raise BadDataError(str(root), [binary_problem(names, None)])
    if len(values) < 2:
        raise BadDataError(str(root), [_too_few(names, values)])
    if values != list(range(len(values))) or len(values) > MAX_CLASSES:
        raise BadDataError(str(root), [_gaps(names, values)])
    return tuple(f"class{value}" for value in values)


def binary_problem(names: Sequence[str], classes: Sequence[str] | None) -> Problem:
    """Say that masks hold 0 and 255 only, with the lines that make these two classes."""
    first, second = classes or ("background", "foreground")
    lines = [] if classes else [f'classes = ["{first}", "{second}"]']
    lines.append(f'values = {{ 0 = "{first}", 255 = "{second}" }}')
    words = "masks hold only 0 and 255, and 255 is void unless it is named as a class"
    return problem("binary-mask", "error", names, words, "Add to data.toml:\n" + "\n".join(lines))


def color_problem(names: Sequence[str], colors: Counter[int]) -> Problem:
    """Say that masks have colours that nobody named, with the lines that name them."""
    if len(colors) > _COLORS_SHOWN:
        words = f"masks hold {len(colors)} colours or more, so they were compressed, resized, or are no masks"
        return problem("rgb-mask", "error", names, words, "Export the masks again, as indexed PNG.")
    ordered = [color for color, _ in colors.most_common()]
    classes = ", ".join(f'"class{i}"' for i in range(len(ordered)))
    table = ", ".join(f'"#{color:06x}" = "class{i}"' for i, color in enumerate(ordered))
    words = f"masks are RGB with {len(ordered)} colours that are not named"
    remedy = 'Add to data.toml, with your own names ("void" for what does not count):\n'
    remedy += f"classes = [{classes}]\ncolors = {{ {table} }}"
    return problem("rgb-mask", "error", names, words, remedy)


def _too_few(names: Sequence[str], values: Sequence[int]) -> Problem:
    held = f"only the label {values[0]}" if values else "no labels but void"
    words = f"masks hold {held}, and a network needs two classes or more to tell apart"
    remedy = 'Name the classes in data.toml, also those that do not occur:\nclasses = ["background", "foreground"]'
    if values and values[0] > 1:
        remedy += f'\nvalues = {{ 0 = "background", {values[0]} = "foreground" }}'
    return problem("few-classes", "error", names, words, remedy)


def _gaps(names: Sequence[str], values: Sequence[int]) -> Problem:
    shown = ", ".join(str(value) for value in values[:_COLORS_SHOWN]) + (", ..." if len(values) > _COLORS_SHOWN else "")
    if len(values) > MAX_CLASSES:
        words = f"masks hold {len(values)} different labels, more than {MAX_CLASSES} classes"
        return problem("label-gaps", "error", names, words, "Check that they are class masks and not instance numbers.")
    classes = ", ".join(f'"class{i}"' for i in range(len(values)))
    table = ", ".join(f'{value} = "class{i}"' for i, value in enumerate(values))
    words = f"masks hold the labels {shown}, which are not 0 to {len(values) - 1}"
    return problem(
        "label-gaps", "error", names, words, f"Add to data.toml:\nclasses = [{classes}]\nvalues = {{ {table} }}"
    )
