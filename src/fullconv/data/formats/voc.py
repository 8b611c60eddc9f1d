"""PASCAL VOC: JPEGImages, SegmentationClass, and lists in ImageSets/Segmentation if there are any."""

from __future__ import annotations

import re
from pathlib import Path

from fullconv.data.config import SPLITS, DataSettings
from fullconv.data.files import Folder, ImageFiles, load_text
from fullconv.data.formats.file_lists import report_overlap
from fullconv.data.formats.format import FormatResult
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.data.splits import omitted_lines, outside_paths, read_list, stems_in
from fullconv.dataset_constants import LABELS
from fullconv.labels import VOID

_MASK_FOLDERS = ("segmentationclass", "segmentationclasspng")
_STEM = re.compile(r"\d{4}_\d{6}")
_SPECIAL = {"__ignore__": None, "_background_": "background"}
"""Names that labelme2voc gives: -1, which is void, and class 0."""


def _folders(folder: Folder) -> tuple[str, str] | None:
    images = folder.folders.get("jpegimages")
    masks = [folder.folders[name] for name in _MASK_FOLDERS if name in folder.folders]
    for name in masks:  # old labelme2voc puts arrays into the first
        if images is not None and folder.images(name).files:
            return images, name
    return (images, masks[0]) if images is not None and masks else None


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find the two folders, unless the user names others, or CVAT's labelmap.txt defines the colors."""
    folders = _folders(folder)
    if folders is None or settings.images or settings.masks or (folder.root / "labelmap.txt").is_file():
        return None
    return "{}/ with {}/".format(*folders)


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by the lists, or everything that has a mask if there are none."""
    folders = _folders(folder)
    assert folders is not None
    images, masks = (folder.images(name) for name in folders)
    result = FormatResult(folder.root)
    lists = _lists(folder)
    for split, path in lists.items():
        name = path.relative_to(folder.root).as_posix()
        listed = read_stems(path, images)
        absent = [stem for stem in listed if stem not in images.files and not stem.startswith("#")]
        fix = f"Correct {name}, or add the images."
        result.report("missing-listed", "error", absent, f"lines of {name} name images that do not exist", fix)
        found = [stem for stem in listed if stem in images.files]
        taken = zip(read_list(path), listed, strict=True)
        result.problems += omitted_lines(path, folder.root, found)
        result.problems += outside_paths(
            path, folder.root, ((line, images.files[stem]) for line, stem in taken if stem in images.files)
        )
        unpaired = [stem for stem in found if stem not in masks.files]
        if split == "test" and len(unpaired) == len(found):  # the masks of the challenge are not public
            result.report("missing-mask", "note", unpaired, f"{name} lists images without masks, which are omitted")
        else:
            cause, fix = f"images of {name} have no mask", f"Add the masks, or remove the images from {name}."
            result.report("missing-mask", "error", unpaired, cause, fix, unpaired)
            result.partial |= set(unpaired)
        result.splits[split] = _samples([stem for stem in dict.fromkeys(found) if stem in masks.files], images, masks)
    if not lists:
        result.splits[""] = _samples([stem for stem in images.files if stem in masks.files], images, masks)
        lost = [path for stem, path in masks.files.items() if stem not in images.files]
        result.report_missing_images(lost, "in JPEGImages/")
        without = [path for stem, path in images.files.items() if stem not in masks.files]  # VOC's for detection
        cause = "images in JPEGImages/ have no mask, and are omitted"
        result.report("missing-mask", "warning", without, cause, "Add masks if they should count.")
    stems = {sample.stem for sample in result.samples}
    result.problems += images.duplicate_problems(folder.root, "images", stems)
    result.problems += masks.duplicate_problems(folder.root, "masks", stems)
    report_overlap(result, lists)
    result.settings = _classes(folder, settings, result.samples)
    return result


def _lists(folder: Folder) -> dict[str, Path]:
    sets = folder.folders.get("imagesets", "ImageSets")
    inner = folder.folders_in(sets) if (folder.root / sets).is_dir() else {}
    base = folder.root / sets / inner.get("segmentation", "Segmentation")
    lists: dict[str, Path] = {split: base / f"{split}.txt" for split in SPLITS if (base / f"{split}.txt").is_file()}
    for name in ("trainval", "default"):
        if "train" not in lists and (base / f"{name}.txt").is_file():
            return {**lists, "": base / f"{name}.txt"}
    return lists


def _samples(stems: list[str], images: ImageFiles, masks: ImageFiles) -> list[Sample]:
    return [Sample(stem, images.files[stem], {"": MaskFile(masks.files[stem])}) for stem in stems]


def read_stems(path: Path, images: ImageFiles) -> list[str]:
    """Return the image that each line of a list names; the line itself if it names none."""
    return [next((stem for stem in stems_in(line) if stem in images.files), line) for line in read_list(path)]


def _classes(folder: Folder, settings: DataSettings, samples: list[Sample]) -> dict[str, object]:
    """Return the names of labelme2voc's list, or VOC's own if the masks are those of VOC."""
    if settings.class_names() is not None:
        return {}
    listed = folder.root / "class_names.txt"
    if listed.is_file():
        lines = [line.strip() for line in load_text(listed, "Save it as UTF-8 text.").splitlines()]
        names = [_SPECIAL.get(line, line) for line in lines if line]
        return {"classes": [name for name in names if name is not None]}
    values: set[int] = set()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in samples):
        if facts.in_color and not facts.error:
            return {}
        values.update(facts.counts)
    voc = LABELS["voc"][""]
    indices = set(range(len(voc.classes)))
    named = sum(_STEM.fullmatch(sample.stem) is not None for sample in samples) > len(samples) / 2
    if values <= {*indices, VOID} and (named or values >= indices):
        return {"classes": list(voc.classes), "palette": [list(color) for color in voc.palette]}
    return {}
