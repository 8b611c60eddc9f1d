"""A data set: its classes, its splits, and its pictures and masks as arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Labels
from fullconv.data.config import DataSettings, parse_settings, read_settings, with_classes
from fullconv.data.files import Folder, open_root
from fullconv.data.formats import FormatResult, detect, enter_root, read
from fullconv.data.label_mapping import MaskCoding, make_coding
from fullconv.data.labels.infer import infer_classes
from fullconv.data.problems import BadDataError, Problem, errors, of_head
from fullconv.data.samples import Colors, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.data.scan.stats import MaskFacts, PictureFacts, together
from fullconv.data.splits import by_lists, check_folds, choose_fold, hold_out, straddling, unread_lists, with_groups
from fullconv.data.statistics import Statistics, gather
from fullconv.errors import DataError, nearest
from fullconv.images import read_image


@dataclass
class Dataset:
    """Pictures with masks, in splits."""

    root: Path
    format: str
    codings: dict[str, MaskCoding]
    """What the masks of each head mean."""
    bands: tuple[int, ...] | None
    """1-based choice of bands, in order; None is all."""
    splits: dict[str, list[Sample]]
    """"train", "val", maybe "test"; sorted by stem."""
    settings: DataSettings
    problems: list[Problem] = field(default_factory=list)
    """What was seen without decoding anything; `inspect` sees everything."""
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)
    """Stems that were left out because of `skip_bad`."""

    @property
    def labels(self) -> dict[str, Labels]:
        """Classes, colours and mask values by head."""
        return {head: coding.labels for head, coding in self.codings.items()}

    @property
    def heads(self) -> list[str]:
        """Names of the heads; "" is the only one of most data sets."""
        return list(self.codings)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the first head."""
        return next(iter(self.labels.values())).classes

    @cached_property
    def scanner(self) -> Scanner:
        """Examines files, and remembers."""
        return Scanner(self.root)

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of a split, or of all splits for "all".

        Raises:
            DataError: There is no such split, or nothing in it.
        """
        if split == "all":
            return [sample for members in self.splits.values() for sample in members]
        if not isinstance(split, str) or not self.splits.get(split):
            there = [name for name, members in self.splits.items() if members]
            hint = nearest(str(split), there)
            raise DataError(f"{self.root}: there is no split '{split}', but {', '.join(there) or 'none'}.{hint}")
        return self.splits[split]

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """Read a picture, (H, W, C) uint8, uint16 or float32, with the chosen bands.

        Raises:
            InputError: It cannot be read.
            DataError: It has too few bands, or another size than the picture with its further bands.
        """
        image = read_image(sample.image)
        if sample.more is not None:
            image = add_bands(image, read_image(sample.more), sample.more, sample.image.name)
        return choose_bands(image, self.bands, sample.image)

    def read_mask(self, sample: Sample, head: str | None = None) -> NDArray[np.uint8]:
        """Read a mask, (H, W) uint8: class indices and 255 for void; of the first head by default.

        Raises:
            DataError, InputError: It cannot be read, or holds a value that means nothing; names file and value.
        """
        head = self.heads[0] if head is None else head
        coding, source = self.codings[head], sample.masks[head]
        colors: Colors = "all" if coding.by_color else "rgb" if coding.colors else "none"
        return coding.decode(source.raw(colors), str(source.path))

    def fingerprint(self) -> str:
        """Return a hex digest of the splits, names and contents of all files and of what the masks mean."""
        digest = hashlib.sha256()
        digest.update(repr([(head, labels.model_dump()) for head, labels in self.labels.items()]).encode())
        digest.update(repr(self.bands).encode())
        for split in sorted(self.splits):
            members = self.splits[split]
            for sample, facts in zip(members, self.picture_facts(members), strict=True):
                digest.update(f"{split}|{sample.stem}|{facts.digest}\n".encode("utf-8", "surrogateescape"))
            for head in self.codings:
                for mask in self.scanner.masks(s.masks[head] for s in members):
                    digest.update(f"{head}|{mask.digest}\n".encode())
        return digest.hexdigest()

    def picture_facts(self, members: Sequence[Sample]) -> Iterator[PictureFacts]:
        """Yield what each sample's picture holds, all its bands together."""
        found = self.scanner.pictures(path for sample in members for path in sample.pictures)
        for sample in members:
            yield together([next(found) for _ in sample.pictures])

    def statistics(self, split: str = "train", head: str | None = None) -> Statistics:
        """Count classes (of the first head by default) and channels of a split; files are decoded once, then remembered.

        Raises:
            DataError: The split is empty, or its pictures differ in kind.
        """
        members = self.samples(split)
        head = self.heads[0] if head is None else head
        masks = self.scanner.masks(s.masks[head] for s in members)
        return gather(self.picture_facts(members), masks, self.codings[head], self.bands, f"{self.root} ({split})")

    def without(self, stems: Iterable[str]) -> Dataset:
        """Return the data set without some samples; they are in `skipped`."""
        gone = set(stems)
        splits = {split: [s for s in members if s.stem not in gone] for split, members in self.splits.items()}
        left_out = [s.stem for members in self.splits.values() for s in members if s.stem in gone]
        return Dataset(
            root=self.root,
            format=self.format,
            codings=self.codings,
            bands=self.bands,
            splits=splits,
            settings=self.settings,
            problems=self.problems,
            skip_bad=self.skip_bad,
            skipped=[*self.skipped, *left_out],
        )


def add_bands(image: NDArray[Any], more: NDArray[Any], where: Path, name: str) -> NDArray[Any]:
    """Return (H, W, C + C') of a picture (H, W, C) and one with further bands, in the smallest type that holds both.

    Raises:
        DataError: The two differ in size.
    """
    if image.shape[:2] != more.shape[:2]:
        raise DataError(
            f"{where}: is {more.shape[1]}x{more.shape[0]} pixels, {name} {image.shape[1]}x{image.shape[0]}."
            " Export both at one size."
        )
    return np.concatenate([image, more], axis=2)


def choose_bands(image: NDArray[Any], bands: tuple[int, ...] | None, where: Path) -> NDArray[Any]:
    """Return (H, W, len(bands)) of (H, W, C), or all of it where bands is None.

    Raises:
        DataError: There are fewer bands than asked for.
    """
    if bands is None:
        return image
    if max(bands) > image.shape[2]:
        raise DataError(f"{where}: has {image.shape[2]} bands, data.toml asks for band {max(bands)}. Correct bands.")
    return np.ascontiguousarray(image[..., [band - 1 for band in bands]])


def open_dataset(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  # the name of the option and of the key in data.toml
    skip_bad: bool = False,
    folds: int | None = None,
    fold: int | None = None,
) -> Dataset:
    """Open a folder or `.zip` of pictures and masks.

    Args:
        path: The data folder.
        format: Name of the layout where several fit.
        skip_bad: Leave out pictures that have no mask or cannot be used, instead of stopping.
        folds: Put train and val together and split them into this many parts; data.toml's where not given.
        fold: The part that is val, from 0; needs folds here or in data.toml.

    Returns:
        The data set; what is wrong with it but does not keep it from being opened is in its `problems`.

    Raises:
        DataError: It cannot be used; the message names what is wrong, where, and the lines that mend it.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise DataError(f"a data set is named by the path of its folder or .zip, not by {path!r}.")
    return open_with({}, path, format, skip_bad, folds, fold)


def find_root(path: str | os.PathLike[str], format: str | None = None) -> Path:  # noqa: A002
    """Return the folder that holds a data set: the path, what its `.zip` was unpacked to, or the only folder in there.

    Raises:
        DataError: There is no such folder, or it is empty or cannot be read.
    """
    return enter_root(open_root(path), format)


def open_with(
    more: Mapping[str, Any],
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002
    skip_bad: bool = False,
    folds: int | None = None,
    fold: int | None = None,
) -> Dataset:
    """Open a data set as if its `data.toml` had these keys, too; everything else as `open_dataset`."""
    root = find_root(path, format)
    settings = read_settings(root)
    if more:
        given: dict[str, Any] = {key: getattr(settings, key) for key in settings.model_fields_set}
        settings = parse_settings({**given, **more}, str(root))
    if folds is None and settings.folds is not None:
        folds, fold = settings.folds, fold or 0
    check_folds(folds, fold)
    folder = Folder(root)
    row = detect(folder, settings, format)
    for key in ("heads", "bands_from"):
        if getattr(settings, key) is not None and row.family not in ("pairs", "camvid"):
            raise DataError(
                f"{root / 'data.toml'}: {key} is for folders of pictures and masks, not for the format {row.family}."
                " Take it out, or convert the data first: fullconv convert."
            )
    found = read(row, folder, settings)
    settings = _complete(settings, found, root)
    splits, problems = _split(found, settings, root, folds, fold)
    problems += folder.problems()
    _refuse_nothing(root, splits, problems)
    everyone = [sample for members in splits.values() for sample in members]
    heads = list(settings.heads) if settings.heads is not None else sorted(everyone[0].masks)
    try:
        codings = {head: _coding(root, settings, everyone, skip_bad, head) for head in heads}
    except BadDataError as error:  # everything that is wrong, at once
        raise BadDataError(str(root), [*error.problems, *errors(problems)]) from None
    return Dataset(
        root=root,
        format=format or settings.format or row.family,
        codings=codings,
        bands=None if settings.bands is None else tuple(settings.bands),
        splits=splits,
        settings=settings,
        problems=problems,
        skip_bad=skip_bad,
        skipped=sorted(found.partial) if skip_bad else [],
    )


def _complete(settings: DataSettings, found: FormatResult, root: Path) -> DataSettings:
    """Add the keys that the format knows to those that the user gave."""
    if not found.settings:
        return settings
    given: dict[str, Any] = {key: getattr(settings, key) for key in settings.model_fields_set}
    return parse_settings({**found.settings, **given}, str(root))


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


def _refuse_nothing(root: Path, splits: Mapping[str, list[Sample]], problems: list[Problem]) -> None:
    if not any(splits.values()):
        bad = errors(problems)
        raise BadDataError(str(root), bad) if bad else DataError(f"{root}: there is no picture with a mask.")


def _coding(root: Path, settings: DataSettings, everyone: Sequence[Sample], skip_bad: bool, head: str) -> MaskCoding:
    own = settings.of_head(head)
    listed = root / f"classes_{head}.txt"
    if head and own.class_names() is None and listed.is_file():
        own = with_classes(own, listed)
    classes = own.class_names()
    if classes is None:
        scanner = Scanner(root)

        def scan(samples: Sequence[Sample]) -> Iterator[MaskFacts]:
            return scanner.masks(sample.masks[head] for sample in samples)

        try:
            classes = infer_classes(root, own, everyone, scan, skip_bad, head)
        except BadDataError as error:
            raise BadDataError(str(root), [of_head(found, head) for found in error.problems]) from None
    return make_coding(own, classes)
