"""Where files go: whole or not at all, and caches in the user's own folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from fullconv.errors import OutputError

_LONGEST_NAME = 255
"""Bytes of a file name that common file systems take."""


def cache_folder() -> Path:
    """Return the user's cache folder of this program: $FULLCONV_CACHE, or where the system keeps caches."""
    if own := os.environ.get("FULLCONV_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fullconv" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fullconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fullconv"


def write_bytes(path: str | Path, parts: Iterable[bytes]) -> None:
    """Write a file so that its final name only ever shows the whole: temporary name, fsync, rename, fsync of the folder.

    Raises:
        OutputError: It cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    if len(os.fsencode(temporary.name)) > _LONGEST_NAME:
        short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:24]
        temporary = path.with_name(f".{short}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise OutputError(f"{path}: cannot be written ({path.parent} is a file).") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made: a file where the folder should be, too long a name
            temporary.unlink()


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file of the same folder or one below its name, so that a power cut leaves it whole.

    Raises:
        OSError: It cannot be done; the file stays where it is.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def check_writable(path: str | Path) -> None:
    """Find out before long work whether a file can be written: its folder, or the first above that is there, is tried.

    Raises:
        OutputError: It cannot.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(above for above in path.absolute().parents if above.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
        if folder != path.absolute().parent:
            Path(tempfile.mkdtemp(dir=folder)).rmdir()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file as `write_bytes` does."""
    write_bytes(path, [text.encode("utf-8")])


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_file(file: IO[str]) -> bool:
    """Take an exclusive lock without waiting; say whether it was free. It ends with the process, or as the file is closed."""
    if os.name == "posix":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
    import msvcrt

    with contextlib.suppress(OSError):
        file.seek(0x7FFFFFFF)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        return True
    return False


def locked_elsewhere(path: Path) -> bool | None:
    """Say whether another process holds the lock of a file; None where there is no such file or it cannot be asked."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            return not lock_file(file)
    except OSError:
        return None
