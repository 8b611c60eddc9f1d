"""`fullconv compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from fullconv.cli.console import Progress, print_json, stdout_to_stderr
from fullconv.cli.options import SPLITS, DataArgument, DataFormat, Device, Engine, Json, Precision, Split, check_choice


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run folder or model file.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another.")],
    data: DataArgument,
    split: Split = "val",
    json: Json = False,
    format: DataFormat = None,  # noqa: A002
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Test whether the difference of two models is significant.

    Scores both on the same images; the interval is a paired bootstrap over the images.
    """
    check_choice("--split", split, SPLITS)
    from fullconv.data import open_dataset
    from fullconv.evaluation import compare as compare_models
    from fullconv.segmenter import load

    with stdout_to_stderr(), Progress() as progress:
        a, b = (load(run, precision=precision, engine=engine, device=device) for run in (run_a, run_b))
        comparison = compare_models(a, b, open_dataset(data, format=format), split, progress)
    if json:
        print_json(comparison.to_dict())
    else:
        print(comparison)
