"""The data, model, machine and recipe of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fullconv.card import Card, Labels
from fullconv.data import Dataset
from fullconv.report.html import count
from fullconv.runs import flatten


def summarize_data(dataset: Dataset) -> dict[str, Any]:
    """Return what the report shows of a data set: name, format, images by split, pixels and images by class.

    The classes are counted in the training split, or in the first split with images where there is none.
    """
    split = (
        "train" if dataset.splits.get("train") else next(name for name, members in dataset.splits.items() if members)
    )
    statistics = dataset.statistics(split)
    smallest, largest = (f(statistics.sizes, key=math.prod) for f in (min, max))  # (H, W)
    size = f"{smallest[1]} × {smallest[0]}" + (f" to {largest[1]} × {largest[0]}" if largest != smallest else "")
    return {
        "name": dataset.root.name,
        "format": dataset.format,
        "size": f"{size} px",
        "channels": f"{statistics.channels}, {statistics.dtype}",
        "splits": {name: len(members) for name, members in dataset.splits.items()},
        "counted": split,
        "classes": [
            {"name": name, "pixels": int(pixels), "images": int(images)}
            for name, pixels, images in zip(dataset.classes, statistics.pixels, statistics.pictures, strict=True)
        ],
        "void": int(statistics.void),
    }


def data_tables(data: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    """Return a summary's facts by name, and the rows of its classes: name, colour, pixels, share, images."""
    facts = {key: value for key, value in data.items() if key not in ("splits", "classes", "void", "counted")}
    facts |= {f"images in {name}": count(number) for name, number in data.get("splits", {}).items()}
    palette = dict(zip(labels.classes, labels.palette, strict=True))
    rows = [{**row, "color": palette.get(row["name"], (128, 128, 128))} for row in data.get("classes", ())]
    if rows and data.get("void"):
        rows.append({"name": "void", "color": None, "pixels": data["void"], "images": None})
    total = max(1, sum(row["pixels"] for row in rows))
    rows = [{**row, "share": row["pixels"] / total} for row in rows]
    return {"facts": facts, "classes": rows, "counted": data.get("counted", "train")}


def setup_tables(card: Card, recipe: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the facts of the model, the machine and the recipe."""
    model = {
        "network": card.variant,
        "backbone": card.backbone,
        "channels": card.in_channels,
        "stride": card.stride,
        "receptive field": f"{card.receptive_field} px" if card.receptive_field else "unbounded",
        "working scale": card.scale,
        "pretrained weights": card.weights_origin or "none",
        "their licence": card.weights_license,
        "weights_sha256": card.weights_sha256[:16] or None,
    }
    known = {key: value for key, value in model.items() if value is not None}
    return {
        "Model": known,
        "Machine": machine,
        "Recipe": {key: value for key, value in flatten(recipe).items() if value is not None},
    }
