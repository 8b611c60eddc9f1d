"""Compose docs/images/demo.png: picture, truth and prediction of test pictures of the demo.

python docs/images/make.py DEMO, where DEMO is the folder that `fullconv demo -o DEMO` filled.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import fullconv
from fullconv.labels import VOID, colorize

STEMS = ("shapes100", "shapes107", "shapes115")
VOID_COLOR = (232, 232, 236)
ZOOM, GAP, LINE = 2, 10, 30


def painted(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Paint labels (H, W), void in a light grey."""
    colors = colorize(labels, palette)
    colors[labels == VOID] = VOID_COLOR
    return colors


def enlarged(pixels: np.ndarray, how: Image.Resampling = Image.Resampling.NEAREST) -> Image.Image:
    """Enlarge a picture to look at."""
    image = Image.fromarray(pixels)
    return image.resize((image.width * ZOOM, image.height * ZOOM), how)


def rows(demo: Path) -> list[list[Image.Image]]:
    """Return picture, truth and prediction of each chosen test picture."""
    dataset = fullconv.open_dataset(demo / "data")
    palette = dataset.labels[""].palette
    found = []
    for sample in dataset.splits["test"]:
        if sample.stem.endswith(STEMS):
            predicted = np.asarray(Image.open(demo / "predictions" / f"{Path(sample.stem).name}.png"))
            maps = [painted(labels, palette) for labels in (dataset.read_mask(sample), predicted)]
            picture = enlarged(dataset.read_image(sample), Image.Resampling.BICUBIC)
            found.append([picture, *map(enlarged, maps)])
    return found


def legend(draw: ImageDraw.ImageDraw, y: int, entries: list[tuple[str, tuple[int, ...]]]) -> None:
    """Draw boxes with names."""
    font = ImageFont.load_default(size=17)
    x = GAP
    for name, color in entries:
        draw.rectangle((x, y + 3, x + 16, y + 19), fill=color, outline="#666666")
        draw.text((x + 24, y), name, fill="#222222", font=font)
        x += 24 + int(font.getlength(name)) + 24


def compose(demo: Path) -> Image.Image:
    """Put all into one picture."""
    shown = rows(demo)
    width, height = shown[0][0].size
    sheet = Image.new("RGB", (3 * width + 4 * GAP, LINE + len(shown) * (height + GAP) + LINE + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for column, title in enumerate(("picture", "truth", "prediction")):
        draw.text((GAP + column * (width + GAP), 5), title, fill="#222222", font=font)
    for index, row in enumerate(shown):
        for column, image in enumerate(row):
            sheet.paste(image, (GAP + column * (width + GAP), LINE + index * (height + GAP)))
    labels = fullconv.open_dataset(demo / "data").labels[""]
    entries = [*zip(labels.classes, labels.palette, strict=True), ("void: not scored", VOID_COLOR)]
    legend(draw, LINE + len(shown) * (height + GAP) + 2, entries)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("demo.png"))
    given = parser.parse_args()
    compose(given.demo).save(given.out, optimize=True)
