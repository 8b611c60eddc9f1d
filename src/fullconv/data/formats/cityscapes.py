"""Cityscapes: leftImg8bit/ with gtFine/ or gtCoarse/."""

from __future__ import annotations

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats.format import FormatResult
from fullconv.data.formats.pairs import pair_by_split
from fullconv.dataset_constants import LABELS

_CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelIds of the 19 evaluated classes, in the order of their trainIds; all others are void."""
_MAX_LABEL_ID = 33


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find the two folders."""
    images, masks = _find(folder, "leftimg8bit"), _find(folder, "gtfine", "gtcoarse")
    return None if images is None or masks is None or settings.masks else f"{images}/ with {masks}/"


def _find(folder: Folder, *names: str) -> str | None:
    """Find a folder by its lower-case name, also in one that is called like its archive: gtFine_trainvaltest/gtFine."""
    for name in names:
        if name in folder.folders:
            return folder.folders[name]
        outer = next((folder.folders[key] for key in folder.folders if key.startswith(f"{name}_")), None)
        if outer is not None and name in (inner := folder.folders_in(outer)):
            return f"{outer}/{inner[name]}"
    return None


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by city and number; trainIds if all images have them, else labelIds."""
    result = FormatResult(folder.root)
    image_folder, mask_folder = _find(folder, "leftimg8bit") or "", _find(folder, "gtfine", "gtcoarse") or ""
    images, masks = folder.images(image_folder), folder.images(mask_folder)
    counts = {ids: sum(key.endswith(f"_{ids}") for key in masks.files) for ids in ("labelTrainIds", "labelIds")}
    ids = "labelTrainIds" if counts["labelTrainIds"] >= max(counts["labelIds"], 1) else "labelIds"
    ending = f"_{'gtFine' if mask_folder.lower().endswith('gtfine') else 'gtCoarse'}_{ids}"
    by_key = {key.removesuffix(ending): path for key, path in masks.files.items() if key.endswith(ending)}
    parts = [(key.partition("_leftImg8bit"), path) for key, path in images.files.items()]
    entries = [(plain + weather, plain, path) for (plain, _, weather), path in parts]  # weather variants share a mask
    pair_by_split(result, entries, by_key, f"in {mask_folder}/ as ...{ending}.png", f"in {image_folder}/")
    result.problems += images.duplicate_problems(folder.root, "images")
    labels = LABELS["cityscapes"][""]
    found: dict[str, object] = {"classes": list(labels.classes), "palette": [list(c) for c in labels.palette]}
    if ids == "labelIds":
        names = dict(zip(_CLASS_IDS, labels.classes, strict=True))
        found["values"] = {i: names.get(i, VOID_NAME) for i in range(_MAX_LABEL_ID + 1)}
    result.settings = found
    return result
