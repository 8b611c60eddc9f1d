"""`fullconv batch`."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from fullconv.cli.console import Progress, count_images, print_error, status, stdout_to_stderr
from fullconv.cli.options import Device, Engine, ModelArgument, Precision, check_choice
from fullconv.errors import plural


def batch(
    model: ModelArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, list (.txt), Parquet file, or a URL of one (s3://...).")
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="Folder or URL of the results.")],
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster.  [default: this machine]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume where the manifest ends.")] = False,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.  [default: one per processor or GPU]")
    ] = None,
    format: Annotated[  # noqa: A002
        str, typer.Option(metavar="index|grey|color|original", help="What NAME.png holds.")
    ] = "index",
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Write label maps for millions of images, on Ray.

    OUT gets NAME.png for each image, and manifest/*.parquet: input, output, status, reason, pixels by class, seconds.
    """
    from fullconv.predict import FORMATS, Format
    from fullconv.scale import BatchJob, BatchSummary, run_batch

    kind = cast(Format, check_choice("--format", format, FORMATS))
    job = BatchJob(model, source, out, ray, resume, actors, kind, device, precision, engine)
    summary = BatchSummary()
    try:
        with stdout_to_stderr(), Progress() as progress:
            run_batch(job, lambda path, reason: print_error(reason), progress, summary, print_error)
    except KeyboardInterrupt:
        status(
            f"{plural(summary.done, 'image')} done; the results in {out} are kept. Rerun the same command with --resume."
        )
        raise
    earlier, failed = summary.before - summary.failed_before, summary.failed + summary.failed_before
    others = {"done before": earlier, "failed": summary.failed, "failed before and not retried": summary.failed_before}
    status(f"{count_images(summary.done, others)}; results are in {out}.")
    raise typer.Exit(0 if not failed else 3 if summary.done + earlier else 2)
