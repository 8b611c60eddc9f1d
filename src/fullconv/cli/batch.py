"""The command for more pictures than one machine has."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from fullconv.cli.console import Progress, choose, complain, results_only, say
from fullconv.cli.options import Device, Engine, ModelArgument, Precision


def batch(
    model: ModelArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, list (.txt), Parquet file, or a URL of one (s3://...).")
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="Folder or URL of the results.")],
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster.  [default: this machine]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the manifest ends.")] = False,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Copies of the model.  [default: one a processor or GPU]")
    ] = None,
    format: Annotated[  # noqa: A002
        str, typer.Option(metavar="index|grey|color|original", help="What NAME.png holds.")
    ] = "index",
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Write label maps for millions of pictures, on Ray.

    OUT gets NAME.png for each picture, and manifest/*.parquet: input, output, status, reason, pixels by class, seconds.
    """
    from fullconv.predict import FORMATS, Format
    from fullconv.scale import BatchJob, BatchSummary, run_batch

    kind = cast(Format, choose("--format", format, FORMATS))
    job = BatchJob(model, source, out, ray, resume, actors, kind, device, precision, engine)
    summary = BatchSummary()
    try:
        with results_only(), Progress("pictures") as progress:
            run_batch(job, lambda path, reason: complain(reason), progress, summary, complain)
    except KeyboardInterrupt:
        say(f"{summary.done} pictures done. What is in {out} stays; go on by the same command with --resume.")
        raise
    earlier, failed = summary.before - summary.failed_before, summary.failed + summary.failed_before
    words = f"{summary.done} pictures predicted" + (f", {earlier} done before" if earlier else "")
    words += f", {summary.failed} failed" if summary.failed else ""
    words += f", {summary.failed_before} failed before and not tried again" if summary.failed_before else ""
    say(f"{words}; results are in {out}.")
    raise typer.Exit(0 if not failed else 3 if summary.done + earlier else 2)
