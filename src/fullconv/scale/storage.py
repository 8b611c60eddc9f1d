"""Files on this machine or anywhere that fsspec reaches: S3, Google, Azure, memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullconv.errors import InputError, MissingExtraError, OutputError
from fullconv.storage import write_bytes

_PROTOCOLS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
}  # fmt: skip
"""Packages that fsspec needs for a URL's protocol."""


def import_arrow() -> Any:
    """Import pyarrow with pyarrow.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "ray", "fullconv batch") from error
    return pyarrow


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "ray", "fullconv batch") from error
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(str(url))
    except (ImportError, ValueError) as error:
        package = _PROTOCOLS.get(str(url).partition("://")[0])
        fix = (
            f"Run: pip install {package}"
            if package
            else "Use a folder, a list, a Parquet file or a URL such as s3://..."
        )
        raise InputError(f"{url}: cannot be opened ({error}). {fix}") from error
    return found


def read_url(url: str) -> bytes:
    """Return the content of a file."""
    fs, path = open_filesystem(url)
    try:
        content: bytes = fs.cat_file(path)
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"{url}: cannot be read ({_reason(error)}).") from error
    return content


def _reason(error: BaseException) -> str:
    return "there is no such file" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__


def is_url(text: str) -> bool:
    """Whether a source is a URL rather than a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text) is not None


class ResultFolder:
    """A folder of results: local, or anywhere that fsspec writes."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._local = None if is_url(url) else Path(url)

    def path(self, name: str) -> str:
        """Return the full name of a file in the folder."""
        return f"{self.url}/{name}" if self._local is None else (self._local / name).as_posix()

    def write(self, name: str, content: bytes) -> str:
        """Write a file atomically and return its full name."""
        if self._local is not None:
            write_bytes(self._local / name, [content])
            return self.path(name)
        fs, path = open_filesystem(self.path(name))
        try:
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(path, content)  # object stores show an object only when it is complete
        except Exception as error:
            raise OutputError(f"{self.path(name)}: cannot be written ({_reason(error)}).") from error
        return self.path(name)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none."""
        fs, path = open_filesystem(self.path(name))
        try:
            content: bytes = fs.cat_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            raise OutputError(f"{self.path(name)}: cannot be read ({_reason(error)}).") from error
        return content

    def list_files(self, folder: str, suffix: str) -> Iterator[str]:
        """Yield the names, relative to this folder, of the files of a subfolder with a suffix, sorted."""
        fs, path = open_filesystem(self.path(folder))
        try:
            entries = sorted(str(entry) for entry in fs.ls(path, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = entry.rpartition("/")[2]
            if name.endswith(suffix) and not name.startswith("."):
                yield f"{folder}/{name}"
