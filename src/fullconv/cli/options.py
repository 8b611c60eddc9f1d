"""Options that several commands share, and the values of options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.errors import RecipeError, nearest

if TYPE_CHECKING:
    from fullconv.segmenter import Segmenter

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
DataFormat = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="Layout of DATA.  [default: detected]")
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
        "--engine",
        metavar="auto|torch|openvino|onnxruntime",
        help="Inference engine; auto compares those installed, once.",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Threads that read and write files.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images of one size that go through the network together.")
]
Head = Annotated[str | None, typer.Option("--head", metavar="NAME", help="Only this head of a model with several.")]
Tta = Annotated[
    str,
    typer.Option("--tta", metavar="flip,FACTOR...", help="Test-time augmentation by flips and scales: flip,0.75,1.25"),
]
Scale = Annotated[
    float | None,
    typer.Option(
        "--scale",
        min=0.01,
        max=10,
        metavar="S",
        help="Working resolution instead of the model's own; 1 is as stored. Results keep the image's size.",
    ),
]
Timing = Annotated[bool, typer.Option("--timing", help="Print where the time went at the end.")]
Split = Annotated[str, typer.Option("--split", metavar="val|test|train|all", help="Images to score.")]

EvaluateSplit = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="val|test|train|all", help="Images to score; test where the data have it, else val."
    ),
]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model.safetensors, a run folder, or an exported file.")
]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="Folder or .zip of images and masks.")]

SPLITS = ("val", "test", "train", "all")


def check_choice(option: str, value: str, choices: Sequence[str]) -> str:
    """Return the value of an option."""
    if value not in choices:
        raise RecipeError(
            f"{option} {value}: choose {', '.join(choices[:-1])} or {choices[-1]}.{nearest(value, choices)}"
        )
    return value


def describe_resizing(segmenter: Segmenter) -> str:
    """Return a sentence where each image is resized by its own factor; else an empty string."""
    if segmenter.short_side is None:
        return ""
    return (
        f"Images are resized to a shorter side of {segmenter.short_side} pixels, as the model's authors do, so a crop gets"
        " other labels than the whole; --scale 1 takes images as they are."
    )


def parse_size(text: str) -> tuple[int, int]:
    """Read "360x480" as (360, 480): height and width."""
    found = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text.strip())
    if found is None:
        raise RecipeError(f"--size {text}: write HEIGHTxWIDTH, for example 360x480.")
    return int(found[1]), int(found[2])


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Read "2GB", "500MB", "1.5GiB" or a number of bytes.

    >>> parse_bytes("2GB"), parse_bytes("1.5 KiB")
    (2000000000, 1536)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    size = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ") if found else 0
    if size < 1:
        raise RecipeError(f"{option} {text}: write a size such as 2GB or 500MB.")
    return int(size)
