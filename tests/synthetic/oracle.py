"""Masks of outlines, drawn without the code under test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def polygon(size: tuple[int, int], points: Sequence[tuple[float, float]], scale: int = 16) -> NDArray[np.bool_]:
    """Return the pixels (H, W) whose middle lies in a polygon (x, y), drawn `scale` times as large by Pillow."""
    height, width = size
    image = Image.new("1", (width * scale, height * scale))
    ImageDraw.Draw(image).polygon([(x * scale, y * scale) for x, y in points], fill=1)
    return np.asarray(image)[scale // 2 :: scale, scale // 2 :: scale]


def ellipse(
    size: tuple[int, int], center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> NDArray[np.bool_]:
    """Return the pixels whose middle lies in an ellipse that is rotated clockwise by an angle in radians."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    turned = ((x - center[0]) + 1j * (y - center[1])) * np.exp(-1j * angle)
    return (turned.real / radii[0]) ** 2 + (turned.imag / radii[1]) ** 2 <= 1


def assert_close(mask: NDArray[np.uint8], expected: NDArray[np.uint8], share: float = 0.01) -> None:
    """Assert that masks differ at most in a few pixels whose middle lies on an edge."""
    assert mask.shape == expected.shape
    assert np.count_nonzero(mask != expected) <= share * mask.size
