"""Write any supported data set as clean files: index masks, or COCO annotations."""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from fullconv.card import Labels
from fullconv.data.dataset import Dataset
from fullconv.data.opening import open_dataset
from fullconv.data.problems import Problem, display_path, errors
from fullconv.data.samples import Sample
from fullconv.errors import DataError, FullconvError, OutputError, nearest
from fullconv.labels import VOID, encode_label_map
from fullconv.storage import write_bytes, write_text

Target = Literal["pairs", "voc", "coco"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass
class Converted:
    """What was written, and what was not."""

    written: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Image and reason."""
    problems: list[Problem] = field(default_factory=list)
    """Errors that excluded something before it was read, such as images without masks."""


def convert_dataset(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str = "pairs",
    format: str | None = None,  # noqa: A002  # the name of the option
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write a data set (a folder or `.zip`) into an empty folder; image files are copied unchanged.

    `format` names the layout if several fit; `progress` is called with the number of images done and of all.
    """
    if to not in TARGETS:
        raise DataError(f"there is no format '{to}' to write.{nearest(to, TARGETS)} Choose {', '.join(TARGETS)}.")
    dataset = open_dataset(data, format=format, skip_bad=True)
    target = Path(out).expanduser()
    _check_target(target, dataset.root)
    if to != "pairs" and len(dataset.heads) > 1:
        raise DataError(f"{dataset.root}: has masks of several heads, but --to {to} holds only one. Use --to pairs.")
    if to != "pairs" and dataset.settings.bands_from is not None:
        raise DataError(f"{dataset.root}: has further bands, which --to {to} cannot hold. Use --to pairs.")
    writers: dict[str, type[_Writer]] = {"pairs": _PairsWriter, "voc": _VocWriter, "coco": _CocoWriter}
    writer = writers[to](dataset, target)
    result = Converted(problems=errors(dataset.problems))
    total = sum(len(members) for members in dataset.splits.values())
    for split, members in dataset.splits.items():
        for sample in members:
            try:
                _, masks = dataset.read_sample(sample)
            except FullconvError as error:
                result.failed.append((display_path(sample.image, dataset.root), str(error)))
            else:
                writer.add(split, sample, masks)
                result.written += 1
            if progress is not None:
                progress(result.written + len(result.failed), total)
    if result.written:
        writer.finish()
    elif result.failed:
        raise DataError(f"{dataset.root}: no image can be converted: {result.failed[0][1]}")
    return result


def _check_target(target: Path, root: Path) -> None:
    try:
        is_full = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise OutputError(f"{target}: cannot be read ({error.strerror or error}). Specify another folder.") from error
    if is_full:
        raise OutputError(f"{target}: is not empty. Specify a new folder.")
    if root.resolve() in (target.resolve(), *target.resolve().parents):
        raise OutputError(f"{target}: lies in the data folder. Specify a folder outside it.")


class _Writer(ABC):
    """Writes images and masks into a folder, and data.toml."""

    def __init__(self, dataset: Dataset, out: Path) -> None:
        self.dataset, self.out = dataset, out
        self.labels = dataset.labels[dataset.heads[0]]
        self.stems: dict[str, list[str]] = {}
        """By split."""
        self.groups: list[tuple[str, str]] = []

    def add(self, split: str, sample: Sample, masks: dict[str, NDArray[np.uint8]]) -> None:
        """Write an image with its masks by head."""
        stem = self.write(split, sample, masks)
        self.stems.setdefault(split, []).append(stem)
        if sample.group is not None:
            self.groups.append((stem, sample.group))

    @abstractmethod
    def write(self, split: str, sample: Sample, masks: dict[str, NDArray[np.uint8]]) -> str:
        """Write the files of a sample and return its new stem."""

    def copy(self, image: Path, target: Path) -> None:
        """Copy an image file."""
        with image.open("rb") as file:
            write_bytes(target, iter(lambda: file.read(1 << 20), b""))

    def write_mask(self, mask: NDArray[np.uint8], target: Path, head: str = "") -> None:
        """Write class indices as an indexed PNG."""
        labels = self.dataset.labels[head] if head else self.labels
        write_bytes(target, [encode_label_map(mask, labels.palette)])

    def finish(self, *lines: str) -> None:
        """Write data.toml, with further lines."""
        heads = self.dataset.labels
        text = [*(_class_lines(self.labels) if len(heads) == 1 else []), *lines]
        if self.dataset.bands is not None:
            text.append(f"bands = {list(self.dataset.bands)}")
        if self.groups:
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows(self.groups)
            write_text(self.out / "groups.csv", table.getvalue())
            text.append('groups = "groups.csv"')
        for head, labels in heads.items() if len(heads) > 1 else ():
            text += [f"\n[heads.{head}]", *_class_lines(labels)]
        write_text(self.out / "data.toml", "\n".join(text) + "\n")


def _class_lines(labels: Labels) -> list[str]:
    """Return the lines of data.toml for classes, palette and mirror pairs."""
    listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in labels.classes)
    lines = [f"classes = [{listed}]", f"palette = {[list(color) for color in labels.palette]}"]
    if labels.mirror_pairs is not None:
        lines.append(f"mirror_pairs = {json.dumps(labels.mirror_pairs, ensure_ascii=False)}")
    return lines


class _PairsWriter(_Writer):
    def write(self, split: str, sample: Sample, masks: dict[str, NDArray[np.uint8]]) -> str:
        stem = sample.stem.removeprefix(f"{split}/")
        for folder, path in zip(("images", "more_bands"), sample.image_files, strict=False):
            self.copy(path, self.out / split / folder / f"{stem}{path.suffix}")
        for head, mask in masks.items():
            self.write_mask(mask, self.out / split / (f"masks_{head}" if head else "masks") / f"{stem}.png", head)
        return stem

    def finish(self, *lines: str) -> None:
        bands = ['bands_from = "more_bands"'] if self.dataset.settings.bands_from is not None else []
        super().finish(*bands, *lines)


class _VocWriter(_Writer):
    def write(self, split: str, sample: Sample, masks: dict[str, NDArray[np.uint8]]) -> str:
        (mask,) = masks.values()
        self.copy(sample.image, self.out / "JPEGImages" / f"{sample.stem}{sample.image.suffix}")
        self.write_mask(mask, self.out / "SegmentationClass" / f"{sample.stem}.png")
        return sample.stem

    def finish(self, *lines: str) -> None:
        for split, stems in self.stems.items():
            write_text(self.out / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(stems) + "\n")
        super().finish(*lines)


class _CocoWriter(_Writer):
    def __init__(self, dataset: Dataset, out: Path) -> None:
        super().__init__(dataset, out)
        self.tables: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    def write(self, split: str, sample: Sample, masks: dict[str, NDArray[np.uint8]]) -> str:
        (mask,) = masks.values()
        name = f"{sample.stem}{sample.image.suffix}"
        self.copy(sample.image, self.out / "images" / name)
        images, annotations = self.tables.setdefault(split, ([], []))
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "height": mask.shape[0], "width": mask.shape[1]})
        for value in np.unique(mask).tolist():
            if value == 0:
                continue  # pixels without an annotation
            code = coco_masks.encode(np.asfortranarray(mask == value).view(np.uint8))
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 1 if value == VOID else value,
                "iscrowd": int(value == VOID),
                "area": int(coco_masks.area(code)),
                "bbox": coco_masks.toBbox(code).tolist(),
                "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode("ascii")},
            }
            annotations.append(entry)
        return sample.stem

    def finish(self, *lines: str) -> None:
        categories = [{"id": i, "name": name} for i, name in enumerate(self.labels.classes) if i]
        for split, (images, shapes) in self.tables.items():
            table = {"images": images, "annotations": shapes, "categories": categories}
            text = json.dumps(table, ensure_ascii=False)
            write_text(self.out / "annotations" / f"instances_{split}.json", text)
        super().finish(*lines, f"unlabeled = {json.dumps(self.labels.classes[0], ensure_ascii=False)}")
