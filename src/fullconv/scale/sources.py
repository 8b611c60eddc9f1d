"""SOURCE of a batch job: images in folders, lists and Parquet files, as items that any process can load."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fullconv.data import IMAGE_SUFFIXES
from fullconv.errors import InputError
from fullconv.scale.storage import import_arrow, is_url, open_filesystem, read_url

PATH_COLUMNS = ("path", "image_path", "file_name", "uri", "url")
BYTE_COLUMNS = ("bytes", "image", "image_bytes", "content")


@dataclass(frozen=True)
class Item:
    """An image file, or a row group of a Parquet file of encoded images."""

    input: str
    """Path or URL of the file."""
    output: str
    """Name of the result without suffix, relative to the folder of results; of a row group, the prefix of its rows."""
    group: int = -1
    """Of a Parquet file; -1 for an image."""
    first: int = 0
    """Number of the group's first row in the file."""
    column: str = ""
    """Name of the column with the encoded images."""


def list_source(source: str, out: str) -> Iterator[Item]:
    """Yield the items of a source; the folder of results is skipped where it lies in the source.

    A source is a folder (local or a URL; searched recursively), a list (.txt, one path or URL per line), a Parquet file or
    folder with a column of paths (`PATH_COLUMNS`) or of encoded images (`BYTE_COLUMNS`), or an image.
    """
    fs, path = open_filesystem(source)
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".txt":
        lines = (raw.decode("utf-8-sig", "surrogateescape").strip() for raw in read_url(source).splitlines())
        yield from _assign_names((line, _relative(line).replace("../", "")) for line in lines if line)
    elif suffix == ".parquet":
        yield from _read_parquet(fs, path, source)
    elif not fs.exists(path):
        raise InputError(f"{source}: there is no such file or folder.")
    elif fs.isdir(path):
        tables = [str(name) for name in sorted(fs.glob(f"{path}/*.parquet"))]
        for name in tables:
            yield from _read_parquet(fs, name, fs.unstrip_protocol(name) if is_url(source) else name)
        if not tables:
            yield from _assign_names(_walk(fs, path, source, out))
    elif suffix in IMAGE_SUFFIXES:
        yield Item(source, PurePosixPath(path).stem)
    else:
        raise InputError(f"{source}: is not a folder, a list (.txt), a Parquet file or an image.")


def _relative(path: str) -> str:
    """Return a path or URL without its protocol and leading slashes."""
    return path.rpartition("://")[2].lstrip("/")


def _walk(fs: Any, path: str, source: str, out: str) -> Iterator[tuple[str, str]]:
    base = path.rstrip("/")
    inner = None if is_url(out) else os.path.abspath(out).replace(os.sep, "/")  # noqa: PTH100
    for place, folders, files in fs.walk(base):
        if isinstance(folders, list):
            folders[:] = [name for name in sorted(folders) if f"{place}/{name}" != inner and not name.startswith(".")]
        for name in sorted(files):
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                full = f"{place.rstrip('/')}/{name}"
                yield (fs.unstrip_protocol(full) if is_url(source) else full), full[len(base) :].lstrip("/")


def _assign_names(found: Iterable[tuple[str, str]]) -> Iterator[Item]:
    """Name the result of each image once; names that collide keep their suffix (a.jpg.png)."""
    names: dict[str, str] = {}
    for url, name in found:
        names.setdefault(url, name)
    stems = {url: str(PurePosixPath(name).with_suffix("")) for url, name in names.items()}
    uses = Counter(stem.casefold() for stem in stems.values())
    for url, name in names.items():
        yield Item(url, name if uses[stems[url].casefold()] > 1 else stems[url])


def _read_parquet(fs: Any, path: str, url: str) -> Iterator[Item]:
    pyarrow = import_arrow()
    try:
        with fs.open(path, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            columns = table.schema_arrow.names
            image_column = next((name for name in BYTE_COLUMNS if name in columns), None)
            path_column = next((name for name in PATH_COLUMNS if name in columns), None)
            if image_column is not None:
                first = 0
                for group in range(table.num_row_groups):
                    yield Item(url, PurePosixPath(path).stem, group, first, image_column)
                    first += table.metadata.row_group(group).num_rows
            elif path_column is not None:
                paths = (
                    str(value)
                    for batch in table.iter_batches(columns=[path_column])
                    for value in batch.column(0).to_pylist()
                )
                yield from _assign_names((path, _relative(path)) for path in paths)
            else:
                raise InputError(
                    f"{url}: has no column of images. Name one {', '.join(BYTE_COLUMNS)} (encoded images) or"
                    f" {', '.join(PATH_COLUMNS)}; it has {', '.join(columns)}."
                )
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{url}: cannot be read as Parquet ({error}).") from error


def load_item(row: dict[str, Any], done: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yield the encoded images of an item: input, output, content, reason (where it could not be read)."""
    item = Item(**row)
    if item.group < 0:
        content, reason = b"", ""
        try:
            content = read_url(item.input)
        except InputError as error:
            reason = str(error)
        yield {"input": item.input, "output": item.output, "content": content, "reason": reason}
        return
    pyarrow = import_arrow()
    fs, path = open_filesystem(item.input)
    with fs.open(path, "rb") as file:
        column = pyarrow.parquet.ParquetFile(file).read_row_group(item.group, columns=[item.column]).column(0)
        for number, value in enumerate(column, item.first):
            name = f"{item.input}#{number}"
            image = value.as_py()
            if isinstance(image, dict):  # as Hugging Face's data sets hold images
                image = image.get("bytes")
            if name not in done:
                reason = "" if image else "the row holds no image"
                yield {"input": name, "output": f"{item.output}/{number:08}", "content": image or b"", "reason": reason}
