"""`fullconv rank`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import Progress, print_error, print_json, status, stdout_to_stderr
from fullconv.cli.options import Device, Engine, Json, ModelArgument, Precision
from fullconv.errors import plural


def rank(
    model: ModelArgument,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Unlabeled images: a folder or pattern.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.csv", help="File for the ranking.  [default: stdout]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of images that are also chosen to be diverse.")] = 100,
    labelled: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Labeled data set; images like its own rank lower.")
    ] = None,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Rank unlabeled images by the value of their labels.

    First come images of which the model is unsure and which differ from those before them.
    """
    from fullconv.data import open_dataset
    from fullconv.errors import InputError
    from fullconv.predict import expand, why_empty
    from fullconv.ranking import rank, summarize_images, summarize_labeled, to_csv
    from fullconv.segmenter import load
    from fullconv.storage import write_text

    failed: list[dict[str, str]] = []

    def on_failure(path: str, reason: str) -> None:
        print_error(reason)
        failed.append({"input": path, "reason": reason})

    paths = [path for path, _ in expand(folder, Path(".none"))]
    if not paths:
        raise InputError(why_empty(folder))
    with stdout_to_stderr(), Progress() as progress:
        segmenter = load(model, precision=precision, engine=engine, device=device)
        known = summarize_labeled(segmenter, open_dataset(labelled)) if labelled else []
        summaries = summarize_images(segmenter, paths, on_failure, progress)
    if not summaries:
        raise typer.Exit(2)
    order = rank(summaries, top, known)
    if out is not None:
        write_text(out, to_csv(order))
        status(f"{out}: {plural(len(order), 'image')}, the ones to label first on top.")
    if json:
        print_json({"order": [asdict(row) for row in order], "failed": failed})
    elif out is None:
        print(to_csv(order), end="")
    raise typer.Exit(3 if failed else 0)
