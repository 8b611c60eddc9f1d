"""The checksum of an exported file, over each of its bytes and those of the weights beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fullconv.errors import ModelFileError

CHECKSUM_KEY = "fullconv_checksum"
"""Beside the card."""
MARK = "sha256:"
BLANK = MARK + "0" * 64
"""Stands in the file while the checksum is computed."""


def add_checksum(content: bytes, weights: bytes = b"") -> bytes:
    """Return a file's bytes with the checksum in place of `BLANK`."""
    return content.replace(BLANK.encode(), _checksum(content, weights), 1)


def verify_checksum(path: Path, stored: str | None, content: bytes, weights: bytes = b"") -> None:
    """Compare a file with its stored checksum; None, as in files of earlier versions, is accepted."""
    if (
        stored is not None
        and _checksum(content.replace(stored.encode(), BLANK.encode(), 1), weights) != stored.encode()
    ):
        raise ModelFileError(f"{path}: damaged, or changed after it was exported. Export it again.")


def verify_trailing_checksum(path: Path) -> bool:
    """Return whether a file that `add_checksum` wrote with `BLANK` as its last bytes is complete and undamaged."""
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


def _checksum(content: bytes, weights: bytes) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(weights)
    return (MARK + digest.hexdigest()).encode()
