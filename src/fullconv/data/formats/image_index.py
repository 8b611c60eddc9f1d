"""Find the pictures that an annotation file names: as written, or by their last part where the path is foreign."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, is_glob
from fullconv.data.problems import Problem, problem
from fullconv.data.text_files import composed


class Locator:
    """All pictures of a data folder by path, name and stem."""

    def __init__(self, folder: Folder, settings: DataSettings) -> None:
        self.root = folder.root
        where = settings.images or ""
        listed = folder.pictures(where)
        self._bases = [where] if where and not is_glob(where) else []
        self._paths: dict[str, Path] = {}
        self._ends: dict[str, list[Path]] = {}
        for path in [*listed.files.values(), *(second for _, second in listed.twice)]:
            inner = path.relative_to(self.root)
            self._paths[composed(inner.as_posix())] = path
            for end in {composed(inner.name), composed(inner.stem)}:
                self._ends.setdefault(end, []).append(path)
        self.mended: list[str] = []
        """Annotation files or entries whose path was wrong, with a picture found all the same."""
        self.missing: list[str] = []
        self._found: set[Path] = set()
        self.left_words = "pictures are in no annotation"
        self.left_remedy = "Annotate them if they should count."

    def find(self, name: str, near: Path, split: str = "", said: str = "") -> Path | None:
        """Return the picture of a name, written in a file that lies in `near`; None is remembered as missing.

        Args:
            name: As written, also with foreign folders and slashes.
            near: Folder of the annotation file.
            split: Preferred part of the path where several share the name.
            said: What to name in a problem; the name itself where empty.
        """
        path = self._find(name, near, split, said)
        if path is not None:
            self._found.add(path)
        return path

    def _find(self, name: str, near: Path, split: str, said: str) -> Path | None:
        clean = composed(name.replace("\\", "/"))
        if (exact := self.exactly(clean, near)) is not None:
            return exact
        if not (last := PurePosixPath(clean).name):
            self.missing.append(said or name)
            return None
        for end in (last, PurePosixPath(last).stem):
            fits = _longest(self._ends.get(end, []), clean)
            if len(fits) > 1:
                fits = [path for path in fits if near in path.parents] or [
                    p for p in fits if split and any(part.lower().startswith(split) for part in p.parts[:-1])
                ]
            if len(fits) == 1:
                foreign = re.match(r"/|[A-Za-z]:|.*\.\./", clean) is not None
                if foreign or end != last or ("/" in clean and not composed(fits[0].as_posix()).endswith("/" + clean)):
                    self.mended.append(said or name)
                return fits[0]
        self.missing.append(said or name)
        return None

    def exactly(self, name: str, near: Path) -> Path | None:
        """Return the picture that a name with its folders leads to, or None, which is not remembered."""
        here = near.relative_to(self.root)
        for base in (here, *map(Path, self._bases), here / "images", Path(), Path("images")):
            if (path := self._paths.get(_join(base, name))) is not None:
                return path
        return None

    def take(self, picture: Path) -> None:
        """Note that an annotation has a picture that `find` did not lead to."""
        self._found.add(picture)

    def beside(self, path: Path) -> Path | None:
        """Return the picture of the same stem in the same folder."""
        stem = composed(path.stem)
        return next((p for p in self._ends.get(stem, []) if p.parent == path.parent and composed(p.stem) == stem), None)

    def problems(self, some: bool) -> list[Problem]:
        """Say what was not found, and what was found elsewhere than written."""
        found = []
        if self.missing:
            words = "pictures that annotations name are not there, and are left out"
            remedy = "Add the pictures, or name their folder: images in data.toml."
            found.append(problem("missing-picture", "warning" if some else "error", self.missing, words, remedy))
        left = [path for path in self._paths.values() if path not in self._found]
        if self._found and left:
            words = f"{self.left_words}, and are left out"
            names = [path.relative_to(self.root).as_posix() for path in left]
            found.append(problem("unlisted", "note", names, words, self.left_remedy))
        if self.mended:
            words = "annotations name their picture by a path that is not there; the one of the same name was taken"
            found.append(problem("path-mended", "note", self.mended, words, ""))
        return found


def _join(base: Path, name: str) -> str:
    parts: list[str] = []
    for part in [*base.parts, *PurePosixPath(name).parts]:
        if part == "..":
            if not parts:
                return ""
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _longest(paths: list[Path], name: str) -> list[Path]:
    """Return those that share most of the last folders with a name."""
    wanted = PurePosixPath(name).parts[-2::-1]

    def shared(path: Path) -> int:
        pairs = zip(path.parts[-2::-1], wanted, strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), len(wanted))

    most = max(map(shared, paths), default=0)
    return [path for path in paths if shared(path) == most]


def unique(stem: str, taken: set[str], *, prefix: str) -> str:
    """Return a stem that is not taken yet, with a prefix or a number where it is; takes it."""
    found, number = stem, 2
    if found in taken and prefix:
        found = f"{prefix}/{stem}"
    while found in taken:
        found, number = f"{stem}-{number}", number + 1
    taken.add(found)
    return found
