"""Compose docs/images/skips.png: what FCN-32s, 16s and 8s make of the same test pictures of the demo's data.

python docs/images/skips.py WORK, where WORK is the folder that `python benchmarks/boundary.py --work WORK` filled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from make import GAP, LINE, VOID_COLOR, enlarged, legend, painted
from PIL import Image, ImageDraw, ImageFont

import fullconv

VARIANTS = ("fcn32s", "fcn16s", "fcn8s")
STEMS = ("shapes103", "shapes107", "shapes115")


def rows(work: Path, seed: int) -> list[list[Image.Image]]:
    """Return picture, truth and the three answers for each chosen test picture."""
    dataset = fullconv.open_dataset(work / "data")
    palette = dataset.labels[""].palette
    models = [fullconv.load(work / f"{variant}-{seed}") for variant in VARIANTS]
    found = []
    for sample in dataset.splits["test"]:
        if sample.stem.endswith(STEMS):
            image = dataset.read_image(sample)
            maps = [dataset.read_mask(sample), *(model.predict(image).label_map for model in models)]
            shown = [enlarged(painted(labels, palette)) for labels in maps]
            found.append([enlarged(image, Image.Resampling.BICUBIC), *shown])
    return found


def compose(work: Path, seed: int = 0) -> Image.Image:
    """Put all into one picture."""
    shown = rows(work, seed)
    width, height = shown[0][0].size
    titles = ("picture", "truth", *(variant.replace("fcn", "FCN-") for variant in VARIANTS))
    sheet = Image.new("RGB", (len(titles) * (width + GAP) + GAP, 2 * LINE + len(shown) * (height + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (width + GAP), 5), title, fill="#222222", font=font)
    for index, row in enumerate(shown):
        for column, image in enumerate(row):
            sheet.paste(image, (GAP + column * (width + GAP), LINE + index * (height + GAP)))
    labels = fullconv.open_dataset(work / "data").labels[""]
    entries = [*zip(labels.classes, labels.palette, strict=True), ("void: not scored", VOID_COLOR)]
    legend(draw, LINE + len(shown) * (height + GAP) + 2, entries)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("skips.png"))
    given = parser.parse_args()
    compose(given.work, given.seed).save(given.out, optimize=True)
