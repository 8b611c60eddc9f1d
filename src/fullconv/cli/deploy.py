"""Commands that carry a model elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import choose, print_json, results_only, say
from fullconv.cli.options import Json, ModelArgument


def export(
    model: ModelArgument,
    format: Annotated[str, typer.Option("--format", metavar="onnx|openvino|pt2", help="What to write.")],  # noqa: A002
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The file, ending with .onnx, .xml or .pt2.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Pictures to prove it on, and to calibrate int8 with.  [default: made ones]"),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(metavar="fp32|fp16|bf16|int8", help="onnx: fp32, fp16, int8; openvino: all; pt2: fp32 and bf16."),
    ] = "fp32",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="The file returns probabilities, too: (N, K, H, W).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write it although its labels differ too far.")] = False,
    data_format: Annotated[
        str | None,
        typer.Option("--data-format", metavar="NAME", help="Layout of DATA, where several fit; else detected."),
    ] = None,
    json: Json = False,
) -> None:
    """Export MODEL to another runtime, with proof of agreement.

    Preprocessing is inside: pictures (N, H, W, 3) uint8 RGB of any size in, label maps (N, H, W) uint8 out. Its answers
    are compared with the model's in fp32; a file that differs is not written, and the layer is named.
    """
    choose("--format", format, ("onnx", "openvino", "pt2"))
    from fullconv.data import open_dataset
    from fullconv.exports import export_model
    from fullconv.segmenter import load

    with results_only():
        segmenter = load(model, device="cpu")
        dataset = None if data is None else open_dataset(data, format=data_format)
        done = export_model(
            segmenter, out, format, precision=precision, dataset=dataset, probabilities=probabilities, force=force
        )
    for reason in done.parity.reasons:
        say(f"forced: {reason}. {done.layer}")
    if json:
        print_json({"file": str(done.path), "format": format, **done.parity.to_dict()})
    else:
        print(f"{done.path}: {done.parity}")
