"""All formats, and which of them fits a folder."""

from __future__ import annotations

from pathlib import Path

from fullconv.data.config import DataSettings, read_settings
from fullconv.data.files import DEEPEST, Folder, single_subfolder
from fullconv.data.formats import (
    coco,
    cvat,
    darwin,
    file_lists,
    geojson,
    labelbox,
    labelme,
    labelstudio,
    mapillary,
    pairs,
    per_object,
    roboflow,
    run_lengths,
    scene_parsing,
    supervisely,
    via,
    voc,
    yolo,
)
from fullconv.data.formats.drawn import drawn
from fullconv.data.formats.format import Format, FormatResult
from fullconv.data.formats.suggest import suggest_layout
from fullconv.errors import DataError, nearest

_WITHOUT_MASKS = 4
"""Priority of shapes that count only where there are no masks."""

FORMATS: tuple[Format, ...] = (
    pairs.layout("camvid", "camvid", pairs.find_camvid),
    pairs.layout("split-first", "pairs", pairs.find_split_first),
    pairs.layout("kind-first", "pairs", pairs.find_kind_first),
    pairs.layout("flat", "pairs", pairs.find_flat),
    Format("voc", "voc", voc.detect, voc.read),
    drawn("coco", coco.find_files, coco.parse),
    Format("cvat-masks", "cvat-masks", cvat.detect_masks, cvat.read_masks),
    drawn("cvat", cvat.find_files, cvat.parse),
    drawn("labelme", labelme.find_files, labelme.parse),
    drawn("labelstudio", labelstudio.find_files, labelstudio.parse),
    Format("mapillary", "mapillary", mapillary.detect, mapillary.read),
    Format("cityscapes", "cityscapes", scene_parsing.detect_cityscapes, scene_parsing.read_cityscapes),
    Format("ade20k", "ade20k", scene_parsing.detect_ade20k, scene_parsing.read_ade20k),
    Format("ade20k-full", "ade20k", scene_parsing.detect_ade20k_full, scene_parsing.read_ade20k_full),
    Format("roboflow", "roboflow", roboflow.detect, roboflow.read),
    drawn("supervisely", supervisely.find_files, supervisely.parse),
    Format("objects", "objects", per_object.detect, per_object.read),
    Format("list", "list", file_lists.detect, file_lists.read, priority=1),
    pairs.layout("other-names", "pairs", pairs.find_other_names, priority=2),
    Format("suffix", "suffix", file_lists.detect_suffix, file_lists.read_suffix, priority=3),
    drawn("via", via.find_files, via.parse, _WITHOUT_MASKS),
    drawn("darwin", darwin.find_files, darwin.parse, _WITHOUT_MASKS),
    drawn("labelbox", labelbox.find_files, labelbox.parse, _WITHOUT_MASKS),
    drawn("yolo", yolo.find_files, yolo.parse, _WITHOUT_MASKS),
    drawn("geojson", geojson.find_files, geojson.parse, _WITHOUT_MASKS),
    drawn("run-lengths", run_lengths.find_files, run_lengths.parse, _WITHOUT_MASKS),
)


def _rows(folder: Folder, settings: DataSettings, name: str | None) -> list[tuple[Format, str]]:
    """Return the formats of the first priority that fit with their evidence, only those called `name` if given."""
    rows = [row for row in FORMATS if name in (None, row.name, row.family)]
    for priority in sorted({row.priority for row in rows}):
        same = [row for row in rows if row.priority == priority]
        if fits := [(row, evidence) for row in same if (evidence := row.detect(folder, settings)) is not None]:
            return fits
    return []


def detect(folder: Folder, settings: DataSettings, name: str | None) -> Format:
    """Find the format of a folder, which is `name` or that of data.toml if given."""
    name = name if name is not None else settings.format
    names = {row.name for row in FORMATS} | {row.family for row in FORMATS}
    if name is not None and name not in names:
        listed = ", ".join(sorted(names))
        raise DataError(f"there is no format '{name}'.{nearest(str(name), names)} The formats are {listed}.")
    fits = _rows(folder, settings, name)
    if not fits:
        raise DataError(_explain_no_fit(folder, settings, name))
    if len(fits) > 1:
        evidences = " and ".join(f"{row.name} ({evidence})" for row, evidence in fits)
        choices = " or ".join(f"--format {row.name}" for row, _ in fits)
        raise DataError(f"{folder.root}: {len(fits)} layouts fit: {evidences}. Specify one: {choices}.")
    return fits[0][0]


def read(row: Format, folder: Folder, settings: DataSettings) -> FormatResult:
    """Read a folder in a format."""
    result = row.read(folder, settings)
    result.merge_unsplit()
    return result


def enter_root(root: Path, name: str | None) -> Path:
    """Return the folder of the data set: `root`, or one below it that is the only folder in its parent.

    Archives are unpacked so: VOCdevkit/VOC2012, or a folder of the archive's name. A data.toml may lie on the way.
    """

    def fits(root: Path) -> bool:
        try:
            settings = read_settings(root)
            return bool(_rows(Folder(root), settings, name or settings.format))
        except DataError:  # is reported when it is opened
            return True

    here = single_subfolder(root)
    if here is None or fits(root):
        return root
    for _ in range(DEEPEST):
        if here is None or fits(here):
            return here or root
        here = single_subfolder(here)
    return root


def _explain_no_fit(folder: Folder, settings: DataSettings, name: str | None) -> str:
    there = ", ".join(f"{inner}/" for inner in list(folder.folders.values())[:8]) or "no folders"
    for key, value in (("images", settings.images), ("masks", settings.masks)):
        if value is not None and not (folder.root / value).is_dir() and not any(c in value for c in "*?["):
            return f'{folder.root}: data.toml has {key} = "{value}", but there is no such folder; there is {there}.'
    what, suggestion = f"does not have the layout '{name}'", ""
    if name is None:
        what = "unrecognized data set layout"

        def fits(inner: Folder) -> bool:
            return any(row.priority in (0, _WITHOUT_MASKS) for row, _ in _rows(inner, DataSettings(), None))

        suggestion = suggest_layout(folder, fits)
    half = pairs.find_half(folder, settings)
    fix = 'Put images in images/ and masks in masks/, or name your folders: images = "...", masks = "..." in data.toml.'

    return f"{folder.root}: {what} (it holds {there}){f': {half}' if half else ''}.{suggestion} {fix}"
