"""A folder per image, with a mask file per object: ID/images/ID.png with ID/masks/*.png, as in Kaggle's Data Science Bowl."""

from __future__ import annotations

from pathlib import Path

from fullconv.data.config import BINARY_NAMES, DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats.format import SPLIT_NAMES, FormatResult
from fullconv.data.samples import LayeredMask, Sample
from fullconv.errors import DataError

_IMAGES, _MASKS = "images", "masks"
_LOOKED_AT = 50  # folders that detection opens


def _roots(folder: Folder) -> dict[str, str]:
    """Return the folders that hold the folders of images: name -> split."""
    inner = {folder.folders[n]: split for split, names in SPLIT_NAMES.items() for n in names if n in folder.folders}
    return inner or {"": ""}


def _places(folder: Folder, root: str, most: int | None = None) -> list[str]:
    """Return the folders of single images in one of `_roots`, of the first `most` folders."""
    names = folder.folders_in(root) if root else folder.folders
    places = [f"{root}/{name}" if root else name for name in sorted(names.values())[:most]]
    return [place for place in places if {_IMAGES, _MASKS} <= set(folder.folders_in(place))]


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find folders of one image each with more masks than images, none of the image's name."""
    if settings.images or settings.masks:
        return None
    for root in _roots(folder):
        places = _places(folder, root, _LOOKED_AT)
        found = [
            (folder.images(f"{place}/{_IMAGES}").files, folder.images(f"{place}/{_MASKS}").files) for place in places
        ]
        if len(found) > 1 and all(len(images) == 1 and not set(images) & set(masks) for images, masks in found):
            return f"{len(found)} folders of one image and its objects: {places[0]}/{_IMAGES}, {_MASKS}"
    return None


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Unite the objects of each image; there are two classes."""
    names = settings.class_names() or BINARY_NAMES
    if len(names) != 2:
        raise DataError(f"{folder.root}: a mask per object has two classes, not {len(names)}. Name two in classes.")
    result = FormatResult(folder.root)
    empty: list[Path] = []
    for root, split in _roots(folder).items():
        for place in _places(folder, root):
            images, masks = (list(folder.images(f"{place}/{kind}").files.values()) for kind in (_IMAGES, _MASKS))
            if len(images) != 1 or not masks:
                empty.append(folder.root / place)
                continue
            stem = place if root else Path(place).name
            result.add(split, Sample(stem, images[0], {"": LayeredMask(tuple(masks), (1,) * len(masks))}))
    fix = "Add them, or move the folder elsewhere."
    result.report("missing-mask", "warning", empty, "folders have no mask, or not one image", fix)
    result.settings = {"classes": list(names)}
    return result
