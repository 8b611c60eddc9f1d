"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
DataFormat = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="Layout of DATA, where several fit; else detected.")
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:i]", help="Where to compute.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|int8",
        help="auto: a lower one where it is faster and the card allows it.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine", metavar="auto|torch|openvino|onnxruntime", help="What computes; auto tries what is there, once."
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Threads for files, beside the network.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Pictures of one size that go through the network together.")
]
Tta = Annotated[
    str, typer.Option("--tta", metavar="flip,FACTOR...", help="Average mirror images and other sizes: flip,0.75,1.25")
]

Timing = Annotated[bool, typer.Option("--timing", help="Say at the end where the time went.")]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model.safetensors, a run folder, or an exported file.")
]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="Folder or .zip of pictures and masks.")]
