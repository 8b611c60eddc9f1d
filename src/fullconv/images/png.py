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
_UNTOUCHED = 0xA5
_MARKED = ("L", "P", "RGB", "RGBA")


def header(start: bytes) -> tuple[int, int, int, int, bool] | None:
    """Return width, height, bit depth, colour type and interlacing of a PNG from its first 29 bytes, else None."""
    if not start.startswith(SIGNATURE) or len(start) < 29 or start[12:16] != b"IHDR":
        return None
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", start[16:29])
    return width, height, depth, color, interlace == 1


def chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (type, length) of each chunk, the file standing at its data; the data are skipped, not read."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        position = file.tell()
        yield kind, length
        file.seek(position + length + 4)


def has_exif(file: IO[bytes]) -> bool:
    """Whether an eXIf chunk lies anywhere; Pillow would decode the whole picture to find out."""
    return any(kind == b"eXIf" for kind, _ in chunks(file))


def data_is_short(file: IO[bytes], start: bytes) -> bool:
    """Whether the compressed data end before the last row: Pillow leaves the missing rows black without a word."""
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


def mark_untouched(image: Image.Image) -> int:
    """Fill the memory of a picture that is not loaded yet; return the number that rows hold which never come.

    Pillow starts from zeros and leaves missing rows so. A last row of zeros is common in masks, where 0 is background,
    and finding out by inflating the data once more takes as long as decoding; a row of another number is rare.
    """
    if image.mode not in _MARKED:
        return 0
    loading: Any = image
    loading.im = Image.new(
        image.mode, image.size, (_UNTOUCHED,) * len(image.mode) if len(image.mode) > 1 else _UNTOUCHED
    ).im
    return _UNTOUCHED


def _raw_size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the filtered rows: one filter byte and the packed pixels a row, for each pass of Adam7."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    total = 0
    for x, y, dx, dy in passes:
        columns, rows = max(0, -(-(width - x) // dx)), max(0, -(-(height - y) // dy))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def is_cut(file: IO[bytes]) -> bool:
    """Whether the file ends before its last chunk does, or without the chunk that ends every PNG."""
    end, last = file.seek(0, 2), b""
    for kind, length in chunks(file):
        last = kind
        if file.tell() + length + 4 > end:
            return True
    return last != b"IEND"


def is_lost(file: IO[bytes]) -> bool:
    """Whether a file ends in zeros where a PNG ends otherwise: a disk or a transfer lost the rest.

    Zeros go on decoding, as rows that look like data, and Pillow does not ask for the end.
    """
    file.seek(-12, 2)
    if file.read(12).strip(b"\0"):
        return False
    return all(kind != b"IEND" for kind, _ in chunks(file))  # behind its end a file may be padded


def is_deep_color(start: bytes) -> bool:
    """Whether it has 16 bits in more than one channel; Pillow would cut these to 8 without a word."""
    found = header(start)
    return found is not None and found[2] == 16 and found[3] in (2, 4, 6)


def read_deep_color(image: Image.Image, again: Image.Image, start: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit PNG of 2 to 4 channels: (H, W, C) uint16, alpha last.

    Pillow can take only one byte of each number, so it decodes twice: once the high bytes, and once the low ones by
    calling the file little-endian. (torchvision 0.29 reads 16 bits, but crashes on damaged headers.)

    Args:
        image: The file, opened and not yet loaded.
        again: The same once more.
        start: Its first 29 bytes.
    """
    found = header(start)
    if (
        found is not None and found[3] == 4
    ):  # there is no low-byte mode for it, but two numbers are as long as an 8-bit RGBA pixel
        planes = _load_as(image, "RGBA", "RGBA").astype(np.uint16)
        picture = planes[..., 0::2] << 8 | planes[..., 1::2]
    else:
        high = _load_as(image, image.mode, f"{image.mode};16B").astype(np.uint16)
        picture = high << 8 | _load_as(again, again.mode, f"{again.mode};16L")
    return np.asarray(picture, dtype=np.uint16)


def keep_small_grey(image: Image.Image) -> None:
    """Have the numbers of 2 and 4-bit grey decoded as they are, which Pillow would spread over 0 to 255.

    A picture is spread by its palette (`info["grey_bits"]`); in a mask they are class numbers. Also for TIFF.
    """
    if image.mode != "L" or not getattr(image, "tile", None):
        return
    tiles: Any = image.tile  # type: ignore[attr-defined]
    modes = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in tiles if tile[3]}
    if modes not in ({"L;2"}, {"L;4"}):
        return
    bits = int(modes.pop()[-1])
    loading: Any = image
    loading.tile = [
        (*tile[:3], f"P;{bits}" if isinstance(tile[3], str) else (f"P;{bits}", *tile[3][1:])) for tile in tiles
    ]
    loading._mode = "P"
    ramp = [255 * i // ((1 << bits) - 1) for i in range(1 << bits)]
    loading.palette = ImagePalette.raw("RGB", bytes(channel for grey in ramp for channel in (grey,) * 3))
    loading.info["grey_bits"] = bits


def with_transparent_white(picture: NDArray[np.uint16], color: object) -> NDArray[np.uint16]:
    """Lay (H, W) or (H, W, 3) uint16, one colour of which is transparent, on white."""
    if not isinstance(color, (int, tuple)) or np.size(color) not in (1, picture.shape[-1]):
        return picture
    hit = picture == np.array(color, np.int64)
    return np.where(hit if picture.ndim == 2 else hit.all(-1, keepdims=True), np.uint16(65535), picture)


def without_alpha(picture: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Lay (H, W, 2 or 4) uint16 on white; without alpha it stays as it is."""
    if picture.shape[2] == 3:
        return picture
    alpha = picture[..., -1:].astype(np.uint64)
    laid = (picture[..., :-1] * alpha + 65535 * (65535 - alpha) + 32767) // 65535
    return np.asarray(laid, dtype=np.uint16)


def _load_as(image: Image.Image, mode: str, raw_mode: str) -> NDArray[np.uint8]:
    loading: Any = image
    loading._mode = mode
    loading.tile = [(*tile[:3], raw_mode) for tile in loading.tile]
    image.load()
    return np.asarray(image)
