"""Model files as an older version wrote them, and with one bit changed."""

from __future__ import annotations

import json
import struct

from fullconv.modelfile import CHECKSUM_KEY


def header_of(whole: bytes) -> bytes:
    """The header's text, without its length."""
    return whole[8 : 8 + int.from_bytes(whole[:8], "little")]


def unsealed(whole: bytes) -> bytes:
    """A file as it was before headers had a checksum."""
    header = json.loads(header_of(whole))
    del header["__metadata__"][CHECKSUM_KEY]
    text = json.dumps(header, ensure_ascii=False).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + len(header_of(whole)) :]


def flipped(whole: bytes, place: int, mask: int) -> bytes:
    """A file with some bits of one byte changed."""
    return whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
