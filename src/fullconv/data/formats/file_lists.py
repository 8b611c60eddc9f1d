"""Pairs by name of another kind: lists of "picture mask" lines, and masks beside their pictures with a suffix."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fullconv.data.config import DataSettings
from fullconv.data.files import IMAGE_SUFFIXES, Folder, is_clutter
from fullconv.data.formats import Format, Found
from fullconv.data.formats.image_index import Locator
from fullconv.data.formats.pairs import SUFFIXES, Sides, read_pairs, split_folders
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.splits import read_list
from fullconv.data.text_files import beginning, column

_KINDS = ("*.txt", "*.csv", "*.tsv", "*.lst")
_MOST = 50
"""Text files in one folder that may be lists."""
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


_IMAGES = ("image", "images", "img", "picture", "photo", "file", "filename", "file_name", "input", "image_path", "img_path",
    "image_file", "sat_image_path", "rgb", "x", "image_name", "img_name")  # fmt: skip
_MASKS = ("mask", "masks", "label", "labels", "annotation", "annotations", "target", "gt", "ground_truth", "segmentation",
    "seg", "mask_path", "label_path", "annotation_path", "mask_file", "mask_name", "label_name", "y")  # fmt: skip
_SPLIT = ("split", "set", "subset", "phase", "partition")


class _Columns(NamedTuple):
    """Which cells of a line are the picture, the mask and the split; None where it has no heading that says so."""

    image: int | None = None
    mask: int | None = None
    split: int | None = None


_UNKNOWN = _Columns()


class _Row(NamedTuple):
    image: str
    mask: str
    split: str | None = None


def _columns(line: str) -> _Columns:
    """Read a heading, as "id,image,mask,split"."""
    for delimiter in ",;\t ":
        cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
        image, mask = column(cells, *_IMAGES), column(cells, *_MASKS)
        if image is not None and mask is not None:
            return _Columns(image, mask, column(cells, *_SPLIT))
    return _Columns()


def _row(line: str, places: _Columns = _UNKNOWN) -> _Row | None:
    """Split a line into the names of a picture and a mask; None where it is no such line."""
    for delimiter in (",", ";", "\t", " "):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
        except csv.Error:  # a line without end
            return None
        if places.image is not None and places.mask is not None:
            if len(cells) > max(places.image, places.mask, places.split or 0):
                split = None if places.split is None else cells[places.split]
                names = _Row(cells[places.image], cells[places.mask], split)
                if _is_picture(names.image) and _is_picture(names.mask):
                    return names
            continue
        names_only = [cell for cell in cells if _is_picture(cell)]
        if len(names_only) > 2:
            return None
        if len(names_only) == 2 and (delimiter != " " or len([cell for cell in cells if cell]) == 2):
            return _Row(*names_only)
    middle = re.fullmatch(r"(.+\.\w{3,4}) (.+\.\w{3,4})", line)  # names with spaces
    return _Row(middle[1], middle[2]) if middle and _is_picture(middle[1]) and _is_picture(middle[2]) else None


def _is_picture(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _split_of(name: str) -> str:
    return next((_SPLITS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _SPLITS), "")


def _lists(folder: Folder) -> list[Path]:
    """Return the lists in the folder and one level below, and beside these the empty ones of a split."""
    there = [path for depth in ("", "*/") for kind in _KINDS for path in folder.root.glob(depth + kind)]
    there = [path for path in sorted(there) if path.is_file() and not is_clutter(path.name)]
    many = Counter(path.parent for path in there)  # text files beside pictures are annotations, one a picture
    there = [path for path in there if many[path.parent] <= _MOST]
    found = [path for path in there if _is_list(path)]
    return [path for path in there if path in found or (found and _split_of(path.stem) and not path.stat().st_size)]


def _is_remark(line: str) -> bool:
    """Whether a line is a comment, or the one that tells Excel the delimiter."""
    return (line.startswith("#") and _row(line) is None) or re.fullmatch(r'"?sep=.?"?', line) is not None


def _is_list(path: Path) -> bool:
    lines = [line for line in beginning(path, 1 << 16).splitlines() if line.strip() and not _is_remark(line.strip())][
        :3
    ]
    places = _columns(lines[0]) if lines else _UNKNOWN
    return any(_row(line.strip(), places) for line in lines)  # the first may be a heading


def detect_list(folder: Folder, settings: DataSettings) -> str | None:
    """Find a list whose lines name two pictures."""
    lists = [] if settings.images or settings.masks else _lists(folder)
    return " and ".join(path.relative_to(folder.root).as_posix() for path in lists) or None


def read_lists(folder: Folder, settings: DataSettings) -> Found:
    """Pair as the lists say; their names, or a column, say the split."""
    found = Found(splits={})
    locator = Locator(folder, settings)
    locator.left_words, locator.left_remedy = "files are on no list", "Add them to a list if they should count."
    pairs: dict[tuple[str, str], Sample] = {}
    twice: dict[str, None] = {}
    lists: dict[str, Path] = {}
    for path in _lists(folder):
        split, wrong, places = _split_of(path.stem), [], _Columns()
        lists.setdefault(split, path)
        found.splits.setdefault(split, [])
        for count, line in enumerate((line for line in read_list(path) if not _is_remark(line)), 1):
            places = _columns(line) if count == 1 else places
            row = _row(line, places)
            if row is None:
                wrong += [line] if count > 1 else []
                continue
            own = split if row.split is None else _split_of(row.split)
            image, mask = locator.find(row.image, path.parent, own), locator.find(row.mask, path.parent, own)
            if image is not None and mask is not None:
                stem = image.relative_to(folder.root).with_suffix("").as_posix()
                sample = Sample(stem, image, {"": MaskFile(mask)})
                known = pairs.setdefault((own, stem), sample)
                if known is sample:
                    found.splits.setdefault(own, []).append(sample)
                elif (known.image, known.mask) != (image, mask):
                    twice[row.image] = None
        if wrong:
            words, remedy = f"lines of {path.name} do not name a picture and a mask", f"Correct {path.name}."
            found.problems.append(problem("missing-listed", "error", wrong, words, remedy))
    if len(found.splits) > 1 and "" in found.splits:
        rest = found.splits.pop("")
        found.splits.setdefault("train", []).extend(rest)
    if twice:
        words = "pictures stand in the lists with several masks, or several pictures share a name but for the suffix"
        found.problems.append(problem("duplicate-stem", "error", list(twice), words, "Leave one line of each."))
    if locator.missing:
        words, remedy = "lists name files that are not there", "Correct the lists, or add the files."
        found.problems.append(problem("missing-listed", "error", locator.missing, words, remedy))
        locator.missing = []
    found.problems += [*on_two_lists(folder, lists, found), *locator.problems(True)]
    return found


def on_two_lists(folder: Folder, lists: dict[str, Path], found: Found) -> list[Problem]:
    """Name what is on the list of train and on that of another split, too."""
    train = {sample.stem for sample in found.splits.get("train", [])}
    problems = []
    for split, members in found.splits.items():
        twice = [sample.stem for sample in members if split != "train" and sample.stem in train]
        if twice:
            places = [lists.get(name, lists.get("")) for name in ("train", split)]
            first, second = (name if path is None else path.relative_to(folder.root).as_posix()
                             for name, path in zip(("train", split), places, strict=True))  # fmt: skip
            problems.append(told_twice(first, second, twice))
    return problems


def told_twice(first: str, second: str, names: list[str]) -> Problem:
    """Return the problem of pictures that stand on two lists."""
    words = f"{first} and {second} both list a picture, so scores would be too good"
    remedy = f"Take each off one of the two lists, best off {first}."
    return problem("duplicate-across-splits", "warning", names, words, remedy)


def _suffix(folder: Folder, settings: DataSettings) -> tuple[str, dict[str, str]] | None:
    """Return the suffix of the masks that lie beside pictures, and where by split: in the folder, or in train/ and so on."""
    for places in ({"": "."}, split_folders(folder.folders)):
        files = [path for place in places.values() for path in (folder.root / place).iterdir()]
        stems = {path.stem for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()}
        for suffix in (settings.mask_suffix,) if settings.mask_suffix else SUFFIXES:
            pairs = sum(stem + suffix in stems for stem in stems)
            if pairs and 4 * pairs >= len(stems):
                return suffix, places
    return None


def detect_suffix(folder: Folder, settings: DataSettings) -> str | None:
    """Find masks beside their pictures."""
    found = None if settings.images or settings.masks else _suffix(folder, settings)
    return None if found is None else f"masks called ...{found[0]} beside their pictures"


def read_suffix(folder: Folder, settings: DataSettings) -> Found:
    """Pair by name and suffix."""
    suffix, places = _suffix(folder, settings) or ("", {})
    named = settings.model_copy(update={"mask_suffix": suffix})
    found = read_pairs(folder, named, Sides(places, {split: {"": place} for split, place in places.items()}))
    if "" in places:  # data.toml and lists lie there, too
        found.problems = [told for told in found.problems if told.code != "other-file"]
    return found


FORMATS = (
    Format("list", "list", detect_list, read_lists),
    Format("suffix", "suffix", detect_suffix, read_suffix),
)
