"""Open a data set: find its layout, pair images with masks, split them, and define or infer the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fullconv.data.config import DataSettings, parse_settings, read_settings, with_classes
from fullconv.data.dataset import Dataset
from fullconv.data.files import Folder, open_root
from fullconv.data.formats import FormatResult, detect, enter_root, read
from fullconv.data.label_mapping import LabelMapping, make_mapping
from fullconv.data.labels.histogram import LabelHistogram
from fullconv.data.labels.infer import infer_classes
from fullconv.data.problems import BadDataError, Problem, errors, for_head
from fullconv.data.samples import Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.data.scan.stats import MaskStats
from fullconv.data.splits import by_lists, check_folds, choose_fold, hold_out, straddling, unread_lists, with_groups
from fullconv.errors import DataError


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
    """Return the folder that holds a data set: the path, its unpacked `.zip`, or the only folder in there.

    Raises:
        DataError: There is no such folder, or it is empty or cannot be read.
    """
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
            raise DataError(
                f"{root / 'data.toml'}: {key} is for folders of images and masks, not for the format {row.family}."
                " Remove it, or convert the data first: fullconv convert."
            )
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
    return {split: splits[split] for split in order}, problems + straddling(splits)


def build_dataset(layout: Layout, skip_bad: bool) -> Dataset:
    """Define or infer the classes of a layout.

    Raises:
        BadDataError: They are unclear; has everything that is wrong.
    """
    samples = [sample for members in layout.splits.values() for sample in members]
    heads = list(layout.settings.heads) if layout.settings.heads is not None else sorted(samples[0].masks)
    mappings: dict[str, LabelMapping] = {}
    histograms: dict[str, LabelHistogram] = {}
    for head in heads:
        try:
            mappings[head] = _map_head(layout, samples, skip_bad, head, histograms)
        except BadDataError as error:
            own = [for_head(found, head) for found in error.problems]
            raise BadDataError(str(layout.root), [*own, *errors(layout.problems)]) from None
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


def _map_head(
    layout: Layout, samples: Sequence[Sample], skip_bad: bool, head: str, histograms: dict[str, LabelHistogram]
) -> LabelMapping:
    own = layout.settings.of_head(head)
    listed = layout.root / f"classes_{head}.txt"
    if head and own.class_names() is None and listed.is_file():
        own = with_classes(own, listed)
    classes = own.class_names()
    if classes is None:
        scanner = Scanner(layout.root)

        def scan(chosen: Sequence[Sample]) -> Iterator[MaskStats]:
            return scanner.masks(sample.masks[head] for sample in chosen)

        classes, histograms[head] = infer_classes(layout.root, own, samples, scan, skip_bad, head)
    return make_mapping(own, classes)
