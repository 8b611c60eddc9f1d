"""A synthetic data set of shapes, for the demo."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fullconv.labels import VOID, encode_label_map
from fullconv.storage import write_bytes, write_text

CLASSES = ("ground", "disc", "box", "triangle")
PALETTE = ((64, 64, 72), (228, 87, 46), (56, 158, 96), (66, 108, 218))
IMAGES = {"train": 80, "val": 20, "test": 20}
SIZE = (128, 160)
"""Height and width of an image."""

Float = NDArray[np.float64]

_HUES = {"disc": (0.95, 1.10), "box": (0.24, 0.44), "triangle": (0.56, 0.74)}
"""Of each class's colors, from 0 (red) over 1/3 (green) and 2/3 (blue) back to red at 1."""

_LIGHT = np.array([-0.5, -0.6, 0.62])
"""Direction of the light: x, y and towards the viewer."""


def make_shapes(root: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    """Write images and masks by split, and `data.toml` last; the same seed gives the same pixels."""
    number = 0
    for split, count in IMAGES.items():
        for _ in range(count):
            image, mask = draw(np.random.default_rng([seed, number]), size)
            stem = f"shapes{number:03d}.png"
            write_bytes(root / split / "images" / stem, [_encode(image)])
            write_bytes(root / split / "masks" / stem, [encode_label_map(mask, PALETTE)])
            number += 1
    names = ", ".join(f'"{name}"' for name in CLASSES)
    colors = ", ".join(str(list(color)) for color in PALETTE)
    write_text(root / "data.toml", f"classes = [{names}]\npalette = [{colors}]\n")


def draw(rng: np.random.Generator, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw overlapping shapes, lit from one side: image (H, W, 3) and mask (H, W) uint8, void around each shape's border."""
    image = _ground(rng, size)
    mask = np.zeros(size, np.uint8)
    kinds = rng.permutation([1, 2, 3, *rng.integers(1, 4, rng.integers(0, 4))])
    for kind in kinds:
        distance, normal = _shape(rng, size, CLASSES[kind])
        inside = np.clip(0.5 - distance, 0, 1)[..., None]
        image *= 1 - 0.45 * _shadow(inside[..., 0])[..., None] * (1 - inside)
        low, high = _HUES[CLASSES[kind]]
        color = _rgb(rng.uniform(low, high) % 1, rng.uniform(0.35, 0.9), rng.uniform(0.55, 0.95))
        light = 0.35 + 0.75 * np.clip(normal @ _LIGHT, 0, None)
        grain = 1 + 0.16 * (_noise(rng, size, 3) - 0.5)
        image = image * (1 - inside) + inside * color * (light * grain)[..., None]
        mask[distance < 1] = VOID
        mask[distance < -1] = kind
    y, x = np.mgrid[: size[0], : size[1]] / max(size) - 0.5
    image *= (1.05 + rng.uniform(-0.4, 0.4) * x + rng.uniform(-0.4, 0.4) * y)[..., None]
    image += rng.normal(0, rng.uniform(0.01, 0.035), image.shape)
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8), mask


def _encode(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: int) -> Float:
    """Return smooth noise in [0, 1] with bumps of `cell` pixels."""
    height, width = size
    grid = rng.random((height // cell + 2, width // cell + 2)).astype(np.float32)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth, np.float64), 0, 1)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Float:
    """Return a ground of two earthy colors: patches, gravel, and furrows in some direction."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle) + 6 * _noise(rng, size, 24)
    furrows = 0.5 + 0.5 * np.sin(along * 2 * np.pi / rng.uniform(5, 14))
    mixed = 0.5 * _noise(rng, size, 40) + 0.25 * _noise(rng, size, 9) + 0.15 * _noise(rng, size, 2) + 0.1 * furrows
    hues = rng.uniform(0.04, 0.18, 2)
    dark, bright = (_rgb(hue, rng.uniform(0.05, 0.35), value) for hue, value in zip(hues, (0.25, 0.75), strict=True))
    return np.asarray(dark + (bright - dark) * mixed[..., None])


def _shape(rng: np.random.Generator, size: tuple[int, int], name: str) -> tuple[Float, Float]:
    """Return the distance to a shape's border, negative inside (H, W), and its surface's normals (H, W, 3)."""
    height, width = size
    radius = rng.uniform(0.12, 0.24) * min(size)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - rng.uniform(0, height), x - rng.uniform(0, width)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if name == "disc":
        distance = np.hypot(x, y) - radius
        rise = np.sqrt(np.clip(radius**2 - x**2 - y**2, 1, None))
        normal = np.stack([x, y, rise], -1)
        return distance, normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    if name == "box":
        sides = [np.abs(u) - radius * 0.95, np.abs(v) - radius * rng.uniform(0.55, 0.95)]
        directions = [(np.sign(u), 0 * u), (0 * v, np.sign(v))]
    else:
        turns = [2 * np.pi * k / 3 for k in range(3)]
        sides = [u * np.cos(t) + v * np.sin(t) - radius * 0.62 for t in turns]
        directions = [(np.full(size, np.cos(t)), np.full(size, np.sin(t))) for t in turns]
    distance = np.max(sides, axis=0)
    nearest = np.argmax(sides, axis=0)  # a plate, whose border slopes down over five pixels
    across, down = (np.choose(nearest, parts) for parts in zip(*directions, strict=True))
    slope = np.clip((distance + 5) / 5, 0, 1) * 0.9
    x, y = across * np.cos(angle) - down * np.sin(angle), across * np.sin(angle) + down * np.cos(angle)
    normal = np.stack([x * slope, y * slope, np.ones_like(x)], -1)
    return distance, normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def _shadow(inside: Float) -> Float:
    """Return the soft shadow of a shape, away from the light."""
    shape = Image.fromarray((255 * inside).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2.5))
    blurred = np.asarray(shape, np.float64) / 255
    moved = np.zeros_like(blurred)
    moved[5:, 4:] = blurred[:-5, :-4]
    return moved


def _rgb(hue: float, saturation: float, value: float) -> Float:
    """Return a color (3,) in [0, 1] from hue, saturation and value."""
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))
