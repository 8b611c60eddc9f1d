"""`fullconv models`: networks with their parameters, stride, receptive field, and whether tiles are exact."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from fullconv.cli.console import make_table, print_json, print_rich, stdout_to_stderr
from fullconv.cli.options import Json, parse_size
from fullconv.errors import RecipeError


@dataclass(frozen=True)
class NetworkFacts:
    """Numbers of a network with 21 classes and three channels, or of a published one with its own."""

    parameters: int
    stride: int
    receptive_field: int | None
    """Of the coarsest scores, in pixels; None where a layer sees the whole image."""


MEASURED = {
    ("fcn32s", "resnet18"): NetworkFacts(11_187_285, 32, 435),
    ("fcn16s", "resnet18"): NetworkFacts(11_192_682, 32, 435),
    ("fcn8s", "resnet18"): NetworkFacts(11_195_391, 32, 435),
    ("fcn4s", "resnet18"): NetworkFacts(11_196_756, 32, 435),
    ("fcn-os16", "resnet18"): NetworkFacts(11_769_301, 16, 467),
    ("fcn-os8", "resnet18"): NetworkFacts(11_769_301, 8, 451),
    ("torchvision-fcn_resnet50", "resnet50"): NetworkFacts(32_957_013, 8, 443),
    ("torchvision-fcn_resnet101", "resnet101"): NetworkFacts(51_949_141, 8, 987),
    ("voc-fcn32s", "vgg"): NetworkFacts(134_346_581, 32, 404),
    ("siftflow-fcn32s", "vgg"): NetworkFacts(134_408_036, 32, 404),
    ("pascalcontext-fcn32s", "vgg"): NetworkFacts(134_506_364, 32, 404),
    ("voc-fcn16s", "vgg"): NetworkFacts(134_357_354, 32, 404),
    ("siftflow-fcn16s", "vgg"): NetworkFacts(134_426_504, 32, 404),
    ("pascalcontext-fcn16s", "vgg"): NetworkFacts(134_537_144, 32, 404),
    ("voc-fcn8s", "vgg"): NetworkFacts(134_362_751, 32, 404),
    ("siftflow-fcn8s", "vgg"): NetworkFacts(134_435_756, 32, 404),
    ("pascalcontext-fcn8s", "vgg"): NetworkFacts(134_552_564, 32, 404),
    ("voc-fcn8s-atonce", "vgg"): NetworkFacts(134_362_751, 32, 404),
    ("voc-fcn-alexnet", "caffenet"): NetworkFacts(56_954_261, 32, 355),
    ("voc-fcn-googlenet", "googlenet"): NetworkFacts(5_995_077, 32, 715),
    ("nyud-fcn32s-color", "vgg"): NetworkFacts(134_424_424, 32, 404),
    ("nyud-fcn32s-hha", "vgg"): NetworkFacts(134_424_424, 32, 404),
    ("nyud-fcn32s-color-d", "vgg"): NetworkFacts(134_425_000, 32, 404),
    ("nyud-fcn32s-color-hha", "vgg"): NetworkFacts(268_848_848, 32, 404),
    ("fcn8s", "tiny"): NetworkFacts(475_599, 32, 187),
    ("fcn8s", "mobilenetv3_large_100"): NetworkFacts(2_995_367, 32, None),
    ("fcn8s", "efficientnet_b0"): NetworkFacts(3_605_363, 32, None),
    ("fcn8s", "googlenet"): NetworkFacts(5_649_023, 32, 379),
    ("fcn8s", "resnet34"): NetworkFacts(21_303_551, 32, 899),
    ("fcn8s", "resnet50"): NetworkFacts(23_583_359, 32, 427),
    ("fcn8s", "convnext_tiny"): NetworkFacts(27_846_879, 32, 1688),
    ("fcn8s", "resnet101"): NetworkFacts(42_575_487, 32, 971),
    ("fcn8s", "alexnet"): NetworkFacts(57_095_295, 32, 355),
    ("fcn8s", "vgg16"): NetworkFacts(134_362_751, 32, 404),
    ("fcn8s", "vgg16_bn"): NetworkFacts(134_371_199, 32, 404),
}
"""Results of `measure`, stored because building all networks takes 15 seconds; a test compares."""

_ABOUT = {
    "tiny": "from scratch, for beginners, tests and the demo",
    "mobilenetv3_large_100": "squeeze-and-excite sees the whole image",
    "efficientnet_b0": "squeeze-and-excite sees the whole image",
    "vgg16": "of the paper",
}

NOTE = (
    "Parameters are of the whole network with 21 classes, or of a published network with its own. Any timm model"
    " with features at these strides can be a --backbone; these are tested."
)


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
    if variant is None:
        if backbone is not None:
            raise RecipeError(f"--backbone {backbone}: add a variant, as in: fullconv models fcn8s")
        found = table()
        if json:
            print_json(found)
            return
        for group, title in (("variants", "on resnet18 or their own backbone"), ("backbones", "of fcn8s")):
            columns = (group[:-1], ">parameters", ">stride", ">receptive field", "exact tiling", "")
            shown = make_table(*columns, title=f"{group}, {title}")
            for row in found[group]:
                shown.add_row(
                    row["name"], f"{row['parameters'] / 1e6:.1f} M", str(row["stride"]),
                    str(row["receptive_field"] or "unbounded"), "yes" if row["exact_tiling"] else "no", row["about"],
                )  # fmt: skip
            print_rich(shown)
        recipes = make_table("recipe", "variant", "", title="recipes, for train --recipe NAME")
        for row in found["recipes"]:
            recipes.add_row(row["name"], row["variant"], row["about"])
        print_rich(recipes)
        print_rich(found["note"])
        return
    with stdout_to_stderr():
        traced = layers(variant, backbone, parse_size(size))
    if json:
        print_json(traced)
        return
    shown = make_table("layer", "operation", "shape", ">stride", ">receptive field", ">offset")
    for row in traced["layers"]:
        shape = "x".join(map(str, row["shape"][1:]))
        field = "unbounded" if row["receptive_field"] is None else str(row["receptive_field"])
        shown.add_row(row["name"], row["operation"], shape, f"{row['stride']:g}", field, f"{row['offset']:g}")
    print_rich(traced["title"], shown)


def table() -> dict[str, Any]:
    """Return variants and tested backbones as `fullconv models --json` prints them."""
    from fullconv.nn import TESTED, VARIANTS
    from fullconv.training import describe_recipes

    own = {variant: backbone for variant, backbone in MEASURED if variant != "fcn8s"}
    variants = [
        _row(name, name, own.get(name, row.backbone or "resnet18"), row.description) for name, row in VARIANTS.items()
    ]
    backbones = [_row(name, "fcn8s", name, _ABOUT.get(name, "")) for name in TESTED]
    return {"variants": variants, "backbones": backbones, "recipes": describe_recipes(), "note": NOTE}


def _row(name: str, variant: str, backbone: str, about: str) -> dict[str, Any]:
    facts = MEASURED.get((variant, backbone)) or measure(variant, backbone)
    exact = facts.receptive_field is not None
    return {
        "name": name,
        "variant": variant,
        "backbone": backbone,
        **vars(facts),
        "exact_tiling": exact,
        "about": about,
    }


def measure(variant: str, backbone: str | None = None) -> NetworkFacts:
    """Build a network on the meta device and return its numbers."""
    network = _build(variant, backbone)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkFacts(parameters, network.stride, network.receptive_field if network.halo is not None else None)


def _build(variant: str, backbone: str | None) -> Any:
    import torch

    from fullconv.nn import VARIANTS, build

    row = VARIANTS.get(variant)
    with torch.device("meta"):
        return build(variant, backbone=backbone, num_classes=(row.num_classes if row else None) or 21)


def layers(variant: str, backbone: str | None, size: tuple[int, int]) -> dict[str, Any]:
    """Return the layers of a network for an image of a size (H, W), from the image to the scores."""
    import torch
    from torch import nn

    from fullconv.geometry import trace_network

    network = _build(variant, backbone)
    padded = network.padded_size(*size)
    half = nn.Sequential(OrderedDict(backbone=network.backbone, head=network.head))
    name = network.settings["backbone"]
    return {
        "title": f"{variant} on {name}, image {size[0]}x{size[1]}, computed on {padded[0]}x{padded[1]}",
        "variant": variant,
        "backbone": name,
        "size": list(size),
        "padded": list(padded),
        "layers": [
            {
                "name": node.path or node.name,
                "operation": node.op,
                "shape": list(node.shape),
                "stride": float(node.geometry.y.jump),
                "receptive_field": node.geometry.receptive_field,
                "offset": float(node.geometry.y.offset),
            }
            for node in trace_network(half, torch.zeros(1, network.in_channels, *padded, device="meta")).layers
        ],
    }
