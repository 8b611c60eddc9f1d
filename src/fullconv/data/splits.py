"""Split samples into train, val and test: by hash, by fold or by list, and never across a group."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fullconv.data.config import SPLITS, DataSettings, inside
from fullconv.data.files import column, load_rows, load_text, nfc
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.errors import DataError, plural

VAL_SHARE = 0.2
_STEM_HEADINGS = ("stem", "name", "file", "filename", "file_name", "image", "image_id", "picture", "path", "id")
_GROUP_HEADINGS = ("group", "group_id", "groups", "patient", "patient_id", "site", "scene", "video", "case")
_MIN_VAL, _MAX_VAL = 0.1, 0.3  # limits of the share that the hash gives a small data set


def hash_order(name: str) -> int:
    """Return a number from a name, the same on every machine, uniform over 0 to 2^64."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def _parts(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Group samples that must stay together, in the order of their hash."""
    parts: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        parts[f"stem {sample.stem}" if sample.group is None else f"group {sample.group}"].append(sample)
    return [parts[name] for name in sorted(parts, key=lambda name: (hash_order(name.split(" ", 1)[1]), name))]


def hold_out(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Split samples into train and val, 20 % of the groups or stems by hash (10 to 30 % of the images); one group is train."""
    parts = _parts(samples)
    if len(parts) < 2:
        return list(samples), []
    val: list[Sample] = []
    for part in parts:
        name = part[0].stem if part[0].group is None else part[0].group
        chosen = hash_order(name) < VAL_SHARE * 2**64 or len(val) < _MIN_VAL * len(samples)
        if chosen and len(val) + len(part) <= max(_MAX_VAL * len(samples), 1):
            val += part
    val = val or min(parts, key=len)  # every group may be larger than a third
    return _without(samples, val)


def choose_fold(samples: Sequence[Sample], folds: int, fold: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples into train and val, val being one of `folds` equal parts in the order of the hash."""
    parts = _parts(samples)
    if len(parts) < folds:
        kind = "groups" if any(s.group is not None for s in samples) else "images"
        most = len(parts)
        raise DataError(f"folds = {folds} needs as many {kind}, there are {most}. Set folds = {max(2, most)}.")
    sizes = [0] * folds
    val: list[Sample] = []
    for part in parts:
        smallest = min(range(folds), key=lambda i: sizes[i])
        sizes[smallest] += len(part)
        if smallest == fold:
            val += part
    return _without(samples, val)


def _without(samples: Iterable[Sample], val: Iterable[Sample]) -> tuple[list[Sample], list[Sample]]:
    held = {sample.stem for sample in val}
    return [s for s in samples if s.stem not in held], sorted(val, key=lambda s: s.stem)


def check_folds(folds: int | None, fold: int | None) -> None:
    """Require that the two settings fit together."""
    if folds is None and fold is None:
        return
    if folds is None:
        raise DataError(f"fold = {fold} needs folds, the number of parts. Set folds = 5, too.")
    if folds < 2:
        raise DataError(f"folds = {folds} is no split. Set folds to 2 or more.")
    if fold is None:
        raise DataError(f"folds = {folds} needs the part that is val. Set fold to 0 to {folds - 1}, too.")
    if not 0 <= fold < folds:
        raise DataError(f"fold {fold} does not exist: with folds = {folds} they are 0 to {folds - 1}.")


def with_groups(samples: Mapping[str, list[Sample]], settings: DataSettings, root: Path) -> dict[str, list[Sample]]:
    """Assign every sample its group by data.toml's `groups`."""
    groups = settings.groups
    if groups is None:
        return dict(samples)
    find: Callable[[str], str | None]
    if groups.lower().endswith(".csv"):
        find = _read_groups(root, groups).get
        source = f"{root / groups}: has no group for"
    else:
        try:
            expression = re.compile(groups)
        except re.error as error:
            message = f"groups = '{groups}' is no regular expression ({error}). Correct it."
            raise DataError(f"{root / 'data.toml'}: {message}") from error

        def find(name: str) -> str | None:
            match = expression.search(name)
            return None if match is None else str(match[1] if expression.groups and match[1] is not None else match[0])

        source = f"{root / 'data.toml'}: groups = '{groups}' does not match"
    grouped: dict[str, list[Sample]] = {}
    missed: list[str] = []
    for split, members in samples.items():
        grouped[split] = []
        for sample in members:
            own = sample.stem.removeprefix(f"{split}/")
            names = (own, sample.stem, own.rpartition("/")[2])
            group = next((group for name in names if (group := find(name)) is not None), None)
            missed += [sample.stem] if group is None else []
            grouped[split].append(replace(sample, group=group))
    if missed:
        raise DataError(f"{source} {plural(len(missed), 'image')}, as {missed[0]}. Give every image a group.")
    return grouped


def _read_groups(root: Path, name: str) -> dict[str, str]:
    try:
        path = root / inside(name)
    except ValueError as error:
        raise DataError(f"{root / 'data.toml'}: groups: {error}.") from None
    rows = load_rows(path, "It is a CSV file of lines stem,group.")

    heading = rows[0] if rows else []
    stem, group = column(heading, *_STEM_HEADINGS), column(heading, *_GROUP_HEADINGS)
    if stem is None or group is None:
        if any(len(row) > 2 for row in rows):
            raise DataError(f"{path}: has more than two columns. Name stem and group in its first line.")
        stem, group = 0, 1
    groups: dict[str, str] = {}
    for i, row in enumerate(rows, 1):
        if len(row) <= max(stem, group):
            raise DataError(f"{path}, line {i}: has no group. Write lines stem,group.")
        name = text_stem(row[stem])
        if groups.setdefault(name, row[group]) != row[group]:
            raise DataError(f"{path}, line {i}: {name} is in group {groups[name]}, too. Give it one group.")
    return groups


def text_stem(text: str) -> str:
    """Return a path or stem as POSIX stem, without an image suffix."""
    clean = text.replace("\\", "/").removeprefix("./").strip("/")
    return re.sub(r"\.(png|jpe?g|jfif|tiff?|bmp|webp|gif|jp2|avif|heic)$", "", clean, flags=re.IGNORECASE)


def by_lists(
    samples: Mapping[str, list[Sample]], settings: DataSettings, root: Path
) -> tuple[dict[str, list[Sample]], list[Problem]]:
    """Split by the lists of data.toml's `splits`; images on no list are omitted and reported."""
    assert settings.splits is not None
    everyone = [sample for members in samples.values() for sample in members]
    known: dict[str, Sample | None] = {}
    for sample in everyone:
        for name in map(nfc, _names_of(sample, root)):
            known[name] = None if name in known and known[name] is not sample else sample
    split_of: dict[str, str] = {}
    problems: list[Problem] = []
    for split, name in settings.splits.items():
        missing, listed = [], []
        for line in read_list(root / name):
            found = next(filter(None, map(known.get, stems_in(line))), None)
            if found is None:
                missing.append(line)
                continue
            listed.append((line, found))
            if split_of.setdefault(found.stem, split) != split:
                other = split_of[found.stem]
                raise DataError(f"{root / name}: {found.stem} is in {other}, too. Remove it from one list.")
        if missing:
            cause = f"lines of {name} name images that do not exist"
            problems.append(problem("missing-listed", "error", missing, cause, f"Correct {name}, or add the images."))
        problems += omitted_lines(root / name, root, (sample.stem for _, sample in listed))
        problems += outside_paths(root / name, root, ((line, sample.image) for line, sample in listed))
    unlisted = [s.stem for s in everyone if s.stem not in split_of]
    if unlisted:
        cause = "images are on no list of splits and are omitted"
        problems.append(problem("unlisted", "note", unlisted, cause, "Add them to a list to include them."))
    there = [split for split in SPLITS if split in settings.splits]
    return {split: [s for s in everyone if split_of.get(s.stem) == split] for split in there}, problems


def unread_lists(root: Path, splits: Mapping[str, list[Sample]]) -> list[Problem]:
    """Report lists of images by split that data.toml does not name."""
    known = {nfc(name) for members in splits.values() for sample in members for name in _names_of(sample, root)}
    lists = {}
    for split in SPLITS:
        path = root / f"{split}.txt"
        with suppress(DataError):
            lines = read_list(path)[:20] if path.is_file() else []
            if 2 * sum(any(stem in known for stem in stems_in(line)) for line in lines) > len(lines):
                lists[split] = path.name
    if "train" not in lists:
        return []
    cause = "lists of images exist, but are not read; val was held out by hash"
    table = ", ".join(f'{split} = "{name}"' for split, name in lists.items())
    fix = f"To use them, add to data.toml:\nsplits = {{ {table} }}"
    return [problem("unread-list", "note", list(lists.values()), cause, fix)]


def _names_of(sample: Sample, root: Path) -> set[str]:
    names = {sample.stem, sample.stem.rpartition("/")[2]}
    with suppress(ValueError):  # an image may lie outside of the data folder
        names.add(sample.image.relative_to(root).with_suffix("").as_posix())
    return names


def stems_in(line: str) -> Iterator[str]:
    """Yield the stems that a line may name: all of it, or its first word (`image label` lists), with folders or without."""
    for text in (line, re.split(r"[,;\t ]", line, maxsplit=1)[0]):
        stem = nfc(text_stem(text))
        yield from (stem, stem.removeprefix("JPEGImages/"), stem.rpartition("/")[2])


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    lines = load_text(path, "It is a text file with a stem or path a line.").splitlines()
    return [line.strip() for line in lines if line.strip()]


def omitted_lines(path: Path, root: Path, named: Iterable[str]) -> list[Problem]:
    """Report lines of a list that do not count: those that repeat an image, and blank ones between others.

    Args:
        path: The list.
        root: The data folder.
        named: The image that each line names.
    """
    name = path.relative_to(root).as_posix()
    lines = load_text(path, "Save it as UTF-8 text.").rstrip().splitlines()
    blank = [f"{name}, line {i}" for i, line in enumerate(lines, 1) if not line.strip()]
    repeated = [image for image, count in Counter(named).items() if count > 1]
    found = []
    if repeated:
        cause = f"{name} lists images more than once, which count once"
        found.append(problem("omitted-line", "note", repeated, cause, "Keep one line of each."))
    if blank:
        found.append(
            problem("omitted-line", "note", blank, f"{name} has blank lines, which are omitted", "Remove them.")
        )
    return found


def outside_paths(path: Path, root: Path, images: Iterable[tuple[str, Path]]) -> list[Problem]:
    """Report lines of a list whose path leads out of the data folder, so that the image of that name was taken.

    Args:
        path: The list.
        root: The data folder.
        images: Lines, and the image that was taken for each.
    """
    name = path.relative_to(root).as_posix()
    outside, exist = [], False
    for line, image in images:
        text = re.split(r"[,;\t ]", line, maxsplit=1)[0].replace("\\", "/")
        if re.match(r"/|[A-Za-z]:|.*\.\./", text):
            places = [place.resolve() for place in (path.parent / text, root / text, root / text.lstrip("/"))]
            if image.with_suffix("").resolve() not in [place.with_suffix("") for place in places]:
                outside.append(line)
                exist = exist or any(map(Path.is_file, places))
    if not outside:
        return []
    cause = f"lines of {name} lead out of the data folder; the image of the same name in it was taken"
    fix = f"Correct {name}: those files exist and are other images." if exist else ""
    return [problem("path-mended", "warning" if exist else "note", outside, cause, fix)]


def straddling(splits: Mapping[str, list[Sample]]) -> list[Problem]:
    """Report groups that are in several splits."""
    where: dict[str, set[str]] = defaultdict(set)
    for split, members in splits.items():
        for sample in members:
            if sample.group is not None:
                where[sample.group].add(split)
    torn = sorted(group for group, found in where.items() if len(found) > 1)
    if not torn:
        return []
    cause = "groups are in several splits, so scores would be too high"
    fix = "Move each group into one split, or remove groups from data.toml."
    return [problem("group-straddles", "error", torn, cause, fix)]
