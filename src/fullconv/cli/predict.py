"""`fullconv predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from fullconv.cli.console import (
    Progress,
    TerminatedError,
    count_images,
    print_counts,
    print_error,
    status,
    stdout_to_stderr,
    stop_requests,
)
from fullconv.cli.console import timing as print_timing
from fullconv.cli.options import (
    BatchSize,
    Device,
    Engine,
    Head,
    ModelArgument,
    Precision,
    Scale,
    Timing,
    Tta,
    Workers,
    check_choice,
    describe_resizing,
    parse_bytes,
)
from fullconv.cli.startup import starting
from fullconv.errors import RecipeError
from fullconv.system import lower_thread_priority

if TYPE_CHECKING:
    from fullconv.predict import RunSummary


def predict(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Folder of the results.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="Images, folders, or patterns such as 'a/**/*.jpg'."),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE|-", help="Images from a file with one path per line, or from stdin."),
    ] = None,
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            metavar="index|grey|color|original", help="What NAME.png holds; original: the mask values of the data set."
        ),
    ] = "index",
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write NAME.overlay.png.")] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Also write probabilities: NAME.npz, float16 (K, H, W); for rasters a GeoTIFF."
        ),
    ] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Skip images whose results exist.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume rasters of a stopped run; skip images whose results exist.")
    ] = False,
    polygons: Annotated[
        Path | None, typer.Option(metavar="FILE.gpkg|geojson", help="Also write the polygons of one raster.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="i/n", help="Only the i-th of n shards (from 1), the same on every machine.")
    ] = None,
    head: Head = None,
    bands_from: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Images of the same names with extra bands, such as depth.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory budget of an image, for example 2GB.  [default: a quarter of the available memory]",
        ),
    ] = None,
    tile: Annotated[
        str, typer.Option(metavar="auto|none|N", help="Tile size in pixels; the result is the same.")
    ] = "auto",
    blend: Annotated[
        bool, typer.Option("--blend", help="Blend overlapping tiles of a network that has no exact tiles.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(metavar="cvat|labelme|coco|labelstudio", help="Also write annotations, to correct in this tool."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="With --to: tolerance of simplified outlines in pixels.  [default: 1]")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    batch_size: BatchSize = 1,
    engine: Engine = "auto",
    tta: Tta = "",
    scale: Scale = None,
    timing: Timing = False,
) -> None:
    """Write a label map for every image.

    OUT gets NAME.png for each image of INPUT, summary.csv (pixels and share of each class) and predictions.jsonl.
    A georeferenced TIFF of any size gets NAME.tif on its own grid.
    """
    with print_timing(timing), stdout_to_stderr(), Progress() as progress:
        with starting():
            from fullconv.predict import (
                FORMATS,
                Format,
                PredictJob,
                RunSummary,
                parse_shard,
                predict_files,
                written_labels,
            )
            from fullconv.segmenter import load
            from fullconv.tta import parse_views

            job = PredictJob(
                inputs=inputs or [],
                out=out,
                listed=listed,
                format=cast(Format, check_choice("--format", format, FORMATS)),
                overlay=overlay,
                probabilities=probabilities,
                skip_existing=skip_existing or resume,
                shard=parse_shard(shard) if shard else None,
                head=head,
                tile=parse_tile(tile),
                workers=workers,
                batch_size=batch_size,
                polygons=polygons,
                bands_from=bands_from,
            )
            if to is not None:  # refused before anything is computed
                from fullconv.annotations import TOOLS, write_annotations
                from fullconv.rasters import import_rasterio

                check_choice("--to", to, tuple(TOOLS))
                import_rasterio(f"--to {to}, which draws the outlines of label maps,")
                if format != "index":
                    raise RecipeError(f"--to {to} needs label maps of indices: omit --format {format}.")
            elif tolerance is not None:
                raise RecipeError(
                    f"--tolerance {tolerance:g} has no effect without --to. Add --to, or omit --tolerance."
                )
            budget = parse_bytes(memory) if memory else None
            parse_views(tta)
            loaded = load(model, precision=precision, engine=engine, device=device)
            segmenter = loaded.with_options(tta=tta, memory=budget, blend=blend, scale=scale)
            if text := describe_resizing(segmenter):
                status(text)
            if blend and segmenter.network.halo is not None:
                status("Tiles of this network are exact: --blend has no effect.")
            elif blend:
                status(
                    "Where an image is cut into tiles, they are blended: the result is not exactly that of the whole image."
                )
        summary = RunSummary()
        try:
            with stop_requests() as stop:
                predict_files(
                    segmenter,
                    job,
                    lambda _, reason: print_error(reason),
                    progress,
                    summary,
                    stop,
                    lower_thread_priority,
                )
        except (KeyboardInterrupt, TerminatedError):
            status(f"{_counts(summary)}; the results in {out} are kept. Rerun the same command with --skip-existing.")
            raise
        print_counts(summary.notices)
        status(f"{_counts(summary)}; results are in {out}.")
    if to is not None and summary.failed < summary.total:
        labels = next(iter(written_labels(segmenter.card, head).values()))  # of the first head where there are several
        log = out / (f"predictions.{job.shard[0]}-of-{job.shard[1]}.jsonl" if job.shard else "predictions.jsonl")
        tolerance = 1.0 if tolerance is None else tolerance
        with stdout_to_stderr():
            written = write_annotations(to, out, log, labels, tolerance)
        status(
            f"{written}: annotations for {to}, outlines within {tolerance:g} px. Put data.toml beside the corrected export."
        )
    raise typer.Exit(0 if not summary.failed else 2 if summary.failed == summary.total else 3)


def _counts(summary: RunSummary) -> str:
    return count_images(summary.done, {"skipped": summary.skipped, "failed": summary.failed})


def parse_tile(text: str) -> int | Literal["auto", "none"]:
    """Read "auto", "none" or a number of pixels."""
    if text == "auto" or text == "none":
        return text  # type: ignore[return-value]
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise RecipeError(f"--tile {text}: write auto, none, or a tile size in pixels, for example 512.")
