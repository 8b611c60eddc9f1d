"""JPEG whose data end too early although the file does not: libjpeg silently fills in the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

START = b"\xff\xd8\xff"
_END = 0xD9
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)
"""A marker with a segment behind it, or the end: no stuffed byte, fill byte or restart."""
_PADDING = 16  # so many zeros at the end of a file without an end marker are no entropy-coded data
_TABLES = 0xC4
_FEEDS = 16
_ZEROS = bytes(64)
_DATA = bytes(i % 254 + 1 for i in range(512))  # anything without a marker
_FILLER = b"".join(_DATA + bytes([0xFF, 0xD0 + i % 8]) for i in range(16)) + _DATA  # with every restart marker


def end_of_data(data: bytes) -> int | None:
    """Return the position of the first image's end marker; None without one.

    Entropy-coded data cannot hold it, but thumbnails in the header do, so segments are walked.
    """
    at = 2
    while (found := _SEGMENT.search(data, at)) is not None:
        at = found.start()
        if data[at + 1] == _END:
            return at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def detect_corruption(data: bytes, end: int | None) -> str | None:
    """Describe visible damage to entropy-coded data, which decoders silently read as noise; None without any.

    Sixteen line feeds and more, each after a carriage return, do not occur by chance: a program treated the file as text.
    Long runs of zero bytes are valid only where the tables decode them as flat blocks.
    """
    start = data.rfind(b"\xff\xda", 0, end)
    body = data[start:end]
    first = body.find(b"\n")
    if body[first - 1 : first] == b"\r" and _FEEDS <= body.count(b"\n") == body.count(b"\r\n"):
        return "was transferred or saved as text, which inserted a carriage return before each line feed"
    if _ZEROS in body and not _zeros_are_flat(data[:start]):
        return f"has {len(_ZEROS)} zero bytes or more in its data, as a failing disk or transfer leaves them"
    return None


def _zeros_are_flat(header: bytes) -> bool:
    """Return whether zeros may decode to flat blocks: by the shortest codes of the tables, or as the file is not baseline."""
    first: dict[int, set[int]] = {0: set(), 1: set()}
    at = 2
    while (found := _SEGMENT.search(header, at)) is not None:
        at, kind = found.start() + 2, header[found.start() + 1]
        length = int.from_bytes(header[at : at + 2], "big")
        if 0xC2 <= kind <= 0xCF and kind != _TABLES:
            return True
        inner, stop = at + 2, at + length
        while kind == _TABLES and inner + 17 < stop:
            first[min(header[inner] >> 4, 1)].add(header[inner + 17])
            inner += 17 + sum(header[inner + 1 : inner + 17])
        at = stop
    return not first[1] or first[0] == first[1] == {0}


def is_doubtful(image: NDArray[Any]) -> bool:
    """Return whether the last block of (H, W) or (H, W, C) is flat, as libjpeg leaves it where data are missing."""
    block = image[-4:, -8:]
    return bool((block == block[-1, -1]).all())


def data_is_short(data: bytes, end: int | None, image: NDArray[Any], decode: Callable[[bytes], NDArray[Any]]) -> bool:
    """Return whether an image that was decoded from these bytes had data missing; ``end`` is of `end_of_data`.

    Random data are inserted before the end marker: a complete image does not change, as it needs none of them. That takes
    a second decoding, so it is done only where the image ends flat. A progressive file that misses only late, refining
    data is valid, if blurred, and passes.
    """
    if end is None:
        return data.endswith(bytes(_PADDING))
    return is_doubtful(image) and not np.array_equal(decode(data[:end] + _FILLER + data[end:]), image)
