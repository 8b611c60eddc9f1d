"""Cityscapes (leftImg8bit with gtFine or gtCoarse) and ADE20K, in two releases.

ADE20K's scene-parsing release has images and annotations; 0 is void. The full one has x.jpg with x_seg.png, whose red and
green hold the class, and x.json, which names it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.config import VOID_NAME, DataSettings
from fullconv.data.files import Folder, load_text, walk
from fullconv.data.formats.annotation_files import objects_in
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.samples import Colors, MaskFile, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.dataset_constants import LABELS
from fullconv.errors import DataError, nearest
from fullconv.images import decode
from fullconv.labels import MAX_CLASSES

_CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelIds of the 19 evaluated classes, in the order of their trainIds; all others are void."""
_MAX_LABEL_ID = 33
_SEG = "_seg.png"
_SEARCHED_FILES = 3000
"""Files that are searched for the first mask of the full release."""
_SUGGESTED_CLASSES = 12


def pair_by_split(
    result: FormatResult,
    images: list[tuple[str, str, Path]],
    masks: Mapping[str, Path],
    masks_where: str,
    images_where: str,
) -> None:
    """Pair images (stem, key of the mask, path) with masks by key, in folders of splits; messages say where these are."""
    unpaired: dict[str, dict[str, Path]] = {}
    for stem, key, path in images:
        if split := split_of(stem.split("/")[0]):
            result.splits.setdefault(split, [])
            if key in masks:
                result.add(split, Sample(stem, path, {"": MaskFile(masks[key])}))
            else:
                unpaired.setdefault(split, {})[stem] = path
    for split, paths in unpaired.items():
        cause = f"images have no mask {masks_where}"
        if split == "test" and not result.splits[split]:  # kept back by the benchmark
            result.report("missing-mask", "note", paths.values(), cause)
        else:
            fix = "Add the masks, or move the images elsewhere."
            result.report("missing-mask", "error", paths.values(), cause, fix, list(paths))
            result.partial |= paths.keys()
    keys = {key for _, key, _ in images}
    splits = {key.split("/")[0] for key in keys}  # the images of other splits come in archives of their own
    lost = [path for key, path in masks.items() if key not in keys and key.split("/")[0] in splits]
    result.report_missing_images(lost, images_where)


def detect_cityscapes(folder: Folder, settings: DataSettings) -> str | None:
    """Find the two folders."""
    images, masks = _cityscapes_folders(folder)
    return None if images is None or masks is None or settings.masks else f"{images}/ with {masks}/"


def _cityscapes_folders(folder: Folder) -> tuple[str | None, str | None]:
    """Find the folders of images and masks, also in those that are called like archives: gtFine_trainvaltest/gtFine."""

    def find(name: str) -> str | None:
        if name in folder.folders:
            return folder.folders[name]
        outer = next((folder.folders[key] for key in folder.folders if key.startswith(f"{name}_")), None)
        inner = {} if outer is None else folder.folders_in(outer)
        return f"{outer}/{inner[name]}" if name in inner else None

    return find("leftimg8bit"), find("gtfine") or find("gtcoarse")


def read_cityscapes(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by city and number; trainIds if all images have them, else labelIds."""
    result = FormatResult(folder.root)
    image_folder, mask_folder = _cityscapes_folders(folder)
    assert image_folder is not None
    assert mask_folder is not None
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


def detect_ade20k(folder: Folder, settings: DataSettings) -> str | None:
    """Find images/training with annotations/training."""
    if settings.masks or not {"images", "annotations"} <= folder.folders.keys():
        return None
    inner = folder.folders_in(folder.folders["annotations"])
    split = next((name for name in ("training", "validation") if name in inner), None)
    if split is None or split not in folder.folders_in(folder.folders["images"]):
        return None
    return f"{folder.folders['images']}/{split}/ with {folder.folders['annotations']}/{split}/"


def read_ade20k(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by name; 0 is void, and class k of objectInfo150 is k - 1."""
    result = FormatResult(folder.root)
    image_folder, mask_folder = folder.folders["images"], folder.folders["annotations"]
    images, masks = folder.images(image_folder), folder.images(mask_folder)
    if any(re.search(r"_seg$|_parts_\d+$", key) for key in masks.files):
        fix = "Put them beside their images as that release does, or use the scene-parsing release (SceneParse150)."
        raise DataError(f"{folder.root}: these are masks of the full ADE20K release. {fix}")
    entries = [(key, key, path) for key, path in images.files.items()]
    pair_by_split(result, entries, masks.files, f"in {mask_folder}/", f"in {image_folder}/")
    result.problems += images.duplicate_problems(folder.root, "images") + masks.duplicate_problems(folder.root, "masks")
    names = list(settings.class_names() or _scene_classes(folder))
    values = {} if settings.values is not None else {"values": {0: VOID_NAME, **dict(enumerate(names, 1))}}
    result.settings = {"classes": names, **values}
    return result


def _scene_classes(folder: Folder) -> list[str]:
    """Return the first name of each row of objectInfo150.txt; class1 ... class150 without it."""
    path = folder.root / "objectInfo150.txt"
    lines = load_text(path, "Save it as UTF-8 text.").splitlines() if path.is_file() else []
    rows = [line.split("\t")[-1].split(",")[0].strip() for line in lines if re.match(r"\d+\s", line)]
    if len(rows) < 2:
        return [f"class{i}" for i in range(1, 151)]
    return [name if rows.count(name) == 1 else f"{name} {i}" for i, name in enumerate(rows, 1)]


@dataclass(frozen=True)
class CodedMask:
    """A mask whose pixels hold the number of a class as red // 10 * 256 + green; a `MaskSource`.

    Source: github.com/CSAILVision/ADE20K, utils/utils_ade20k.py.
    """

    path: Path
    key: str = "ade20k-full"

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Return the numbers of the classes (name_ndx), (H, W) uint16; 0 is unlabeled."""
        where = str(self.path)
        array = decode(self.path, where, lambda image: np.asarray(image.convert("RGB")))
        if array.ndim != 3 or array.shape[2] < 3 or array.dtype != np.uint8:
            raise DataError(f"{where}: is not 8-bit RGB, as masks of the full ADE20K release are. Copy it again.")
        return np.asarray(array[..., 0] // 10 * np.uint16(256) + array[..., 1], dtype=np.uint16)


def _beside(mask: Path, ending: str) -> Path:
    return mask.with_name(mask.name.removesuffix(_SEG) + ending)


def detect_ade20k_full(folder: Folder, settings: DataSettings) -> str | None:
    """Find a mask x_seg.png beside x.jpg and the other files of the release."""
    if settings.images or settings.masks or "images" not in folder.folders:
        return None
    searched = islice(walk(folder.root), _SEARCHED_FILES)
    mask = next((path for path in searched if path.name.endswith(_SEG) and _beside(path, ".jpg").is_file()), None)
    if mask is None or not any(_beside(mask, ending).is_file() for ending in (".json", "_atr.txt", "_parts_1.png")):
        return None
    return f"{mask.relative_to(folder.root).as_posix()} beside its image"


def read_ade20k_full(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by name; classes are those of data.toml, or all that the masks hold if these are at most 255."""
    result = FormatResult(folder.root)
    for path in walk(folder.root):
        image = _beside(path, ".jpg")
        if path.name.endswith(_SEG) and image.is_file():
            inner = image.relative_to(folder.root).with_suffix("")
            result.add(split_of(*inner.parts), Sample(inner.as_posix(), image, {"": CodedMask(path)}))
    if settings.values is not None:  # the user has defined the numbers
        return result
    images: Counter[int] = Counter()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in result.samples):
        images.update(facts.counts.keys() - {0})
    names = _names((_beside(sample.mask, ".json") for sample in result.samples), set(images))
    chosen = settings.class_names()
    if chosen is None and len(images) > MAX_CLASSES:
        frequent = ", ".join(json.dumps(names[number]) for number, _ in images.most_common(_SUGGESTED_CLASSES))
        cause = f"masks of the full ADE20K release hold {len(images)} classes, more than {MAX_CLASSES}"
        fix = f"List those that count in data.toml, all others are void: classes = [{frequent}, ...]"
        raise DataError(f"{folder.root}: {cause}. {fix}")
    classes = list(chosen or (names[number] for number in sorted(images)))
    known = {**{name.split(",")[0]: name for name in names.values()}, **{name: name for name in names.values()}}
    for name in classes:
        if name not in known:
            hint = nearest(name, known)
            raise DataError(f"{folder.root}: no mask holds '{name}'.{hint} Correct classes in data.toml.")
    meaning = {known[name]: name for name in classes}
    values = {number: meaning.get(names[number], VOID_NAME) for number in sorted(images)}
    result.settings = {"classes": classes, "values": {0: VOID_NAME, **values}}
    others = [names[number] for number, _ in images.most_common() if names[number] not in meaning]
    cause = "classes of the full ADE20K release are not in classes of data.toml, and are void"
    result.report("other-class", "note", others, cause)
    return result


def _names(tables: Iterable[Path], numbers: set[int]) -> dict[int, str]:
    """Return the shortest unique names of some classes; "object12" for those in no table."""
    full: dict[int, str] = {}
    left = set(numbers)
    for path in tables:
        if not left:
            break
        try:
            objects = json.loads(path.read_bytes().decode("utf-8", "replace"))["annotation"]["object"]
        except (OSError, ValueError, RecursionError, TypeError, KeyError):  # older releases have none
            continue
        for entry in objects_in(objects):
            number, name = entry.get("name_ndx"), entry.get("name")
            if type(number) is int and number in left and isinstance(name, str) and name.strip():
                full[number] = re.sub(r"\s+", " ", name).strip()
                left.discard(number)
    full.update({number: f"object{number}" for number in left})
    short = Counter(name.split(",")[0] for name in full.values())
    whole = Counter(full.values())

    def shortest(number: int, name: str) -> str:
        if short[name.split(",")[0]] == 1:
            return name.split(",")[0]
        return name if whole[name] == 1 else f"{name} {number}"

    return {number: shortest(number, name) for number, name in full.items()}
