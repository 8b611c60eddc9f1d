"""Pictures and masks with equal names: the layouts 1 to 3, and folders or globs that data.toml names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fullconv.data.folder import Folder, Pictures, is_glob
from fullconv.data.formats import Format, Found
from fullconv.data.problems import Problem, Severity, problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.settings import SPLITS, DataSettings
from fullconv.errors import DataError

_USUAL = ("_mask", "_L", "_gtFine_labelIds")
_SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def _split_folders(folders: Mapping[str, str], ending: str = "") -> dict[str, str]:
    """Which of the splits have a folder: split -> its name."""
    found: dict[str, str] = {}
    for split in SPLITS:
        for name in _SPLIT_NAMES[split]:
            if name + ending in folders:
                found[split] = folders[name + ending]
                break
    return found


class Sides(NamedTuple):
    """Folders or globs of pictures and of masks by split; "" where there are no splits."""

    pictures: dict[str, str]
    masks: dict[str, str]

    def both(self) -> dict[str, tuple[str, str]]:
        """The splits that have both."""
        return {split: (self.pictures[split], self.masks[split]) for split in self.pictures if split in self.masks}


def _camvid(folder: Folder, settings: DataSettings) -> Sides:
    if settings.images or settings.masks:
        return Sides({}, {})
    return Sides(_split_folders(folder.folders), _split_folders(folder.folders, "annot"))


def _split_first(folder: Folder, settings: DataSettings) -> Sides:
    sides = Sides({}, {})
    if any(is_glob(kind) for kind in _kinds(settings)):
        return sides
    for split, name in _split_folders(folder.folders).items():
        inner = folder.folders_in(name)
        for side, kind in zip(sides, _kinds(settings), strict=True):
            if kind.lower() in inner:
                side[split] = f"{name}/{inner[kind.lower()]}"
    return sides


def _kind_first(folder: Folder, settings: DataSettings) -> Sides:
    sides = Sides({}, {})
    for side, kind in zip(sides, _place(folder, settings), strict=True):
        if kind is not None and not is_glob(kind):
            side.update({split: f"{kind}/{name}" for split, name in _split_folders(folder.folders_in(kind)).items()})
    return sides


def _flat(folder: Folder, settings: DataSettings) -> Sides:
    sides = Sides({}, {})
    if not _kind_first(folder, settings).both():
        for side, kind in zip(sides, _place(folder, settings), strict=True):
            if kind is not None:
                side[""] = kind
    return sides


def _kinds(settings: DataSettings) -> tuple[str, str]:
    return settings.images or "images", settings.masks or "masks"


def _place(folder: Folder, settings: DataSettings) -> tuple[str | None, str | None]:
    """Where pictures and masks are, as on disk; None where there is no such folder."""
    return tuple(_on_disk(folder, name) for name in _kinds(settings))  # type: ignore[return-value]


def _on_disk(folder: Folder, name: str) -> str | None:
    if is_glob(name) or (folder.root / name).is_dir():
        return name
    return folder.folders.get(name.lower())


def _format(name: str, family: str, sides: Callable[[Folder, DataSettings], Sides]) -> Format:
    def detect(folder: Folder, settings: DataSettings) -> str | None:
        both = sides(folder, settings).both()
        return "{}/ with {}/".format(*next(iter(both.values()))) if both else None

    def read(folder: Folder, settings: DataSettings) -> Found:
        return read_pairs(folder, settings, sides(folder, settings))

    return Format(name, family, detect, read)


FORMATS = (
    _format("camvid", "camvid", _camvid),
    _format("split-first", "pairs", _split_first),
    _format("kind-first", "pairs", _kind_first),
    _format("flat", "pairs", _flat),
)


def half(folder: Folder, settings: DataSettings) -> str | None:
    """Name a folder of pictures whose masks are not there, or the other way round, where nothing fits."""
    for name, sides in (("masks", _split_first), ("masks", _kind_first), ("masks", _flat), ("annot", _camvid)):
        pictures, masks = sides(folder, settings)
        for split, place in pictures.items():
            return f"{place}/ has no {'masks' if name == 'masks' else f'{split}annot'}/ to go with it"
        for place in masks.values():
            return f"{place}/ has no pictures to go with it"
    return None


def read_pairs(folder: Folder, settings: DataSettings, sides: Sides) -> Found:
    """Pair the pictures and masks of each split by name."""
    found = Found(splits={})
    for split, (images, masks) in sides.both().items():
        _pair(folder, settings, split, images, masks, found)
    for split, place in sides.pictures.items():
        if split not in sides.masks:
            words = f"{place}/ has pictures, but there is no folder with their masks"
            severity: Severity = "note" if split == "test" else "error"  # of many sets the test masks are kept back
            remedy = "" if split == "test" else "Add the masks, or move the folder away."
            found.problems.append(problem("missing-folder", severity, [place], words, remedy))
    for split, place in sides.masks.items():
        if split not in sides.pictures:
            words = f"{place}/ has masks, but there is no folder with their pictures"
            found.problems.append(
                problem("missing-folder", "error", [place], words, "Add them, or move the folder away.")
            )
    _make_stems_unique(found)
    return found


def _pair(folder: Folder, settings: DataSettings, split: str, images: str, masks: str, found: Found) -> None:
    pictures, labels = folder.pictures(images), folder.pictures(masks)
    suffix = settings.mask_suffix or ("" if images == masks else _known_suffix(pictures, labels))
    files = dict(pictures.files)
    if images == masks:  # masks lie beside their pictures
        files = {key: path for key, path in files.items() if not (suffix and key.endswith(suffix))}
    by_picture = {key.removesuffix(suffix): path for key, path in labels.files.items() if key.endswith(suffix)}
    if images == masks and not suffix:
        raise DataError(f"{folder.root}: images and masks are the same folder. Set mask_suffix in data.toml.")
    samples, alone = [], []
    for key, path in files.items():
        if key in by_picture:
            samples.append(Sample(pictures.stems[key], path, {"": MaskFile(by_picture[key])}))
        else:
            alone.append(key)
    found.splits[split] = samples
    where = _Where(folder.root, images, masks, settings)
    found.problems += where.duplicates(pictures, "pictures") + where.duplicates(labels, "masks")
    found.problems += where.others(pictures) + (where.others(labels) if images != masks else [])
    found.problems += where.without_mask(alone, pictures, labels)
    found.problems += where.without_picture([p for key, p in by_picture.items() if key not in files], bool(files))
    if not samples and not alone and not labels.files:
        found.problems.append(where.empty())
    found.partial |= {pictures.stems[key] for key in alone}


class _Where:
    """Words for what is wrong with one pair of folders."""

    def __init__(self, root: Path, images: str, masks: str, settings: DataSettings) -> None:
        self.root, self.images, self.masks, self.suffix = root, images, masks, settings.mask_suffix

    def _names(self, paths: list[Path]) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in paths]

    def duplicates(self, found: Pictures, kind: str) -> list[Problem]:
        if not found.twice:
            return []
        first, second = self._names(list(found.twice[0]))
        return [
            problem(
                "duplicate-stem",
                "error",
                self._names([path for _, path in found.twice]),
                f"{kind} share a name but for the suffix, as {first} and {second}, so it is not clear which counts",
                "Remove or rename one of each.",
            )
        ]

    def others(self, found: Pictures) -> list[Problem]:
        if not found.others:
            return []
        words = "files are no pictures by their suffix and are not read"
        return [problem("other-file", "note", self._names(found.others), words, "")]

    def without_mask(self, alone: list[str], pictures: Pictures, labels: Pictures) -> list[Problem]:
        if not alone:
            return []
        files = self._names([pictures.files[key] for key in alone])
        remedy = f"Add a mask of the same name to {self.masks}/, or move the picture away."
        if (suffix := _common_suffix(alone, labels)) is not None:
            remedy = f'Masks are named with a suffix: add to data.toml: mask_suffix = "{suffix}"'
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
    """Return a usual suffix of masks where no mask has its picture's own name, and most have that suffix."""
    if not any(key in labels.files for key in pictures.files):
        for suffix in _USUAL:
            if 2 * sum(key + suffix in labels.files for key in pictures.files) > len(pictures.files):
                return suffix
    return ""


def _common_suffix(alone: list[str], labels: Pictures) -> str | None:
    """Return what the names of masks have after those of the pictures without one, if it is the same for most."""
    counts: dict[str, int] = {}
    lone = set(alone)
    for key in labels.files:
        for cut in range(len(key) - 1, 0, -1):
            if key[:cut] in lone:
                counts[key[cut:]] = counts.get(key[cut:], 0) + 1
                break
    best = max(counts, key=lambda suffix: counts[suffix], default=None)
    return best if best is not None and 2 * counts[best] > len(alone) else None


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
        split: [Sample(f"{split}/{s.stem}", s.image, s.masks) for s in samples]
        for split, samples in found.splits.items()
    }
