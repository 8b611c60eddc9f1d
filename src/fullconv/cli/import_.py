"""`fullconv import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import status, stdout_to_stderr
from fullconv.errors import plural

IMPORTABLE = (
    "fcn_resnet50 fcn_resnet101 torchvision-fcn_resnet50 torchvision-fcn_resnet101 fcn-os8 voc-fcn32s voc-fcn16s voc-fcn8s"
    " voc-fcn8s-atonce voc-fcn-alexnet voc-fcn-googlenet siftflow-fcn32s siftflow-fcn16s siftflow-fcn8s nyud-fcn32s-color"
    " nyud-fcn32s-hha nyud-fcn32s-color-d nyud-fcn32s-color-hha pascalcontext-fcn32s pascalcontext-fcn16s"
    " pascalcontext-fcn8s"
)
"""Names of `--as`; a test compares them with the table of variants, which needs torch."""


def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .caffemodel, .pth or .safetensors file.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help=f"Its network: {IMPORTABLE.replace(' ', ', ')}.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL", help="The model file to write.")],
) -> None:
    """Convert a checkpoint of another project to a model file.

    The card gets the classes, and the preprocessing that belongs to the weights. Nothing in FILE is executed.
    """
    from fullconv.errors import OutputError
    from fullconv.hub import import_file
    from fullconv.segmenter import Segmenter

    if out.exists() and file.exists() and out.samefile(file):
        raise OutputError(f"{out}: is the file to import. Choose another -o.")
    with stdout_to_stderr():
        network, card = import_file(file, name)
        Segmenter(network, card, device="cpu").save(out)
    count = plural(len(card.classes), "class", "classes")
    status(f"{out}: {card.variant}, {count}, weights from {card.weights_origin} ({card.weights_license}).")
