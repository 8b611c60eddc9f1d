"""The full ADE20K release: x.jpg with x_seg.png, whose red and green hold the class, and x.json, which names it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.class_files import VOID_NAME
from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, walk
from fullconv.data.formats import Format, Found
from fullconv.data.problems import problem
from fullconv.data.samples import Colors, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.errors import DataError, nearest
from fullconv.images.read import decode
from fullconv.labels import MAX_CLASSES

_SEG = "_seg.png"
_SPLITS = {"training": "train", "validation": "val", "train": "train", "val": "val", "testing": "test", "test": "test"}
_SEARCHED = 3000
"""Files that are looked at to find the first mask."""
_SUGGESTED = 12


@dataclass(frozen=True)
class CodedMask:
    """A mask whose pixels hold the number of a class as red // 10 * 256 + green; a `MaskSource`.

    Source: github.com/CSAILVision/ADE20K, utils/utils_ade20k.py.
    """

    path: Path
    key: str = "ade20k-full"

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Return the numbers of the classes (name_ndx), (H, W) uint16; 0 is unlabelled."""
        where = str(self.path)
        array = decode(self.path, where, lambda image: np.asarray(image.convert("RGB")))
        if array.ndim != 3 or array.shape[2] < 3 or array.dtype != np.uint8:
            raise DataError(
                f"{where}: is no 8-bit RGB picture, as masks of the full ADE20K release are. Take it again."
            )
        return np.asarray(array[..., 0] // 10 * np.uint16(256) + array[..., 1], dtype=np.uint16)


def _masks(folder: Folder) -> Iterator[Path]:
    for count, path in enumerate(walk(folder.root)):
        if path.name.endswith(_SEG) and _beside(path, ".jpg").is_file():
            yield path
        elif count > _SEARCHED:
            return


def _beside(mask: Path, ending: str) -> Path:
    return mask.with_name(mask.name.removesuffix(_SEG) + ending)


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find a mask x_seg.png beside x.jpg and the other files of the release."""
    if settings.images or settings.masks or "images" not in folder.folders:
        return None
    for path in _masks(folder):
        if any(_beside(path, ending).is_file() for ending in (".json", "_atr.txt", "_parts_1.png")):
            return f"{path.relative_to(folder.root).as_posix()} beside its picture"
        return None
    return None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Pair by name; classes are those of data.toml, or all that the masks hold where these are at most 255."""
    found = Found(splits={})
    for path in walk(folder.root):
        picture = _beside(path, ".jpg")
        if path.name.endswith(_SEG) and picture.is_file():
            stem = picture.relative_to(folder.root).with_suffix("").as_posix()
            split = next((_SPLITS[part] for part in map(str.lower, picture.parts) if part in _SPLITS), "")
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": CodedMask(path)}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    if settings.values is not None:  # the user knows the numbers
        return found
    samples = [sample for members in found.splits.values() for sample in members]
    pictures: Counter[int] = Counter()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in samples):
        pictures.update(facts.counts.keys() - {0})
    names = _names((_beside(sample.mask, ".json") for sample in samples), set(pictures))
    wanted = settings.class_names()
    if wanted is None and len(pictures) > MAX_CLASSES:
        frequent = ", ".join(json.dumps(names[number]) for number, _ in pictures.most_common(_SUGGESTED))
        raise DataError(
            f"{folder.root}: the masks of this full ADE20K release hold {len(pictures)} classes, more than {MAX_CLASSES}."
            f" Name those that count in data.toml, all others are void: classes = [{frequent}, ...]"
        )
    classes = list(wanted or (names[number] for number in sorted(pictures)))
    known = {**{name.split(",")[0]: name for name in names.values()}, **{name: name for name in names.values()}}
    for name in classes:
        if name not in known:
            raise DataError(
                f"{folder.root}: no mask holds '{name}'.{nearest(name, known)} Correct classes in data.toml."
            )
    meaning = {known[name]: name for name in classes}
    found.settings = {
        "classes": classes,
        "values": {0: VOID_NAME, **{number: meaning.get(names[number], VOID_NAME) for number in sorted(pictures)}},
    }
    if others := [names[number] for number, _ in pictures.most_common() if names[number] not in meaning]:
        words = "classes of the full ADE20K release are not in classes of data.toml, and are void"
        found.problems.append(problem("other-class", "note", others, words, ""))
    return found


def _names(tables: Iterable[Path], numbers: set[int]) -> dict[int, str]:
    """Read the names of some classes, each as short as it can be; "object12" for those that no table names."""
    full: dict[int, str] = {}
    left = set(numbers)
    for path in tables:
        if not left:
            break
        for number, name in _named(path):
            if number in left:
                full[number] = name
                left.discard(number)
    full.update({number: f"object{number}" for number in left})
    short = Counter(name.split(",")[0] for name in full.values())
    whole = Counter(full.values())
    return {
        number: name.split(",")[0]
        if short[name.split(",")[0]] == 1
        else name
        if whole[name] == 1
        else f"{name} {number}"
        for number, name in full.items()
    }


def _named(path: Path) -> Iterator[tuple[int, str]]:
    try:
        table = json.loads(path.read_bytes().decode("utf-8", "replace"))
        objects = table["annotation"]["object"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):  # older releases have none
        return
    for entry in objects if isinstance(objects, list) else []:
        number, name = (entry.get("name_ndx"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if type(number) is int and isinstance(name, str) and (name := re.sub(r"\s+", " ", name).strip()):
            yield number, name


FORMATS = (Format("ade20k-full", "ade20k", detect, read),)
