"""Open a data set: find its layout, pair images with masks, split them, and define or infer the classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fullconv.card import describe
from fullconv.data.checks.catalog import ProblemCollector, to_problem
from fullconv.data.checks.files import describe_unreadable
from fullconv.data.config import (
    VOID_NAME,
    DataSettings,
    LabelSettings,
    config_hint,
    parse_settings,
    read_settings,
    with_classes,
)
from fullconv.data.dataset import Dataset
from fullconv.data.files import Folder, open_root
from fullconv.data.formats import FormatResult, detect, enter_root, read
from fullconv.data.label_diagnosis import LabelDiagnosis, LabelHistogram, threshold_fix, unnamed_colors
from fullconv.data.label_mapping import LabelMapping, make_mapping
from fullconv.data.problems import BadDataError, Finding, Problem, display_path, errors, for_head
from fullconv.data.samples import JPEG_FORMATS, LayeredMask, MaskFile, Sample, WarpedMask
from fullconv.data.scan.scanner import Scanner
from fullconv.data.splits import by_lists, check_folds, choose_fold, hold_out, straddling, unread_lists, with_groups
from fullconv.errors import DataError
from fullconv.labels import MAX_CLASSES, VOID


@dataclass(frozen=True)
class Layout:
    """A data set whose files are known and whose masks have no meaning yet."""

    root: Path
    format: str
    settings: DataSettings
    """Of data.toml, with what the format knows."""
    splits: dict[str, list[Sample]]
    problems: list[Problem]
    partial: Sequence[str]
    """Stems of images without a mask."""

    def with_layers(self, head: str, pages: Sequence[str], classes: Sequence[str]) -> Layout:
        """Return the layout with the mask files of a head read by pages, one per class."""
        index = {name: i for i, name in enumerate(classes)} | {VOID_NAME: VOID}
        rest = index.get(self.settings.unlabeled or "", 0)
        layers = tuple(index[name] for name in pages)

        def layered(sample: Sample) -> Sample:
            mask = sample.masks[head]
            new = LayeredMask((mask.path,), layers, rest) if isinstance(mask, MaskFile) else mask
            return replace(sample, masks={**sample.masks, head: new})

        return replace(self, splits={split: list(map(layered, members)) for split, members in self.splits.items()})

    def with_settings(self, more: Mapping[str, Any]) -> Layout:
        """Return the layout as if data.toml had these keys, too."""
        return replace(self, settings=parse_settings({**_given(self.settings), **more}, str(self.root)))


def open_dataset(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  # the name of the option and of the key in data.toml
    skip_bad: bool = False,
    folds: int | None = None,
    fold: int | None = None,
) -> Dataset:
    """Open a folder or `.zip` of images and masks.

    Args:
        path: The data folder.
        format: Name of the layout where several match.
        skip_bad: Omit images that have no mask or cannot be used, instead of stopping.
        folds: Merge train and val and split them into this many parts; data.toml's by default.
        fold: The part that is val, from 0; needs folds here or in data.toml.

    Returns:
        The data set; problems that do not prevent opening are in its `problems`.

    Raises:
        DataError: It cannot be used; the message has the cause and the lines that fix it.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise DataError(f"a data set is the path of its folder or .zip, not {path!r}. Give its path.")
    return build_dataset(read_layout(path, format, folds, fold), skip_bad)


def find_root(path: str | os.PathLike[str], format: str | None = None) -> Path:  # noqa: A002
    """Return the folder that holds a data set: the path, its unpacked `.zip`, or the only folder in there."""
    return enter_root(open_root(path), format)


def read_layout(
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002
    folds: int | None = None,
    fold: int | None = None,
) -> Layout:
    """Detect a data set's layout, pair its files and split them; arguments and errors as of `open_dataset`."""
    root = find_root(path, format)
    settings = read_settings(root)
    if folds is None and settings.folds is not None:
        folds, fold = settings.folds, fold or 0
    check_folds(folds, fold)
    folder = Folder(root)
    row = detect(folder, settings, format)
    for key in ("heads", "bands_from"):
        if getattr(settings, key) is not None and row.family not in ("pairs", "camvid"):
            cause = f"{key} is for folders of images and masks, not for the format {row.family}"
            raise DataError(f"{root / 'data.toml'}: {cause}. Remove it, or run first: fullconv convert.")
    found = read(row, folder, settings)
    if found.settings:
        settings = parse_settings({**found.settings, **_given(settings)}, str(root))
    splits, problems = _split(found, settings, root, folds, fold)
    problems += folder.problems()
    if not any(splits.values()):
        bad = errors(problems)
        no_pair = DataError(f"{root}: there is no image with a mask. Check the names of images and masks.")
        raise BadDataError(str(root), bad) if bad else no_pair
    return Layout(root, format or settings.format or row.family, settings, splits, problems, sorted(found.partial))


def _given(settings: DataSettings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in settings.model_fields_set}


def _split(
    found: FormatResult, settings: DataSettings, root: Path, folds: int | None, fold: int | None
) -> tuple[dict[str, list[Sample]], list[Problem]]:
    problems = list(found.problems)
    splits = with_groups(found.splits, settings, root)
    if settings.splits is not None:
        splits, more = by_lists(splits, settings, root)
        problems += more
    splits = {split or "train": sorted(members, key=lambda s: s.stem) for split, members in splits.items()}
    if folds is not None and fold is not None:
        pool = sorted([*splits.get("train", []), *splits.get("val", [])], key=lambda s: s.stem)
        splits["train"], splits["val"] = choose_fold(pool, folds, fold)
    elif "val" not in splits and splits.get("train"):
        splits["train"], splits["val"] = hold_out(splits["train"])
        problems += unread_lists(root, splits) if settings.splits is None else []
    order = [split for split in ("train", "val", "test") if split in splits]
    if settings.align is not None:
        splits = {split: [_warped(sample) for sample in members] for split, members in splits.items()}
    return {split: splits[split] for split in order}, problems + straddling(splits)


def _warped(sample: Sample) -> Sample:
    """Return a sample whose mask files on another grid are warped onto the image's."""
    warped = {
        head: WarpedMask(mask, sample.image) if isinstance(mask, MaskFile) and sample.grids_differ(head) else mask
        for head, mask in sample.masks.items()
    }
    return replace(sample, masks=warped)


def build_dataset(layout: Layout, skip_bad: bool) -> Dataset:
    """Define or infer the classes of a layout."""
    samples = [sample for members in layout.splits.values() for sample in members]
    heads = list(layout.settings.heads) if layout.settings.heads is not None else sorted(samples[0].masks)
    mappings: dict[str, LabelMapping] = {}
    histograms: dict[str, LabelHistogram] = {}
    for head in heads:
        own, listed = layout.settings.of_head(head), layout.root / f"classes_{head}.txt"
        if head and own.class_names() is None and listed.is_file():
            own = with_classes(own, listed)
        classes = own.class_names()
        try:
            if classes is None:
                classes, histograms[head] = infer_classes(layout.root, own, samples, skip_bad, head)
        except BadDataError as error:
            found = [for_head(problem, head) for problem in error.problems]
            raise BadDataError(str(layout.root), [*found, *errors(layout.problems)]) from None
        if own.pages is not None:
            layout = layout.with_layers(head, own.pages, classes)
            samples = [sample for members in layout.splits.values() for sample in members]
        try:
            mappings[head] = make_mapping(own, classes)
        except ValidationError as error:  # of settings that name classes which were inferred just now
            raise DataError(f"{layout.root / 'data.toml'}: {describe(error)}") from None
    return Dataset(
        root=layout.root,
        format=layout.format,
        mappings=mappings,
        bands=None if layout.settings.bands is None else tuple(layout.settings.bands),
        splits=layout.splits,
        settings=layout.settings,
        problems=layout.problems,
        skip_bad=skip_bad,
        skipped=list(layout.partial) if skip_bad else [],
        histograms=histograms,
    )


def infer_classes(
    root: Path, settings: LabelSettings, samples: Sequence[Sample], skip_bad: bool, head: str
) -> tuple[tuple[str, ...], LabelHistogram]:
    """Name the classes class0, class1, ... that the masks of a head hold; return them and their histogram."""
    void = set(settings.void_values())
    histogram = LabelHistogram(frozenset(void | {VOID}))
    broken = ProblemCollector()
    jpegs: dict[str, str] = {}
    scanned = Scanner(root).masks(sample.masks[head] for sample in samples)
    files = [display_path(sample.masks[head].path, root) for sample in samples]
    for sample, name, stats in zip(samples, files, scanned, strict=True):
        if stats.error:
            broken.add(describe_unreadable(stats, sample.masks[head].path, root, sample.stem))
            continue
        histogram.add_values(stats)
        if stats.format in JPEG_FORMATS:
            jpegs[sample.stem] = name
        else:
            histogram.add(sample, stats)
    fix: dict[str, Any] = threshold_fix(root, histogram, None)
    if jpegs:
        detail = "compression changes labels near every edge"
        broken.add(replace(Finding("jpeg-mask", list(jpegs.values()), detail, stems=list(jpegs)), **fix))
    if blurred := histogram.blurred():
        names = [display_path(sample.masks[head].path, root) for sample in blurred]
        stems = {sample.stem for sample in blurred}
        broken.add(replace(Finding("lossy-mask", names, histogram.blur_cause(), stems=stems), **fix))
    if (problems := broken.problems()) and not skip_bad:
        raise BadDataError(str(root), problems)
    if blurred:  # the others decide
        rest = [sample for sample in samples if sample.stem not in stems]
        return infer_classes(root, settings, rest, skip_bad, head)[0], histogram
    diagnosis = LabelDiagnosis(root, files, histogram, None)
    if histogram.colored:
        colored = [display_path(sample.masks[head].path, root) for sample in histogram.colored]
        unclear: Finding | None = unnamed_colors(root, colored, histogram)
    else:
        unclear = _unclear(diagnosis, void_is_set=VOID in void)
    if unclear is not None:
        raise BadDataError(str(root), [to_problem(unclear)])
    return tuple(f"class{value}" for value in diagnosis.labels), histogram


def _unclear(diagnosis: LabelDiagnosis, void_is_set: bool) -> Finding | None:
    """Return why sound masks of labels do not define the classes; None where they do."""
    labels = diagnosis.labels
    if not void_is_set and labels in ([], [0]) and (found := diagnosis.binary()) is not None:
        return found
    if len(labels) < 2:
        held = f"only the label {labels[0]}" if labels else "no labels but void"
        table: dict[str, Any] = {"classes": ["background", "foreground"]}
        if labels and labels[0] > 1:
            table["values"] = {0: "background", labels[0]: "foreground"}
        cause = f"masks hold {held}, and a network needs two classes or more"
        fix = f"Name the classes, including those that do not occur. {config_hint(diagnosis.root, table)}"
        return Finding("few-classes", diagnosis.files, cause=cause, fix=fix)
    if (found := diagnosis.one_based() or diagnosis.instances()) is not None:
        return found
    if labels != list(range(len(labels))) or len(labels) > MAX_CLASSES:
        if (found := diagnosis.scaled()) is not None:
            return found
        return replace(diagnosis.gaps(), **threshold_fix(diagnosis.root, diagnosis.histogram, None))
    return None
