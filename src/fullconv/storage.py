"""Files that are complete or absent, and caches in the user's own folder."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from fullconv.errors import OutputError

MAX_NAME_BYTES = 255
"""Of a file name on common file systems."""


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True, temporary: str | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success sync that file to disk and rename it to `path`.

    `path` therefore holds either its old content or all of the new one, whatever happens. Missing folders are created.
    The temporary file is removed when the block raises.

    Args:
        path: Final name.
        overwrite: False keeps a file that has the final name by then: the first complete file wins.
        temporary: Name to write under; by default unique to this thread. A fixed one replaces what a killed process has left.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    if temporary is None:
        unique = f"{os.getpid()}.{threading.get_native_id()}.part"
        temporary = f".{path.name}.{unique}"
        if len(os.fsencode(temporary)) > MAX_NAME_BYTES:
            temporary = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:24]}.{unique}"
    part = path.with_name(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        publish(part, path, overwrite=overwrite)
    finally:
        with suppress(OSError):  # renamed, or never created: a file where the folder should be, too long a name
            part.unlink()


def publish(temporary: Path, path: Path, *, overwrite: bool = True) -> None:
    """Sync a finished file to disk and rename it on the same file system, or raise OSError and leave it; see `atomic_path`."""
    with temporary.open("rb" if os.name == "posix" else "rb+") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())
    if not overwrite:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            temporary.replace(path)
    else:
        temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the file."""
    try:
        yield
    except OutputError:
        raise
    except FileExistsError as error:
        raise OutputError(f"{path}: cannot be written ({Path(path).parent} is a file).") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error


def write_bytes(path: str | Path, parts: Iterable[bytes], *, overwrite: bool = True) -> None:
    """Write a file atomically (temporary name, fsync, rename, fsync of the folder), or raise OutputError."""
    with output_errors(path), atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file as `write_bytes` does."""
    write_bytes(path, [text.encode("utf-8")])


class AtomicTextFile:
    """A text file that grows under a temporary name and gets its own when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        with output_errors(path):
            temporary = self._stack.enter_context(atomic_path(path))
            self._file: IO[str] = self._stack.enter_context(
                temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            )

    def write(self, text: str) -> None:
        """Append whole lines."""
        with output_errors(self.path):
            self._file.write(text)

    def close(self) -> None:
        """Sync the file to disk and give it its name."""
        with output_errors(self.path):
            self._stack.close()

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `close`."""
        error = InterruptedError()
        with suppress(OSError):  # what was still buffered may not fit on the disk
            self._stack.__exit__(InterruptedError, error, None)


def check_writable(path: str | Path) -> None:
    """Raise OutputError where a file cannot be written: its folder, or the first existing one above, is tried."""
    path = Path(path)
    with output_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(above for above in path.absolute().parents if above.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
        if folder != path.absolute().parent:
            Path(tempfile.mkdtemp(dir=folder)).rmdir()


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
    """Try to take an exclusive lock without waiting; it ends when the file is closed, or with the process."""
    with suppress(OSError):
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0x7FFFFFFF)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        return True
    return False


def locked_elsewhere(path: Path) -> bool | None:
    """Return whether another process holds the lock of a file; None where the file is missing or cannot be opened."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            return not lock_file(file)
    except OSError:
        return None


def cache_folder() -> Path:
    """Return the user's cache folder of this program: $FULLCONV_CACHE, or where the system keeps caches."""
    if own := os.environ.get("FULLCONV_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fullconv" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fullconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fullconv"


class DiskCache:
    """Files by key in one folder of the user's cache, named by the key's SHA-256.

    Above `limit` bytes the least recently used files are deleted; None has no limit.
    """

    def __init__(self, folder: str, suffix: str, limit: int | None = None) -> None:
        self.folder = cache_folder() / folder
        self.suffix, self.limit = suffix, limit

    def path(self, key: str | bytes) -> Path:
        """Return the file of a key, whether it exists or not."""
        data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")
        return self.folder / f"{hashlib.sha256(data).hexdigest()[:40]}{self.suffix}"

    def get(self, key: str | bytes) -> Path | None:
        """Return the file of a key and mark it as just used; None where it is not cached."""
        path = self.path(key)
        if not path.is_file():
            return None
        with suppress(OSError):  # a read-only cache
            path.touch()
        return path

    def put(self, key: str | bytes, parts: Iterable[bytes], *, overwrite: bool = True) -> Path:
        """Write the file of a key and evict others; with `overwrite` false, the file of another process is kept."""
        path = self.path(key)
        write_bytes(path, parts, overwrite=overwrite)
        self.evict(keep=path)
        return path

    def evict(self, keep: Path | None = None) -> None:
        """Delete files, the least recently used first, until the others keep to the limit."""
        if self.limit is None:
            return
        found = []
        for path in self.folder.glob(f"*{self.suffix}"):
            with suppress(OSError):  # deleted by another process
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            if path != keep:
                with suppress(OSError):
                    path.unlink()
                total -= size
