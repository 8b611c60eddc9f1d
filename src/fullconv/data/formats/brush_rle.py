"""Label Studio's RLE of brush strokes: a stream of bits over RGBA bytes.

32 bits: the number of bytes. 5 bits: bits of a byte, less one. Four times 4 bits: how long a length is, less one. Then
runs: 1 bit, whether all bytes of the run are equal; 2 bits, which of the four; the length less one; one byte, or all.

Source: github.com/thi-ng/umbrella, packages/rle-pack, which Label Studio uses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fullconv.images import max_pixels


class _BitReader:
    """Reads numbers of any length from bytes, highest bit first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> int:
        first, last = self.place >> 3, (self.place + count + 7) >> 3
        if last > len(self.data):
            raise EOFError
        self.place += count
        return (int.from_bytes(self.data[first:last], "big") >> (8 * last - self.place)) & ((1 << count) - 1)


def unpack_brush_rle(code: object, height: int, width: int) -> NDArray[np.bool_] | None:
    """Decode into (H, W) bool: whether a pixel is not transparent; None if the code is invalid or of another size."""
    if not isinstance(code, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in code):
        return None
    bits = _BitReader(bytes(code))
    try:
        total, word = bits.take(32), bits.take(5) + 1
        lengths = [bits.take(4) + 1 for _ in range(4)]
        if total != height * width * 4 or height * width > max_pixels() or word != 8:
            return None
        painted = np.zeros(height * width, np.bool_)
        at = 0
        while at < total:
            same = bits.take(1)
            end = min(at + 1 + bits.take(lengths[bits.take(2)]), total)
            if same:
                painted[at // 4 : end // 4] = bits.take(word) > 0  # the alphas among bytes at ... end - 1
            else:
                for byte in range(at, end):
                    value = bits.take(word)
                    if byte % 4 == 3:
                        painted[byte // 4] = value > 0
            at = end
    except EOFError:
        return None
    return painted.reshape(height, width)
