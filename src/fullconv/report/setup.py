"""What a run was made of: data, model, machine, recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fullconv.card import Card, Labels
from fullconv.data import Dataset
from fullconv.report.html import percent, plain, swatch, text, whole


def summarize_data(dataset: Dataset) -> dict[str, Any]:
    """Return what the report shows of a data set: name, format, pictures by split, pixels and pictures by class.

    The classes are counted in the training split, or in the first one where there is none.
    """
    split = (
        "train" if dataset.splits.get("train") else next(name for name, members in dataset.splits.items() if members)
    )
    statistics = dataset.statistics(split)
    return {
        "name": dataset.root.name,
        "format": dataset.format,
        "size": _sizes(statistics.sizes),
        "channels": f"{statistics.channels}, {statistics.dtype}",
        "splits": {name: len(members) for name, members in dataset.splits.items()},
        "counted": split,
        "classes": [
            {"name": name, "pixels": int(pixels), "pictures": int(pictures)}
            for name, pixels, pictures in zip(dataset.classes, statistics.pixels, statistics.pictures, strict=True)
        ],
        "void": int(statistics.void),
    }


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Say how large pictures (H, W) are, width first."""
    low, high = min(sizes, key=math.prod), max(sizes, key=math.prod)
    words = f"{low[1]} × {low[0]}"
    return f"{words} px" if low == high else f"{words} to {high[1]} × {high[0]} px"


def data_section(data: Mapping[str, Any], labels: Labels) -> str:
    """Return the splits and, class by class, how much of the training data it covers."""
    if not data:
        return ""
    rows = {key: value for key, value in data.items() if key not in ("splits", "classes", "void", "counted")}
    rows |= {f"pictures in {name}": whole(number) for name, number in data.get("splits", {}).items()}
    left = _block("Data set", rows)
    return f'<div class="setup"><div>{left}</div><div>{_classes(data, labels)}</div></div>'


def _classes(data: Mapping[str, Any], labels: Labels) -> str:
    if not data.get("classes"):
        return ""
    void = int(data.get("void") or 0)
    everything = max(1, sum(row["pixels"] for row in data["classes"]) + void)
    palette = dict(zip(labels.classes, labels.palette, strict=True))
    body = [
        _class_row(swatch(palette.get(row["name"], (128, 128, 128))) + text(row["name"]), row, everything)
        for row in data["classes"]
    ]
    if void:
        body.append(_class_row('<i class="swatch void"></i>void', {"pixels": void}, everything))
    return (
        f"<h3>Classes in {text(data.get('counted', 'train'))}</h3>"
        '<div class="wide"><table class="numbers"><thead><tr><th scope="col">class</th>'
        '<th scope="col">% of pixels</th><th scope="col">pixels</th><th scope="col">in pictures</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _class_row(name: str, row: Mapping[str, int], everything: int) -> str:
    pictures = whole(row["pictures"]) if "pictures" in row else ""
    return (
        f'<tr><th scope="row">{name}</th><td>{percent(row["pixels"] / everything, 2)}</td>'
        f'<td class="soft">{whole(row["pixels"])}</td><td>{pictures}</td></tr>'
    )


def setup_section(card: Card, recipe: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Return the model, the machine and the recipe as tables."""
    model = {
        "network": card.variant,
        "backbone": card.backbone,
        "channels": card.in_channels,
        "stride": card.stride,
        "receptive field": f"{card.receptive_field} px" if card.receptive_field else "unbounded",
        "working scale": card.scale,
        "starting weights": card.weights_origin or "none",
        "their licence": card.weights_license,
        "weights_sha256": card.weights_sha256[:16] or None,
    }
    known = {key: value for key, value in model.items() if value is not None}
    left = _block("Model", known) + _block("Machine", machine)
    return f'<div class="setup"><div>{left}</div><div>{_block("Recipe", flat(recipe))}</div></div>'


def _block(title: str, rows: Mapping[str, Any]) -> str:
    return f"<h3>{title}</h3>{pairs(rows)}" if rows else ""


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted names; None is left out.

    >>> flat({"lr": 0.1, "head": {"fc": True, "x": None}})
    {'lr': 0.1, 'head.fc': True}
    """
    rows: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            rows.update(flat(value, f"{prefix}{key}."))
        elif value is not None:
            rows[f"{prefix}{key}"] = value
    return rows


def pairs(rows: Mapping[str, Any]) -> str:
    """Return names and values as a table."""
    cells = "".join(f'<tr><th scope="row">{text(k)}</th><td>{text(plain(v))}</td></tr>' for k, v in rows.items())
    return f'<table class="pairs"><tbody>{cells}</tbody></table>'
