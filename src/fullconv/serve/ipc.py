"""How the two kinds of processes talk: a JSON head and bytes, over pipes. Nothing is pickled."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

LENGTHS = struct.Struct(">IQ")
"""Bytes of the head and of the payload."""


def pack(head: Mapping[str, Any]) -> bytes:
    """Encode the head of a frame."""
    return json.dumps(head, separators=(",", ":")).encode()


def write_frame(file: IO[bytes], head: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write one frame and flush it."""
    packed = pack(head)
    file.write(LENGTHS.pack(len(packed), len(payload)) + packed)
    if payload:
        file.write(payload)
    file.flush()


def read_frame(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None where the other side is gone."""
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head, payload = LENGTHS.unpack(lengths)
    packed, data = file.read(head), file.read(payload)
    if len(packed) < head or len(data) < payload:
        return None
    return json.loads(packed), data
