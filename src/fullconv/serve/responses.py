"""Encode a prediction as the response that a request asked for, in the worker process."""

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
from fullconv.labels import encode_label_map, encode_png, format_color
from fullconv.predict import encode_probabilities
from fullconv.prediction import Prediction, overlay, to_rgb8
from fullconv.serve.errors import ApiError

MAX_POLYGONS = 200_000
MAX_RUNS = 4_000_000
"""Run lengths of one response; only noise has more."""
MAX_JPEG_SIDE = 65_000


def encode_response(prediction: Prediction, params: dict[str, Any], fields: dict[str, Any]) -> bytes:
    """Return the bytes of a response; PNG and npz are those that `fullconv predict` writes, `fields` are further ones of JSON."""
    labels, label_map = prediction.labels, prediction.label_map
    if params["answer"] == "labels":
        return encode_label_map(label_map, labels.palette)
    if params["answer"] == "overlay":
        return encode_png(overlay(prediction.image, label_map, labels))
    if params["answer"] == "npz":
        assert prediction.probabilities is not None
        return encode_probabilities(prediction.probabilities)
    content = {**fields, **class_table(label_map, labels)}
    for part in params["include"]:
        content[part] = _PARTS[part](prediction)
    return json.dumps(content, ensure_ascii=False).encode()


def class_table(label_map: NDArray[np.uint8], labels: Labels) -> dict[str, Any]:
    """Return the size, and the pixels and share of each class."""
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
    """Return COCO's uncompressed run lengths of each class that occurs: column by column, beginning with zeros."""
    flat = label_map.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    if len(starts) > MAX_RUNS:
        raise ApiError(413, "too-many-runs", f"more than {MAX_RUNS:,} runs. Use include=label_map instead.")
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
    """Return each 4-connected region of a class as rings along pixel edges: the outer one, then holes."""
    try:
        from rasterio.features import shapes
    except ImportError:
        raise ApiError(
            406, "no-polygons", 'polygons need rasterio, which is not installed on the machine of this service: pip install'
            ' "fullconv[geo]". Run lengths (include=rle) work without it.',
        ) from None  # fmt: skip
    found = []
    for geometry, value in shapes(label_map, connectivity=4):
        index = int(value)
        rings = [[[int(x), int(y)] for x, y in ring] for ring in geometry["coordinates"]]
        found.append({"index": index, "name": labels.classes[index], "rings": rings})
        if len(found) > MAX_POLYGONS:
            raise ApiError(413, "too-many-patches", f"more than {MAX_POLYGONS:,} polygons. Use include=rle instead.")
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _confidence(prediction: Prediction) -> str:
    """Encode the confidence as a grey PNG of whole percents."""
    percents = np.floor(prediction.confidence * 100).clip(0, 100).astype(np.uint8)
    return _base64(encode_png(Image.fromarray(percents)))


def _browser_image(prediction: Prediction) -> str:
    """Encode the image for a browser that cannot read its format."""
    shown = Image.fromarray(to_rgb8(prediction.image))
    buffer = io.BytesIO()
    if max(shown.size) > MAX_JPEG_SIDE:
        return _base64(encode_png(shown))
    shown.save(buffer, format="JPEG", quality=90)
    return _base64(buffer.getvalue())


_PARTS: dict[str, Callable[[Prediction], Any]] = {
    "polygons": lambda found: polygons(found.label_map, found.labels),
    "rle": lambda found: run_lengths(found.label_map, found.labels),
    "label_map": lambda found: _base64(encode_label_map(found.label_map, found.labels.palette)),
    "confidence": _confidence,
    "picture": _browser_image,
}
