"""Pairs by name of another kind: lists of "picture mask" lines, and masks beside their pictures with a suffix."""

from __future__ import annotations

import csv
import re
from pathlib import Path, PurePosixPath

from fullconv.data.folder import IMAGE_SUFFIXES, Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.locate import Locator
from fullconv.data.formats.pairs import Sides, read_pairs
from fullconv.data.problems import problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.settings import DataSettings
from fullconv.data.splits import read_list

SUFFIXES = ("_mask", "_L", "_gtFine_labelIds", "_labels", "_label", "_gt", "_seg", "_segmentation", "_matte")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _row(line: str) -> tuple[str, str] | None:
    """Split a line into the names of a picture and a mask; None where it is no such line."""
    for delimiter in (",", ";", "\t", " "):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), []) if cell.strip()]
        except csv.Error:  # a line without end
            return None
        if len(cells) == 2 and all(_is_picture(cell) for cell in cells):
            return cells[0], cells[1]
    middle = re.fullmatch(r"(.+\.\w{3,4}) (.+\.\w{3,4})", line)  # names with spaces
    return (middle[1], middle[2]) if middle and _is_picture(middle[1]) and _is_picture(middle[2]) else None


def _is_picture(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _lists(folder: Folder) -> list[Path]:
    found = []
    for path in sorted([*folder.root.glob("*.txt"), *folder.root.glob("*.csv")]):
        if path.is_file():
            with path.open("rb") as file:
                lines = file.read(1 << 16).decode("utf-8-sig", "replace").splitlines()[:3]
            if any(_row(line.strip()) for line in lines):  # the first may be a heading
                found.append(path)
    return found


def detect_list(folder: Folder, settings: DataSettings) -> str | None:
    """Find a list whose lines name two pictures."""
    lists = [] if settings.images or settings.masks else _lists(folder)
    return " and ".join(path.name for path in lists) or None


def read_lists(folder: Folder, settings: DataSettings) -> Found:
    """Pair as the lists say; their names say the split."""
    found = Found(splits={})
    locator = Locator(folder, settings)
    for path in _lists(folder):
        split = next((_SPLITS[word] for word in re.findall(r"[a-z]+", path.stem.lower()) if word in _SPLITS), "")
        wrong = []
        for count, line in enumerate(read_list(path), 1):
            row = _row(line)
            if row is None:
                wrong += [line] if count > 1 else []
                continue
            image, mask = locator.find(row[0], folder.root, split), locator.find(row[1], folder.root, split)
            if image is not None and mask is not None:
                stem = image.relative_to(folder.root).with_suffix("").as_posix()
                found.splits.setdefault(split, []).append(Sample(stem, image, {"": MaskFile(mask)}))
        if wrong:
            words, remedy = f"lines of {path.name} do not name a picture and a mask", f"Correct {path.name}."
            found.problems.append(problem("missing-listed", "error", wrong, words, remedy))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    for split, members in found.splits.items():
        found.splits[split] = list({sample.stem: sample for sample in members}.values())
    if locator.missing:
        words, remedy = "lists name files that are not there", "Correct the lists, or add the files."
        found.problems.append(problem("missing-listed", "error", locator.missing, words, remedy))
        locator.missing = []
    found.problems += locator.problems(True)
    return found


def _suffix(folder: Folder, settings: DataSettings) -> str | None:
    """Return the suffix of the masks that lie beside pictures directly in the folder."""
    stems = {path.stem for path in folder.root.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()}
    for suffix in (settings.mask_suffix,) if settings.mask_suffix else SUFFIXES:
        pairs = sum(stem + suffix in stems for stem in stems)
        if pairs and 4 * pairs >= len(stems):
            return suffix
    return None


def detect_suffix(folder: Folder, settings: DataSettings) -> str | None:
    """Find masks beside their pictures."""
    suffix = None if settings.images or settings.masks else _suffix(folder, settings)
    return None if suffix is None else f"masks called ...{suffix} beside their pictures"


def read_suffix(folder: Folder, settings: DataSettings) -> Found:
    """Pair by name and suffix."""
    named = settings.model_copy(update={"mask_suffix": _suffix(folder, settings)})
    found = read_pairs(folder, named, Sides({"": "."}, {"": {"": "."}}))
    found.problems = [told for told in found.problems if told.code != "other-file"]  # data.toml lies there, too
    return found


FORMATS = (
    Format("list", "list", detect_list, read_lists),
    Format("suffix", "suffix", detect_suffix, read_suffix),
)
