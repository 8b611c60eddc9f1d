"""Pictures and masks with equal names: the layouts 1 to 3, and folders or globs that data.toml names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fullconv.data.config import SPLITS, DataSettings
from fullconv.data.files import Folder, Pictures, is_glob
from fullconv.data.formats import Format, Found
from fullconv.data.formats.extra_bands import with_more_bands
from fullconv.data.formats.unlike import advice
from fullconv.data.problems import Problem, Severity, problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.errors import DataError

SUFFIXES = ("_mask", "_L", "_gtFine_labelIds", "_labels", "_label", "_gt", "_seg", "_segmentation", "_matte")
"""What masks are usually called behind the names of their pictures."""
_SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def split_folders(folders: Mapping[str, str], ending: str = "") -> dict[str, str]:
    """Which of the splits have a folder: split -> its name."""
    found: dict[str, str] = {}
    for split in SPLITS:
        for name in _SPLIT_NAMES[split]:
            if name + ending in folders:
                found[split] = folders[name + ending]
                break
    return found


class Sides(NamedTuple):
    """Folders or globs of pictures by split, and of masks by split and head; "" where there is but one."""

    pictures: dict[str, str]
    masks: dict[str, dict[str, str]]

    def both(self) -> dict[str, tuple[str, dict[str, str]]]:
        """The splits that have both."""
        return {split: (self.pictures[split], self.masks[split]) for split in self.pictures if split in self.masks}

    def add_masks(self, split: str, head: str, place: str) -> None:
        """Note the folder of a head's masks."""
        self.masks.setdefault(split, {})[head] = place


def _camvid(folder: Folder, settings: DataSettings) -> Sides:
    sides = Sides({}, {})
    if settings.images or settings.masks or any(h.masks for h in (settings.heads or {}).values()):
        return sides
    endings = _kinds(settings, [name.partition("annot_")[2] for name in folder.folders if "annot_" in name], "annot")
    for head, ending in endings.items():
        for split, place in split_folders(folder.folders, ending.lower()).items():
            sides.add_masks(split, head, place)
    sides.pictures.update(split_folders(folder.folders))
    return sides


def split_first(folder: Folder, settings: DataSettings) -> Sides:
    """Find images/ and masks/ in the folders of the splits."""
    sides = Sides({}, {})
    images = settings.images or "images"
    splits = split_folders(folder.folders)
    inside = {split: folder.folders_in(name) for split, name in splits.items()}
    kinds = _kinds(settings, [name.partition("masks_")[2] for inner in inside.values() for name in inner], "masks")
    if any(is_glob(kind) for kind in (images, *kinds.values())):
        return sides
    for split, name in splits.items():
        inner = inside[split]
        if images.lower() in inner:
            sides.pictures[split] = f"{name}/{inner[images.lower()]}"
        for head, kind in kinds.items():
            if kind.lower() in inner:
                sides.add_masks(split, head, f"{name}/{inner[kind.lower()]}")
    return sides


def kind_first(folder: Folder, settings: DataSettings) -> Sides:
    """Find the folders of the splits in images/ and masks/."""
    sides = Sides({}, {})

    def splits_of(kind: str | None) -> dict[str, str]:
        if kind is None or is_glob(kind):
            return {}
        return {split: f"{kind}/{name}" for split, name in split_folders(folder.folders_in(kind)).items()}

    images, masks = _place(folder, settings)
    sides.pictures.update(splits_of(images))
    for head, kind in masks.items():
        for split, place in splits_of(kind).items():
            sides.add_masks(split, head, place)
    return sides


def flat(folder: Folder, settings: DataSettings) -> Sides:
    """Find images/ and masks/ alone."""
    sides = Sides({}, {})
    if not kind_first(folder, settings).both():
        images, masks = _place(folder, settings)
        if images is not None:
            sides.pictures[""] = images
        for head, kind in masks.items():
            if kind is not None:
                sides.add_masks("", head, kind)
    return sides


def _kinds(settings: DataSettings, seen: list[str], plain: str) -> dict[str, str]:
    """Return the names of mask folders (or their endings) by head, from data.toml or from folders like `masks_NAME`.

    Args:
        settings: What the user says.
        seen: What follows `masks_` in the names of folders; empty for others.
        plain: "masks" or "annot", which is the folder of a data set with one head.
    """
    if settings.heads is not None:
        return {head: own.masks or f"{plain}_{head}" for head, own in settings.heads.items()}
    if settings.masks:
        return {"": settings.masks}
    heads = sorted({head for head in seen if head})
    return {head: f"{plain}_{head}" for head in heads} if len(heads) > 1 else {"": plain}


def _place(folder: Folder, settings: DataSettings) -> tuple[str | None, dict[str, str | None]]:
    """Where pictures and, by head, masks are, as on disk; None where there is no such folder."""
    seen = [] if "masks" in folder.folders else [name.partition("masks_")[2] for name in folder.folders]
    kinds = _kinds(settings, seen, "masks")
    return _on_disk(folder, settings.images or "images"), {h: _on_disk(folder, kind) for h, kind in kinds.items()}


def _on_disk(folder: Folder, name: str) -> str | None:
    if is_glob(name) or (folder.root / name).is_dir():
        return name
    return folder.folders.get(name.lower())


def _format(name: str, family: str, sides: Callable[[Folder, DataSettings], Sides]) -> Format:
    def detect(folder: Folder, settings: DataSettings) -> str | None:
        both = sides(folder, settings).both()
        for images, masks in both.values():
            return f"{images}/ with {' and '.join(f'{place}/' for place in masks.values())}"
        return None

    def read(folder: Folder, settings: DataSettings) -> Found:
        return read_pairs(folder, settings, sides(folder, settings))

    return Format(name, family, detect, read)


FORMATS = (
    _format("camvid", "camvid", _camvid),
    _format("split-first", "pairs", split_first),
    _format("kind-first", "pairs", kind_first),
    _format("flat", "pairs", flat),
)


def half(folder: Folder, settings: DataSettings) -> str | None:
    """Name a folder of pictures whose masks are not there, or the other way round, where nothing fits."""
    for name, sides in (("masks", split_first), ("masks", kind_first), ("masks", flat), ("annot", _camvid)):
        pictures, masks = sides(folder, settings)
        for split, place in pictures.items():
            return f"{place}/ has no {'masks' if name == 'masks' else f'{split}annot'}/ to go with it"
        for by_head in masks.values():
            return f"{next(iter(by_head.values()))}/ has no pictures to go with it"
    return None


def read_pairs(folder: Folder, settings: DataSettings, sides: Sides) -> Found:
    """Pair the pictures and masks of each split by name."""
    found = Found(splits={})
    heads = dict.fromkeys([*(settings.heads or ()), *(head for by_head in sides.masks.values() for head in by_head)])
    for split, (images, masks) in sides.both().items():
        if set(masks) == set(heads):
            _pair(folder, settings, split, images, {head: masks[head] for head in heads}, found)
    for split, place in sides.pictures.items():
        missing = [f"the masks of head {head}" for head in heads if head not in sides.masks.get(split, {})]
        if split not in sides.masks:
            missing = ["their masks"]
        if missing:
            words = f"{place}/ has pictures, but there is no folder with {' and '.join(missing)}"
            severity: Severity = "note" if split == "test" else "error"  # of many sets the test masks are kept back
            remedy = "" if split == "test" else "Add the masks, or move the folder away."
            found.problems.append(problem("missing-folder", severity, [place], words, remedy))
    for split, by_head in sides.masks.items():
        if split not in sides.pictures:
            place = next(iter(by_head.values()))
            words = f"{place}/ has masks, but there is no folder with their pictures"
            found.problems.append(
                problem("missing-folder", "error", [place], words, "Add them, or move the folder away.")
            )
    _make_stems_unique(found)
    return found


def _pair(
    folder: Folder, settings: DataSettings, split: str, images: str, places: dict[str, str], found: Found
) -> None:
    pictures = folder.pictures(images)
    files, by_head = dict(pictures.files), {}
    for head, masks in places.items():
        labels = folder.pictures(masks)
        suffix = settings.mask_suffix or ("" if images == masks else _known_suffix(pictures, labels))
        if images == masks and not suffix:
            raise DataError(f"{folder.root}: images and masks are the same folder. Set mask_suffix in data.toml.")
        if images == masks:  # masks lie beside their pictures
            files = {key: path for key, path in files.items() if not (suffix and key.endswith(suffix))}
        by_head[head] = {k.removesuffix(suffix): path for k, path in labels.files.items() if k.endswith(suffix)}
    problems = pictures.duplicates(folder.root, "pictures")
    alone: dict[str, None] = {}
    empty = not files
    for head, masks in places.items():
        labels, where = folder.pictures(masks), _Where(folder.root, images, masks, not split)
        without = [key for key in files if key not in by_head[head]]
        alone |= dict.fromkeys(without)
        problems += labels.duplicates(folder.root, "masks")
        problems += where.others(pictures) if head == next(iter(places)) else []
        problems += where.others(labels) if images != masks else []
        problems += where.without_mask(without, pictures, labels)
        lost = [path for key, path in by_head[head].items() if key not in files]
        problems += where.without_picture(lost, bool(files))
        if empty and not labels.files:
            problems.append(where.empty())
    keyed = [
        (key, Sample(pictures.stems[key], path, {head: MaskFile(masks[key]) for head, masks in by_head.items()}))
        for key, path in files.items()
        if key not in alone
    ]
    samples = [sample for _, sample in keyed]
    if settings.bands_from is not None:
        samples, more = with_more_bands(folder, settings.bands_from, images, pictures, keyed)
        problems += more
    found.splits[split] = samples
    found.problems += problems
    found.partial |= {pictures.stems[key] for key in files} - {sample.stem for sample in samples}


class _Where:
    """Words for what is wrong with one pair of folders."""

    def __init__(self, root: Path, images: str, masks: str, alone: bool) -> None:
        self.root, self.images, self.masks, self.alone = root, images, masks, alone

    def _names(self, paths: list[Path]) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in paths]

    def others(self, found: Pictures) -> list[Problem]:
        if not found.others:
            return []
        words = "files are no pictures by their suffix and are not read"
        return [problem("other-file", "note", self._names(found.others), words, "")]

    def without_mask(self, alone: list[str], pictures: Pictures, labels: Pictures) -> list[Problem]:
        if not alone:
            return []
        files = self._names([pictures.files[key] for key in alone])
        remedy = advice(alone, pictures, labels, (self.images, self.masks), self.alone)
        words = f"pictures in {self.images}/ have no mask in {self.masks}/"
        stems = [pictures.stems[key] for key in alone]
        return [problem("missing-mask", "error", files, words, remedy, stems)]

    def without_picture(self, paths: list[Path], some: bool) -> list[Problem]:
        if not paths:
            return []
        words = f"masks in {self.masks}/ have no picture in {self.images}/"
        remedy = "Add the pictures, or move the masks away."
        return [problem("missing-picture", "warning" if some else "error", self._names(paths), words, remedy)]

    def empty(self) -> Problem:
        words = f"there are no pictures in {self.images}/ and no masks in {self.masks}/"
        return problem("empty-folder", "error", [self.images, self.masks], words, "Put pictures and masks there.")


def _known_suffix(pictures: Pictures, labels: Pictures) -> str:
    """Return a usual suffix of masks where no mask has its picture's own name, and most have that suffix.

    It may also be the suffix of the pictures, as of a.jpg.png.
    """
    if not any(key in labels.files for key in pictures.files):
        for suffix in (*SUFFIXES, *sorted({path.suffix for path in pictures.files.values()})):
            if 2 * sum(key + suffix in labels.files for key in pictures.files) > len(pictures.files):
                return suffix
        first = next(iter(pictures.files), "")
        own = {
            key.removeprefix(first) for key in labels.files if key.startswith(first) and key[len(first) :][:1] in "_-. "
        }
        for suffix in (
            own if len(own) == 1 else ()
        ):  # an unusual one: where each picture has one and no mask is left over
            if {key + suffix for key in pictures.files} == set(labels.files):
                return suffix
    return ""


def _make_stems_unique(found: Found) -> None:
    """Put the split before every stem where two splits share one."""
    seen: set[str] = set()
    for samples in found.splits.values():
        stems = {sample.stem for sample in samples}
        if stems & seen:
            break
        seen |= stems
    else:
        return
    found.splits = {
        split: [replace(s, stem=f"{split}/{s.stem}") for s in samples] for split, samples in found.splits.items()
    }
