"""Pairs by other means than equal names: lists of "image mask" lines, and masks beside their images with a suffix."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fullconv.data.config import DataSettings
from fullconv.data.files import IMAGE_SUFFIXES, Folder, column, is_junk, read_head
from fullconv.data.formats.annotation_files import ImageIndex
from fullconv.data.formats.format import FormatResult, split_in
from fullconv.data.formats.pairs import MASK_SUFFIXES, SplitFolders, read_pairs, split_folders
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.splits import omitted_lines, read_list

_PATTERNS = ("*.txt", "*.csv", "*.tsv", "*.lst")
_MAX_LISTS = 50
"""More text files in one folder are annotations, one per image."""
_IMAGE_HEADINGS = ("image", "images", "img", "picture", "photo", "file", "filename", "file_name", "input", "image_path",
    "img_path", "image_file", "sat_image_path", "rgb", "x", "image_name", "img_name")  # fmt: skip
_MASK_HEADINGS = ("mask", "masks", "label", "labels", "annotation", "annotations", "target", "gt", "ground_truth",
    "segmentation", "seg", "mask_path", "label_path", "annotation_path", "mask_file", "mask_name", "label_name", "y")  # fmt: skip
_SPLIT_HEADINGS = ("split", "set", "subset", "phase", "partition")


class _Columns(NamedTuple):
    """The cells of a line that are the image, the mask and the split; None without a heading."""

    image: int | None = None
    mask: int | None = None
    split: int | None = None


class _Row(NamedTuple):
    image: str
    mask: str
    split: str | None = None


def _columns(line: str) -> _Columns:
    """Parse a heading such as "id,image,mask,split"."""
    for delimiter in ",;\t ":
        cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
        image, mask = column(cells, *_IMAGE_HEADINGS), column(cells, *_MASK_HEADINGS)
        if image is not None and mask is not None:
            return _Columns(image, mask, column(cells, *_SPLIT_HEADINGS))
    return _Columns()


def _row(line: str, columns: _Columns = _Columns()) -> _Row | None:  # noqa: B008  # immutable
    """Split a line into the names of an image and a mask; None if it is not such a line."""
    for delimiter in (",", ";", "\t", " "):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
        except csv.Error:  # a line longer than csv allows
            return None
        if columns.image is not None and columns.mask is not None:
            if len(cells) > max(columns.image, columns.mask, columns.split or 0):
                split = None if columns.split is None else cells[columns.split]
                names = _Row(cells[columns.image], cells[columns.mask], split)
                if _is_image_name(names.image) and _is_image_name(names.mask):
                    return names
            continue
        names_only = [cell for cell in cells if _is_image_name(cell)]
        if len(names_only) > 2:
            return None
        if len(names_only) == 2 and (delimiter != " " or len([cell for cell in cells if cell]) == 2):
            return _Row(*names_only)
    middle = re.fullmatch(r"(.+\.\w{3,4}) (.+\.\w{3,4})", line)  # names with spaces
    return _Row(middle[1], middle[2]) if middle and _is_image_name(middle[1]) and _is_image_name(middle[2]) else None


def _is_image_name(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _lists(folder: Folder) -> list[Path]:
    """Return the lists in the folder and one level below, and with these the empty ones of a split."""
    there = {path for depth in ("", "*/") for pattern in _PATTERNS for path in folder.root.glob(depth + pattern)}
    there = {path for path in there if path.is_file() and not is_junk(path.name)}
    per_folder = Counter(path.parent for path in there)
    few = sorted(path for path in there if per_folder[path.parent] <= _MAX_LISTS)
    found = set()
    for path in few:
        lines = [line.strip() for line in read_head(path, 1 << 16).splitlines()]
        lines = [line for line in lines if line and not _is_comment(line)][:3]
        columns = _columns(lines[0]) if lines else _Columns()
        if any(_row(line, columns) for line in lines):  # the first may be a heading
            found.add(path)
    return [path for path in few if path in found or (found and split_in(path.stem) and not path.stat().st_size)]


def _is_comment(line: str) -> bool:
    """Whether a line is a comment, or the one that states the delimiter for Excel."""
    return (line.startswith("#") and _row(line) is None) or re.fullmatch(r'"?sep=.?"?', line) is not None


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find a list whose lines name two images."""
    lists = [] if settings.images or settings.masks else _lists(folder)
    return " and ".join(path.relative_to(folder.root).as_posix() for path in lists) or None


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by the lists; their names, or a column, define the split."""
    result = FormatResult(folder.root)
    index = ImageIndex(folder, settings)
    pairs: dict[tuple[str, str], Sample] = {}
    ambiguous: dict[str, None] = {}
    lists: dict[str, Path] = {}
    for path in _lists(folder):
        split, invalid, columns = split_in(path.stem), [], _Columns()
        named: list[str] = []
        lists.setdefault(split, path)
        result.splits.setdefault(split, [])
        for count, line in enumerate((line for line in read_list(path) if not _is_comment(line)), 1):
            columns = _columns(line) if count == 1 else columns
            row = _row(line, columns)
            if row is None:
                invalid += [line] if count > 1 else []
                continue
            own = split if row.split is None else split_in(row.split)
            image, mask = index.find(row.image, path.parent, own), index.find(row.mask, path.parent, own)
            if image is not None and mask is not None:
                stem = image.relative_to(folder.root).with_suffix("").as_posix()
                sample = Sample(stem, image, {"": MaskFile(mask)})
                named.append(stem)
                known = pairs.setdefault((own, stem), sample)
                if known is sample:
                    result.add(own, sample)
                elif (known.image, known.mask) != (image, mask):
                    ambiguous[row.image] = None
        cause = f"lines of {path.name} do not name an image and a mask"
        result.report("missing-listed", "error", invalid, cause, f"Correct {path.name}.")
        result.problems += omitted_lines(path, folder.root, named)
    result.merge_unsplit()
    cause = "images are listed with several masks, or several images share a name except for the suffix"
    result.report("duplicate-stem", "error", list(ambiguous), cause, "Keep one line of each.")
    fix = "Correct the lists, or add the files."
    result.report("missing-listed", "error", index.missing, "lists name files that do not exist", fix)
    index.missing = []
    report_overlap(result, lists)
    result.problems += index.problems(True, of_lists=True)
    return result


def report_overlap(
    result: FormatResult, lists: Mapping[str, Path], stems: Mapping[str, Iterable[str]] | None = None
) -> None:
    """Report images on the list of train and on that of another split; `stems` by split are the samples' by default."""
    stems = stems or {split: [sample.stem for sample in members] for split, members in result.splits.items()}
    train = set(stems.get("train", ()))

    def list_of(split: str) -> str:
        path = lists.get(split, lists.get(""))
        return split if path is None else path.relative_to(result.root).as_posix()

    for split, members in stems.items():
        both = [stem for stem in members if split != "train" and stem in train]
        first, second = list_of("train"), list_of(split)
        cause = f"{first} and {second} both list an image, so scores would be too good"
        fix = f"Remove each from one of the two lists, preferably from {first}."
        result.report("duplicate-across-splits", "warning", both, cause, fix)


def _find_suffix(folder: Folder, settings: DataSettings) -> tuple[str, dict[str, str]] | None:
    """Return the suffix of masks beside images, and the folders by split: the root, or train/ and so on."""
    for places in ({"": "."}, split_folders(folder.folders)):
        files = [path for place in places.values() for path in (folder.root / place).iterdir()]
        stems = {path.stem for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()}
        for suffix in (settings.mask_suffix,) if settings.mask_suffix else MASK_SUFFIXES:
            pairs = sum(stem + suffix in stems for stem in stems)
            if pairs and 4 * pairs >= len(stems):
                return suffix, places
    return None


def detect_suffix(folder: Folder, settings: DataSettings) -> str | None:
    """Find masks beside their images."""
    found = None if settings.images or settings.masks else _find_suffix(folder, settings)
    return None if found is None else f"masks called ...{found[0]} beside their images"


def read_suffix(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by name and suffix."""
    suffix, places = _find_suffix(folder, settings) or ("", {})
    settings = settings.model_copy(update={"mask_suffix": suffix})
    return read_pairs(folder, settings, SplitFolders(places, {"": places}))
