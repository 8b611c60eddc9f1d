"""Read text files of any tool: with or without a byte order mark, of Windows or Unix, in UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fullconv.errors import DataError

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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
    with path.open("rb") as file:
        data = file.read(size)
    return data.decode(_encoding(data), "replace")


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


def load_rows(path: Path, fix: str) -> list[list[str]]:
    """Read a CSV file separated by commas, semicolons or tabs, whichever its first line has most of."""
    lines = [line for line in load_text(path, fix).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read ({error}). {fix}") from error


def column(heading: Sequence[str], *names: str) -> int | None:
    """Return the index of the first heading that is one of some names, in any case."""
    return next((i for i, cell in enumerate(heading) if cell.lower().replace(" ", "_") in names), None)


def nfc(name: str) -> str:
    """Return a name as most systems write it; macOS takes letters like `ä` apart, and so do files packed there."""
    return unicodedata.normalize("NFC", name)
