"""Images that a model was trained on, found by name and content among others, and what its card keeps for that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from fullconv.card import Card
from fullconv.data.dataset import Dataset, is_training_data
from fullconv.data.samples import Sample
from fullconv.data.scan.stats import THUMBNAIL_SIDE, ImageStats, decode_thumbnail
from fullconv.errors import plural
from fullconv.notices import Notice

MAX_RECORDED = 20_000
"""Images of a data set whose hashes a card keeps, 28 characters each."""

_DIGEST = 12  # hexadecimal digits of the file's SHA-256: two of 20,000 files share them once in a million
_CELLS = 8  # along each side of what is kept of an image's looks
_MAX_DIFFERENT = 6  # of the 64 cells, of an image that was saved again; two different ones differ in about 32


def describe_images(dataset: Dataset, start: Card | None = None) -> dict[str, Any]:
    """Return what the card of a model trained on a data set keeps of its images.

    Args:
        dataset: The data set.
        start: The card of the model that the training starts from.

    Returns:
        `splits` (stems), `hashes` (of content, in the order of the stems, up to `MAX_RECORDED` in all), both by split; and
        `pretrained`: `stems` and `hashes` of images that only `start` was trained on.
    """
    hashes, left = {}, MAX_RECORDED
    for split, members in dataset.splits.items():
        hashes[split] = [_hash(stats) for stats in dataset.scan_images(members[:left])]
        left -= len(hashes[split])
    found = {
        "splits": {split: [s.stem for s in members] for split, members in dataset.splits.items()},
        "hashes": hashes,
    }
    own = {(sample.stem, text) for sample, text in zip(dataset.splits["train"], hashes["train"], strict=False)}
    before = _training_images(start) if start is not None else []
    if start is not None and not is_training_data(dataset, start):
        before = [pair for pair in before if pair[1]]  # names alone mean nothing in other data
    if pairs := [pair for pair in before if pair not in own][:MAX_RECORDED]:
        found["pretrained"] = {"stems": [stem for stem, _ in pairs], "hashes": [text for _, text in pairs]}
    return found


def _hash(stats: ImageStats) -> str:
    """Return a short hash of a file's bytes, and what tells whether it was saved again."""
    return f"{stats.digest[:_DIGEST]}{_looks(stats):016x}" if stats.thumbnail else ""


def _looks(stats: ImageStats) -> int:
    """Return which cells of an image are brighter than its median, a bit each."""
    side = THUMBNAIL_SIDE // _CELLS
    cells = decode_thumbnail(stats.thumbnail).reshape(_CELLS, side, _CELLS, -1).mean(axis=(1, 3))
    return int.from_bytes(np.packbits(cells > np.median(cells)).tobytes(), "big")


def _training_images(card: Card) -> list[tuple[str, str]]:
    """Return the stems and hashes (empty where not recorded) of what a model and those before it were trained on."""
    splits, hashes = (card.data.get(key) or {} for key in ("splits", "hashes"))
    before = card.data.get("pretrained") or {}
    pairs: list[tuple[str, str]] = []
    for stems, texts in (
        (splits.get("train"), hashes.get("train")),
        (before.get("stems"), before.get("hashes")),
    ):
        stems = list(stems or ())
        pairs += zip_longest(stems, list(texts or ())[: len(stems)], fillvalue="")
    return pairs


def trained_on(card: Card, dataset: Dataset, samples: Sequence[Sample], *, by_name: bool = False) -> list[Sample]:
    """Return the samples that a model, or one that it started from, was trained on.

    A sample is one of these if its file is, under any name; or if an image of its name is, and looks the same (saved again).
    A card without hashes, as of version 0.1.0, has names alone: they count where the data set is that of its training,
    with `by_name` in any.
    """
    looks: dict[str, list[int]] = defaultdict(list)
    digests, names = set(), set()
    for stem, text in _training_images(card):
        if text:
            digests.add(text[:_DIGEST])
            looks[stem].append(int(text[_DIGEST:], 16))
        else:
            names.add(stem)
    if not by_name and not is_training_data(dataset, card):
        names = set()
    if not digests and not names:
        return []
    found = []
    for sample, stats in zip(samples, dataset.scan_images(samples), strict=True):
        same = sample.stem in names or stats.digest[:_DIGEST] in digests
        if not same and stats.thumbnail and sample.stem in looks:
            same = any((_looks(stats) ^ known).bit_count() <= _MAX_DIFFERENT for known in looks[sample.stem])
        found += [sample] if same else []
    return found


def leak(card: Card, dataset: Dataset, split: str, samples: Sequence[Sample], model: str) -> Notice | None:
    """Return a warning on the samples of a split that a model was trained on; None where there are none.

    Args:
        card: Of the model.
        dataset: The data set.
        split: Its split, for the message.
        samples: Those to be scored.
        model: What the message calls the model.
    """
    found = trained_on(card, dataset, samples)
    if not found:
        return None
    images = f"{len(found)} of {plural(len(samples), 'image')} of {split}"
    message = (
        f"{dataset.root}: {model} was trained on {images}, so scores on {split} are too good. Score other images, or use a"
        " model that has not seen these."
    )
    return Notice("trained-on", message, found[0].image.as_posix(), len(found))
