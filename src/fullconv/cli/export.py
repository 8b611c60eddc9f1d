"""`fullconv export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import print_json, status, stdout_to_stderr
from fullconv.cli.options import Json, ModelArgument, check_choice


def export(
    model: ModelArgument,
    format: Annotated[str, typer.Option("--format", metavar="onnx|openvino|pt2", help="What to write.")],  # noqa: A002
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The file, ending with .onnx, .xml or .pt2.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Images to compare on, and to calibrate int8.  [default: synthetic ones]"),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(metavar="fp32|fp16|bf16|int8", help="onnx: fp32, fp16, int8; openvino: all; pt2: fp32 and bf16."),
    ] = "fp32",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="The file also returns probabilities, (N, K, H, W).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write the file even if its labels differ too much.")] = False,
    data_format: Annotated[
        str | None, typer.Option("--data-format", metavar="NAME", help="Layout of DATA.  [default: detected]")
    ] = None,
    json: Json = False,
) -> None:
    """Export MODEL to another runtime, with proof of agreement.

    Preprocessing is included: images (N, H, W, 3) uint8 RGB of any size in, label maps (N, H, W) uint8 out. The labels are
    compared with those of the model in fp32; a file that differs is not written, and the layer is reported.
    """
    check_choice("--format", format, ("onnx", "openvino", "pt2"))
    from fullconv.data import open_dataset
    from fullconv.exports import export_model
    from fullconv.segmenter import load

    with stdout_to_stderr():
        segmenter = load(model, device="cpu")
        dataset = None if data is None else open_dataset(data, format=data_format)
        done = export_model(
            segmenter, out, format, precision=precision, dataset=dataset, probabilities=probabilities, force=force
        )
    for reason in done.parity.reasons:
        status(f"forced: {reason}. {done.layer}")
    if json:
        print_json({"file": str(done.path), "format": format, **asdict(done.parity)})
    else:
        print(f"{done.path}: {done.parity}")
