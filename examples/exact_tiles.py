"""Tiles that give the whole image's answer, on an image larger than any that the network was trained on.

It draws a synthetic image of shapes, 480x640 pixels, and computes its logits at once and in tiles of several sizes. They
differ by the rounding of a different order of sums, and no label differs. `docs/concepts/geometry.md` says why.

Run it: python examples/exact_tiles.py MODEL [--save FILE.png], for example demo/run, which `make demo` made
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import fullconv
from fullconv.cli.synthetic import draw
from fullconv.tiling import plan


def main(model: Path, save: Path | None = None, height: int = 480, width: int = 640) -> dict[int, tuple[float, int]]:
    """Print, by size of tile, how far logits are apart and how many labels differ."""
    segmenter = fullconv.load(model)
    image, _ = draw(np.random.default_rng(5), (height, width))
    if save is not None:
        Image.fromarray(image).save(save)
    whole = segmenter.logits(image, tile="none")
    found = {}
    for side in (32, 64, 128, 256):
        tiled = segmenter.logits(image, tile=side)
        difference = float(np.abs(whole - tiled).max() / np.abs(whole).max())
        labels = int((whole.argmax(0) != tiled.argmax(0)).sum())
        rows, columns = plan(segmenter.network, height, width, side)
        largest = max(s.stop - s.start for s in rows), max(s.stop - s.start for s in columns)
        print(
            f"tiles of {side}: {len(rows) * len(columns)} windows of up to {largest[0]}x{largest[1]};"
            f" {difference:.1e} of the largest logit apart, {labels} labels differ"
        )
        found[side] = (difference, labels)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--save", metavar="FILE.png", type=Path, help="write the image")
    main(**vars(parser.parse_args()))
