"""`fullconv models`."""

from __future__ import annotations

from typing import Annotated

import typer

from fullconv.cli.console import make_table, print_json, print_rich, stdout_to_stderr
from fullconv.cli.options import Json, parse_size
from fullconv.errors import RecipeError


def models(
    variant: Annotated[
        str | None, typer.Argument(metavar="[VARIANT]", help="Print the layers of this variant.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="With VARIANT: its backbone.  [default: resnet18]")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="With VARIANT: image size.")] = "224x224",
    json: Json = False,
) -> None:
    """List variants, backbones and recipes, or a variant's layers.

    With parameters, strides and receptive fields, and whether tiles give exactly the result of the whole image.
    """
    from fullconv.cli import model_table

    if variant is None:
        if backbone is not None:
            raise RecipeError(f"--backbone {backbone}: add a variant, as in: fullconv models fcn8s")
        table = model_table.table()
        if json:
            print_json(table)
            return
        for group, title in (("variants", "on resnet18 or their own backbone"), ("backbones", "of fcn8s")):
            columns = (group[:-1], ">parameters", ">stride", ">receptive field", "exact tiling", "")
            shown = make_table(*columns, title=f"{group}, {title}")
            for row in table[group]:
                shown.add_row(
                    row["name"], f"{row['parameters'] / 1e6:.1f} M", str(row["stride"]),
                    str(row["receptive_field"] or "unbounded"), "yes" if row["exact_tiling"] else "no", row["about"],
                )  # fmt: skip
            print_rich(shown)
        recipes = make_table("recipe", "variant", "", title="recipes, for train --recipe NAME")
        for row in table["recipes"]:
            recipes.add_row(row["name"], row["variant"], row["about"])
        print_rich(recipes)
        print_rich(table["note"])
        return
    with stdout_to_stderr():
        layers = model_table.layers(variant, backbone, parse_size(size))
    if json:
        print_json(layers)
        return
    shown = make_table("layer", "operation", "shape", ">stride", ">receptive field", ">offset")
    for row in layers["layers"]:
        shape = "x".join(map(str, row["shape"][1:]))
        field = "unbounded" if row["receptive_field"] is None else str(row["receptive_field"])
        shown.add_row(row["name"], row["operation"], shape, f"{row['stride']:g}", field, f"{row['offset']:g}")
    print_rich(layers["title"], shown)
