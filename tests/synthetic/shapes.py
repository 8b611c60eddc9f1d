"""Data sets of shapes on a textured background: small, deterministic, any layout, any encoding of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.labels import VOID, format_color, full_palette

Layout = Literal["camvid", "split-first", "kind-first", "flat"]
Encoding = Literal["index", "palette", "rgb", "binary255"]

COLORS = [(90, 90, 90), (200, 60, 40), (50, 170, 70), (60, 80, 210), (220, 190, 50), (150, 60, 170), (40, 180, 190)]
"""Colors of the classes, in images and palettes; class 0 is the background."""

VOID_COLOR = (255, 255, 255)


def names(classes: int) -> list[str]:
    """Return the names of the classes that `make_shapes` draws: ground, disc, box, triangle, disc4, ..."""
    shapes = ["disc", "box", "triangle"]
    return ["ground", *(shapes[i % 3] + (str(i + 1) if i >= 3 else "") for i in range(classes - 1))]


def draw(
    rng: np.random.Generator, size: tuple[int, int], classes: int, void: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw an image (H, W, 3) uint8 with its mask (H, W) uint8; shapes have a void border of one pixel."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    colors = np.array([COLORS[i % len(COLORS)] for i in range(classes)], float)
    mask = np.zeros(size, np.uint8)
    side = min(size)
    for index in range(1, classes):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(0.18, 0.3) * side
        dy, dx = y - cy, x - cx
        distance = [np.hypot(dy, dx), np.maximum(abs(dy), abs(dx)), np.maximum(dy, abs(dx) * 1.7 - dy) / 1.2][
            (index - 1) % 3
        ]
        mask[distance < radius + 1] = VOID if void else index
        mask[distance < radius] = index
    ground = 20 * np.sin(x / 3 + rng.uniform(0, 6)) + 15 * np.sin(y / 4 + rng.uniform(0, 6))
    painted = colors[np.where(mask == VOID, 0, mask)] + ground[..., None] * (mask == 0)[..., None]
    painted += rng.normal(0, 8, (*size, 3)) + rng.uniform(-15, 15)
    return np.clip(painted, 0, 255).astype(np.uint8), mask


def convert_image(image: NDArray[np.uint8], channels: int, dtype: str) -> NDArray[Any]:
    """Convert (H, W, 3) uint8 to another number of channels and type."""
    planes = [image[..., i % 3] // (1 + i // 3) for i in range(channels)]
    wide = np.stack(planes, axis=-1) if channels != 1 else image.mean(-1).astype(np.uint8)[..., None]
    if dtype == "uint16":
        return wide.astype(np.uint16) * 200 + 1000
    return wide.astype(np.float32) / 100 - 0.5 if dtype == "float32" else wide


def save_image(image: NDArray[Any], path: Path) -> None:
    """Save (H, W, C) by the suffix of the path; many bands, floats and 16-bit colors as TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif" and (image.shape[2] > 1 or image.dtype != np.uint8):
        import tifffile

        planar = {"planarconfig": "contig"} if image.shape[2] > 1 else {}
        tifffile.imwrite(path, image, photometric="minisblack", **planar)
        return
    plain = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(plain).save(path, **({"quality": 92} if path.suffix in (".jpg", ".jpeg") else {}))


def save_mask(mask: NDArray[np.uint8], path: Path, encoding: Encoding = "index") -> None:
    """Save class indices (H, W) uint8 in one of the encodings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if encoding == "binary255":
        image = Image.fromarray(np.where((mask > 0) & (mask != VOID), 255, 0).astype(np.uint8))
    elif encoding == "rgb":
        table = np.array([COLORS[i % len(COLORS)] for i in range(256)], np.uint8)
        table[VOID] = VOID_COLOR
        image = Image.fromarray(table[mask])
    else:
        image = Image.fromarray(mask)
        if encoding == "palette":
            image.putpalette([channel for color in full_palette(COLORS) for channel in color])
    image.save(path)


def data_toml(classes: int, encoding: Encoding) -> str:
    """Return the data.toml that reads masks of an encoding."""
    listed = names(2 if encoding == "binary255" else classes)
    lines = [f"classes = {listed!r}".replace("'", '"')]
    if encoding == "binary255":
        lines.append(f'values = {{ 0 = "{listed[0]}", 255 = "{listed[1]}" }}')
    if encoding == "rgb":
        table = [f'"{format_color(COLORS[i])}" = "{name}"' for i, name in enumerate(listed)]
        lines.append(f'colors = {{ {", ".join(table)}, "{format_color(VOID_COLOR)}" = "void" }}')
    return "\n".join(lines) + "\n"


def split_folders(layout: Layout, split: str) -> tuple[str, str]:
    """Return the folders of the images and masks of a split."""
    return {
        "camvid": (split, f"{split}annot"),
        "split-first": (f"{split}/images", f"{split}/masks"),
        "kind-first": (f"images/{split}", f"masks/{split}"),
        "flat": ("images", "masks"),
    }[layout]


def make_shapes(
    root: str | Path,
    layout: Layout = "camvid",
    images: int = 12,
    size: tuple[int, int] = (48, 64),
    classes: int = 4,
    seed: int = 0,
    encoding: Encoding = "index",
    *,
    channels: int = 3,
    dtype: str = "uint8",
    suffix: str = ".png",
    void: bool = True,
    test: int = 0,
    toml: bool | str = True,
) -> Path:
    """Write a data set of shapes; the same arguments give the same pixels.

    Args:
        root: Folder to create.
        layout: Folder layout; all but "flat" hold a quarter of the images in val, at least one.
        images: Number of images in train and val together.
        size: Height and width.
        classes: K, up to 7; the last in an image lies on top.
        seed: Random seed of the shapes.
        encoding: Encoding of the masks.
        channels: Channels of the images; ".tif" for more than 3.
        dtype: Type of the images; ".tif" for float32 and 16-bit colors.
        suffix: Suffix of the images.
        void: Whether shapes have a void border.
        test: Number of images in test (not "flat").
        toml: Whether to write data.toml, or lines to append to it.

    Returns:
        The folder.
    """
    root = Path(root)
    rng = np.random.default_rng([seed, images, classes])
    val = 0 if layout == "flat" else max(1, images // 4)
    splits = ["train"] * (images - val) + ["val"] * val + ["test"] * (0 if layout == "flat" else test)
    for number, split in enumerate(splits):
        image, mask = draw(rng, size, classes, void and encoding != "binary255")
        image_folder, mask_folder = split_folders(layout, split)
        save_image(convert_image(image, channels, dtype), root / image_folder / f"shape{number:03d}{suffix}")
        save_mask(mask, root / mask_folder / f"shape{number:03d}.png", encoding)
    if toml:
        extra = toml if isinstance(toml, str) else ""
        (root / "data.toml").write_text(data_toml(classes, encoding) + extra, encoding="utf-8")
    return root
