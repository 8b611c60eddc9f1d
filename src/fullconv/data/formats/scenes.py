"""Cityscapes (leftImg8bit, gtFine) and ADE20K in its scene-parsing layout (images, annotations; 0 is void)."""

from __future__ import annotations

import re
from pathlib import Path

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats import Format, Found
from fullconv.data.problems import Severity, problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.text_files import read_text
from fullconv.dataset_constants import LABELS
from fullconv.errors import DataError

_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelIds of the 19 classes that count, in the order of their trainIds; all others are void."""
_LAST_ID = 33
_SPLITS = {"train": "train", "train_extra": "train", "val": "val", "test": "test"}
_ADE_SPLITS = {
    "training": "train",
    "validation": "val",
    "train": "train",
    "val": "val",
    "testing": "test",
    "test": "test",
}
_ADE_CLASSES = 150


def detect_cityscapes(folder: Folder, settings: DataSettings) -> str | None:
    """Find the two folders."""
    images, truth = _place(folder, "leftimg8bit"), _place(folder, "gtfine", "gtcoarse")
    return None if images is None or truth is None or settings.masks else f"{images}/ with {truth}/"


def _place(folder: Folder, *names: str) -> str | None:
    """Find a folder by its lower-case name, also in one that is called after its archive: gtFine_trainvaltest/gtFine."""
    for name in names:
        if name in folder.folders:
            return folder.folders[name]
        outer = next((folder.folders[key] for key in folder.folders if key.startswith(f"{name}_")), None)
        if outer is not None and name in (inner := folder.folders_in(outer)):
            return f"{outer}/{inner[name]}"
    return None


def read_cityscapes(folder: Folder, settings: DataSettings) -> Found:
    """Pair by city and number; trainIds where there are some for all pictures, else labelIds."""
    found = Found(splits={})
    images, truth = _place(folder, "leftimg8bit") or "", _place(folder, "gtfine", "gtcoarse") or ""
    masks = folder.pictures(truth)
    middle = "gtFine" if truth.lower().endswith("gtfine") else "gtCoarse"
    kinds = {k: sum(key.endswith(f"_{k}") for key in masks.files) for k in ("labelTrainIds", "labelIds")}
    kind = "labelTrainIds" if kinds["labelTrainIds"] >= max(kinds["labelIds"], 1) else "labelIds"
    ending = f"_{middle}_{kind}"
    alone: dict[str, dict[str, Path]] = {}
    pictures = folder.pictures(images)
    for key, path in pictures.files.items():
        split = _SPLITS.get(key.split("/")[0].lower())
        if split is None:
            continue
        plain, _, weather = key.partition("_leftImg8bit")  # foggy and rainy copies share a mask
        mask = masks.files.get(plain + ending)
        stem = plain + weather
        found.splits.setdefault(split, [])
        if mask is None:
            alone.setdefault(split, {})[stem] = path
        else:
            found.splits[split].append(Sample(stem, path, {"": MaskFile(mask)}))
    _without(folder, found, alone, f"{truth}/ as ...{ending}.png")
    there = {key.partition("_leftImg8bit")[0] for key in pictures.files}
    own = {key.removesuffix(ending): path for key, path in masks.files.items() if key.endswith(ending)}
    _left_over(folder, found, own, there, images)
    found.problems += pictures.duplicates(folder.root, "pictures")
    labels = LABELS["cityscapes"][""]
    known: dict[str, object] = {"classes": list(labels.classes), "palette": [list(c) for c in labels.palette]}
    if kind == "labelIds":
        names = dict(zip(_IDS, labels.classes, strict=True))
        known["values"] = {i: names.get(i, VOID_NAME) for i in range(_LAST_ID + 1)}
    found.settings = known
    return found


def _without(folder: Folder, found: Found, alone: dict[str, dict[str, Path]], where: str) -> None:
    for split, pictures in alone.items():
        severity: Severity = "note" if split == "test" and not found.splits[split] else "error"
        words = f"pictures have no mask in {where}"
        remedy = "" if severity == "note" else "Add the masks, or move the pictures away."
        gone = [] if severity == "note" else list(pictures)
        files = [path.relative_to(folder.root).as_posix() for path in pictures.values()]
        found.problems.append(problem("missing-mask", severity, files, words, remedy, gone))
        found.partial |= set(gone)


def _left_over(folder: Folder, found: Found, masks: dict[str, Path], pictures: set[str], images: str) -> None:
    """Name masks without a picture, of the splits that have some: their pictures come in archives of their own."""
    splits = {key.split("/")[0] for key in pictures}
    lost = [path for key, path in masks.items() if key not in pictures and key.split("/")[0] in splits]
    if lost:
        words, remedy = f"masks have no picture in {images}/", "Add the pictures, or move the masks away."
        files = [path.relative_to(folder.root).as_posix() for path in lost]
        severity: Severity = "warning" if any(found.splits.values()) else "error"
        found.problems.append(problem("missing-picture", severity, files, words, remedy))


def detect_ade(folder: Folder, settings: DataSettings) -> str | None:
    """Find images/training with annotations/training."""
    if settings.masks or not {"images", "annotations"} <= folder.folders.keys():
        return None
    inner = folder.folders_in(folder.folders["annotations"])
    split = next((name for name in ("training", "validation") if name in inner), None)
    if split is None or split not in folder.folders_in(folder.folders["images"]):
        return None
    return f"{folder.folders['images']}/{split}/ with {folder.folders['annotations']}/{split}/"


def read_ade(folder: Folder, settings: DataSettings) -> Found:
    """Pair by name; 0 is void, and class k of objectInfo150 is k - 1."""
    found = Found(splits={})
    images, truth = folder.folders["images"], folder.folders["annotations"]
    masks = folder.pictures(truth)
    if any(re.search(r"_seg$|_parts_\d+$", key) for key in masks.files):
        raise DataError(
            f"{folder.root}: these are masks of the full ADE20K release, whose red and green code the class."
            " Lay them beside their pictures as that release does, or take the scene-parsing release (SceneParse150)."
        )
    alone: dict[str, dict[str, Path]] = {}
    pictures = folder.pictures(images)
    for key, path in pictures.files.items():
        split = _ADE_SPLITS.get(key.split("/")[0].lower())
        if split is None:
            continue
        found.splits.setdefault(split, [])
        if key in masks.files:
            found.splits[split].append(Sample(key, path, {"": MaskFile(masks.files[key])}))
        else:
            alone.setdefault(split, {})[key] = path
    _without(folder, found, alone, f"{truth}/")
    _left_over(folder, found, masks.files, set(pictures.files), images)
    found.problems += pictures.duplicates(folder.root, "pictures") + masks.duplicates(folder.root, "masks")
    names = list(settings.class_names() or _names(folder))
    values = {} if settings.values is not None else {"values": {0: VOID_NAME, **dict(enumerate(names, 1))}}
    found.settings = {"classes": names, **values}
    return found


def _names(folder: Folder) -> list[str]:
    """Read objectInfo150.txt, the first name of each row; class1 ... class150 without it."""
    path = folder.root / "objectInfo150.txt"
    rows: list[str] = []
    if path.is_file():
        try:
            lines = read_text(path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Save it as UTF-8 text.") from error
        rows = [line.split("\t")[-1].split(",")[0].strip() for line in lines if re.match(r"\d+\s", line)]
    if len(rows) < 2:
        return [f"class{i}" for i in range(1, _ADE_CLASSES + 1)]
    return [name if rows.count(name) == 1 else f"{name} {i}" for i, name in enumerate(rows, 1)]


FORMATS = (
    Format("cityscapes", "cityscapes", detect_cityscapes, read_cityscapes),
    Format("ade20k", "ade20k", detect_ade, read_ade),
)
