"""Count scores from the label maps that `fullconv predict` wrote, with nothing but Pillow and numpy.

The numbers are those that `fullconv evaluate` prints, to the last pixel: both score what a user gets, at the size of the
image. Pairs are made by file name: MASKS/a.png with LABELS/a.png. 255 in the ground truth does not count.

Run it: python examples/count_scores.py MASKS LABELS, for example demo/data/test/masks demo/predictions
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

VOID = 255


def main(masks: Path, labels: Path) -> dict[str, object]:
    """Print pixel accuracy and mIoU of all pairs."""
    confusion = np.zeros((256, 256), np.int64)  # rows are the ground truth
    pairs = [(mask, labels / f"{mask.stem}.png") for mask in sorted(masks.iterdir())]
    for mask, answer in pairs:
        true, predicted = (np.asarray(Image.open(path)) for path in (mask, answer))
        valid = true != VOID
        np.add.at(confusion, (true[valid], predicted[valid]), 1)
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    there = union > 0  # a class that is neither in the ground truth nor predicted has no score
    scores = {"pixel_accuracy": hits.sum() / confusion.sum(), "mean_iou": (hits[there] / union[there]).mean()}
    print(f"{len(pairs)} images, {confusion.sum():,} valid pixels")
    print(f"mIoU            {scores['mean_iou']:.4f}")
    print(f"pixel accuracy  {scores['pixel_accuracy']:.4f}")
    return {"images": len(pairs), "pixels": int(confusion.sum()), **{k: float(v) for k, v in scores.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("masks", type=Path)
    parser.add_argument("labels", type=Path)
    main(**vars(parser.parse_args()))
