"""Image files written by hand: PNG of any color type and depth, ICC profiles."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_text(image: Image.Image, compress: bool = False, **options: object) -> str:
    """A PNG in Base64, as annotation tools embed it."""
    data = encode(image, "PNG", **options)
    return base64.b64encode(zlib.compress(data) if compress else data).decode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed_rows(samples: np.ndarray, depth: int) -> bytes:
    """Pack samples (h, w, c) of 1 to 16 bits into unfiltered PNG rows."""
    rows = []
    for row in samples:
        bits = "".join(format(int(value), f"0{depth}b") for value in row.ravel())
        bits += "0" * (-len(bits) % 8)
        rows.append(b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))
    return b"".join(rows)


def png(samples: np.ndarray, color: int, depth: int, adam7: bool = False, extra: bytes = b"") -> bytes:
    """Write a PNG of any color type and depth."""
    height, width = samples.shape[:2]
    body = packed_rows(samples, depth)
    if adam7:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        body = b"".join(packed_rows(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, adam7)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


ADOBE = {"rXYZ": (0.60974, 0.31111, 0.01947), "gXYZ": (0.20528, 0.62567, 0.06087), "bXYZ": (0.14919, 0.06322, 0.74457)}


SRGB = {"rXYZ": (0.43607, 0.22249, 0.01392), "gXYZ": (0.38515, 0.71687, 0.09708), "bXYZ": (0.14307, 0.06061, 0.71410)}


GAMMA = 563 / 256


def profile(primaries: dict[str, tuple[float, float, float]] | None) -> bytes:
    """Write an ICC profile of three primaries (D50) or of grey, with a gamma of 2.2."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    white = b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    tags = {b"wtpt": white}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        tags |= {key.encode(): b"XYZ " + bytes(4) + b"".join(map(fixed, xyz)) for key, xyz in primaries.items()}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags |= {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"x\0\0\0",
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    size = start + len(body)
    kind = b"RGB " if primaries else b"GRAY"
    head = (
        struct.pack(">I", size) + b"lcms" + b"\x02\x20\0\0" + b"mntr" + kind + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    )
    head += fixed(0.9642) + fixed(1) + fixed(0.8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def write_noise(path: Path, size: tuple[int, int] = (24, 32), **options: object) -> Path:
    """Write an image (H, W, 3) of noise that depends on the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([0, *path.name.encode()]).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path
