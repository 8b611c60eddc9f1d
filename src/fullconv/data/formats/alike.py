"""Pairs in folders of other usual names, as images/ with labels/, or train/ with train_labels/; where nothing else fits."""

from __future__ import annotations

from fullconv.data.config import SPLITS, DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.pairs import Sides, flat, kind_first, read_pairs, split_first, split_folders

_IMAGES = ("images", "image", "imgs", "img", "pictures", "photos", "inputs", "input", "rgb", "jpegimages", "x", "raw", "data",
    "img_dir", "image_dir", "images_png", "original", "originals", "original_images", "701_stillsraw_full")  # fmt: skip
_MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "gt", "gts", "ground_truth",
    "groundtruth", "truth", "targets", "target", "segmentation", "segmentations", "segs", "seg", "y", "ann_dir",
    "mask_dir", "label_dir", "masks_png", "ground truth", "label_images_semantic", "labeledapproved_full")  # fmt: skip


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find one folder of pictures and one of masks by their names, in the folder or in those of the splits."""
    for images, masks in _sides(folder, settings).both().values():
        return f"{images}/ with {masks['']}/"
    return None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Pair by name."""
    return read_pairs(folder, settings, _sides(folder, settings))


def _sides(folder: Folder, settings: DataSettings) -> Sides:
    nothing = Sides({}, {})
    if settings.heads is not None or settings.masks is not None:
        return nothing
    if settings.images is None and (ended := _ended(folder)).both():
        return ended
    places = ["", *split_folders(folder.folders).values()]
    for place in places:
        inner = folder.folders_in(place)
        images = settings.images or _only(folder, place, inner, _IMAGES)
        masks = _only(folder, place, inner, _MASKS)
        if images is None or masks is None or _others(folder, place, inner, {images, masks}):
            continue
        named = settings.model_copy(update={"images": images, "masks": masks})
        for sides in (split_first, kind_first, flat):
            if (found := sides(folder, named)).both():
                return found
    return nothing


def _only(folder: Folder, place: str, inner: dict[str, str], names: tuple[str, ...]) -> str | None:
    """Return the one folder of some names that holds pictures; None where there is none, or several."""
    there = [inner[name] for name in names if name in inner]
    full = [name for name in there if folder.pictures(f"{place}/{name}".removeprefix("/")).files]
    return full[0] if len(full) == 1 else None


def _others(folder: Folder, place: str, inner: dict[str, str], taken: set[str]) -> bool:
    """Whether further folders hold pictures, so that it is not clear which are the masks."""
    further = [
        name for name in inner.values() if name not in taken and name not in split_folders(folder.folders).values()
    ]
    return any(folder.pictures(f"{place}/{name}".removeprefix("/")).files for name in further)


def _ended(folder: Folder) -> Sides:
    """Find the splits in the names of the folders: train_images/ with train_masks/, train/ with train_labels/."""
    found = Sides({}, {})
    for split in SPLITS:
        name = {"val": ("val", "valid", "validation")}.get(split, (split,))
        images = _one_of(
            folder, [one + end for one in name for end in ("", *(f"{j}{e}" for j in "_-" for e in _IMAGES))]
        )
        masks = _one_of(folder, [f"{one}{joint}{end}" for one in name for joint in ("_", "-", "") for end in _MASKS])
        if images is not None and masks is not None:
            found.pictures[split] = images
            found.add_masks(split, "", masks)
    return found


def _one_of(folder: Folder, names: list[str]) -> str | None:
    there = [folder.folders[name] for name in names if name in folder.folders]
    full = [name for name in there if folder.pictures(name).files]
    return full[0] if len(full) == 1 else None


FORMATS = (Format("other-names", "pairs", detect, read),)
