"""Frames between the service and its worker processes: a JSON header and bytes, over pipes. Nothing is pickled."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import IO, Any

Frame = tuple[dict[str, Any], bytes]
"""Header and payload."""

_LENGTHS = struct.Struct(">IQ")
"""Bytes of the header and of the payload."""


def pack_frame(header: Mapping[str, Any], payload: bytes = b"") -> list[bytes]:
    """Return the parts of a frame, in which the payload is not copied."""
    packed = json.dumps(header, separators=(",", ":")).encode()
    return [_LENGTHS.pack(len(packed), len(payload)) + packed, payload]


def write_frame(file: IO[bytes], header: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write a frame and flush it."""
    file.writelines(pack_frame(header, payload))
    file.flush()


def read_frame(file: IO[bytes]) -> Frame | None:
    """Read a frame; None where the other end has closed."""
    lengths = file.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_size, payload_size = _LENGTHS.unpack(lengths)
    header, payload = file.read(header_size), file.read(payload_size)
    if len(header) < header_size or len(payload) < payload_size:
        return None
    return json.loads(header), payload


async def receive_frame(reader: asyncio.StreamReader) -> Frame:
    """Read a frame from a stream."""
    header_size, payload_size = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    header = json.loads(await reader.readexactly(header_size))
    return header, await reader.readexactly(payload_size) if payload_size else b""
