"""Classes counted from the masks where nobody named them; where they are unclear, the lines to add to data.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fullconv.data.checks.catalog import JPEG_FORMATS, JPEG_WORDS, Findings, shown
from fullconv.data.config import LabelSettings
from fullconv.data.config_hints import advise
from fullconv.data.labels.diagnose import Numbering
from fullconv.data.labels.histogram import Census
from fullconv.data.problems import BadDataError, Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.scan.stats import MaskFacts
from fullconv.labels import MAX_CLASSES, VOID

_COLORS_SHOWN = 40


def infer_classes(
    root: Path,
    settings: LabelSettings,
    samples: Sequence[Sample],
    scan: Callable[[Sequence[Sample]], Iterable[MaskFacts]],
    skip_bad: bool,
    head: str = "",
) -> tuple[str, ...]:
    """Name the classes class0, class1, ... that the masks of a head hold.

    Args:
        root: The data folder.
        settings: What the user says.
        samples: All of them.
        scan: Gives the facts of samples' masks in order.
        skip_bad: Pass over masks that cannot be used.
        head: Whose masks; "" is the only one.

    Raises:
        BadDataError: There are fewer than two, they have gaps, or are 0 and 255 or colours; has the lines to add.
    """
    void = set(settings.void_values())
    census = Census(frozenset(void | {VOID}))
    broken = Findings(root)
    names = [shown(sample.masks[head].path, root) for sample in samples]
    for sample, found in zip(samples, scan(samples), strict=True):
        if found.error:
            broken.unreadable(found.code, sample, sample.masks[head].path, found.error)
        elif found.format in JPEG_FORMATS:
            broken.add("jpeg-mask", sample, sample.masks[head].path, JPEG_WORDS)
        else:
            census.add(sample, found)
    blurred = census.blurred()
    for sample in blurred:
        broken.add("lossy-mask", sample, sample.masks[head].path, census.cause())
    if (problems := broken.problems()) and not skip_bad:
        raise BadDataError(str(root), problems)
    if blurred:  # what is left decides
        left_out = {sample.stem for sample in blurred}
        return infer_classes(root, settings, [s for s in samples if s.stem not in left_out], scan, skip_bad, head)
    return _classes(root, names, census, VOID in void, head)


def _classes(root: Path, names: Sequence[str], census: Census, explicit: bool, head: str) -> tuple[str, ...]:
    """Name the classes that sound masks hold, or say why they cannot be counted."""
    if census.colored:
        colored = [shown(sample.masks[head].path, root) for sample in census.colored]
        raise BadDataError(str(root), [color_problem(root, colored, census)])
    numbering = Numbering(root, names, census, None)
    values = numbering.values
    if not explicit and values in ([], [0]) and (found := numbering.binary()) is not None:
        raise BadDataError(str(root), [found])
    if len(values) < 2:
        raise BadDataError(str(root), [_too_few(root, names, values)])
    if (found := numbering.from_one() or numbering.instances()) is not None:
        raise BadDataError(str(root), [found])
    if values != list(range(len(values))) or len(values) > MAX_CLASSES:
        raise BadDataError(str(root), [numbering.scaled() or _gaps(root, names, values, census)])
    return tuple(f"class{value}" for value in values)


def color_problem(root: Path, names: Sequence[str], census: Census, stems: frozenset[str] = frozenset()) -> Problem:
    """Say that masks have colours that nobody named, with the lines that name them."""
    colors = census.colors
    if (found := _colored_instances(names, census)) is not None:
        return found
    if len(colors) > _COLORS_SHOWN:
        words = f"masks hold {len(colors)} colours or more, so they were compressed, resized, or are no masks"
        return problem("rgb-mask", "error", names, words, "Export the masks again, as indexed PNG.", stems)
    ordered = [color for color, _ in colors.most_common()]
    table = {
        "classes": [f"class{i}" for i in range(len(ordered))],
        "colors": {f"#{color:06x}": f"class{i}" for i, color in enumerate(ordered)},
    }
    words = f"masks are RGB with {len(ordered)} colours that are not named"
    remedy = f'With your own names ("void" for what does not count): {advise(root, table, ("values", "ignore_index"))}'
    settings = {} if stems or len(ordered) < 2 else table
    return problem("rgb-mask", "error", names, words, remedy, stems, settings)


def _colored_instances(names: Sequence[str], census: Census) -> Problem | None:
    """Say that colours differ from mask to mask, as those of single things do."""
    masks, colors = len(census.colored), len(census.colors)
    shared = sum(census.painters.values()) / max(1, colors)
    if masks < 4 or not 12 < colors < 60 * masks or shared > 1.5:
        return None
    words = f"masks hold {colors} colours that differ from mask to mask, so they paint single things, not classes"
    return problem("instance-ids", "error", names, words, "Export the masks again, with a colour or number a class.")


def _too_few(root: Path, names: Sequence[str], values: Sequence[int]) -> Problem:
    held = f"only the label {values[0]}" if values else "no labels but void"
    words = f"masks hold {held}, and a network needs two classes or more to tell apart"
    table: dict[str, Any] = {"classes": ["background", "foreground"]}
    if values and values[0] > 1:
        table["values"] = {0: "background", values[0]: "foreground"}
    remedy = f"Name the classes, also those that do not occur. {advise(root, table)}"
    return problem("few-classes", "error", names, words, remedy)


def _gaps(root: Path, names: Sequence[str], values: Sequence[int], census: Census) -> Problem:
    shown = ", ".join(str(value) for value in values[:_COLORS_SHOWN]) + (", ..." if len(values) > _COLORS_SHOWN else "")
    if len(values) > MAX_CLASSES:
        words = f"masks hold {len(values)} different labels, more than {MAX_CLASSES} classes"
        return problem("label-gaps", "error", names, words, "Export the masks again, with a number a class.")
    void = ""
    if 2 * census.thick_void >= max(2, census.holders[VOID]):  # as regions, so more likely a class than a border
        values, void = [*values, VOID], ' (255 fills regions; write "void" for it if it is no class)'
    table = {
        "classes": [f"class{i}" for i in range(len(values))],
        "values": {value: f"class{i}" for i, value in enumerate(values)},
    }
    words = f"masks hold the labels {shown}, which are not 0 to {len(values) - 1}"
    remedy = f"With your own names{void}: {advise(root, table)}"
    return problem("label-gaps", "error", names, words, remedy, settings=table)
