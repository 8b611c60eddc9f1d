"""Commands about models and networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fullconv.cli.console import print_json, print_rich, results_only
from fullconv.cli.options import Json, ModelArgument

if TYPE_CHECKING:
    from fullconv.card import Card


def info(model: ModelArgument, json: Json = False) -> None:
    """Print the card of MODEL.

    What it is, how it was trained, and how good it is.
    """
    from fullconv.modelfile import read_card

    path, about = Path(model), None
    if path.suffix.lower() in (".onnx", ".xml", ".pt2"):
        from fullconv.engines.exported import read_exported

        card, about = read_exported(path)
    elif ":" in model and not path.exists():
        from fullconv.hub import published_model

        card = published_model(model)[1]
    else:
        card = read_card(path / "model.safetensors" if path.is_dir() else path)
    if json:
        print_json({**card.model_dump(mode="json"), **({"export": about} if about else {})})
    else:
        _show_card(model, card, about)


def _show_card(model: str, card: Card, about: dict[str, Any] | None = None) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, title=Text(model), title_justify="left")
    for key, value in [*_facts(card), *_export_facts(about or {})]:
        table.add_row(key, Text(value))
    print_rich(table)
    rows = (card.scores.get("val") or {}).get("classes") or []
    scores = {row["name"]: row["iou"] for row in rows}
    classes = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("index", "class", "colour", *(["val IU"] if scores else [])):
        classes.add_column(name, justify="right" if name in ("index", "val IU") else "left")
    for index, (name, color) in enumerate(zip(card.classes, card.palette, strict=True)):
        swatch = Text("  ", style=f"on rgb({color[0]},{color[1]},{color[2]})").append(
            f" {color[0]} {color[1]} {color[2]}", style="default on default"
        )
        iou = scores.get(name)
        classes.add_row(str(index), Text(name), swatch, *([f"{iou:.4f}" if iou is not None else "-"] if scores else []))
    print_rich(classes)


def _facts(card: Card) -> list[tuple[str, str]]:
    """Return what a person wants to know first, in words."""
    low, high = card.range
    facts = [
        ("network", f"{card.variant} on {card.backbone}" if card.backbone else card.variant),
        ("stride, receptive field", f"{card.stride or 'unknown'}, {card.receptive_field or 'unbounded'} pixels"),
        ("pictures", f"{card.in_channels} channels, values from {low:g} to {high:g}, at scale {card.scale:g}"),
        ("weights from", f"{card.weights_origin or 'scratch'} ({card.weights_license or 'no licence stated'})"),
    ]
    if not card.weights_origin:
        facts[-1] = ("weights from", "scratch")
    if card.heads:
        facts.append(("heads", ", ".join(f"{name} ({len(labels.classes)})" for name, labels in card.heads.items())))
    for split in ("val", "test"):
        scores = card.scores.get(split)
        if scores and scores.get("mean_iou") is not None:
            interval = scores.get("mean_iou_interval")
            spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
            facts.append((f"mean IU on {split}", f"{scores['mean_iou']:.4f}{spread}"))
    splits = card.data.get("splits") or {}
    counts = [f"{len(splits[split])} {split}" for split in ("train", "val", "test") if splits.get(split)]
    if counts:
        facts.append(("data", f"{', '.join(counts)} pictures"))
    facts += [("written by", f"fullconv {card.fullconv}"), ("weights_sha256", card.weights_sha256)]
    return facts


def _export_facts(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what an exported file says about itself."""
    parity = about.get("parity") or {}
    if not parity:
        return []
    kind = "made" if parity["made"] else "validation"
    words = f"{100 * parity['labels']:.3f} % of the labels of {parity['pictures']} {kind} pictures"
    difference = parity["mean_iou_difference"]
    words += f", mean IU {difference:+.5f}" if difference is not None else ""
    refused = "; forced: " + "; ".join(parity["reasons"]) if parity["reasons"] else ""
    return [("exported as", f"{about['format']}, {about['precision']}"), ("as in fp32", words + refused)]


def models(
    variant: Annotated[str | None, typer.Argument(metavar="[VARIANT]", help="Print the layers of this one.")] = None,
    backbone: Annotated[str | None, typer.Option(help="With VARIANT: its features.  [default: resnet18]")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="With VARIANT: size of the picture.")] = "224x224",
    json: Json = False,
) -> None:
    """List variants, backbones and recipes, or a variant's layers.

    With their parameters, strides and receptive fields, and whether tiles give exactly the whole picture's answer.
    """
    from fullconv.cli import model_table

    if variant is None:
        if backbone is not None:
            from fullconv.errors import RecipeError

            raise RecipeError(f"--backbone {backbone}: name a variant with it, as in: fullconv models fcn8s")
        table = model_table.table()
        print_json(table) if json else _show_catalogue(table)
        return
    with results_only():
        layers = model_table.layers(variant, backbone, model_table.parse_size(size))
    print_json(layers) if json else _show_layers(layers)


def _show_catalogue(table: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    for kind, words in (("variants", "on resnet18, or on their own"), ("backbones", "under fcn8s")):
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{kind}, {words}", title_justify="left")
        for name in (kind[:-1], "parameters", "stride", "receptive field", "exact tiling", ""):
            shown.add_column(name, justify="right" if name in ("parameters", "stride", "receptive field") else "left")
        for row in table[kind]:
            shown.add_row(
                row["name"], f"{row['parameters'] / 1e6:.1f} M", str(row["stride"]),
                str(row["receptive_field"] or "unbounded"), "yes" if row["exact_tiling"] else "no", row["about"],
            )  # fmt: skip
        print_rich(shown)
    recipes = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="recipes, for train --recipe NAME", title_justify="left")
    for name in ("recipe", "variant", ""):
        recipes.add_column(name)
    for row in table["recipes"]:
        recipes.add_row(row["name"], row["variant"], row["about"])
    print_rich(recipes)
    print_rich(table["note"])


def _show_layers(found: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layer", "operation", "shape", "stride", "receptive field", "offset"):
        shown.add_column(name, justify="left" if name in ("layer", "operation", "shape") else "right")
    for row in found["layers"]:
        shape = "x".join(map(str, row["shape"][1:]))
        field = "unbounded" if row["receptive_field"] is None else str(row["receptive_field"])
        shown.add_row(row["name"], row["operation"], shape, f"{row['stride']:g}", field, f"{row['offset']:g}")
    print_rich(found["title"], shown)
