"""Infer classes from the masks where none are named; where they are unclear, propose lines for data.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fullconv.data.checks.catalog import ProblemCollector, to_problem
from fullconv.data.checks.files import describe_unreadable
from fullconv.data.config import LabelSettings
from fullconv.data.config_hints import config_hint
from fullconv.data.labels.diagnose import LabelDiagnosis, unnamed_colors
from fullconv.data.labels.histogram import LabelHistogram
from fullconv.data.problems import BadDataError, Finding, display_path
from fullconv.data.samples import JPEG_FORMATS, Sample
from fullconv.data.scan.stats import MaskStats
from fullconv.labels import MAX_CLASSES, VOID


def infer_classes(
    root: Path,
    settings: LabelSettings,
    samples: Sequence[Sample],
    scan: Callable[[Sequence[Sample]], Iterable[MaskStats]],
    skip_bad: bool,
    head: str = "",
) -> tuple[tuple[str, ...], LabelHistogram]:
    """Name the classes class0, class1, ... that the masks of a head hold.

    Args:
        root: The data folder.
        settings: The keys of data.toml.
        samples: All of them.
        scan: Yields the stats of samples' masks in order.
        skip_bad: Ignore masks that cannot be used.
        head: Whose masks; "" is the only one.

    Returns:
        The classes, and the histogram that they come from.

    Raises:
        BadDataError: There are fewer than two, they have gaps, or are 0 and 255 or colours; has the lines to add.
    """
    void = set(settings.void_values())
    histogram = LabelHistogram(frozenset(void | {VOID}))
    broken = ProblemCollector()
    files = [display_path(sample.masks[head].path, root) for sample in samples]
    for sample, name, stats in zip(samples, files, scan(samples), strict=True):
        if stats.error:
            broken.add(describe_unreadable(stats, sample.masks[head].path, root, sample.stem))
        elif stats.format in JPEG_FORMATS:
            broken.add(Finding("jpeg-mask", [name], stems=[sample.stem]))
        else:
            histogram.add(sample, stats)
    if blurred := histogram.blurred():
        names = [display_path(sample.masks[head].path, root) for sample in blurred]
        stems = {sample.stem for sample in blurred}
        broken.add(Finding("lossy-mask", names, histogram.blur_cause(), stems=stems))
    if (problems := broken.problems()) and not skip_bad:
        raise BadDataError(str(root), problems)
    if blurred:  # the others decide
        rest = [sample for sample in samples if sample.stem not in stems]
        return infer_classes(root, settings, rest, scan, skip_bad, head)[0], histogram
    found = _unclear(root, files, histogram, VOID in void, head)
    if found is not None:
        raise BadDataError(str(root), [to_problem(found)])
    labels = LabelDiagnosis(root, files, histogram, None).labels
    return tuple(f"class{value}" for value in labels), histogram


def _unclear(root: Path, files: Sequence[str], histogram: LabelHistogram, void_set: bool, head: str) -> Finding | None:
    """Return why sound masks do not define the classes; None where they do."""
    if histogram.colored:
        colored = [display_path(sample.masks[head].path, root) for sample in histogram.colored]
        return unnamed_colors(root, colored, histogram)
    diagnosis = LabelDiagnosis(root, files, histogram, None)
    labels = diagnosis.labels
    if not void_set and labels in ([], [0]) and (found := diagnosis.binary()) is not None:
        return found
    if len(labels) < 2:
        held = f"only the label {labels[0]}" if labels else "no labels but void"
        table: dict[str, Any] = {"classes": ["background", "foreground"]}
        if labels and labels[0] > 1:
            table["values"] = {0: "background", labels[0]: "foreground"}
        cause = f"masks hold {held}, and a network needs two classes or more"
        fix = f"Name the classes, including those that do not occur. {config_hint(root, table)}"
        return Finding("few-classes", files, cause=cause, fix=fix)
    if (found := diagnosis.one_based() or diagnosis.instances()) is not None:
        return found
    if labels != list(range(len(labels))) or len(labels) > MAX_CLASSES:
        return diagnosis.scaled() or diagnosis.gaps()
    return None
