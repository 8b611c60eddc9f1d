"""CVAT's "Segmentation mask 1.1": masks in VOC's folders, and labelmap.txt, which says what their colours mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, Pictures
from fullconv.data.formats import Format, Found
from fullconv.data.formats.file_lists import told_twice
from fullconv.data.formats.voc import listed_stem
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.data.splits import read_list
from fullconv.data.text_files import read_text
from fullconv.dataset_constants import LABELS
from fullconv.errors import DataError
from fullconv.labels import format_color

_LINE = re.compile(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find labelmap.txt with SegmentationClass, or the masks with neither labelmap.txt nor VOC's JPEGImages."""
    if settings.masks or "segmentationclass" not in folder.folders:
        return None
    masks = folder.folders["segmentationclass"]
    if (folder.root / "labelmap.txt").is_file():
        return f"labelmap.txt with {masks}/"
    export = (folder.root / "ImageSets" / "Segmentation" / "default.txt").is_file()
    return f"{masks}/ with ImageSets/ and no JPEGImages/" if export and "jpegimages" not in folder.folders else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Pair masks with pictures in JPEGImages, in `images`, or anywhere beside them."""
    masks = folder.pictures(folder.folders["segmentationclass"])
    pictures = _pictures(folder, settings)
    found = Found(splits={})
    lists = _lists(folder, masks)
    of_stem = {stem: split for split, (_, stems) in reversed(lists.items()) for stem in stems}
    found.splits.update({split: [] for split in lists if split})
    lost, unlisted = [], []
    for stem, path in masks.files.items():
        image = pictures.get(stem) or pictures.get(PurePosixPath(stem).name)
        if image is None:
            lost.append(path.relative_to(folder.root).as_posix())
        elif lists and stem not in of_stem:
            unlisted.append(path.relative_to(folder.root).as_posix())
        else:
            found.splits.setdefault(of_stem.get(stem, ""), []).append(Sample(stem, image, {"": MaskFile(path)}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    found.problems += _of_lists(folder, lists, masks) + masks.duplicates(folder.root, "masks")
    if unlisted:
        words, remedy = (
            "masks are on no list in ImageSets/, and are left out",
            "Add them to a list if they should count.",
        )
        found.problems.append(problem("unlisted", "note", unlisted, words, remedy))
    if lost:
        words = "masks have no picture: CVAT exports them without, unless it is told to save images"
        remedy = 'Put the pictures into JPEGImages/, or name their folder in data.toml: images = "..."'
        some = any(found.splits.values())
        found.problems.append(problem("missing-picture", "warning" if some else "error", lost, words, remedy))
    found.settings = _meaning(folder, found)
    return found


def _pictures(folder: Folder, settings: DataSettings) -> dict[str, Path]:
    places = (
        [settings.images] if settings.images else [folder.folders.get("jpegimages"), folder.folders.get("images"), ""]
    )
    found: dict[str, Path] = {}
    for place in places:
        if place is None:
            continue
        listed: Pictures = folder.pictures(place)
        for stem, path in listed.files.items():
            if not place and path.relative_to(folder.root).parts[0].lower().startswith("segmentation"):
                continue
            found.setdefault(stem, path)
            found.setdefault(PurePosixPath(stem).name, path)
    return found


def _meaning(folder: Folder, found: Found) -> dict[str, object]:
    """Say what colours mean; where masks are grey, their numbers are those of labelmap.txt's lines."""
    path = folder.root / "labelmap.txt"
    if path.is_file():
        colors = _labelmap(path)
    else:
        voc = LABELS["voc"][""]
        colors = {format_color(color): name for color, name in zip(voc.palette, voc.classes, strict=True)}
        colors["#e0e0c0"] = VOID_NAME  # VOC's borders
    names = list(dict.fromkeys(name for name in colors.values() if name != VOID_NAME))
    first = [name for name in names if name.lower() == "background"]
    classes = [*first, *(name for name in names if name not in first)]
    samples = [sample for members in found.splits.values() for sample in members]
    numbers: set[int] = set()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in samples):
        if not facts.error and (facts.in_color or facts.palette):
            return {"classes": classes, "colors": colors}
        numbers.update(facts.counts)
    if all(format_color((value, value, value)) in colors for value in numbers):
        return {"classes": classes, "colors": colors}
    return {"classes": classes, "values": dict(enumerate(colors.values())), "palette": _palette(classes, colors)}


def _palette(classes: list[str], colors: dict[str, str]) -> list[list[int]]:
    first = {name: color for color, name in reversed(colors.items())}
    return [[int(first[name][i : i + 2], 16) for i in (1, 3, 5)] for name in classes]


def _labelmap(path: Path) -> dict[str, str]:
    """Read lines label:r,g,b:parts:actions as colour -> label, in their order."""
    colors: dict[str, str] = {}
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Export it again.") from error
    for count, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or max(int(match[i]) for i in (2, 3, 4)) > 255:
            raise DataError(
                f"{path}, line {count}: '{line.strip()}' is not label:r,g,b:parts:actions. Export it again."
            )
        color = format_color((int(match[2]), int(match[3]), int(match[4])))
        if color in colors:
            raise DataError(f"{path}, line {count}: {match[1]} has the colour of {colors[color]}. Give it another one.")
        colors[color] = match[1]
    if not colors:
        raise DataError(f"{path}: names no label. Export it again.")
    return colors


def _lists(folder: Folder, masks: Pictures) -> dict[str, tuple[str, list[str]]]:
    """Read the lists, one a subset of CVAT's project, as split -> their name and stems; "" for subsets of other names."""
    found: dict[str, tuple[str, list[str]]] = {}
    for path in folder.files("*.txt", "ImageSets/Segmentation"):
        split = _SPLITS.get(path.stem.lower(), "")
        name, before = found.get(split, (path.relative_to(folder.root).as_posix(), []))
        found[split] = (name, before + [listed_stem(line, masks) for line in read_list(path)])
    return {split: found[split] for split in ("train", "val", "test", "") if split in found}


def _of_lists(folder: Folder, lists: Mapping[str, tuple[str, list[str]]], masks: Pictures) -> list[Problem]:
    """Name what stands on lists without a mask, and what stands on two."""
    found: list[Problem] = []
    for name, stems in lists.values():
        absent = [stem for stem in dict.fromkeys(stems) if stem not in masks.files]
        if absent:
            words, remedy = f"lines of {name} name masks that are not there", f"Correct {name}, or add the masks."
            found.append(problem("missing-listed", "error", absent, words, remedy))
    train_name, train = lists.get("train", ("", []))
    for split, (name, stems) in lists.items():
        twice = [stem for stem in stems if stem in set(train)] if split != "train" else []
        if twice:
            found.append(told_twice(train_name, name, twice))
    return found


FORMATS = (Format("cvat-masks", "cvat-masks", detect, read),)
