"""Folders of images paired with folders of masks: fixed layouts, other usual names, and folders or globs of data.toml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fullconv.data.config import SPLITS, DataSettings
from fullconv.data.files import IMAGE_SUFFIXES, Folder, ImageFiles, is_glob, walk
from fullconv.data.formats.format import SPLIT_NAMES, Format, FormatResult
from fullconv.data.formats.suggest import suggest_pairing
from fullconv.data.samples import MaskFile, Sample
from fullconv.errors import DataError

MASK_SUFFIXES = ("_mask", "_L", "_gtFine_labelIds", "_labels", "_label", "_gt", "_seg", "_segmentation", "_matte")
"""Usual suffixes of masks after the name of their image."""
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "pictures", "photos", "inputs", "input", "rgb", "jpegimages", "x",
    "raw", "data", "img_dir", "image_dir", "images_png", "original", "originals", "original_images",
    "701_stillsraw_full")  # fmt: skip
_MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "gt", "gts",
    "ground_truth", "groundtruth", "truth", "targets", "target", "segmentation", "segmentations", "segs", "seg", "y",
    "ann_dir", "mask_dir", "label_dir", "masks_png", "ground truth", "label_images_semantic",
    "labeledapproved_full")  # fmt: skip


_TWINS = (
    ("image_2", "gt_image_2", (("*_*", "*_road_*"),)),
    ("image_2", "semantic", ()),
    ("images", "1st_manual", (("*_training", "*_manual1"), ("*_test", "*_manual1"))),
)
"""Folders of images and masks of public data sets (KITTI, DRIVE), and how their files are called; else by equal names."""
_KIND = re.compile(r"(.+?)[_-]images?")
_FINE = re.compile(r"[_-]?fine$")
_LAST_WORD = re.compile(r"(?i)[ ._-][a-z]+$")
"""A suffix as masks have; the rest of the name says of which image a file may be."""
_NOT_MASKS = re.compile(r"(?i)aug|test|unlabel|.*coarse$")
"""Names of folders that are not the masks where another folder is."""


_SPLIT_WORDS = frozenset(name for names in SPLIT_NAMES.values() for name in names)


class SplitFolders(NamedTuple):
    """Folders or globs of images by split, and of masks by head and split; split "" if there is only one."""

    images: dict[str, str]
    masks: dict[str, dict[str, str]]

    def masks_of(self, split: str) -> dict[str, str]:
        """Return the folders of masks of a split, by head."""
        return {head: places[split] for head, places in self.masks.items() if split in places}

    def paired(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Return the splits that have both."""
        return {split: (place, masks) for split, place in self.images.items() if (masks := self.masks_of(split))}


Finder = Callable[[Folder, DataSettings], SplitFolders]


def layout(name: str, family: str, find: Finder, priority: int = 0) -> Format:
    """Return the registry row of a layout whose folders a function finds."""

    def detect(folder: Folder, settings: DataSettings) -> str | None:
        for images, masks in find(folder, settings).paired().values():
            return f"{images}/ with {' and '.join(f'{place}/' for place in masks.values())}"
        return None

    def read(folder: Folder, settings: DataSettings) -> FormatResult:
        return read_pairs(folder, settings, find(folder, settings))

    return Format(name, family, detect, read, priority)


def split_folders(folders: Mapping[str, str], ending: str = "") -> dict[str, str]:
    """Return the folders of the splits among some (by lower-case name): split -> name."""
    names = [(split, name + ending) for split in SPLITS for name in reversed(SPLIT_NAMES[split])]  # the first counts
    return {split: folders[name] for split, name in names if name in folders}


def find_camvid(folder: Folder, settings: DataSettings) -> SplitFolders:
    """Find train/ with trainannot/, and so on."""
    if settings.images or settings.masks or any(h.masks for h in (settings.heads or {}).values()):
        return SplitFolders({}, {})
    heads = [name.partition("annot_")[2] for name in folder.folders if "annot_" in name]
    endings = _mask_names(settings, heads, "annot")
    masks = {head: split_folders(folder.folders, ending.lower()) for head, ending in endings.items()}
    return SplitFolders(split_folders(folder.folders), masks)


def find_split_first(folder: Folder, settings: DataSettings) -> SplitFolders:
    """Find images/ and masks/ in the folders of the splits."""
    images = settings.images or "images"
    inside = {(split, outer): folder.folders_in(outer) for split, outer in split_folders(folder.folders).items()}
    heads = [name.partition("masks_")[2] for inner in inside.values() for name in inner]
    names = _mask_names(settings, heads, "masks")
    if any(is_glob(name) for name in (images, *names.values())):
        return SplitFolders({}, {})

    def places(name: str) -> dict[str, str]:
        key = name.lower()
        return {split: f"{outer}/{inner[key]}" for (split, outer), inner in inside.items() if key in inner}

    return SplitFolders(places(images), {head: places(name) for head, name in names.items()})


def find_kind_first(folder: Folder, settings: DataSettings) -> SplitFolders:
    """Find the folders of the splits in images/ and masks/."""

    def splits_in(place: str | None) -> dict[str, str]:
        if place is None or is_glob(place):
            return {}
        return {split: f"{place}/{name}" for split, name in split_folders(folder.folders_in(place)).items()}

    images, masks = _existing_folders(folder, settings)
    return SplitFolders(splits_in(images), {head: splits_in(place) for head, place in masks.items()})


def find_flat(folder: Folder, settings: DataSettings) -> SplitFolders:
    """Find images/ and masks/ without splits."""
    if find_kind_first(folder, settings).paired():
        return SplitFolders({}, {})
    images, masks = _existing_folders(folder, settings)
    there = {head: {"": place} for head, place in masks.items() if place is not None}
    return SplitFolders({} if images is None else {"": images}, there)


def find_other_names(folder: Folder, settings: DataSettings) -> SplitFolders:
    """Find one folder of images and one of masks by other usual names, in the root or in the folders of the splits."""
    if settings.heads is not None or settings.masks is not None:
        return SplitFolders({}, {})
    if settings.images is None:
        for find_named in (_find_twins, _find_split_names):
            if (named := find_named(folder)).paired():
                return named
    splits = split_folders(folder.folders).values()
    for place in ("", *splits):
        inner = {_FINE.sub("", name): there for name, there in folder.folders_in(place).items()}
        prefix = f"{place}/" if place else ""

        def images_in(names: Iterable[str], prefix: str = prefix) -> list[str]:
            return [name for name in names if folder.images(prefix + name).files]

        images = settings.images or _only(images_in(inner[name] for name in _IMAGE_FOLDERS if name in inner))
        masks = _only(images_in(inner[name] for name in _MASK_FOLDERS if name in inner))
        if images is None or masks is None:
            continue
        others = [
            name for name in inner.values() if name not in (images, masks, *splits) and not _NOT_MASKS.match(name)
        ]
        stems = {_LAST_WORD.sub("", key) for key in folder.images(prefix + images).files}
        if any(stems & {_LAST_WORD.sub("", key) for key in folder.images(prefix + name).files} for name in others):
            continue  # ambiguous: any of these may be the masks
        renamed = settings.model_copy(update={"images": images, "masks": masks})
        for find in (find_split_first, find_kind_first, find_flat):
            if (found := find(folder, renamed)).paired():
                return found
    return SplitFolders({}, {})


def _find_twins(folder: Folder) -> SplitFolders:
    """Find folders that are called as in public data sets, or x_images/ with x_masks/, in DATA or in its splits."""
    found = SplitFolders({}, {"": {}})
    for split, place in ("", ""), *split_folders(folder.folders).items():
        inner, prefix = folder.folders_in(place), f"{place}/" if place else ""
        pairs = [(one, other, patterns) for one, other, patterns in _TWINS if {one, other} <= inner.keys()]
        for name in inner:
            match = _KIND.fullmatch(name)
            ends = [f"{match[1]}{joint}{end}" for joint in "_-" for end in _MASK_FOLDERS] if match else []
            pairs += [(name, end, ()) for end in ends if end in inner and match and match[1] not in _SPLIT_WORDS]
        if len(pairs) == 1 or (pairs and pairs[0][2]):
            images, masks, patterns = prefix + inner[pairs[0][0]], prefix + inner[pairs[0][1]], pairs[0][2]
            globs = [(_with_suffix(folder, images, one), _with_suffix(folder, masks, other)) for one, other in patterns]
            named = next(((one, other) for one, other in globs if one and other), (images, masks))
            found.images[split], found.masks[""][split] = named
    if "" in found.images and len(found.images) > 1:
        return SplitFolders({}, {})
    return found


def _with_suffix(folder: Folder, place: str, pattern: str) -> str:
    """Return the glob of the files of a pattern in a folder, with the suffix of the first; "" if there is none."""
    files = folder.images(place).files.values()
    suffix = next((path.suffix for path in files if path.match(f"{pattern}{path.suffix}")), None)
    return "" if suffix is None else f"{place}/{pattern}{suffix}"


def _find_split_names(folder: Folder) -> SplitFolders:
    """Find the splits in the names of the folders: train_images/ with train_masks/, train/ with train_labels/."""
    found = SplitFolders({}, {"": {}})

    plain = {_FINE.sub("", name): there for name, there in folder.folders.items()}

    def only_of(names: Iterable[str]) -> str | None:
        there = [plain[name] for name in names if name in plain]
        return _only([name for name in there if folder.images(name).files])

    for split in SPLITS:
        names = SPLIT_NAMES[split] if split == "val" else (split,)
        endings = ("", *(f"{joint}{name}" for joint in "_-" for name in _IMAGE_FOLDERS))
        images = only_of(name + ending for name in names for ending in endings)
        masks = only_of(f"{name}{joint}{end}" for name in names for joint in ("_", "-", "") for end in _MASK_FOLDERS)
        if images is not None and masks is not None:
            found.images[split], found.masks[""][split] = images, masks
    return found


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _mask_names(settings: DataSettings, heads: Iterable[str], default: str) -> dict[str, str]:
    """Return the names of mask folders (or their endings) by head: of data.toml, `default`_HEAD of `heads`, or `default`."""
    if settings.heads is not None:
        return {head: own.masks or f"{default}_{head}" for head, own in settings.heads.items()}
    if settings.masks:
        return {"": settings.masks}
    named = sorted({head for head in heads if head})
    return {head: f"{default}_{head}" for head in named} if len(named) > 1 else {"": default}


def _existing_folders(folder: Folder, settings: DataSettings) -> tuple[str | None, dict[str, str | None]]:
    """Return the folders of the images and, by head, of the masks, spelled as on disk; None for those that are missing."""

    def on_disk(name: str) -> str | None:
        exists = is_glob(name) or (folder.root / name).is_dir()
        return name if exists else folder.folders.get(name.lower())

    heads = [] if "masks" in folder.folders else [name.partition("masks_")[2] for name in folder.folders]
    names = _mask_names(settings, heads, "masks")
    images = settings.images or "images"
    if is_glob(images) and not (settings.masks or settings.heads) and images.endswith("images"):
        names = {"": f"{images.removesuffix('images')}masks"}
    return on_disk(images), {head: on_disk(name) for head, name in names.items()}


def find_half(folder: Folder, settings: DataSettings) -> str | None:
    """Return a sentence about a folder of images without masks, or of masks without images, if no layout fits."""
    for find in (find_split_first, find_kind_first, find_flat, find_camvid):
        images, masks = find(folder, settings)
        for split, place in images.items():
            return f"{place}/ has no {f'{split}annot' if find is find_camvid else 'masks'}/ to go with it"
        for place in (place for places in masks.values() for place in places.values()):
            return f"{place}/ has no images to go with it"
    return None


def read_pairs(folder: Folder, settings: DataSettings, folders: SplitFolders) -> FormatResult:
    """Pair the images and masks of each split by name."""
    result = FormatResult(folder.root)
    heads = dict.fromkeys([*(settings.heads or ()), *(head for head, places in folders.masks.items() if places)])
    for split, (images, masks) in folders.paired().items():
        if set(masks) == set(heads):
            _pair(result, folder, settings, split, images, {head: masks[head] for head in heads})
    for split, place in folders.images.items():
        there = folders.masks_of(split)
        missing = [f"the masks of head {head}" for head in heads if head not in there] if there else ["their masks"]
        if missing:
            cause = f"{place}/ has images, but there is no folder with {' and '.join(missing)}"
            if split == "test":  # masks of it are often kept back
                result.report("missing-folder", "note", [place], cause)
            else:
                result.report("missing-folder", "error", [place], cause, "Add the masks, or move the folder elsewhere.")
    for split in dict.fromkeys(split for places in folders.masks.values() for split in places):
        if split not in folders.images:
            place = next(iter(folders.masks_of(split).values()))
            cause = f"{place}/ has masks, but there is no folder with their images"
            result.report("missing-folder", "error", [place], cause, "Add them, or move the folder elsewhere.")
    cause = "folders hold images, but belong to no pair of images and masks, and are not read"
    named = [folders.images, *folders.masks.values()]
    reported = {folder.root / place for places in named for place in places.values()}
    unread = [
        path for path in _unread_folders(folder, result) if not any(place.is_relative_to(path) for place in reported)
    ]
    result.report("unread-folder", "note", unread, cause, "Set images and masks in data.toml if they should count.")
    stems = [stem for samples in result.splits.values() for stem in {sample.stem for sample in samples}]
    if len(set(stems)) < len(stems):  # splits share a stem
        for split, samples in result.splits.items():
            result.splits[split] = [replace(sample, stem=f"{split}/{sample.stem}") for sample in samples]
    return result


def _unread_folders(folder: Folder, result: FormatResult) -> list[Path]:
    """Return the outermost folders that hold images of which no sample has any."""
    places = {path.parent for sample in result.samples for path in sample.image_files}
    places |= {mask.path.parent for sample in result.samples for mask in sample.masks.values()}
    read = places.union(*(place.parents for place in places))
    found, left = [], [folder.root] if places else []
    while left:
        place = left.pop()
        for inner in (place / name for name in folder.folders_in(place.relative_to(folder.root).as_posix()).values()):
            if inner in read:
                left.append(inner)
            elif not place.resolve().is_relative_to(inner.resolve()) and any(
                path.suffix.lower() in IMAGE_SUFFIXES for path in walk(inner)
            ):
                found.append(inner)
    return sorted(found)


def _pair(
    result: FormatResult, folder: Folder, settings: DataSettings, split: str, image_folder: str, places: dict[str, str]
) -> None:
    """Pair the images of one folder with the masks of one folder a head (head -> folder)."""
    images = folder.images(image_folder)
    files = dict(images.files)
    masks_of: dict[str, dict[str, Path]] = {}
    for head, place in places.items():
        masks = folder.images(place)
        suffix = settings.mask_suffix or ("" if image_folder == place else _usual_suffix(images, masks))
        if image_folder == place:
            if not suffix:
                raise DataError(f"{folder.root}: images and masks are the same folder. Set mask_suffix in data.toml.")
            files = {key: path for key, path in files.items() if not key.endswith(suffix)}
        elif image_folder == ".":  # the masks lie below the images
            files = {key: path for key, path in files.items() if not path.is_relative_to(folder.root / place)}
        masks_of[head] = {key.removesuffix(suffix): path for key, path in masks.files.items() if key.endswith(suffix)}
    result.problems += images.duplicate_problems(folder.root, "images")
    unpaired: set[str] = set()
    for number, (head, place) in enumerate(places.items()):
        masks = folder.images(place)
        without = [key for key in files if key not in masks_of[head]]
        unpaired.update(without)
        lost = [path for key, path in masks_of[head].items() if key not in files]
        odd = [path for path in [*(files[key] for key in without), *lost] if not path.is_file()]
        without = [key for key in without if files[key] not in odd]
        cause = "named like images, but folders, links to nothing or in a circle, or pipes"
        result.report("not-a-picture", "error", odd, cause, "Remove or rename them.", [path.stem for path in odd])
        result.problems += masks.duplicate_problems(folder.root, "masks")
        for listed in ([images] if number == 0 else []) + ([masks] if image_folder != place else []):
            cause = "files are not images by their suffix and are not read"
            if listed is not images or image_folder != ".":  # data.toml and lists lie there, too
                result.report("other-file", "note", listed.other_files, cause)
        if without:
            fix = suggest_pairing(without, images, masks, (image_folder, place), has_splits=bool(split))
            cause = f"images in {image_folder}/ have no mask in {place}/"
            stems = [images.stems[key] for key in without]
            result.report("missing-mask", "error", [files[key] for key in without], cause, fix, stems)
        lost = [path for path in lost if path not in odd]
        cause = f"masks in {place}/ have no image in {image_folder}/"
        fix = "Add the images, or move the masks elsewhere."
        result.report("missing-picture", "warning" if files else "error", lost, cause, fix)
        if not files and not masks.files:
            cause = f"there are no images in {image_folder}/ and no masks in {place}/"
            result.report("empty-folder", "error", [image_folder, place], cause, "Put images and masks there.")
    samples = {
        key: Sample(images.stems[key], path, {head: MaskFile(masks[key]) for head, masks in masks_of.items()})
        for key, path in files.items()
        if key not in unpaired
    }
    if settings.bands_from is not None:
        samples = _add_bands(result, folder, settings.bands_from, image_folder, samples)
    result.splits[split] = list(samples.values())
    result.partial |= {images.stems[key] for key in files.keys() - samples.keys()}


def _usual_suffix(images: ImageFiles, masks: ImageFiles) -> str:
    """Return the suffix that most masks have after the name of their image, if no mask has the image's own name."""
    if any(key in masks.files for key in images.files):
        return ""
    for suffix in (*MASK_SUFFIXES, *sorted({path.suffix for path in images.files.values()})):  # a.jpg.png, too
        if 2 * sum(key + suffix in masks.files for key in images.files) > len(images.files):
            return suffix
    first = next(iter(images.files), "")
    own = {key[len(first) :] for key in masks.files if key.startswith(first) and key[len(first) :][:1] in "_-. "}
    unusual = own.pop() if len(own) == 1 else ""  # counts only if it pairs every image and every mask
    return unusual if {key + unusual for key in images.files} == set(masks.files) else ""


def _add_bands(
    result: FormatResult, folder: Folder, where: str, images: str, samples: dict[str, Sample]
) -> dict[str, Sample]:
    """Add to each sample (by key) the image of its key in a second folder, whose bands follow (depth or HHA after color).

    `where` is `bands_from` of data.toml: a folder laid out as that of the images (`hha/train`, `train/hha` or `hha`), or a
    glob. Samples without further bands are reported and omitted.
    """
    parts = images.split("/")
    places = [where] if is_glob(where) else [f"{where}/{parts[-1]}", f"{parts[0]}/{where}", where]
    place = next((place for place in places if is_glob(place) or (folder.root / place).is_dir()), None)
    if place is None:
        cause = f'bands_from = "{where}", but there is no such folder for the images in {images}/'
        raise DataError(f"{folder.root / 'data.toml'}: {cause}. Name one with an image of the same name for each.")
    bands = folder.images(place).files
    without = [sample for key, sample in samples.items() if key not in bands]
    cause = f"images in {images}/ have no further bands in {place}/"
    fix = f"Add an image of the same name to {place}/, or move the image elsewhere."
    names = [sample.image for sample in without]
    result.report("missing-bands", "error", names, cause, fix, [sample.stem for sample in without])
    return {key: replace(sample, more=bands[key]) for key, sample in samples.items() if key in bands}
