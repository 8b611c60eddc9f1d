"""`fullconv info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.cli.console import make_table, print_json, print_rich
from fullconv.cli.options import Json, ModelArgument
from fullconv.errors import plural

if TYPE_CHECKING:
    from fullconv.card import Card


def info(model: ModelArgument, json: Json = False) -> None:
    """Print the card of MODEL.

    Its network, training and scores.
    """
    from fullconv.modelfile import read_card

    path, about = Path(model), None
    if path.suffix.lower() in (".onnx", ".xml", ".pt2"):
        from fullconv.engines import read_exported

        card, about = read_exported(path)
    elif ":" in model and not path.exists():
        from fullconv.hub import published_model

        card = published_model(model)[1]
    else:
        card = read_card(path / "model.safetensors" if path.is_dir() else path)
    if json:
        print_json({**card.model_dump(mode="json"), **({"export": about} if about else {})})
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, title=Text(model), title_justify="left")
    for key, value in _facts(card, about or {}):
        table.add_row(key, Text(value))
    print_rich(table)
    rows = (card.scores.get("val") or {}).get("classes") or []
    scores = {row["name"]: row["iou"] for row in rows}
    classes = make_table(">index", "class", "color", *([">val IoU"] if scores else []))
    for index, (name, color) in enumerate(zip(card.classes, card.palette, strict=True)):
        swatch = Text("  ", style=f"on rgb({color[0]},{color[1]},{color[2]})").append(
            f" {color[0]} {color[1]} {color[2]}", style="default on default"
        )
        iou = scores.get(name)
        classes.add_row(str(index), Text(name), swatch, *([f"{iou:.4f}" if iou is not None else "-"] if scores else []))
    print_rich(classes)


def _values(card: Card) -> str:
    """Return the values of images, in the unit of their files."""
    if card.image_range is None:
        return "values from 0 to 255, log depth in its own unit, minus the mean"
    low, high = card.image_range
    return f"values from {low:g} to {high:g}{' minus the mean' if card.image_range != card.range else ''}"


def _resizing(card: Card) -> str:
    if card.short_side is None:
        return f"at scale {card.scale:g}"
    return f"resized to a shorter side of {card.short_side} pixels, so a crop gets other labels than the whole"


def _facts(card: Card, about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts to know first, of an exported file also what it is and how it agrees."""
    facts = [
        ("network", f"{card.variant} on {card.backbone}" if card.backbone else card.variant),
        ("stride, receptive field", f"{card.stride or 'unknown'}, {card.receptive_field or 'unbounded'} pixels"),
        ("images", f"{plural(card.in_channels, 'channel')}, {_values(card)}, {_resizing(card)}"),
        ("weights from", f"{card.weights_origin} ({card.weights_license or 'license unknown'})"),
    ]
    if not card.weights_origin:
        facts[-1] = ("weights from", "scratch")
    if card.heads:
        facts.append(("heads", ", ".join(f"{name} ({len(labels.classes)})" for name, labels in card.heads.items())))
    for split in ("val", "test"):
        scores = card.scores.get(split)
        if scores and scores.get("mean_iou") is not None:
            interval = scores.get("mean_iou_interval")
            shown_interval = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
            constant = (scores.get("baseline") or {}).get("mean_iou")
            beside = "" if constant is None else f"; {constant:.4f} by the best constant prediction"
            facts.append((f"mIoU on {split}", f"{scores['mean_iou']:.4f}{shown_interval}{beside}"))
    splits = card.data.get("splits") or {}
    counts = [f"{len(splits[split])} {split}" for split in ("train", "val", "test") if splits.get(split)]
    if counts:
        facts.append(("data", f"{', '.join(counts)} images"))
    facts += [("written by", f"fullconv {card.fullconv}"), ("weights_sha256", card.weights_sha256)]
    parity = about.get("parity") or {}
    if parity:
        source = "synthetic" if parity["made"] else "validation"
        text = f"{100 * parity['labels']:.3f} % of the labels of {plural(parity['pictures'], source + ' image')}"
        difference = parity["mean_iou_difference"]
        text += f", mIoU {difference:+.5f}" if difference is not None else ""
        forced = "; forced: " + "; ".join(parity["reasons"]) if parity["reasons"] else ""
        facts += [("exported as", f"{about['format']}, {about['precision']}"), ("as in fp32", text + forced)]
    return facts
