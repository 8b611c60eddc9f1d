"""PASCAL VOC: JPEGImages, SegmentationClass, and lists in ImageSets/Segmentation where there are any."""

from __future__ import annotations

import re
from pathlib import Path

from fullconv.data.config import SPLITS, DataSettings
from fullconv.data.files import Folder, Pictures
from fullconv.data.formats import Format, Found
from fullconv.data.formats.file_lists import on_two_lists
from fullconv.data.problems import problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.data.splits import read_list, text_stem
from fullconv.data.text_files import composed, read_text
from fullconv.dataset_constants import LABELS
from fullconv.errors import DataError
from fullconv.labels import VOID

_MASKS = ("segmentationclass", "segmentationclasspng")
_STEM = re.compile(r"\d{4}_\d{6}")
_SPECIAL = {"__ignore__": None, "_background_": "background"}
"""Names that labelme2voc gives: -1, which is void, and class 0."""


def _places(folder: Folder) -> tuple[str, str] | None:
    images = folder.folders.get("jpegimages")
    masks = [folder.folders[name] for name in _MASKS if name in folder.folders]
    for name in masks:  # old labelme2voc puts arrays into the first
        if images is not None and folder.pictures(name).files:
            return images, name
    return (images, masks[0]) if images is not None and masks else None


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find the two folders, unless the user names others, or CVAT's labelmap.txt says what the colours mean."""
    places = _places(folder)
    if places is None or settings.images or settings.masks or (folder.root / "labelmap.txt").is_file():
        return None
    return "{}/ with {}/".format(*places)


def read(folder: Folder, settings: DataSettings) -> Found:
    """Pair by the lists, or everything that has a mask where there are none."""
    places = _places(folder)
    assert places is not None
    pictures, masks = folder.pictures(places[0]), folder.pictures(places[1])
    found = Found(splits={})
    lists = _lists(folder)
    if lists:
        for split, path in lists.items():
            _by_list(folder, split, path, pictures, masks, found)
    else:
        _everything(folder, pictures, masks, found)
    stems = {sample.stem for members in found.splits.values() for sample in members}
    found.problems += pictures.duplicates(folder.root, "pictures", stems) + masks.duplicates(
        folder.root, "masks", stems
    )
    found.problems += on_two_lists(folder, lists, found)
    found.settings = _classes(folder, settings, found)
    return found


def _lists(folder: Folder) -> dict[str, Path]:
    sets = folder.folders.get("imagesets", "ImageSets")
    inner = folder.folders_in(sets) if (folder.root / sets).is_dir() else {}
    base = folder.root / sets / inner.get("segmentation", "Segmentation")
    lists: dict[str, Path] = {split: base / f"{split}.txt" for split in SPLITS if (base / f"{split}.txt").is_file()}
    for name in ("trainval", "default"):
        if "train" not in lists and (base / f"{name}.txt").is_file():
            return {**lists, "": base / f"{name}.txt"}
    return lists


def _by_list(folder: Folder, split: str, path: Path, pictures: Pictures, masks: Pictures, found: Found) -> None:
    name = path.relative_to(folder.root).as_posix()
    listed = [listed_stem(line, pictures) for line in read_list(path)]
    listed = [stem for stem in listed if stem in pictures.files or not stem.startswith("#")]
    absent = [stem for stem in listed if stem not in pictures.files]
    alone = [stem for stem in listed if stem in pictures.files and stem not in masks.files]
    if absent:
        words, remedy = f"lines of {name} name pictures that are not there", f"Correct {name}, or add the pictures."
        found.problems.append(problem("missing-listed", "error", absent, words, remedy))
    if alone and split == "test" and len(alone) == len(listed) - len(absent):
        words = f"{name} lists pictures without masks, which are left out"  # the masks of the contest are kept back
        found.problems.append(problem("missing-mask", "note", alone, words, ""))
    elif alone:
        words, remedy = f"pictures of {name} have no mask", f"Add the masks, or take the pictures off {name}."
        found.problems.append(problem("missing-mask", "error", alone, words, remedy, alone))
        found.partial |= set(alone)
    found.splits[split] = [
        Sample(stem, pictures.files[stem], {"": MaskFile(masks.files[stem])})
        for stem in dict.fromkeys(listed)
        if stem in pictures.files and stem in masks.files
    ]


def listed_stem(line: str, pictures: Pictures) -> str:
    """Return the picture that a line names: all of it, or its first word; with folders and a suffix, or without."""
    for text in (line, re.split(r"[,;\t ]", line, maxsplit=1)[0]):
        stem = composed(text_stem(text))
        for name in (stem, stem.removeprefix("JPEGImages/"), stem.rpartition("/")[2]):
            if name in pictures.files:
                return name
    return line


def _everything(folder: Folder, pictures: Pictures, masks: Pictures, found: Found) -> None:
    found.splits[""] = [
        Sample(stem, path, {"": MaskFile(masks.files[stem])})
        for stem, path in pictures.files.items()
        if stem in masks.files
    ]
    lost = [
        path.relative_to(folder.root).as_posix() for stem, path in masks.files.items() if stem not in pictures.files
    ]
    if lost:
        words, remedy = "masks have no picture in JPEGImages/", "Add the pictures, or move the masks away."
        found.problems.append(problem("missing-picture", "warning", lost, words, remedy))
    alone = [
        path.relative_to(folder.root).as_posix() for stem, path in pictures.files.items() if stem not in masks.files
    ]
    if alone:  # as in VOC itself, whose pictures for detection have none
        words, remedy = "pictures in JPEGImages/ have no mask, and are left out", "Add masks if they should count."
        found.problems.append(problem("missing-mask", "warning", alone, words, remedy))


def _classes(folder: Folder, settings: DataSettings, found: Found) -> dict[str, object]:
    """Take the names of labelme2voc's list, or VOC's own where the masks are those of VOC."""
    if settings.class_names() is not None:
        return {}
    listed = folder.root / "class_names.txt"
    if listed.is_file():
        try:
            lines = [line.strip() for line in read_text(listed).splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{listed}: cannot be read ({error}). Save it as UTF-8 text.") from error
        names = [_SPECIAL.get(line, line) for line in lines if line]
        return {"classes": [name for name in names if name is not None]}
    samples = [sample for members in found.splits.values() for sample in members]
    values: set[int] = set()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in samples):
        if facts.in_color and not facts.error:
            return {}
        values.update(facts.counts)
    voc = LABELS["voc"][""]
    number = len(voc.classes)
    named = sum(_STEM.fullmatch(sample.stem) is not None for sample in samples) > len(samples) / 2
    if values <= {*range(number), VOID} and (named or values >= set(range(number))):
        return {"classes": list(voc.classes), "palette": [list(color) for color in voc.palette]}
    return {}


FORMATS = (Format("voc", "voc", detect, read),)
