"""Sentences about what to change if no format fits, or if images have no mask although there are masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fullconv.data.files import IMAGE_SUFFIXES, Folder, ImageFiles, is_glob, is_junk, read_head, read_head_tail
from fullconv.errors import DataError

_MAX_FOLDERS = 60
"""Folders that are searched."""
_COCO = "export COCO, or masks, instead"
_OTHER_TOOLS = {
    "<bndbox>": ("holds boxes for detection (PASCAL VOC)", "export masks or polygons instead"),
    '"objectType"': ("is GeoJSON of QuPath, in pixels", "export labeled images instead"),
    "FeatureCollection": ("is GeoJSON, which is read beside GeoTIFFs", _COCO),
    "segments_info": ("is a panoptic file", _COCO),
    '"tagIds"': ("is an export of Azure Custom Vision", _COCO),
    '"Labeled Data"': ("is an old export of Labelbox", "export NDJSON instead"),
    '"vid_list"': ("is a project of the VGG Image Annotator 3", "annotate with version 2, or export COCO"),
    '"classTitle"': ("is an annotation of Supervisely", "copy the project's meta.json, img/ and ann/"),
    '"className"': ("is an export of SuperAnnotate", _COCO),
    '"dm_format_version"': ("is an export of Datumaro", _COCO),
    '"label_id"': ("is an export of Datumaro", _COCO),
    '"source-ref"': ("is a manifest of SageMaker Ground Truth", "download the masks, or export COCO"),
    '"jsonResponse"': ("is an export of Kili", _COCO),
    '"label_hash"': ("is an export of Encord", _COCO),
    '"export_format_version"': ("is an export of Hasty", _COCO),
    '"datasetId"': ("is an export of Dataloop", _COCO),
    '"_input_hash"': ("is an export of Prodigy", _COCO),
    '"callback_url"': ("is an export of Scale", "download the masks"),
    '"poly2d"': ("is an export of Scalabel (BDD100K)", "use its masks"),
    '"ISAT"': ("is an annotation of ISAT", _COCO),
    '"openlabel"': ("is an OpenLABEL file", _COCO),
    '"visitedTags"': ("is an export of VoTT", _COCO),
    "ASAP_Annotations": ("is an annotation of ASAP", "export masks instead"),
    '"imgHeight"': ("holds polygons of Cityscapes", "use its labelIds masks"),
}
"""Text by which the files of other tools are recognized: what they are, and what to do."""
_OTHER_SUFFIXES = (".json", ".xml", ".geojson", ".ndjson", ".jsonl", ".manifest")
_BRUSH_LABELS = re.compile(r"task-\d+-annotation-\d+-by-.*\.(png|npy)")
_BRUSH_FIX = 'This is Label Studio\'s export "Brush labels", which names no images: export JSON instead.'


def suggest_layout(folder: Folder, fits: Callable[[Folder], bool]) -> str:
    """Return a sentence about a folder that no format `fits`, with a space before it, or nothing."""
    return next((f" {sentence}" for sentence in _sentences(folder, fits)), "")


def _inner_folders(folder: Folder) -> list[Path]:
    """Return the folders one and two levels below."""
    below = [folder.root / name for name in folder.folders.values()][:_MAX_FOLDERS]
    found = list(below)
    for path in below:
        with suppress(OSError):
            found += sorted(p for p in path.iterdir() if p.is_dir() and not is_junk(p.name))[: _MAX_FOLDERS // 4]
    return found


def _files(place: Path, *suffixes: str) -> list[Path]:
    try:
        found = sorted(path for path in place.iterdir() if not is_junk(path.name) and path.is_file())
    except OSError:
        return []
    return [path for path in found if not suffixes or path.suffix.lower() in suffixes]


def _has_brush_labels(files: list[Path]) -> bool:
    return any(_BRUSH_LABELS.fullmatch(path.name) for path in files[:20])


def _damage(path: Path) -> str | None:
    """Return what is wrong with an annotation file that is empty or was not written to its end."""
    head, tail = read_head_tail(path, 1 << 14)
    if head.strip() in ("", "{}", "[]", "null"):
        return "is empty"
    ends = {".csv": "", ".xml": ">"}.get(path.suffix.lower(), ("}", "]"))
    return None if tail.rstrip().endswith(ends) else "is cut off"


def _sentences(folder: Folder, fits: Callable[[Folder], bool]) -> Iterator[str]:
    """Yield what is found in a folder and those below it, the most telling first."""
    inner = _inner_folders(folder)
    places = [folder.root, *inner]

    def relative(path: Path) -> str:
        return path.relative_to(folder.root).as_posix()

    found: list[Path] = []
    for path in inner:
        with suppress(DataError):  # cannot be read
            if not any(path.is_relative_to(other) for other in found) and fits(Folder(path)):
                found.append(path)
    if len(found) > 1:
        yield f"{', '.join(f'{relative(path)}/' for path in found[:4])} look like data sets: specify one of them."
    elif found:
        yield f"{relative(found[0])}/ looks like one: did you mean {found[0]}?"
    if any(_has_brush_labels(_files(place)) for place in places):
        yield _BRUSH_FIX
    for place in places:
        if (place / "img").is_dir() and (place / "ann").is_dir() and not (folder.root / "meta.json").is_file():
            where = f"{relative(place)}/".removeprefix("./")
            yield f"{where}img/ and {where}ann/ are Supervisely's, but the project's meta.json is missing: copy it, too."
    for place in places:
        for path in _files(place, *_OTHER_SUFFIXES, ".csv")[:3]:
            if damage := _damage(path):
                yield f"{relative(path)} {damage}: export it again."
            start = read_head(path, 1 << 14)
            if found_tool := next((tool for key, tool in _OTHER_TOOLS.items() if key in start), None):
                yield "{} {}: {}.".format(relative(path), *found_tool)
        if records := [path for path in _files(place)[:100] if ".tfrecord" in path.name]:
            yield f"{relative(records[0])} holds TFRecords of TensorFlow: export COCO, or masks, instead."
    for place in places:  # images and masks of the same names in one folder: a.jpg with a.png
        stems: dict[str, set[str]] = {}
        for path in _files(place, *IMAGE_SUFFIXES):
            stems.setdefault(path.suffix, set()).add(path.stem)
        masks = stems.pop(".png", set())
        for suffix, images in stems.items():
            if len(images & masks) > 1 and 2 * len(images & masks) > len(images):
                where = f"{relative(place)}/".removeprefix("./")
                added = f'images = "{where}*{suffix}"\nmasks = "{where}*.png"\n'
                yield f"If the PNGs are the masks of the {suffix} files, add to data.toml:\n{added}Else:"


def suggest_pairing(
    unpaired: list[str], images: ImageFiles, masks: ImageFiles, folders: tuple[str, str], *, has_splits: bool
) -> str:
    """Return the fix for images without a mask (by key), from the files in the folders of images and masks."""
    same = set(unpaired) & masks.files.keys()
    if 2 * len(same) > len(unpaired):
        return "Masks have the names of their images, without a suffix: remove mask_suffix from data.toml."
    if (suffix := _common_suffix(unpaired, masks.files)) is not None:
        return f'Masks are named with a suffix: add to data.toml: mask_suffix = "{suffix}"'
    place = folders[1]
    if _has_brush_labels(list(masks.files.values())):
        return _BRUSH_FIX
    can_set = not has_splits and not any(map(is_glob, folders))

    def lines(values: Iterator[str]) -> str:
        return "\n".join(f'{key} = "{value}"' for key, value in zip(("images", "masks"), values, strict=True))

    inner = _inner_pair(unpaired, masks.files) if can_set else None
    if inner is not None:
        added = lines(f"{outer}{'/' * bool(name)}{name}" for outer, name in zip(folders, inner, strict=True))
        classes = _folders_per_class(unpaired, masks.files)
        if len(classes) > 1:
            found = f"{place}/ has a mask of most images in each of {', '.join(classes)}. If these are the classes"
            return f"{found}, draw them into one mask with a number a class; to use one, add to data.toml:\n{added}"
        return f"They lie in folders of their own: add to data.toml:\n{added}"
    others = {PurePosixPath(path.name).stem: path.suffix for path in masks.other_files}
    suffixes = sorted({others[name] for key in unpaired if (name := key.rpartition("/")[2]) in others})
    if suffixes:
        return f"{place}/ has {', '.join(suffixes)} files of these names, which are not read: save the masks as indexed PNG."
    lower = {key.lower(): key for key in masks.files}
    if near := next(((key, lower[key.lower()]) for key in unpaired if lower.get(key.lower(), key) != key), None):
        return f"Names differ in upper and lower case, as {near[0]} and {near[1]}: rename one of the two."
    patterns = _glob_pair({key: images.files[key] for key in unpaired}, masks.files) if can_set else None
    if patterns is not None:
        added = lines(f"{outer}/{pattern}" for outer, pattern in zip(folders, patterns, strict=True))
        return f"Names differ only in a prefix or suffix: add to data.toml:\n{added}"
    example = next((path.name for key, path in masks.files.items() if key not in unpaired), None)
    hint = f" ({place}/ has {example}, for example)" if example else ""
    return f"Add a mask of the same name to {place}/{hint}, or move the image elsewhere."


def _common_suffix(unpaired: Collection[str], masks: Collection[str]) -> str | None:
    """Return what follows the image's name in the names of masks, if it is the same for most of the images."""
    counts: Counter[str] = Counter()
    names = set(unpaired)
    for key in masks:
        cut = next((cut for cut in range(len(key) - 1, 0, -1) if key[:cut] in names), None)
        counts[key[cut:] if cut else ""] += 1
    del counts[""]
    ((best, count),) = counts.most_common(1) or (("", 0),)
    return best if 2 * count > len(unpaired) else None


def _inner_pair(unpaired: Collection[str], masks: Collection[str]) -> tuple[str, str] | None:
    """Return the inner folders of images and of masks below which the names are the same, if that pairs most."""
    by_name: dict[str, list[str]] = {}
    for key in masks:
        by_name.setdefault(PurePosixPath(key).name, []).append(key)
    found: Counter[tuple[str, str]] = Counter()
    for key in unpaired:
        for mask in by_name.get(PurePosixPath(key).name, ())[:8]:
            one, other = key.split("/"), mask.split("/")
            while one and other and one[-1] == other[-1]:
                one.pop()
                other.pop()
            found["/".join(one), "/".join(other)] += 1
    ((best, count),) = found.most_common(1) or ((("", ""), 0),)
    return best if 2 * count > len(unpaired) and any(best) else None


def _folders_per_class(unpaired: Collection[str], masks: Collection[str]) -> list[str]:
    """Return the folders of which each has a mask of most images, as in a layout with one folder per class."""
    expected = {PurePosixPath(key).name for key in unpaired}
    found: dict[str, set[str]] = {}
    for key in masks:
        place, _, name = key.rpartition("/")
        if place and name in expected:
            found.setdefault(place, set()).add(name)
    return sorted(place for place, names in found.items() if 2 * len(names) > len(expected))


def _glob_pair(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[str, str] | None:
    """Return globs of images and of masks whose asterisks match the same, if that pairs most."""
    if len(images) < 2 or len(masks) < 2 or any("/" in key or is_glob(key) for key in (*images, *masks)):
        return None
    patterns, matches = [], []
    for files in (images, masks):
        keys, suffixes = list(files), {path.suffix for path in files.values()}
        before = _common_start(keys)
        behind = _common_start([key[len(before) :][::-1] for key in keys])[::-1]
        if behind and len(suffixes) > 1:
            return None
        patterns.append(f"{before}*{behind + suffixes.pop() if behind else ''}")
        matches.append({key[len(before) : len(key) - len(behind)] for key in keys})
    both = matches[0] & matches[1]
    return None if 2 * len(both) <= len(images) or "" in both else (patterns[0], patterns[1])


def _common_start(names: list[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]
