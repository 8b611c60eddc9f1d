"""What to expect of training on a data set: nothing that is wrong, but good to know before it."""

from __future__ import annotations

import math

import numpy as np

from fullconv.data.checks.aggregates import Aggregates
from fullconv.errors import plural

_FEW_TRAIN = 30  # images
_FEW_VAL = 10
_RARE = 0.002  # of the pixels in train
_DOMINANT = 0.95
_LARGE = 4_000_000  # pixels of an image
_MAX_SHOWN = 5


def training_notes(scan: Aggregates) -> list[str]:
    """Return sentences about sizes, numbers of images and classes."""
    notes = []
    smallest, largest = (extreme(scan.sizes, key=math.prod, default=(0, 0)) for extreme in (min, max))
    if scan.sizes:
        extent = f"{smallest[1]}x{smallest[0]}" + ("" if smallest == largest else f" to {largest[1]}x{largest[0]}")
        notes.append(f"Images are {extent}{'' if len(scan.sizes) < 2 else f', {len(scan.sizes)} sizes'}.")
    train, val = (len(scan.dataset.splits.get(split, ())) for split in ("train", "val"))
    if 0 < train < _FEW_TRAIN:
        notes.append(f"train has only {plural(train, 'image')}: scores on other images will vary much.")
    if 0 < val < _FEW_VAL:
        notes.append(f"val has only {plural(val, 'image')}: small differences of scores are chance.")
    pixels = scan.class_pixels.get("train")
    if pixels is not None and pixels.any():
        share = pixels / pixels.sum()
        rare = [(scan.names[i], share[i]) for i in np.argsort(share) if 0 < share[i] < _RARE]
        if rare:
            names = ", ".join(f"{name} ({_percent(part)})" for name, part in rare[:_MAX_SHOWN])
            more = f" and {len(rare) - _MAX_SHOWN} more" if len(rare) > _MAX_SHOWN else ""
            notes.append(
                f"Rare classes are learned late or not at all: {names}{more} of the pixels. class_weights and sampling help."
            )
        most = int(share.argmax())
        if share[most] > _DOMINANT:
            notes.append(
                f"'{scan.names[most]}' is {_percent(share[most])} of all pixels: a model that predicts nothing else is nearly"
                " always right, so look at the IoU of the other classes."
            )
    if math.prod(largest) > _LARGE:
        notes.append(
            f"Images of up to {largest[1]}x{largest[0]} take long to read; --scale 0.5 reads the same scene faster."
        )
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
