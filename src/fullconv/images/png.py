"""PNG where Pillow is not enough: 16 bits in several channels, and data shorter than the header promises."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImagePalette

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_UNWRITTEN = 0xA5
_MARKED = ("L", "P", "RGB", "RGBA")


def header(start: bytes) -> tuple[int, int, int, int, bool] | None:
    """Parse width, height, bit depth, colour type and interlacing from the first 29 bytes of a PNG; None for other files."""
    if not start.startswith(SIGNATURE) or len(start) < 29 or start[12:16] != b"IHDR":
        return None
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", start[16:29])
    return width, height, depth, color, interlace == 1


def chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (type, length) of each chunk, with the file positioned at its data, which are skipped."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        position = file.tell()
        yield kind, length
        file.seek(position + length + 4)


def has_exif(file: IO[bytes]) -> bool:
    """Return whether there is an eXIf chunk; Pillow would decode the whole image to find out."""
    return any(kind == b"eXIf" for kind, _ in chunks(file))


def data_is_short(file: IO[bytes], start: bytes) -> bool:
    """Return whether the compressed data end before the last row: Pillow silently leaves missing rows black."""
    found = header(start)
    if found is None:
        return False
    width, height, depth, color, interlaced = found
    expected = _raw_size(width, height, depth * _CHANNELS.get(color, 1), interlaced)
    inflate = zlib.decompressobj()
    size = 0
    for kind, length in chunks(file):
        if kind != b"IDAT":
            continue
        left = length
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            left -= len(block)
            while block:  # in pieces, so that a bomb cannot fill the memory
                size += len(inflate.decompress(block, 1 << 22))
                block = inflate.unconsumed_tail
            if size >= expected:
                return False
    return size < expected


def mark_unwritten(image: Image.Image) -> int:
    """Fill the memory of an image that is not loaded yet; returns the value that missing rows keep.

    Pillow starts from zeros. A last row of zeros is common in masks, where 0 is background, and inflating the data once
    more to find out takes as long as decoding; a row of another value is rare.
    """
    if image.mode not in _MARKED:
        return 0
    loading: Any = image
    color = (_UNWRITTEN,) * len(image.mode) if len(image.mode) > 1 else _UNWRITTEN
    loading.im = Image.new(image.mode, image.size, color).im
    return _UNWRITTEN


def _raw_size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return the bytes of the filtered rows: one filter byte and the packed pixels a row, for each pass of Adam7."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(max(0, -(-(width - x) // dx)), max(0, -(-(height - y) // dy))) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns)


def is_cut(file: IO[bytes]) -> bool:
    """Return whether the file ends before its last chunk does, or without IEND."""
    end, last = file.seek(0, 2), b""
    for kind, length in chunks(file):
        last = kind
        if file.tell() + length + 4 > end:
            return True
    return last != b"IEND"


def is_lost(file: IO[bytes]) -> bool:
    """Return whether a file ends in zeros instead of IEND: a disk or a transfer lost the rest.

    Zeros decode to rows that look like data, and Pillow does not check the end.
    """
    file.seek(-12, 2)
    if file.read(12).strip(b"\0"):
        return False
    return all(kind != b"IEND" for kind, _ in chunks(file))  # behind its end a file may be padded


def is_deep_color(start: bytes) -> bool:
    """Return whether a file has 16 bits in more than one channel, which Pillow silently reduces to 8."""
    found = header(start)
    return found is not None and found[2] == 16 and found[3] in (2, 4, 6)


def read_deep_color(image: Image.Image, again: Image.Image, start: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit PNG of 2 to 4 channels, opened twice and not loaded: (H, W, C) uint16, alpha last.

    Pillow reads only one byte of each value, so it decodes twice: the high bytes, and the low ones by declaring the
    file little-endian. (torchvision 0.29 reads 16 bits, but crashes on damaged headers.)
    """
    found = header(start)
    if found is not None and found[3] == 4:  # no low-byte mode exists, but two values are as long as an RGBA pixel
        planes = _load_as(image, "RGBA", "RGBA").astype(np.uint16)
        values = planes[..., 0::2] << 8 | planes[..., 1::2]
    else:
        high = _load_as(image, image.mode, f"{image.mode};16B").astype(np.uint16)
        values = high << 8 | _load_as(again, again.mode, f"{again.mode};16L")
    return np.asarray(values, dtype=np.uint16)


def keep_small_grey(image: Image.Image) -> None:
    """Decode 2 and 4-bit grey values as stored, which Pillow would scale to 0 to 255; also for TIFF.

    Images are scaled by their palette (`info["grey_bits"]`); in a mask they are class indices.
    """
    if image.mode != "L" or not getattr(image, "tile", None):
        return
    tiles: Any = image.tile  # type: ignore[attr-defined]
    modes = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in tiles if tile[3]}
    if modes not in ({"L;2"}, {"L;4"}):
        return
    bits = int(modes.pop()[-1])
    loading: Any = image
    mode = f"P;{bits}"
    loading.tile = [(*tile[:3], mode if isinstance(tile[3], str) else (mode, *tile[3][1:])) for tile in tiles]
    loading._mode = "P"
    ramp = [255 * i // ((1 << bits) - 1) for i in range(1 << bits)]
    loading.palette = ImagePalette.raw("RGB", bytes(channel for grey in ramp for channel in (grey,) * 3))
    loading.info["grey_bits"] = bits


def with_transparent_white(image: NDArray[np.uint16], color: object) -> NDArray[np.uint16]:
    """Composite (H, W) or (H, W, 3) uint16, one colour of which is transparent, on white."""
    if not isinstance(color, (int, tuple)) or np.size(color) not in (1, image.shape[-1]):
        return image
    hit = image == np.array(color, np.int64)
    return np.where(hit if image.ndim == 2 else hit.all(-1, keepdims=True), np.uint16(65535), image)


def without_alpha(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Composite (H, W, 2 or 4) uint16 on white; without alpha it is returned unchanged."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., -1:].astype(np.uint64)
    laid = (image[..., :-1] * alpha + 65535 * (65535 - alpha) + 32767) // 65535
    return np.asarray(laid, dtype=np.uint16)


def _load_as(image: Image.Image, mode: str, raw_mode: str) -> NDArray[np.uint8]:
    loading: Any = image
    loading._mode = mode
    loading.tile = [(*tile[:3], raw_mode) for tile in loading.tile]
    image.load()
    return np.asarray(image)
