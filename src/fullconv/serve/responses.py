"""A prediction as the bytes that a request asked for; runs in the copy of the model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Labels
from fullconv.labels import encode_label_map, format_color
from fullconv.prediction import Prediction, display, overlay
from fullconv.serve.errors import Refusal

MAX_PATCHES = 200_000
"""Polygons of one answer."""
MAX_RUNS = 4_000_000
"""Run lengths of one answer; only noise has more."""
JPEG_SIDE = 65_000


def encode(prediction: Prediction, order: dict[str, Any], facts: dict[str, Any]) -> bytes:
    """Return an answer's bytes; PNG and npz are those that `fullconv predict` writes.

    Args:
        prediction: Of one head.
        order: "answer" is a kind, "include" the parts of JSON.
        facts: What JSON tells beside the table.

    Raises:
        Refusal: A part cannot be made.
    """
    labels, label_map = prediction.labels, prediction.label_map
    if order["answer"] == "labels":
        return encode_label_map(label_map, labels.palette)
    if order["answer"] == "overlay":
        return _png(overlay(prediction.image, label_map, labels))
    if order["answer"] == "npz":
        buffer = io.BytesIO()
        assert prediction.probabilities is not None  # asked for when it was predicted
        np.savez_compressed(buffer, probabilities=prediction.probabilities.astype(np.float16))
        return buffer.getvalue()
    content = {**facts, **table(label_map, labels)}
    for part in order["include"]:
        content[part] = _PARTS[part](prediction)
    return json.dumps(content, ensure_ascii=False).encode()


def table(label_map: NDArray[np.uint8], labels: Labels) -> dict[str, Any]:
    """Return size, and pixels and share of each class."""
    height, width = label_map.shape
    counts = np.bincount(label_map.reshape(-1), minlength=len(labels.classes)).tolist()
    rows = zip(labels.classes, labels.palette, counts, strict=False)
    return {
        "size": {"width": width, "height": height},
        "classes": [
            {"index": i, "name": name, "color": format_color(color), "pixels": n, "share": n / (height * width)}
            for i, (name, color, n) in enumerate(rows)
        ],
    }


def run_lengths(label_map: NDArray[np.uint8], labels: Labels) -> list[dict[str, Any]]:
    """Return COCO's uncompressed run lengths of each class that occurs: down the columns, beginning with zeros.

    Raises:
        Refusal: There are too many.
    """
    flat = label_map.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    if len(starts) > MAX_RUNS:
        raise Refusal(
            413, "too-many-runs", f"there are more than {MAX_RUNS:,} runs. Ask for include=label_map instead."
        )
    stops, values = np.append(starts[1:], flat.size), flat[starts]
    found = []
    for index in np.unique(values).tolist():
        own = values == index
        edges = np.stack([starts[own], stops[own]], axis=1).reshape(-1)
        counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        counts = counts[:-1] if counts[-1] == 0 else counts
        name = labels.classes[index]
        found.append({"index": index, "name": name, "size": list(label_map.shape), "counts": counts})
    return found


def polygons(label_map: NDArray[np.uint8], labels: Labels) -> list[dict[str, Any]]:
    """Return each patch of a class (pixels that share edges) as rings along pixel edges: the outer one, then holes.

    Raises:
        Refusal: There are too many, or what traces them is not installed.
    """
    try:
        from rasterio.features import shapes
    except ImportError:
        raise Refusal(
            406, "no-polygons", 'polygons need rasterio, which is not installed where this service runs: pip install'
            ' "fullconv[geo]". Run lengths (include=rle) need nothing.',
        ) from None  # fmt: skip
    found = []
    for geometry, value in shapes(label_map, connectivity=4):
        index = int(value)
        rings = [[[int(x), int(y)] for x, y in ring] for ring in geometry["coordinates"]]
        found.append({"index": index, "name": labels.classes[index], "rings": rings})
        if len(found) > MAX_PATCHES:
            raise Refusal(
                413, "too-many-patches", f"there are more than {MAX_PATCHES:,} patches. Ask for include=rle instead."
            )
    return found


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _confidence(prediction: Prediction) -> str:
    """Whole percents as a grey PNG; the map was computed beside the labels."""
    percents = np.floor(prediction.confidence * 100).clip(0, 100).astype(np.uint8)
    return _base64(_png(Image.fromarray(percents)))


def _picture(prediction: Prediction) -> str:
    """The picture as a browser can show it: for formats that it cannot read."""
    shown = Image.fromarray(display(prediction.image))
    buffer = io.BytesIO()
    if max(shown.size) > JPEG_SIDE:
        return _base64(_png(shown))
    shown.save(buffer, format="JPEG", quality=90)
    return _base64(buffer.getvalue())


_PARTS: dict[str, Callable[[Prediction], Any]] = {
    "polygons": lambda found: polygons(found.label_map, found.labels),
    "rle": lambda found: run_lengths(found.label_map, found.labels),
    "label_map": lambda found: _base64(encode_label_map(found.label_map, found.labels.palette)),
    "confidence": _confidence,
    "picture": _picture,
}
