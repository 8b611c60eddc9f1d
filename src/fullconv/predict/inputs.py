"""Which pictures the words of a command line stand for: files, folders, globs, and lists of any length."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fullconv.data.files import IMAGE_SUFFIXES, walk
from fullconv.errors import InputError, nearest

Found = tuple[str, str]
"""A picture's path as it will be opened, and its name: the path relative to what was given, with "/"."""


def expand(text: str, out: Path) -> Iterator[Found]:
    """Yield every picture that one INPUT stands for, in sorted order.

    A folder stands for the pictures in it and in its inner folders, a glob for what it matches (and for the pictures
    in folders that it matches), anything else for itself. Files whose ending is no picture's are passed over, except
    where they are named. The folder of results is not read where it lies inside the folder given.

    Args:
        text: As given; a name that exists is taken literally, also where it has wildcards in it.
        out: The folder of results.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        yield from _folder(path, path, out)
    elif glob.has_magic(text) and not path.exists():
        yield from _glob(path, out)
    else:
        yield str(path), path.name


def why_empty(text: str) -> str:
    """Return the sentence that says why an INPUT stands for no picture."""
    endings = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    if Path(text).expanduser().is_dir():
        return f"{text}: holds no picture. Picture files end in {endings}."
    return f"{text}: matches no picture. Check the pattern; picture files end in {endings}."


def read_list(source: str) -> Iterator[Found]:
    """Yield the pictures of a text file with a path a line, or of standard input for "-", one at a time.

    Raises:
        InputError: The file cannot be read.
    """
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
    hidden = _inner(out, base)
    for path in walk(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES and (hidden is None or not path.is_relative_to(hidden)):
            yield str(path), path.relative_to(base).as_posix()


def _glob(pattern: Path, out: Path) -> Iterator[Found]:
    parts = pattern.parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    hidden = _inner(out, base)
    for text in sorted(glob.iglob(str(pattern), recursive=True)):  # noqa: PTH207  # absolute patterns, and ** as shells do
        path = Path(text)
        if hidden is not None and path.is_relative_to(hidden):
            continue
        if path.is_dir():
            yield from (() if "**" in parts else _folder(path, base, out))  # ** names the files themselves, too
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield str(path), path.relative_to(base).as_posix()


def _inner(out: Path, base: Path) -> Path | None:
    """Return the folder of results as a path below a base, where it lies inside it."""
    real, above = Path(os.path.realpath(out)), Path(os.path.realpath(base))
    return base / real.relative_to(above) if real != above and real.is_relative_to(above) else None
