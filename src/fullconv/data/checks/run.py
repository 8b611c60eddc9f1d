"""Run all checks on a data set: one scan, then every row of the catalog."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.data.checks.aggregates import Aggregates, Record
from fullconv.data.checks.catalog import ProblemCollector, checks_of, to_problem, without_consequences
from fullconv.data.checks.dataset import total_pixels
from fullconv.data.config import DataSettings, parse_settings, read_table, table_file, toml_lines
from fullconv.data.dataset import Dataset
from fullconv.data.opening import build_dataset, find_root, read_layout
from fullconv.data.problems import BadDataError, Problem, errors, for_head, problem
from fullconv.errors import DataError, FullconvError, OutputError, percent, plural
from fullconv.labels import VOID
from fullconv.storage import write_text

Data = Dataset | str | os.PathLike[str]
"""An opened data set, or its path."""
Progress = Callable[[int, int], None]
"""Called with the number of samples done and in total."""


_FEW_TRAIN = 30  # images
_FEW_VAL = 10
_RARE = 0.002  # of the pixels in train
_DOMINANT = 0.95
_LARGE = 4_000_000  # pixels of an image
_MAX_SHOWN = 5


@dataclass
class Examination:
    """What all checks found in a data set."""

    root: Path
    dataset: Dataset | None
    """None where it could not be opened, not even with the proposed lines in data.toml."""
    problems: list[Problem]
    """Errors first."""
    aggregates: dict[str, Aggregates] = field(default_factory=dict)
    """What the scan counted, by head; empty where nothing could be opened."""

    @property
    def first(self) -> Aggregates | None:
        """What the scan counted for the first head."""
        return next(iter(self.aggregates.values()), None)

    def __post_init__(self) -> None:
        self.problems = sorted(self.problems, key=lambda found: ("error", "warning", "note").index(found.severity))

    def expect(self) -> list[str]:
        """Return what to expect of training, in sentences: small sets, rare classes, large images."""
        return [] if self.first is None else _training_notes(self.first)

    def summary(self) -> dict[str, Any]:
        """Return the JSON object of `fullconv check --json`.

        `classes` are those of the first head; a data set of several has all of them in `heads`, by name.
        """
        by_head = {}
        for head, scan in self.aggregates.items():
            keys = ("index", "name", "pixels", "pictures")
            columns = (range(len(scan.names)), scan.names, total_pixels(scan).tolist(), scan.class_images.tolist())
            by_head[head] = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        splits = {} if self.dataset is None else {split: len(members) for split, members in self.dataset.splits.items()}
        return {
            "ok": not errors(self.problems),
            "format": None if self.dataset is None else self.dataset.format,
            "classes": next(iter(by_head.values()), []),
            **({"heads": by_head} if len(by_head) > 1 else {}),
            "splits": splits,
            "problems": [found.to_dict() for found in self.problems],
        }


def examine(data: Data, progress: Progress | None = None, format: str | None = None) -> Examination:  # noqa: A002
    """Decode every image and mask, and run all checks.

    Args:
        data: An opened data set, or its path.
        progress: Called after each sample.
        format: Name of the layout of a path where several match.
    """
    if isinstance(data, Dataset):
        return _run_checks(data, [], progress)
    root = Path(data)
    try:
        root = find_root(data, format)
        layout = read_layout(data, format)
    except BadDataError as error:
        return Examination(root, None, list(error.problems))
    except FullconvError as error:
        packed = Path(data).is_file()  # a .zip, whose name users know, and not the folder in the cache
        message = str(error).replace(str(root), str(data)) if packed else str(error)
        return Examination(root, None, [_unusable(str(data), message)])
    try:
        return _run_checks(build_dataset(layout, skip_bad=False), [], progress)
    except BadDataError as error:
        before = error.problems
    try:  # what else is wrong, with the fixes applied
        settings = {key: value for found in before for key, value in found.settings.items()}
        return _run_checks(build_dataset(layout.with_settings(settings), skip_bad=True), before, progress)
    except FullconvError:
        return Examination(root, None, list(before))


def inspect(data: Data, progress: Progress | None = None, format: str | None = None) -> list[Problem]:  # noqa: A002
    """Return what is wrong with a data set, errors first; arguments as of `examine`."""
    return examine(data, progress, format).problems


def summary(data: Data, progress: Progress | None = None, format: str | None = None) -> dict[str, Any]:  # noqa: A002
    """Return the JSON object of `fullconv check --json`; arguments as of `examine`."""
    return examine(data, progress, format).summary()


def require_usable(dataset: Dataset, progress: Progress | None = None) -> tuple[Dataset, list[Problem]]:
    """Check a data set before training; return it, without bad samples where `skip_bad` is set, and all problems."""
    problems = inspect(dataset, progress)
    bad = errors(problems)
    if not bad:
        return dataset, problems
    if not dataset.skip_bad:
        raise BadDataError(str(dataset.root), bad)
    whole = [found for found in bad if not found.stems and found.code not in ("duplicate-stem", "missing-listed")]
    if whole:
        raise BadDataError(str(dataset.root), whole)
    rest = dataset.without(stem for found in bad for stem in found.stems)
    if not rest.splits.get("train"):
        raise BadDataError(str(dataset.root), bad)
    return rest, problems


def _run_checks(dataset: Dataset, before: Sequence[Problem], progress: Progress | None) -> Examination:
    """Scan once per head, and report what is not reported already."""
    found: list[Problem] = list(before)
    known = {one.code for one in before}
    aggregates: dict[str, Aggregates] = {}
    for head in dataset.heads:
        aggregates[head] = Aggregates(dataset, head)
        problems = _check_head(aggregates[head], progress if head == dataset.heads[0] else None)
        new = [one for one in problems if one.code not in known]
        kept = {id(one) for one in without_consequences([*before, *new])}
        found += [one for one in new if id(one) in kept]
    return Examination(dataset.root, dataset, found, aggregates)


def _check_head(scan: Aggregates, progress: Progress | None) -> list[Problem]:
    """Check all masks of a head; with the first head's, the images."""
    dataset, head = scan.dataset, scan.head
    of_images, of_masks = ProblemCollector(), ProblemCollector()
    image_checks, mask_checks = checks_of("image"), [*checks_of("mask"), *checks_of("pair")]
    file_checks = checks_of("file")
    total, done = len(dataset.samples("all")), 0
    for split, members in dataset.splits.items():
        masks = dataset.scanner.masks(sample.masks[head] for sample in members)
        for sample, image, mask in zip(members, dataset.scan_images(members), masks, strict=True):
            record = Record(dataset, head, split, sample, image, mask)
            files = (
                (of_images, image, sample.image, image_checks),
                (of_masks, mask, sample.masks[head].path, mask_checks),
            )

            for collector, stats, path, checks in files:
                results = [find(record, stats, path) for find in file_checks] + [find(record) for find in checks]
                for result in filter(None, results):
                    collector.add(result)
            scan.add(record)
            done += 1
            if progress is not None:
                progress(done, total)
    mask_problems = [*of_masks.problems(), *(to_problem(one) for find in checks_of("masks") for one in find(scan))]
    problems = [for_head(one, head) for one in mask_problems]
    if scan.is_first:
        general = [to_problem(one) for find in checks_of("dataset") for one in find(scan)]
        problems = [*dataset.problems, *of_images.problems(), *general, *problems]
    return problems


def _unusable(name: str, message: str) -> Problem:
    """Split an error into its first sentence, the cause, and the rest, the remedy."""
    skip = len(name) if message.startswith(name) else 0  # a full stop in the name ends no sentence
    end = re.search(r"[.;?] (?=[A-Z])", message[skip:])
    cause, remedy = (message, "") if end is None else (message[: skip + end.start()], message[skip + end.end() :])
    if not remedy and "data.toml" in message:
        remedy = "Correct data.toml."
    return problem("unusable", "error", [name], cause.removesuffix("."), remedy)


def _training_notes(scan: Aggregates) -> list[str]:
    """Return what to expect of training: nothing that is wrong, but good to know before it."""
    notes = []
    smallest, largest = (extreme(scan.sizes, key=math.prod, default=(0, 0)) for extreme in (min, max))
    if scan.sizes:
        extent = f"{smallest[1]}x{smallest[0]}" + ("" if smallest == largest else f" to {largest[1]}x{largest[0]}")
        notes.append(f"Images are {extent}{'' if len(scan.sizes) < 2 else f', {len(scan.sizes)} sizes'}.")
    train, val = (len(scan.dataset.splits.get(split, ())) for split in ("train", "val"))
    if 0 < train < _FEW_TRAIN:
        notes.append(f"train has only {plural(train, 'image')}: scores on other images will vary much.")
    if 0 < val < _FEW_VAL:
        notes.append(f"val has only {plural(val, 'image')}: small differences of scores are chance.")
    pixels = scan.class_pixels.get("train")
    if pixels is not None and pixels.any():
        share = pixels / pixels.sum()
        rare = [(scan.names[i], share[i]) for i in np.argsort(share) if 0 < share[i] < _RARE]
        if rare:
            names = ", ".join(f"{name} ({percent(part)})" for name, part in rare[:_MAX_SHOWN])
            more = f" and {len(rare) - _MAX_SHOWN} more" if len(rare) > _MAX_SHOWN else ""
            what = "Rare classes are learned late or not at all"
            notes.append(f"{what}: {names}{more} of the pixels. class_weights and sampling help.")
        most = int(share.argmax())
        if share[most] > _DOMINANT:
            part = f"'{scan.names[most]}' is {percent(share[most])} of all pixels"
            notes.append(f"{part}, so look at the IoU of the other classes: accuracy is high without them.")
    if math.prod(largest) > _LARGE:
        notes.append(f"Images of up to {largest[1]}x{largest[0]} take long to read; --scale 0.5 is faster.")
    return notes


def write_config(found: Examination, data: str | os.PathLike[str]) -> str:
    """Write what `examine` found out about `data` as its `data.toml`; return what was done, in a sentence.

    Raises:
        DataError: Nothing could be inferred, it exists and differs, or `data` is a `.zip`.
        OutputError: It cannot be written.
    """
    root, where = found.root, table_file(found.root)
    if Path(data).is_file():
        raise DataError(f"{data}: is a .zip, into which nothing is written. Unpack it, and check the folder.")
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder to write data.toml to. Check the name.")
    known = {} if found.dataset is None else {"format": found.dataset.format, **_settings(found.dataset)}
    known |= read_table(root)
    for one in found.problems:
        for head, own in one.settings.get("heads", {}).items():
            heads = known.get("heads", {})
            known["heads"] = {**heads, head: {**heads.get(head, {}), **own}}
        known |= {key: value for key, value in one.settings.items() if key != "heads"}
    table = {key: known[key] for key in DataSettings.model_fields if key in known}
    if not {"classes", "values", "colors", "heads"} & set(table):
        raise DataError(f"{where}: nothing could be inferred to write there. First fix what check reports.")
    after = parse_settings(dict(table), str(where))
    if where.exists():
        before = parse_settings(read_table(root), str(where))
        new = {key: table[key] for key in table if key != "format" and getattr(before, key) != getattr(after, key)}
        if not new:
            return f"{where} is up to date; nothing was written."
        advice = "What was found differs from it; to use it, add:"
        raise DataError(f"{where} exists and is not overwritten. {advice}\n" + "\n".join(toml_lines(new)))
    lines = "\n".join(toml_lines(table))
    try:
        write_text(where, lines + "\n")
    except OutputError as error:
        advice = "To train, copy the folder to a writable place and add these lines:"
        raise OutputError(f"{error} {advice}\n{lines}") from error
    return f"Wrote {where}."


def _settings(dataset: Dataset) -> dict[str, Any]:
    """Return the keys that the format's reader and the classes stand for."""
    if len(dataset.heads) > 1:
        return {"heads": {head: {"classes": list(labels.classes)} for head, labels in dataset.labels.items()}}
    settings, labels = dataset.settings, next(iter(dataset.labels.values()))
    table: dict[str, Any] = {"classes": list(labels.classes)}
    keys = ("values", "colors", "unlabeled", "bands")
    given = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    if settings.class_colors is not None and "colors" not in given:
        table["palette"] = [list(color) for color in settings.class_colors]
    if labels.void_values and set(labels.void_values) != {VOID}:
        void = sorted(labels.void_values)
        table["ignore_index"] = void[0] if len(void) == 1 else void
    return table | given
