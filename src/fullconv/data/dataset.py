"""A data set: its classes, its splits, and its images and masks as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card, Labels
from fullconv.data.config import VOID_NAME, DataSettings, config_hint, spelling
from fullconv.data.label_diagnosis import LabelHistogram
from fullconv.data.label_mapping import LabelMapping
from fullconv.data.problems import Problem
from fullconv.data.samples import WARP, Colors, MaskFile, Sample, WarpedMask
from fullconv.data.scan.scanner import Scanner
from fullconv.data.scan.stats import ImageStats, merge_bands, select_bands
from fullconv.data.statistics import Statistics, class_counts, gather_statistics
from fullconv.errors import DataError, nearest, plural
from fullconv.images import ImageError, Pixels, read_pixels
from fullconv.labels import VOID


@dataclass(repr=False)
class Dataset:
    """Images with masks, in splits."""

    root: Path
    format: str
    mappings: dict[str, LabelMapping]
    """What the masks of each head mean."""
    bands: tuple[int, ...] | None
    """1-based choice of bands, in order; None is all."""
    splits: dict[str, list[Sample]]
    """"train", "val", maybe "test"; sorted by stem."""
    settings: DataSettings
    problems: list[Problem] = field(default_factory=list)
    """What was found without decoding anything; `inspect` finds everything."""
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)
    """Stems that were omitted because of `skip_bad`."""
    histograms: dict[str, LabelHistogram] = field(default_factory=dict, repr=False)
    """Labels of all masks by head, where classes were inferred from them."""

    def __repr__(self) -> str:
        splits = ", ".join(f"{len(members)} {split}" for split, members in self.splits.items())
        classes = " + ".join(str(len(labels.classes)) for labels in self.labels.values())
        return f"Dataset('{self.root}': {self.format}, {classes} classes; {splits})"

    @property
    def labels(self) -> dict[str, Labels]:
        """Classes, colours and mask values by head."""
        return {head: mapping.labels for head, mapping in self.mappings.items()}

    @property
    def heads(self) -> list[str]:
        """Names of the heads; "" is the only one of most data sets."""
        return list(self.mappings)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the first head."""
        return next(iter(self.labels.values())).classes

    @cached_property
    def scanner(self) -> Scanner:
        """Analyzes files and caches their stats."""
        return Scanner(self.root)

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of a split, or of all splits for "all".

        Raises:
            DataError: There is no such split, or it is empty.
        """
        if split == "all":
            return [sample for members in self.splits.values() for sample in members]
        if not isinstance(split, str) or not self.splits.get(split):
            present = [name for name, members in self.splits.items() if members]
            there = ", ".join(present) or "none"
            hint = nearest(str(split), present)
            raise DataError(f"{self.root}: there is no split '{split}', but {there}.{hint} Name another split.")
        return self.splits[split]

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """Read an image, (H, W, C) uint8, uint16 or float32, with the chosen bands.

        Raises:
            InputError: It cannot be read.
            DataError: It has too few bands, or another size than the image with its further bands.
        """
        return self.read_pixels(sample).values

    def read_pixels(self, sample: Sample, channels: int | None = None, first_look: bool = True) -> Pixels:
        """Read an image as `read_image` does, with the pixels that have no data.

        ``channels`` and ``first_look`` are those of `fullconv.images.read_pixels`.
        """
        try:
            if sample.more is None:
                return read_pixels(sample.image, self.bands, channels, first_look)
            pixels = read_pixels(sample.image, first_look=first_look)
            more = read_pixels(sample.more, first_look=first_look)
            pixels = add_bands(pixels, more, sample.more, sample.image.name)
        except ImageError as error:
            if error.code == "missing-band":
                raise DataError(str(error)) from None
            raise
        if self.bands is not None and max(self.bands) > pixels.values.shape[2]:
            there = plural(pixels.values.shape[2], "band")
            raise DataError(f"{sample.image}: has {there}, data.toml asks for band {max(self.bands)}. Correct bands.")
        return pixels if self.bands is None else pixels.select([band - 1 for band in self.bands])

    def read_mask(self, sample: Sample, head: str | None = None) -> NDArray[np.uint8]:
        """Read a mask, (H, W) uint8: class indices and 255 for void; of the first head by default.

        Raises:
            DataError, InputError: It cannot be read, or holds a value without a meaning.
        """
        head = self.heads[0] if head is None else head
        mapping, source = self.mappings[head], sample.masks[head]
        if differ := sample.grids_differ(head):
            raise DataError(f"{source.path}: {differ}. {WARP}")
        colors: Colors = "all" if mapping.by_color else "rgb" if mapping.colors else "none"
        mask = mapping.decode(source.raw(colors), str(source.path))
        return np.where(source.outside(), np.uint8(VOID), mask) if isinstance(source, WarpedMask) else mask

    def read_sample(
        self, sample: Sample, channels: int | None = None, first_look: bool = True
    ) -> tuple[Pixels, dict[str, NDArray[np.uint8]]]:
        """Read an image with its masks by head, as `read_pixels` and `read_mask` do.

        Raises:
            DataError, InputError: As these do; or a mask has another size than the image.
        """
        image = self.read_pixels(sample, channels, first_look)
        masks = {head: self.read_mask(sample, head) for head in sample.masks}
        for head, mask in masks.items():
            (h, w), (height, width) = mask.shape, image.values.shape[:2]
            if (h, w) != (height, width):
                sizes = f"{w}x{h}, its image {sample.image.name} {width}x{height}"
                raise DataError(f"{sample.masks[head].path}: the mask is {sizes}. Export both at one size.")
        return image, masks

    def fingerprint(self) -> str:
        """Return a hex digest of the splits, names and contents of all files and of the meaning of the masks."""
        digest = hashlib.sha256()
        meaning = [(head, labels.model_dump(exclude={"mirror_pairs"})) for head, labels in self.labels.items()]
        digest.update(repr(meaning).encode())
        if any(labels.mirror_pairs is not None for labels in self.labels.values()):
            digest.update(repr([labels.mirror_pairs for labels in self.labels.values()]).encode())
        if any(mapping.threshold is not None for mapping in self.mappings.values()):
            digest.update(repr([mapping.threshold for mapping in self.mappings.values()]).encode())
        digest.update(repr(self.bands).encode())
        for split in sorted(self.splits):
            members = self.splits[split]
            for sample, stats in zip(members, self.scan_images(members), strict=True):
                digest.update(f"{split}|{sample.stem}|{stats.digest}\n".encode("utf-8", "surrogateescape"))
            for head in self.mappings:
                for mask in self.scanner.masks(s.masks[head] for s in members):
                    digest.update(f"{head}|{mask.digest}\n".encode())
        return digest.hexdigest()

    def scan_images(self, members: Sequence[Sample]) -> Iterator[ImageStats]:
        """Yield the stats of each sample's image, all bands together."""
        several = any(sample.more is not None for sample in members)
        paths = (path for sample in members for path in sample.image_files)
        found = self.scanner.images(paths, None if several else self.bands)
        for sample in members:
            stats = merge_bands([next(found) for _ in sample.image_files])
            yield select_bands(stats, self.bands, str(sample.image)) if several and self.bands else stats

    def statistics(self, split: str = "train", head: str | None = None) -> Statistics:
        """Count classes (of the first head by default) and channels of a split; files are decoded once, then cached.

        Raises:
            DataError: The split is empty, or its images differ in kind.
        """
        members = self.samples(split)
        head = self.heads[0] if head is None else head
        with_holes: list[bool] = []
        classes, where = len(self.mappings[head].labels.classes), f"{self.root} ({split})"

        def images() -> Iterator[ImageStats]:
            for stats in self.scan_images(members):
                height, width = stats.size
                with_holes.append(not stats.error and max(stats.valid) < height * width)
                yield stats

        return gather_statistics(images(), self._count_classes(members, with_holes, head), classes, where)

    def _count_classes(
        self, members: Sequence[Sample], with_holes: Sequence[bool], head: str
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Yield the pixels by class (K,) and void pixels of each readable mask; where its image has no data it is void."""
        mapping = self.mappings[head]
        masks = self.scanner.masks(sample.masks[head] for sample in members)
        for sample, has_holes, mask in zip(members, with_holes, masks, strict=True):
            if mask.error:
                continue
            counts, void, unknown = class_counts(mask, mapping)
            if has_holes and not unknown:
                labels = self.read_pixels(sample).with_void(self.read_mask(sample, head))
                found = np.bincount(labels.reshape(-1), minlength=VOID + 1)
                counts, void = found[: len(counts)], int(found[VOID])
            yield counts, void

    def without(self, stems: Iterable[str]) -> Dataset:
        """Return the data set without some samples; they are in `skipped`."""
        gone = set(stems)
        splits = {split: [s for s in members if s.stem not in gone] for split, members in self.splits.items()}
        omitted = [s.stem for members in self.splits.values() for s in members if s.stem in gone]
        return replace(self, splits=splits, skipped=[*self.skipped, *omitted], histograms={})


def add_bands(image: Pixels, more: Pixels, where: Path, name: str) -> Pixels:
    """Concatenate an image and its further bands in the smallest type that holds both."""
    (height, width), (h, w) = image.values.shape[:2], more.values.shape[:2]
    if (h, w) != (height, width):
        raise DataError(f"{where}: is {w}x{h} pixels, {name} {width}x{height}. Export both at one size.")
    both = [image, more]
    holes = [pixels.nodata for pixels in both if pixels.nodata is not None]
    missing = None
    if any(pixels.missing is not None for pixels in both):
        empty = [
            np.zeros(pixels.values.shape, np.bool_) if pixels.missing is None else pixels.missing for pixels in both
        ]
        missing = np.concatenate(empty, axis=2)
    values = np.concatenate([pixels.values for pixels in both], axis=2)
    nodata = np.logical_or.reduce(holes) if holes else None
    return Pixels(values, nodata, missing, (*image.notices, *more.notices))


def match_heads(card: Card, dataset: Dataset, head: str | None) -> list[tuple[str | None, str]]:
    """Return pairs, at least one, of a model's head to evaluate (None for the only one) and the data set's."""
    labels = dataset.labels
    if card.heads is None:
        own = set(card.labels(head).classes)
        same = [name for name, theirs in labels.items() if set(theirs.classes) == own]
        return [(None, (same or list(labels))[0])]
    if head is not None:
        card.labels(head)
    names = [head] if head is not None else [name for name in card.heads if name in labels] or [next(iter(card.heads))]
    return [(name, name if name in labels else next(iter(labels))) for name in names]


def match_classes(
    card: Card, dataset: Dataset, head: str | None = None
) -> tuple[Dataset, list[tuple[str | None, str]], list[str]]:
    """Match a data set's classes with those of a model, by name.

    Args:
        card: Of the model.
        dataset: The data set.
        head: Of a model with several; None for all that the data have masks for.

    Returns:
        The data set, whose masks then hold the class indices of the model; pairs of a model's head (None for the only one) and
        the data set's; and sentences for the user.

    Raises:
        DataError: The names differ; the message has the lines of data.toml that match them, where there are some.
    """
    pairs, notes = match_heads(card, dataset, head), []
    mappings = dict(dataset.mappings)
    for ours, theirs in pairs:
        model, mapping = card.labels(ours), mappings[theirs]
        if set(model.classes) != set(mapping.labels.classes):
            raise DataError(f"{dataset.root}: {_different_classes(model.classes, dataset, theirs)}")
        if model.classes != mapping.labels.classes:
            order = ", ".join(mapping.labels.classes)
            notes.append(f"classes are matched by name: the data have them in another order ({order})")
            mappings[theirs] = mapping.in_order_of(model)
    return (replace(dataset, mappings=mappings) if notes else dataset), pairs, notes


def _different_classes(model: Sequence[str], dataset: Dataset, head: str) -> str:
    """Return how the classes of a model and of a data set's head differ, and what to write in data.toml."""
    mapping = dataset.mappings[head]
    data = mapping.labels.classes
    sides = {
        "model": [name for name in model if name not in data],
        "data": [name for name in data if name not in model],
    }
    only = "; ".join(f"only in the {side}: {', '.join(names) or 'none'}" for side, names in sides.items())
    differ = f"classes of model and data differ: {only}."
    by_spelling = {spelling(name): name for name in model}
    if len(by_spelling) < len(model):
        by_spelling = {}
    names = {name: name if name in model else by_spelling.get(spelling(name), VOID_NAME) for name in data}
    known = [name for name in names.values() if name != VOID_NAME]
    if head in dataset.histograms and not known:
        return f"{differ} The data name no classes: name them in data.toml, in the order of the labels in the masks."
    if head or not known or len(set(known)) < len(known) or VOID_NAME in model:
        return f"{differ} Score data that have the model's classes, or train on these."
    table: dict[str, Any] = {"classes": list(model)}
    source = dataset.samples("all")[0].masks[head]
    if source.key:  # shapes, whose names count
        if len(known) < len(names) or any(name != theirs for theirs, name in names.items()):
            return f"{differ} Rename them in the annotations, or train on these data."
        table["unlabeled"] = dataset.settings.unlabeled or data[0]
    elif not isinstance(source, (MaskFile, WarpedMask)):
        return f"{differ} Convert the data with fullconv convert, and name the classes as the model does."
    elif mapping.colors:
        if not mapping.by_color:  # colours of classes.txt, which masks of labels do not need
            return f"{differ} Name the classes in classes.txt as the model does."
        table["colors"] = {f"#{c:06x}": names.get(name, name) for c, name in mapping.named_colors.items()}
    else:
        meaning = sorted(mapping.class_values.items())
        table["values"] = {value: VOID_NAME if i == VOID else names[data[i]] for value, i in meaning}
    void = [name for name, known_as in names.items() if known_as == VOID_NAME]
    left = f" With these lines, {', '.join(void)} is void and not scored." if void else ""
    return f"{differ}{left} {config_hint(dataset.root, table)}"


def is_training_data(data: Dataset, card: Card) -> bool:
    """Whether a data set is that of a model's training, by the names of its images.

    All are there, and few others: some may have been added, while a foreign data set may share some names.
    """
    splits = card.data.get("splits")
    trained = {stem for stems in splits.values() for stem in stems} if isinstance(splits, Mapping) else set()
    present = {sample.stem for sample in data.samples("all")}
    return bool(trained) and trained <= present and len(trained) >= 0.9 * len(present)


def choose_samples(data: Dataset, card: Card, split: str) -> tuple[list[Sample], list[str]]:
    """Return the samples of a split; where the data set is that of the training, as the training split it.

    The card keeps the split of the training. With another fold or hash, the data set's present split could hold images that
    the model was trained on. Returned are the samples, and notes for the user.
    """
    own = data.samples(split)
    if split == "all" or not is_training_data(data, card):
        return own, []
    trained = {stem: name for name, stems in card.data["splits"].items() for stem in stems}
    present = {sample.stem: sample for sample in data.samples("all")}
    unknown = {sample.stem for sample in own} - trained.keys()
    kept = [sample for stem, sample in sorted(present.items()) if trained.get(stem) == split or stem in unknown]
    if not kept or {sample.stem for sample in kept} == {sample.stem for sample in own}:
        return own, []
    images = plural(len(kept), "image")
    return kept, [f"split '{split}' is that of the model's training ({images}), not the data set's own"]
