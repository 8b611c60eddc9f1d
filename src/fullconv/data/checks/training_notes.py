"""What training on a data set will probably be like: nothing that is wrong, but good to know before it."""

from __future__ import annotations

import math

import numpy as np

from fullconv.data.checks.dataset import Tally
from fullconv.data.dataset import Dataset

_FEW = 30  # pictures in train
_FEW_VAL = 10
_RARE = 0.002  # of the pixels in train
_LARGE = 4_000_000  # pixels of a picture


def forecast(dataset: Dataset, tally: Tally) -> list[str]:
    """Return sentences about sizes, numbers of pictures and classes; empty where nothing stands out."""
    said = [_sizes(tally)] if tally.sizes else []
    train, val = (len(dataset.splits.get(split, ())) for split in ("train", "val"))
    if 0 < train < _FEW:
        said.append(f"{train} pictures in train are few; scores on other pictures will vary much.")
    if 0 < val < _FEW_VAL:
        said.append(f"{val} pictures in val tell little differences apart by chance only.")
    pixels = tally.pixels.get("train")
    if pixels is not None and pixels.any():
        share = pixels / pixels.sum()
        rare = [(dataset.classes[i], share[i]) for i in np.argsort(share) if 0 < share[i] < _RARE]
        if rare:
            named = ", ".join(f"{name} ({_percent(part)})" for name, part in rare[:5])
            more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
            said.append(
                f"{named}{more} have so few pixels that they are learned late or not at all; class_weights and sampling help."
            )
        most = int(share.argmax())
        if share[most] > 0.95:
            said.append(
                f"'{dataset.classes[most]}' is {_percent(share[most])} of all pixels: a model that says nothing else is right"
                " nearly everywhere, so look at the IoU of the other classes."
            )
    largest = max(tally.sizes, key=math.prod, default=(0, 0))
    if math.prod(largest) > _LARGE:
        said.append(
            f"Pictures of up to {largest[1]}x{largest[0]} take long to read; --scale 0.5 reads the same scene faster."
        )
    return said


def _sizes(tally: Tally) -> str:
    low, high = min(tally.sizes, key=math.prod), max(tally.sizes, key=math.prod)
    words = f"{low[1]}x{low[0]}" + ("" if low == high else f" to {high[1]}x{high[0]}")
    return f"Pictures are {words}{'' if len(tally.sizes) < 2 else f', {len(tally.sizes)} sizes'}."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
