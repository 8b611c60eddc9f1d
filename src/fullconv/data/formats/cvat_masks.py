"""CVAT's "Segmentation mask 1.1": masks in VOC's folders, and labelmap.txt, which defines their colors."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config import SPLITS, DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats.file_lists import report_overlap
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.voc import listed_stem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.data.splits import read_list
from fullconv.data.text_files import load_text
from fullconv.dataset_constants import LABELS
from fullconv.errors import DataError
from fullconv.labels import format_color

_LINE = re.compile(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find labelmap.txt with SegmentationClass, or the masks with neither labelmap.txt nor VOC's JPEGImages."""
    if settings.masks or "segmentationclass" not in folder.folders:
        return None
    masks = folder.folders["segmentationclass"]
    if (folder.root / "labelmap.txt").is_file():
        return f"labelmap.txt with {masks}/"
    export = (folder.root / "ImageSets" / "Segmentation" / "default.txt").is_file()
    return f"{masks}/ with ImageSets/ and no JPEGImages/" if export and "jpegimages" not in folder.folders else None


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair masks with images in JPEGImages, in `images`, or anywhere beside them."""
    result = FormatResult(folder.root)
    masks = folder.images(folder.folders["segmentationclass"])
    images = _images(folder, settings)
    lists: dict[str, Path] = {}
    stems: dict[str, list[str]] = {}
    for path in folder.files("*.txt", "ImageSets/Segmentation"):  # one a subset of CVAT's project
        split = split_of(path.stem)
        lists.setdefault(split, path)
        stems.setdefault(split, []).extend(listed_stem(line, masks) for line in read_list(path))
    stems = {split: stems[split] for split in (*SPLITS, "") if split in stems}
    split_by_stem = {stem: split for split, listed in reversed(stems.items()) for stem in listed}
    result.splits.update({split: [] for split in stems if split})
    lost, unlisted = [], []
    for stem, path in masks.files.items():
        image = images.get(stem) or images.get(PurePosixPath(stem).name)
        if image is None:
            lost.append(path)
        elif stems and stem not in split_by_stem:
            unlisted.append(path)
        else:
            result.add(split_by_stem.get(stem, ""), Sample(stem, image, {"": MaskFile(path)}))
    for split, listed in stems.items():
        name = lists[split].relative_to(folder.root).as_posix()
        absent = [stem for stem in dict.fromkeys(listed) if stem not in masks.files]
        cause, fix = f"lines of {name} name masks that do not exist", f"Correct {name}, or add the masks."
        result.report("missing-listed", "error", absent, cause, fix)
    report_overlap(result, lists, stems)
    result.problems += masks.duplicate_problems(folder.root, "masks")
    cause, fix = "masks are on no list in ImageSets/, and are omitted", "Add them to a list if they should count."
    result.report("unlisted", "note", unlisted, cause, fix)
    cause = 'masks have no image: CVAT exports them without unless "Save images" is on'
    fix = 'Put the images into JPEGImages/, or specify their folder in data.toml: images = "..."'
    result.report("missing-picture", "warning" if any(result.splits.values()) else "error", lost, cause, fix)
    result.settings = _label_settings(folder, result.samples)
    return result


def _images(folder: Folder, settings: DataSettings) -> dict[str, Path]:
    """Return images by stem and by name without folders; the masks do not count."""
    names = folder.folders
    places = [settings.images] if settings.images else [names.get("jpegimages"), names.get("images"), ""]
    found: dict[str, Path] = {}
    for place in places:
        for stem, path in () if place is None else folder.images(place).files.items():
            if place or not path.relative_to(folder.root).parts[0].lower().startswith("segmentation"):
                found.setdefault(stem, path)
                found.setdefault(PurePosixPath(stem).name, path)
    return found


def _label_settings(folder: Folder, samples: list[Sample]) -> dict[str, object]:
    """Return the classes with their colors, or with their numbers (the lines of labelmap.txt) if masks are gray."""
    path = folder.root / "labelmap.txt"
    if path.is_file():
        colors = _read_labelmap(path)
    else:
        voc = LABELS["voc"][""]
        colors = {format_color(color): name for color, name in zip(voc.palette, voc.classes, strict=True)}
        colors["#e0e0c0"] = VOID_NAME  # VOC's borders
    names = list(dict.fromkeys(name for name in colors.values() if name != VOID_NAME))
    classes = sorted(names, key=lambda name: name.lower() != "background")  # stable
    numbers: set[int] = set()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in samples):
        if not facts.error and (facts.in_color or facts.palette):
            return {"classes": classes, "colors": colors}
        numbers.update(facts.counts)
    if all(format_color((value, value, value)) in colors for value in numbers):
        return {"classes": classes, "colors": colors}
    first = {name: color for color, name in reversed(colors.items())}
    palette = [[int(first[name][i : i + 2], 16) for i in (1, 3, 5)] for name in classes]
    return {"classes": classes, "values": dict(enumerate(colors.values())), "palette": palette}


def _read_labelmap(path: Path) -> dict[str, str]:
    """Return the lines label:r,g,b:parts:actions as color -> label, in order."""
    colors: dict[str, str] = {}
    for count, line in enumerate(load_text(path, "Export it again.").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or max(int(match[i]) for i in (2, 3, 4)) > 255:
            raise DataError(
                f"{path}, line {count}: '{line.strip()}' is not label:r,g,b:parts:actions. Export it again."
            )
        color = format_color((int(match[2]), int(match[3]), int(match[4])))
        if color in colors:
            raise DataError(f"{path}, line {count}: {match[1]} has the color of {colors[color]}. Give it another one.")
        colors[color] = match[1]
    if not colors:
        raise DataError(f"{path}: lists no label. Export it again.")
    return colors
