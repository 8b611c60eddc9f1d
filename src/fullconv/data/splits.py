"""Who is in train, val and test: by hash, by fold, by list, and never with a group on both sides."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from fullconv.data.config import SPLITS, DataSettings, inside
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.text_files import column, load_rows, load_text, nfc
from fullconv.errors import DataError

VAL_SHARE = 0.2
_STEM_HEADINGS = ("stem", "name", "file", "filename", "file_name", "image", "image_id", "picture", "path", "id")
_GROUP_HEADINGS = ("group", "group_id", "groups", "patient", "patient_id", "site", "scene", "video", "case")
_LEAST, _MOST = 0.1, 0.3  # what the hash gives a small data set is moved into these


def hash_order(name: str) -> int:
    """Return a number from a name, the same on every machine, spread evenly over 0 to 2^64."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def _parts(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Put samples that must stay together into parts, in the order of their hash."""
    parts: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        parts[f"stem {sample.stem}" if sample.group is None else f"group {sample.group}"].append(sample)
    return [parts[name] for name in sorted(parts, key=lambda name: (hash_order(name.split(" ", 1)[1]), name))]


def hold_out(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Split samples into train and val: 20 % of the groups or stems by their hash, 10 to 30 % of the pictures.

    Returns:
        train, val; val is empty where there is but one group.
    """
    parts = _parts(samples)
    if len(parts) < 2:
        return list(samples), []
    val: list[Sample] = []
    for part in parts:
        name = part[0].stem if part[0].group is None else part[0].group
        wanted = hash_order(name) < VAL_SHARE * 2**64 or len(val) < _LEAST * len(samples)
        if wanted and len(val) + len(part) <= max(_MOST * len(samples), 1):
            val += part
    if not val:  # every group is larger than a third
        val = min(parts, key=len)
    held = {sample.stem for sample in val}
    return [s for s in samples if s.stem not in held], sorted(val, key=lambda s: s.stem)


def choose_fold(samples: Sequence[Sample], folds: int, fold: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples into train and val, val being one of `folds` equal parts in the order of the hash.

    Raises:
        DataError: There are fewer groups or pictures than folds.
    """
    parts = _parts(samples)
    if len(parts) < folds:
        kind = "groups" if any(s.group is not None for s in samples) else "pictures"
        raise DataError(
            f"folds = {folds} needs as many {kind}, there are {len(parts)}. Set folds = {max(2, len(parts))}."
        )
    sizes = [0] * folds
    val: list[Sample] = []
    for part in parts:
        smallest = min(range(folds), key=lambda i: sizes[i])
        sizes[smallest] += len(part)
        if smallest == fold:
            val += part
    held = {sample.stem for sample in val}
    return [s for s in samples if s.stem not in held], sorted(val, key=lambda s: s.stem)


def check_folds(folds: int | None, fold: int | None) -> None:
    """Raise DataError where the two settings do not go together."""
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
    """Give every sample its group by data.toml's `groups`.

    Raises:
        DataError: The expression is none, matches nothing, or the CSV file misses stems.
    """
    if settings.groups is None:
        return dict(samples)
    if settings.groups.lower().endswith(".csv"):
        table = _read_groups(root, settings.groups)
        find: Callable[[str], str | None] = partial(_from_table, table)
        source = f"{root / settings.groups}: names no group for"
    else:
        expression = _compile(settings.groups, root)
        find = partial(_first_group, expression)
        source = f"{root / 'data.toml'}: groups = '{settings.groups}' does not match"
    grouped: dict[str, list[Sample]] = {}
    missed: list[str] = []
    for split, members in samples.items():
        grouped[split] = []
        for sample in members:
            own = sample.stem.removeprefix(f"{split}/")
            group = next(
                (g for name in (own, sample.stem, own.rpartition("/")[2]) if (g := find(name)) is not None), None
            )
            missed += [sample.stem] if group is None else []
            grouped[split].append(replace(sample, group=group))
    if missed:
        raise DataError(f"{source} {len(missed)} pictures, as {missed[0]}. Every picture needs its group.")
    return grouped


def _from_table(table: Mapping[str, str], stem: str) -> str | None:
    return table.get(stem)


def _first_group(expression: re.Pattern[str], stem: str) -> str | None:
    match = expression.search(stem)
    if match is None:
        return None
    return str(match[1]) if expression.groups and match[1] is not None else str(match[0])


def _compile(text: str, root: Path) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise DataError(f"{root / 'data.toml'}: groups = '{text}' is no regular expression ({error}).") from error


def _read_groups(root: Path, name: str) -> dict[str, str]:
    path = root / _inside(root, "groups", name)
    rows = load_rows(path, "It is a CSV file of lines stem,group.")
    wrong = next((i for i, row in enumerate(rows, 1) if len(row) < 2), None)
    if wrong is not None:
        raise DataError(f"{path}, line {wrong}: has no group. Write lines stem,group.")
    heading = rows[0] if rows else []
    stem, group = column(heading, *_STEM_HEADINGS), column(heading, *_GROUP_HEADINGS)
    if stem is None or group is None:
        if any(len(row) > 2 for row in rows):
            raise DataError(
                f"{path}: has more than two columns, so it is not clear which is the group. Name them in its first line:"
                " stem and group."
            )
        stem, group = 0, 1
    groups: dict[str, str] = {}
    for i, row in enumerate(rows, 1):
        if len(row) <= max(stem, group):
            raise DataError(f"{path}, line {i}: has no group. Write lines stem,group.")
        name = text_stem(row[stem])
        if groups.setdefault(name, row[group]) != row[group]:
            raise DataError(f"{path}, line {i}: {name} is in group {groups[name]}, too. Give it one group.")
    return groups


def _inside(root: Path, key: str, name: str) -> str:
    try:
        return inside(name)
    except ValueError as error:
        raise DataError(f"{root / 'data.toml'}: {key}: {error}.") from None


def text_stem(text: str) -> str:
    """Turn a path or stem into a POSIX stem: without the suffix of a picture."""
    clean = text.replace("\\", "/").removeprefix("./").strip("/")
    return re.sub(r"\.(png|jpe?g|jfif|tiff?|bmp|webp|gif|jp2|avif|heic)$", "", clean, flags=re.IGNORECASE)


def by_lists(
    samples: Mapping[str, list[Sample]], settings: DataSettings, root: Path
) -> tuple[dict[str, list[Sample]], list[Problem]]:
    """Split by the lists of data.toml's `splits`; pictures on no list are left out, and said.

    Raises:
        DataError: A list cannot be read, or a picture is on two.
    """
    assert settings.splits is not None
    everyone = [sample for members in samples.values() for sample in members]
    known: dict[str, Sample | None] = {}
    for sample in everyone:
        for name in map(nfc, _names_of(sample, root)):
            known[name] = None if name in known and known[name] is not sample else sample
    split_of: dict[str, str] = {}
    problems: list[Problem] = []
    for split, name in settings.splits.items():
        missing = []
        for line in read_list(root / name):
            found = _find(line, known)
            if found is None:
                missing.append(line)
            elif split_of.setdefault(found.stem, split) != split:
                raise DataError(f"{root / name}: {found.stem} is in {split_of[found.stem]}, too. Take it off one list.")
        if missing:
            words = f"lines of {name} name pictures that are not there"
            problems.append(problem("missing-listed", "error", missing, words, f"Correct {name}, or add the pictures."))
    unlisted = [s.stem for s in everyone if s.stem not in split_of]
    if unlisted:
        words = "pictures are on no list of splits, so they are left out"
        problems.append(problem("unlisted", "note", unlisted, words, "Add them to a list if they should count."))
    result: dict[str, list[Sample]] = {split: [] for split in SPLITS if split in settings.splits}
    for sample in everyone:
        if sample.stem in split_of:
            result[split_of[sample.stem]].append(sample)
    return result, problems


def unread_lists(root: Path, splits: Mapping[str, list[Sample]]) -> list[Problem]:
    """Say that there are lists of pictures by split that were not asked for, and how to ask for them."""
    known = {nfc(name) for members in splits.values() for sample in members for name in _names_of(sample, root)}
    lists = {}
    for split in SPLITS:
        path = root / f"{split}.txt"
        with suppress(DataError):
            lines = read_list(path)[:20] if path.is_file() else []
            names = [nfc(text_stem(re.split(r"[,\t ]", line, maxsplit=1)[0])) for line in lines]
            if lines and 2 * sum(name in known or name.rpartition("/")[2] in known for name in names) > len(lines):
                lists[split] = path.name
    if "train" not in lists:
        return []
    words = "lists of pictures lie here, but are not read; val was held out by chance"
    table = ", ".join(f'{split} = "{name}"' for split, name in lists.items())
    remedy = f"If they should count, add to data.toml:\nsplits = {{ {table} }}"
    return [problem("unread-list", "note", list(lists.values()), words, remedy)]


def _names_of(sample: Sample, root: Path) -> set[str]:
    names = {sample.stem, sample.stem.rpartition("/")[2]}
    with suppress(ValueError):  # a picture may lie outside of the data folder
        names.add(sample.image.relative_to(root).with_suffix("").as_posix())
    return names


def _find(line: str, known: Mapping[str, Sample | None]) -> Sample | None:
    """Find the sample that a line names: all of it, or its first word (`image label` lists)."""
    for text in (line, re.split(r"[,\t ]", line, maxsplit=1)[0]):
        stem = nfc(text_stem(text))
        for name in (stem, stem.rpartition("/")[2]):
            if (found := known.get(name)) is not None:
                return found
    return None


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    lines = load_text(path, "It is a text file with a stem or path a line.").splitlines()
    return [line.strip() for line in lines if line.strip()]


def straddling(splits: Mapping[str, list[Sample]]) -> list[Problem]:
    """Name the groups that are in several splits."""
    where: dict[str, set[str]] = defaultdict(set)
    for split, members in splits.items():
        for sample in members:
            if sample.group is not None:
                where[sample.group].add(split)
    torn = sorted(group for group, found in where.items() if len(found) > 1)
    if not torn:
        return []
    words = "groups are in several splits, so scores would be too good"
    return [
        problem(
            "group-straddles", "error", torn, words, "Move each group into one split, or take groups out of data.toml."
        )
    ]
