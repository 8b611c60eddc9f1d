"""What a SOURCE stands for: pictures in folders, lists and Parquet files, as items that any process can load."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fullconv.data.files import IMAGE_SUFFIXES
from fullconv.errors import InputError
from fullconv.scale.storage import import_arrow, is_url, open_place, read_url

PATH_COLUMNS = ("path", "image_path", "file_name", "uri", "url")
BYTE_COLUMNS = ("bytes", "image", "image_bytes", "content")


@dataclass(frozen=True)
class Item:
    """A picture that is a file, or a row group of a Parquet file that holds pictures."""

    input: str
    """Path or URL of the file."""
    output: str
    """Name of the result without ending, relative to the folder of results; of a row group, what its rows begin with."""
    group: int = -1
    """Of a Parquet file; -1 for a picture."""
    first: int = 0
    """Number of the group's first row in the file."""
    column: str = ""
    """That holds the pictures' bytes."""


def list_source(source: str, out: str) -> Iterator[Item]:
    """Yield what a source stands for.

    Args:
        source: A folder (local or a URL; searched to the bottom), a list (.txt, a path or URL a line), a Parquet file or folder
            with a column of paths (`PATH_COLUMNS`) or of encoded pictures (`BYTE_COLUMNS`), or a picture.
        out: The folder of results, which is not read where it lies in the source.

    Raises:
        InputError: It is none of these, or holds no picture.
    """
    fs, path = open_place(source)
    kind = PurePosixPath(path).suffix.lower()
    if kind == ".txt":
        yield from _named(_lines(source))
    elif kind == ".parquet":
        yield from _parquet(fs, path, source)
    elif not fs.exists(path):
        raise InputError(f"{source}: there is no such file or folder.")
    elif fs.isdir(path):
        tables = [str(name) for name in sorted(fs.glob(f"{path}/*.parquet"))]
        if tables:
            for name in tables:
                yield from _parquet(fs, name, fs.unstrip_protocol(name) if is_url(source) else name)
        else:
            yield from _named(_folder(fs, path, source, out))
    elif kind in IMAGE_SUFFIXES:
        yield Item(source, PurePosixPath(path).stem)
    else:
        raise InputError(f"{source}: is no folder, list (.txt), Parquet file or picture.")


def _lines(source: str) -> Iterator[tuple[str, str]]:
    for raw in read_url(source).splitlines():
        line = raw.decode("utf-8-sig", "surrogateescape").strip()
        if line:
            yield line, line.rpartition("://")[2].lstrip("/").replace("../", "")


def _folder(fs: Any, path: str, source: str, out: str) -> Iterator[tuple[str, str]]:
    base = path.rstrip("/")
    inner = None if is_url(out) else os.path.abspath(out).replace(os.sep, "/")  # noqa: PTH100
    for place, folders, files in fs.walk(base):
        folders_here = sorted(folders)
        if isinstance(folders, list):
            folders[:] = [name for name in folders_here if f"{place}/{name}" != inner and not name.startswith(".")]
        for name in sorted(files):
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                full = f"{place.rstrip('/')}/{name}"
                yield (fs.unstrip_protocol(full) if is_url(source) else full), full[len(base) :].lstrip("/")


def _named(found: Iterable[tuple[str, str]]) -> Iterator[Item]:
    """Give each picture once the name of its result; names that collide keep their ending (a.jpg.png)."""
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file, closing(sqlite3.connect(file.name)) as database:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("CREATE TABLE found (id INTEGER PRIMARY KEY, url TEXT UNIQUE, name TEXT, base TEXT)")
        rows = ((url, name, str(PurePosixPath(name).with_suffix("")).casefold()) for url, name in found)
        database.executemany("INSERT OR IGNORE INTO found (url, name, base) VALUES (?, ?, ?)", rows)
        database.execute("CREATE INDEX bases ON found (base)")
        query = "SELECT url, name, (SELECT COUNT(*) FROM found o WHERE o.base = f.base) FROM found f ORDER BY id"
        for url, name, count in database.execute(query):
            yield Item(url, name if count > 1 else str(PurePosixPath(name).with_suffix("")))


def _parquet(fs: Any, path: str, shown: str) -> Iterator[Item]:
    pyarrow = import_arrow()
    try:
        with fs.open(path, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            columns = table.schema_arrow.names
            chosen = next((name for name in BYTE_COLUMNS if name in columns), None)
            paths = next((name for name in PATH_COLUMNS if name in columns), None)
            if chosen is None and paths is not None:
                yield from _named(
                    (str(value), str(value).rpartition("://")[2].lstrip("/"))
                    for batch in table.iter_batches(columns=[paths])
                    for value in batch.column(0).to_pylist()
                )
                return
            if chosen is None:
                raise InputError(
                    f"{shown}: has no column of pictures. Name one {', '.join(BYTE_COLUMNS)} (encoded pictures) or"
                    f" {', '.join(PATH_COLUMNS)}; it has {', '.join(columns)}."
                )
            first = 0
            for group in range(table.num_row_groups):
                yield Item(shown, PurePosixPath(path).stem, group, first, chosen)
                first += table.metadata.row_group(group).num_rows
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{shown}: cannot be read as Parquet ({error}).") from error


def load_item(row: dict[str, Any], done: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yield the pictures of an item, encoded: input, output, content, reason (where it could not be read)."""
    item = Item(**row)
    if item.group < 0:
        try:
            yield _row(item.input, item.output, read_url(item.input))
        except InputError as error:
            yield _row(item.input, item.output, b"", str(error))
        return
    pyarrow = import_arrow()
    fs, path = open_place(item.input)
    with fs.open(path, "rb") as file:
        column = pyarrow.parquet.ParquetFile(file).read_row_group(item.group, columns=[item.column]).column(0)
        for number, value in enumerate(column, item.first):
            name = f"{item.input}#{number}"
            content = value.as_py()
            if isinstance(content, dict):  # as Hugging Face's data sets hold pictures
                content = content.get("bytes")
            reason = "" if content else "the row holds no picture"
            if name not in done:
                yield _row(name, f"{item.output}/{number:08}", content or b"", reason)


def _row(name: str, output: str, content: bytes, reason: str = "") -> dict[str, Any]:
    return {"input": name, "output": output, "content": content, "reason": reason}
