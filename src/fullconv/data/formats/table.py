"""All formats, and which of them fits a folder."""

from __future__ import annotations

from pathlib import Path

from fullconv.data.config import DataSettings, read_settings
from fullconv.data.files import DEEPEST, Folder, only_folder
from fullconv.data.formats import (
    Format,
    ade_full,
    alike,
    coco,
    cvat,
    cvat_masks,
    file_lists,
    labelme,
    labelstudio,
    pairs,
    roboflow,
    scenes,
    supervisely,
    voc,
)
from fullconv.data.formats.hints import hint
from fullconv.errors import DataError, nearest

FORMATS: tuple[Format, ...] = (
    *pairs.FORMATS,
    *voc.FORMATS,
    *coco.FORMATS,
    *cvat_masks.FORMATS,
    *cvat.FORMATS,
    *labelme.FORMATS,
    *labelstudio.FORMATS,
    *scenes.FORMATS,
    *ade_full.FORMATS,
    *roboflow.FORMATS,
    *supervisely.FORMATS,
    *file_lists.FORMATS,
    *alike.FORMATS,
)

_WEAK = (("list",), ("other-names",), ("suffix",))
"""Formats that count where nothing before them fits: CamVid and VOC have lists, too."""


def detect(folder: Folder, settings: DataSettings, name: str | None) -> Format:
    """Find the format of a folder, or take the one that is named.

    Raises:
        DataError: None fits, several do, or there is none of that name; says how to go on.
    """
    wanted = name if name is not None else settings.format
    rows = FORMATS if wanted is None else [row for row in FORMATS if wanted in (row.name, row.family)]
    if not rows:
        names = sorted({row.name for row in FORMATS} | {row.family for row in FORMATS})
        raise DataError(
            f"there is no format '{wanted}'.{nearest(str(wanted), names)} The formats are {', '.join(names)}."
        )
    fits = [(row, evidence) for row in rows if (evidence := row.detect(folder, settings)) is not None]
    if not fits:
        raise DataError(_nothing_fits(folder, settings, wanted))
    weak = {name: level for level, names in enumerate(_WEAK, 1) for name in names}
    strongest = min(weak.get(row.name, 0) for row, _ in fits)
    fits = [fit for fit in fits if weak.get(fit[0].name, 0) == strongest]
    if len(fits) > 1:
        said = " and ".join(f"{row.name} ({evidence})" for row, evidence in fits)
        choices = " or ".join(f"--format {row.name}" for row, _ in fits)
        raise DataError(f"{folder.root}: {len(fits)} layouts fit: {said}. Say which: {choices}.")
    return fits[0][0]


def enter(root: Path, wanted: str | None) -> Path:
    """Return the folder of the data set: one that holds nothing but another folder is gone into where nothing fits.

    Archives are unpacked so: VOCdevkit/VOC2012, or a folder of the archive's name. A data.toml may lie on the way.
    """
    here = only_folder(root)
    if here is None or _fits(root, wanted):
        return root
    for _ in range(DEEPEST):
        if here is None:
            break
        if _fits(here, wanted):
            return here
        here = only_folder(here)
    return root


def _fits(root: Path, wanted: str | None) -> bool:
    try:
        settings = read_settings(root)
        rows = [row for row in FORMATS if (wanted or settings.format) in (None, row.name, row.family)]
        return any(row.detect(Folder(root), settings) is not None for row in rows)
    except DataError:  # is told by who opens it
        return True


_ADVICE = (
    "Put pictures in images/ and masks of the same names in masks/, or name your folders in data.toml:"
    ' images = "...", masks = "...".'
)


def _nothing_fits(folder: Folder, settings: DataSettings, wanted: str | None) -> str:
    there = ", ".join(f"{name}/" for name in list(folder.folders.values())[:8]) or "no folders"
    for key, value in (("images", settings.images), ("masks", settings.masks)):
        if value is not None and not (folder.root / value).is_dir() and not any(c in value for c in "*?["):
            return f'{folder.root}: data.toml says {key} = "{value}", but there is no such folder; there is {there}.'
    what = f"is not laid out as '{wanted}'" if wanted is not None else "is laid out as no data set that is known"
    helpful = hint(folder, _is_known) if wanted is None else ""
    missing = pairs.half(folder, settings)
    said = "" if missing is None else f": {missing}"
    return f"{folder.root}: {what} (it holds {there}){said}.{helpful} {_ADVICE}"


def _is_known(folder: Folder) -> bool:
    weak = {name for names in _WEAK for name in names}
    nothing_said = DataSettings()
    return any(row.detect(folder, nothing_said) is not None for row in FORMATS if row.name not in weak)
