"""The images that a command line names: files, folders, globs, and lists of any length; a folder with extra bands."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fullconv.card import Card
from fullconv.data import IMAGE_SUFFIXES, Folder, add_bands, walk
from fullconv.errors import DataError, InputError, nearest
from fullconv.images import Pixels, read_pixels
from fullconv.preprocess import band_indices

Found = tuple[str, str]
"""An image's path as it will be opened, and its name: the end of the path, relative to what was given, with "/"."""


def expand(text: str, out: Path) -> Iterator[Found]:
    """Yield every image of one INPUT, in sorted order.

    A folder yields the images in it and in its subfolders, a glob those that it matches and those in folders that it
    matches, anything else itself; a name that exists is taken literally, even with wildcards in it. Files without an
    image's suffix are skipped unless they are named, and so is the output folder where it lies inside the folder given.
    """
    path = Path(text).expanduser()
    if is_url(text):
        yield text, text.rpartition("/")[2]
    elif path.is_dir():
        yield from _folder(path, path, out)
    elif glob.has_magic(text) and not path.exists():
        yield from _glob(path, out)
    else:
        yield str(path), path.name


def is_url(text: str) -> bool:
    """Return whether a text is an address such as "https://host/image.png"."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def why_empty(text: str) -> str:
    """Return why an INPUT yields no image."""
    endings = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    if Path(text).expanduser().is_dir():
        return f"{text}: contains no images. Image files end in {endings}."
    return f"{text}: matches no images. Check the pattern; image files end in {endings}."


def read_list(source: str) -> Iterator[Found]:
    """Yield the images of a text file with one path per line, or of standard input for "-"."""
    if source == "-":
        yield from _lines(sys.stdin.buffer)
        return
    path = Path(source)
    try:
        with path.open("rb") as file:
            yield from _lines(file)
    except FileNotFoundError as error:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(
            f"--list {source}: no such file.{nearest(path.name, near)} Name a file, or - for stdin."
        ) from error
    except OSError as error:
        raise InputError(f"--list {source}: cannot be read ({error.strerror or error}).") from error


def _lines(file: Iterator[bytes]) -> Iterator[Found]:
    for number, line in enumerate(file):
        text = os.fsdecode((line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).rstrip(b"\r\n"))
        if text.strip():
            yield text, text.replace("\\", "/").rpartition("/")[2] if os.name == "nt" else text.rpartition("/")[2]


def _folder(folder: Path, base: Path, out: Path) -> Iterator[Found]:
    skipped = _inner(out, base)
    for path in walk(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES and (skipped is None or not path.is_relative_to(skipped)):
            yield str(path), path.relative_to(base).as_posix()


def _glob(pattern: Path, out: Path) -> Iterator[Found]:
    parts = pattern.parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    skipped = _inner(out, base)
    for text in sorted(glob.iglob(str(pattern), recursive=True)):  # noqa: PTH207  # absolute patterns, and ** as shells do
        path = Path(text)
        if skipped is not None and path.is_relative_to(skipped):
            continue
        if path.is_dir():
            yield from (() if "**" in parts else _folder(path, base, out))  # ** names the files themselves, too
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield str(path), path.relative_to(base).as_posix()


def _inner(out: Path, base: Path) -> Path | None:
    """Return the output folder as a path below a base, where it lies inside it."""
    real, above = Path(os.path.realpath(out)), Path(os.path.realpath(base))
    return base / real.relative_to(above) if real != above and real.is_relative_to(above) else None


class ExtraBands:
    """Images of the same names in a second folder, laid out as the inputs are, or flat; see `bands_from` of data.toml."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"--bands-from {folder}: no such folder.")
        self.folder = folder
        self._files = Folder(folder).images("").files
        if not self._files:
            raise InputError(f"--bands-from {folder}: contains no images.")

    def read(self, path: str, name: str, card: Card) -> Pixels:
        """Read an image with its extra bands, and select those that a model takes."""
        plain = PurePosixPath(name)
        keys = (name, plain.with_suffix("").as_posix(), Path(path).stem)
        extra = next((self._files[key] for key in keys if key in self._files), None)
        if extra is None:
            raise InputError(f"{path}: no image of the same name in {self.folder}, where its extra bands are expected.")
        try:
            stacked = add_bands(read_pixels(path), read_pixels(extra), extra, Path(path).name)
        except DataError as error:
            raise InputError(str(error)) from error
        return stacked.select(band_indices(stacked.values.shape[2], card, path, stored=True))
