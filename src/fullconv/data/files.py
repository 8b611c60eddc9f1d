"""Files of a data folder: listed once, in the same order on every system, and read as text; `.zip` files are unpacked."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import unicodedata
import zipfile
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from fullconv.data.problems import Problem, problem
from fullconv.errors import DataError, nearest
from fullconv.storage import cache_folder

_SUFFIXES = "avif bmp gif heic heif jfif jp2 jpeg jpg pbm pgm png pnm ppm tga tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split(" "))
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
DEEPEST = 4
"""Levels of folders that hold nothing but another one and are entered."""
# files about a data set
_DOCUMENTATION = re.compile(r"(?i)read ?me|licen[cs]e|copying|data\.toml$|.*\.(md|pdf|html?|url|docx?)$")
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks, which programs on Windows write, with their encodings."""
_MAX_ZIP_RATIO = 200  # images hardly shrink, so more is a zip bomb
_MIN_ZIP_LIMIT_BYTES = 1 << 30  # to which any zip may grow


@dataclass
class ImageFiles:
    """The images of a folder or glob by key: what pairs an image with its mask."""

    files: dict[str, Path] = field(default_factory=dict)
    """Key -> path, in sorted order."""
    stems: dict[str, str] = field(default_factory=dict)
    """Key -> POSIX path without suffix, relative to the folder or the fixed part of the glob."""
    duplicates: list[tuple[Path, Path]] = field(default_factory=list)
    """Files that share a key with an earlier one, after that one."""
    other_files: list[Path] = field(default_factory=list)
    """Files that are no images by their suffix."""

    def duplicate_problems(self, root: Path, kind: str, only: Container[str] | None = None) -> list[Problem]:
        """Report the files that share a stem."""
        pairs = [pair for pair in self.duplicates if only is None or pair[0].stem in only]
        if not pairs:
            return []
        first, second = (path.relative_to(root).as_posix() for path in pairs[0])
        cause = f"{kind} share a name but for the suffix, as {first} and {second}, so it is unclear which counts"
        files = [path.relative_to(root).as_posix() for _, path in pairs]
        return [problem("duplicate-stem", "error", files, cause, "Remove or rename one of each.")]


class Folder:
    """A data folder; each of its folders is read from disk once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: dict[str, ImageFiles] = {}
        self._errors: list[tuple[str, Path]] = []

    @cached_property
    def folders(self) -> dict[str, str]:
        """Names of the folders directly in the root, by their lower-case name."""
        return self.folders_in("")

    def folders_in(self, inner: str) -> dict[str, str]:
        """Names of the folders in a folder of the root, by their lower-case name."""
        try:
            with os.scandir(self.root / inner) as entries:
                names = []
                for entry in entries:
                    with suppress(OSError):  # a link that leads back to itself
                        names += [entry.name] if entry.is_dir() and not is_junk(entry.name) else []
        except OSError as error:
            raise DataError(f"{self.root / inner}: cannot be read ({error.strerror}). Check the name.") from error
        return {name.lower(): name for name in sorted(names)}

    def images(self, where: str) -> ImageFiles:
        """List the images in a folder (with its inner folders) or glob, relative to the root."""
        if where not in self._found:
            self._found[where] = self._glob(where) if is_glob(where) else self._list(where)
        return self._found[where]

    def files(self, pattern: str, inner: str = "") -> list[Path]:
        """Return the files of a pattern in a folder of the root, in order, without junk files.

        A Mac lays `._x.json` beside every `x.json` that it copies to a foreign disk or packs.
        """
        found = sorted((self.root / inner).glob(pattern))
        return [path for path in found if path.is_file() and not any(map(is_junk, path.relative_to(self.root).parts))]

    def problems(self) -> list[Problem]:
        """Return what could not be entered."""

        def paths(code: str) -> list[str]:
            return sorted({path.relative_to(self.root).as_posix() for kind, path in self._errors if kind == code})

        found = []
        if loops := paths("link-loop"):
            cause = "links lead back to a folder that holds them, and are not followed"
            found.append(problem("link-loop", "warning", loops, cause, "Remove these links."))
        if unreadable := paths("unreadable"):
            cause = "folders cannot be read, so their files are missing"
            found.append(problem("unreadable", "error", unreadable, cause, "Check their permissions."))
        return found

    def _list(self, where: str) -> ImageFiles:
        found = ImageFiles()
        depth = len((self.root / where).parts)
        for path in walk(self.root / where, self._errors):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                found.other_files.append(path)
            else:
                stem = "/".join(path.parts[depth:])[: -len(path.suffix)]
                _add(found, stem, stem, path)
        return found

    def _glob(self, pattern: str) -> ImageFiles:
        found = ImageFiles()
        parts = PurePosixPath(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if is_glob(part))
        base = self.root.joinpath(*parts[:fixed])
        pattern = "/".join(parts[fixed:])
        paths = [path for path in walk(base, self._errors) if path.suffix.lower() in IMAGE_SUFFIXES]
        for expression in (_expression(pattern), _expression(f"{pattern}/**/*")):  # of files, else of their folders
            for path in paths:
                inner = path.relative_to(base).as_posix()
                if match := expression.fullmatch(inner):
                    key = "/".join(part.strip("/") for part in match.groups() if part and part.strip("/"))
                    _add(found, re.sub(r"\.\w+$", "", key), inner[: len(inner) - len(path.suffix)], path)
            if found.files:
                break
        return found


def _add(found: ImageFiles, key: str, stem: str, path: Path) -> None:
    key = nfc(key)
    if key in found.files:
        found.duplicates.append((found.files[key], path))
    else:
        found.files[key] = path
        found.stems[key] = stem


def is_glob(text: str) -> bool:
    """Whether a path has wildcards."""
    return any(c in text for c in "*?[")


def _expression(pattern: str) -> re.Pattern[str]:
    """Translate a glob into an expression whose groups are what the wildcards match."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "((?:[^/]+/)*)", i + 3
        elif pattern[i] == "*":
            while pattern[i : i + 1] == "*":
                i += 1
            out += "([^/]*)"
        elif pattern[i] == "?":
            out, i = out + "([^/])", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            inner = pattern[i + 1 : end].replace("\\", r"\\")
            out, i = out + f"([{'^' + inner[1:] if inner[0] == '!' else inner}])", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return re.compile(out)


def single_subfolder(place: Path) -> Path | None:
    """Return the only folder in a place, beside documentation and data.toml; None where there is more."""
    try:
        there = [path for path in place.iterdir() if not is_junk(path.name)]
    except OSError:
        return None
    inner = [path for path in there if not (_DOCUMENTATION.match(path.name) and path.is_file())]
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else None


def is_junk(name: str) -> bool:
    """Whether a system or tool left a file or folder behind: hidden ones, Thumbs.db and the like."""
    return name.startswith(".") or name.lower() in _JUNK


def walk(base: Path, errors: list[tuple[str, Path]] | None = None) -> Iterator[Path]:
    """Yield all files below a folder in sorted order; links are followed, but never in a loop.

    `errors` gets what cannot be entered: ("link-loop" or "unreadable", path); with it, folders named like images are
    yielded, too.
    """
    collected = errors if errors is not None else []
    if not base.is_dir():
        return
    above = {_identity(folder) for folder in (base.resolve(), *base.resolve().parents)}
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        collected.append(("unreadable", Path(error.filename)))

    for folder, inner, names in os.walk(base, followlinks=True, onerror=note):
        place = Path(folder)
        here = _identity(place)
        if here[1] and (here in seen or (here in above and place != base)):
            collected.append(("link-loop", place))
            inner.clear()
            continue
        seen.add(here)
        inner[:] = sorted(name for name in inner if not is_junk(name))
        files = names if errors is None else [*names, *_as_files(place, inner)]
        yield from (place / name for name in sorted(files) if not is_junk(name))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _as_files(folder: Path, inner: list[str]) -> list[str]:
    """Remove and return folders that are named like images and hold none; they stand where an image should."""
    odd = []
    for name in list(inner):
        path = folder / name
        if path.suffix.lower() in IMAGE_SUFFIXES:
            with suppress(OSError):
                if any(inside.suffix.lower() in IMAGE_SUFFIXES for inside in path.iterdir()):
                    continue
            inner.remove(name)
            odd.append(name)
    return odd


def open_root(path: str | os.PathLike[str]) -> Path:
    """Return the folder that holds a data set: the path itself, or where its `.zip` was unpacked."""
    root = Path(path).expanduser()
    if root.is_file() and root.suffix.lower() == ".zip":
        return _single_folder(_unpack(root))
    if not root.exists():
        near = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise DataError(f"{root}: no such folder.{nearest(root.name, near)} Check the name.")
    if not root.is_dir():
        packed = root.name.lower().endswith((".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"))
        raise DataError(f"{root}: is a file. A data set is a folder, or a .zip of one.{' Unpack it.' * packed}")
    try:
        with os.scandir(root) as entries:
            if not any(not is_junk(e.name) for e in entries):
                raise DataError(f"{root}: the folder is empty. Put images in images/ and masks in masks/.")
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror or error}). Check its permissions.") from error
    return root


def _unpack(archive: Path) -> Path:
    """Unpack a zip once into the cache, whole or not at all."""
    state = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()[:24]
    target = cache_folder() / "zips" / key
    if target.is_dir():
        return target
    partial = target.with_name(f"{key}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(archive) as content:
            total = sum(member.file_size for member in content.infolist())
            for name in content.namelist():
                parts = PurePosixPath(name.replace("\\", "/")).parts
                if ".." in parts or name.startswith(("/", "\\")) or (parts and parts[0].endswith(":")):
                    raise DataError(f"{archive}: holds '{name}', which leaves the folder. Make the zip again.")
            if total > max(_MAX_ZIP_RATIO * state.st_size, _MIN_ZIP_LIMIT_BYTES):
                raise DataError(f"{archive}: would grow to {total:,} bytes. If that is right, unpack it yourself.")
            partial.mkdir(parents=True, exist_ok=True)
            for member in content.infolist():
                member.filename = member.filename.replace("\\", "/")  # some programs on Windows write these
                content.extract(member, partial)
        partial.replace(target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Make the zip again, without a password.") from error
    except OSError as error:
        if not target.is_dir():  # else another process did it
            cause = f"cannot be unpacked into {target.parent} ({error.strerror or error})"
            raise DataError(f"{archive}: {cause}. Set FULLCONV_CACHE to a folder with free space.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _single_folder(root: Path) -> Path:
    """Enter the only folder of a zip, as most are packed."""
    inner = [p for p in root.iterdir() if not is_junk(p.name)]
    return _single_folder(inner[0]) if len(inner) == 1 and inner[0].is_dir() else root


def _encoding(start: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in the encoding of its byte order mark (Windows' PowerShell writes UTF-16)."""
    data = path.read_bytes()
    return data.decode(_encoding(data)).replace("\r\n", "\n")


def load_text(path: Path, fix: str) -> str:
    """Read a text file of a data set."""
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}). {fix}") from error


def read_head(path: Path, size: int) -> str:
    """Return the first bytes of a file as text, with undecodable ones replaced."""
    return read_head_tail(path, size)[0]


def read_head_tail(path: Path, size: int) -> tuple[str, str]:
    """Return the first and the last bytes of a file as text, with undecodable ones replaced."""
    with path.open("rb") as file:
        head = file.read(size)
        end = file.seek(0, 2)
        file.seek(max(end - size // 2 * 2, 0) // 2 * 2)  # UTF-16 has two bytes a letter
        tail = file.read()
    encoding = _encoding(head)
    plain = {"utf-8-sig": "utf-8", "utf-16": "utf-16-be" if head.startswith(b"\xfe\xff") else "utf-16-le"}
    return head.decode(encoding, "replace"), tail.decode(plain.get(encoding, encoding), "replace")


def has_matches(path: Path, expression: re.Pattern[str], least: int) -> bool:
    """Whether a text file of any size holds `least` different matches (their first group, of up to 100 characters)."""
    found: set[str | None] = set()
    with path.open("rb") as file:
        encoding = _encoding(file.read(4))
    with path.open(encoding=encoding, errors="replace") as text:
        overlap = ""
        while (block := text.read(1 << 20)) and len(found) < least:
            found.update(match[1] for match in expression.finditer(overlap + block))
            overlap = block[-100:]
    return len(found) >= least


def load_rows(path: Path, fix: str) -> list[list[str]]:
    """Read a CSV file separated by commas, semicolons or tabs, whichever its first line has most of."""
    lines = [line for line in load_text(path, fix).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    limit = csv.field_size_limit(1 << 30)  # a mask in a cell may be long
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read ({error}). {fix}") from error
    finally:
        csv.field_size_limit(limit)


def column(heading: Sequence[str], *names: str) -> int | None:
    """Return the index of the first heading that is one of some names, in any case."""
    return next((i for i, cell in enumerate(heading) if cell.lower().replace(" ", "_") in names), None)


def nfc(name: str) -> str:
    """Return a name as most systems write it; macOS takes letters like `ä` apart, and so do files packed there."""
    return unicodedata.normalize("NFC", name)
