"""Commands about models of others, and about two models at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import Progress, choose, print_json, results_only, say
from fullconv.cli.options import DataArgument, DataFormat, Device, Engine, Json, Precision

IMPORTABLE = (
    "fcn_resnet50 fcn_resnet101 torchvision-fcn_resnet50 torchvision-fcn_resnet101 fcn-os8 voc-fcn32s voc-fcn16s voc-fcn8s"
    " voc-fcn8s-atonce voc-fcn-alexnet voc-fcn-googlenet siftflow-fcn32s siftflow-fcn16s siftflow-fcn8s nyud-fcn32s-color"
    " nyud-fcn32s-hha nyud-fcn32s-color-d nyud-fcn32s-color-hha pascalcontext-fcn32s pascalcontext-fcn16s"
    " pascalcontext-fcn8s"
)
"""Names of `--as`; a test compares them with the table of variants, which takes torch to read."""


def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .caffemodel, .pth or .safetensors of others.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help=f"What it is: {IMPORTABLE.replace(' ', ', ')}.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL", help="The model file to write.")],
) -> None:
    """Turn a foreign checkpoint into a model file.

    The card gets the classes, and the preprocessing that belongs to the weights. Nothing in FILE is executed.
    """
    from fullconv.errors import OutputError
    from fullconv.hub import import_file
    from fullconv.segmenter import Segmenter

    if out.exists() and file.exists() and out.samefile(file):
        raise OutputError(f"{out}: is the file to be imported. Give another -o.")
    with results_only():
        network, card = import_file(file, name)
        Segmenter(network, card, device="cpu").save(out)
    say(
        f"{out}: {card.variant}, {len(card.classes)} classes, weights from {card.weights_origin} ({card.weights_license})."
    )


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run folder or model file.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another.")],
    data: DataArgument,
    split: Annotated[str, typer.Option(metavar="val|test|train|all", help="Pictures to score.")] = "val",
    json: Json = False,
    format: DataFormat = None,  # noqa: A002
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Say whether the difference of two models is noise.

    Both are scored on the same pictures; the interval is by paired bootstrap over them.
    """
    choose("--split", split, ("val", "test", "train", "all"))
    from fullconv.data import open_dataset
    from fullconv.evaluation import compare as compare_models
    from fullconv.segmenter import load

    with results_only(), Progress("pictures") as progress:
        a, b = (load(run, precision=precision, engine=engine, device=device) for run in (run_a, run_b))
        found = compare_models(a, b, open_dataset(data, format=format), split, progress)
    if json:
        print_json(found.to_dict())
    else:
        print(found)
