"""The checksum of an exported file, over each of its bytes and those of the weights beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fullconv.errors import ModelFileError

CHECKSUM_KEY = "fullconv_checksum"
"""Beside the card."""
MARK = "sha256:"
BLANK = MARK + "0" * 64
"""What stands for the checksum while it is taken."""


def seal(content: bytes, beside: bytes = b"") -> bytes:
    """Return a file's bytes with the checksum in the place of `BLANK`.

    Args:
        content: Of the file, with `BLANK` in its metadata.
        beside: Of the weights that lie in another file.
    """
    return content.replace(BLANK.encode(), _checksum(content, beside), 1)


def check_seal(path: Path, told: str | None, content: bytes, beside: bytes = b"") -> None:
    """Compare a file with the checksum that it tells; one without, as earlier versions wrote them, is taken as it is.

    Raises:
        ModelFileError: It is not what was written.
    """
    if told is not None and _checksum(content.replace(told.encode(), BLANK.encode(), 1), beside) != told.encode():
        raise ModelFileError(f"{path}: damaged, or changed after it was exported. Export it again.")


def ends_sealed(path: Path) -> bool:
    """Say whether a file that was sealed with `BLANK` as its last bytes is what was written."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            left = path.stat().st_size - len(BLANK)
            while left > 0:
                part = file.read(min(left, 2**20))
                if not part:
                    return False
                digest.update(part)
                left -= len(part)
            digest.update(BLANK.encode())
            return file.read() == (MARK + digest.hexdigest()).encode()
    except OSError:
        return False


def _checksum(content: bytes, beside: bytes) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(beside)
    return (MARK + digest.hexdigest()).encode()
