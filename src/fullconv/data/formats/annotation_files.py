"""Read annotation files: JSON of any tool, also after other programs have edited it, and the images that are named in it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, is_glob, nfc, read_text
from fullconv.data.formats.format import FormatResult
from fullconv.data.problems import Problem, Severity, problem
from fullconv.errors import DataError
from fullconv.labels import BACKGROUND_NAMES

_CLASS_ATTRIBUTES = ("class", "class_name", "classname", "label", "category", "type", "name")
_NUMBER = re.compile(r"-?[\d.]+(e[+-]?\d+)?")
_SMALL = 6
"""Shapes that are too few to tell classes from names of single shapes by their number."""
MAX_COORDINATE = 100_000
"""Larger coordinates are not pixels."""


def read_json(path: Path, fix: str) -> Any:
    """Read a JSON file, else DataError that ends with `fix`.

    Lone surrogates, which no file name or terminal accepts, become question marks.
    """
    try:
        table = json.loads(text := read_text(path))
        if "\\ud" in text or "\\uD" in text:
            table = json.loads(json.dumps(table, ensure_ascii=False).encode("utf-8", "replace"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8. {fix}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). {fix}") from None
    return table


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds an object; anything else is an empty one."""
    table = read_json(path, fix)
    return table if isinstance(table, dict) else {}


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; none if it is not a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Return a finite number of pixels, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -MAX_COORDINATE <= value <= MAX_COORDINATE else None  # NaN and huge integers are neither


def numbers(table: dict[str, Any], *keys: str) -> tuple[float, ...] | None:
    """Return the numbers of some keys; None unless all are numbers."""
    found = tuple(value for key in keys if (value := number(table.get(key))) is not None)
    return found if len(found) == len(keys) else None


def points(value: object, least: int = 1) -> tuple[tuple[float, float], ...] | None:
    """Return a list [[x, y], ...] as tuples; None if it is not one, or has fewer than `least`."""
    if not isinstance(value, list) or len(value) < least:
        return None
    pairs = [pair[:2] for pair in value if isinstance(pair, list) and len(pair) > 1]
    found = tuple((x, y) for a, b in pairs if (x := number(a)) is not None and (y := number(b)) is not None)
    return found if len(found) == len(value) else None


def size(height: object, width: object) -> tuple[int, int] | None:
    """Return an image size if both are positive integers, else None."""
    return (height, width) if type(height) is int and type(width) is int and min(height, width) > 0 else None


def class_attribute(
    rows: Sequence[Mapping[str, str]], kind: str, result: FormatResult, usual: Sequence[str] = _CLASS_ATTRIBUTES
) -> str | None:
    """Return which attribute of shapes is their class, None if they have none: one that most have, with few values.

    A usual name (class, label, ...) comes first; a warning says which counts where several could.
    """
    values: dict[str, Counter[str]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, Counter())[value] += 1
    common = {key: counts for key, counts in values.items() if 2 * counts.total() > len(rows)}
    fits = {key: counts for key, counts in common.items() if _repeats(counts)}
    if common and not fits:
        cause = (
            f"{kind} have attributes with as many values as {kind}, so none is their class, and all are of one class"
        )
        result.report("class-attribute", "warning", list(common), cause, "Add an attribute called 'class'.")

    def rank(key: str) -> tuple[int, bool, int]:
        name = key.lower().replace(" ", "_")
        return usual.index(name) if name in usual else len(usual), len(fits[key]) < 2, len(fits[key])

    ranked = sorted(fits, key=rank)
    if len(ranked) > 1 and len(fits[ranked[1]]) > 1:  # else the others are the same for all
        first, second = ranked[:2]
        cause = f"{kind} have several attributes; the class is '{first}' ({len(fits[first])} values), not '{second}'"
        severity: Severity = "note" if rank(first)[0] < len(usual) else "warning"
        result.report("class-attribute", severity, ranked, cause, f"If that is wrong, rename '{second}' to 'class'.")
    return ranked[0] if ranked else None


def _repeats(values: Counter[str]) -> bool:
    """Whether the values of an attribute may be classes, and are no names or numbers of single shapes."""
    is_small = values.total() <= _SMALL and not all(map(_NUMBER.fullmatch, values))
    return len(values) <= max(1, values.total() // 2) or is_small


def single_class(settings: DataSettings) -> str:
    """Return the name of shapes that have none: that of the only class beside the background, or "object"."""
    names = settings.classes or []
    return names[1] if len(names) == 2 and names[0].lower() in BACKGROUND_NAMES else "object"


class ImageIndex:
    """All images of a data folder by path, name and stem."""

    def __init__(self, folder: Folder, settings: DataSettings) -> None:
        self.root = folder.root
        where = settings.images or ""
        listed = folder.images(where)
        self._bases = [where] if where and not is_glob(where) else []
        self._paths: dict[str, Path] = {}
        self._ends: dict[str, list[Path]] = {}
        for path in [*listed.files.values(), *(second for _, second in listed.duplicates)]:
            inner = path.relative_to(self.root)
            self._paths[nfc(inner.as_posix())] = path
            for end in {nfc(inner.name), nfc(inner.stem)}:
                self._ends.setdefault(end, []).append(path)
        self.repaired: list[str] = []
        """Annotation files or entries with a wrong path whose image was found by its name."""
        self.missing: list[str] = []
        self._found: set[Path] = set()

    def find(self, name: str, near: Path, split: str = "", reported: str = "") -> Path | None:
        """Return the image of a name that stands in a file in `near`; None is reported as missing.

        The name may have foreign folders and slashes; if several images share it, a path with the split is preferred.
        Problems call it `reported`, or by its name if that is empty.
        """
        clean = nfc(name.replace("\\", "/"))
        path = self.exactly(clean, near) or self._by_name(clean, near, split, reported or name)
        if path is None:
            self.missing.append(reported or name)
        else:
            self._found.add(path)
        return path

    def _by_name(self, clean: str, near: Path, split: str, reported: str) -> Path | None:
        last = PurePosixPath(clean).name
        for end in (last, PurePosixPath(last).stem) if last else ():
            fits = _longest(self._ends.get(end, []), clean)
            if len(fits) > 1:
                of_split = [p for p in fits if split and any(x.lower().startswith(split) for x in p.parts[:-1])]
                fits = [path for path in fits if near in path.parents] or of_split
            if len(fits) == 1:
                foreign = re.match(r"/|[A-Za-z]:|.*\.\./", clean) is not None
                if foreign or end != last or ("/" in clean and not nfc(fits[0].as_posix()).endswith("/" + clean)):
                    self.repaired.append(reported)
                return fits[0]
        return None

    def exactly(self, name: str, near: Path) -> Path | None:
        """Return the image at a path, or None, which is not reported."""
        here = near.relative_to(self.root)
        for base in (here, *map(Path, self._bases), here / "images", Path(), Path("images")):
            if (path := self._paths.get(normpath((base / name).as_posix()))) is not None:
                return path
        return None

    def take(self, image: Path) -> None:
        """Note that an annotation has an image that `find` did not return."""
        self._found.add(image)

    def beside(self, path: Path) -> Path | None:
        """Return the image of the same stem in the same folder."""
        stem = nfc(path.stem)
        return next((p for p in self._ends.get(stem, []) if p.parent == path.parent and nfc(p.stem) == stem), None)

    def problems(self, any_found: bool, *, of_lists: bool = False) -> list[Problem]:
        """Return the images that are missing (an error if no image has a mask), in no annotation or list, or lay elsewhere."""
        unlisted = "files are on no list" if of_lists else "images are in no annotation"
        unlisted_fix = f"{'Add them to a list' if of_lists else 'Annotate them'} if they should count."
        found = []
        if self.missing:
            cause = "images that annotations name do not exist, and are omitted"
            fix = "Add the images, or specify their folder: images in data.toml."
            found.append(problem("missing-picture", "warning" if any_found else "error", self.missing, cause, fix))
        left = [path for path in self._paths.values() if path not in self._found]
        if self._found and left:
            names = [path.relative_to(self.root).as_posix() for path in left]
            found.append(problem("unlisted", "note", names, f"{unlisted}, and are omitted", unlisted_fix))
        if self.repaired:
            cause = "annotations name their image by a path that does not exist; the one of the same name was used"
            found.append(problem("path-mended", "note", self.repaired, cause, ""))
        return found


def _longest(paths: list[Path], name: str) -> list[Path]:
    """Return the paths that share most of the last folders with a name."""
    expected = PurePosixPath(name).parts[-2::-1]

    def shared(path: Path) -> int:
        pairs = zip(path.parts[-2::-1], expected, strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), len(expected))

    most = max(map(shared, paths), default=0)
    return [path for path in paths if shared(path) == most]


def unique(stem: str, taken: set[str], *, prefix: str) -> str:
    """Return a stem that is not taken yet, with a prefix or a number if needed, and add it to those taken."""
    found, number = stem, 2
    if found in taken and prefix:
        found = f"{prefix}/{stem}"
    while found in taken:
        found, number = f"{stem}-{number}", number + 1
    taken.add(found)
    return found
