"""Commands that use a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from fullconv.cli.console import (
    Progress,
    TerminatedError,
    choose,
    complain,
    print_json,
    print_rich,
    results_only,
    say,
    stop_requests,
    tell_times,
)
from fullconv.cli.options import (
    BatchSize,
    DataArgument,
    DataFormat,
    Device,
    Engine,
    Json,
    ModelArgument,
    Precision,
    Timing,
    Tta,
    Workers,
)
from fullconv.cli.startup import lower_thread_priority, starting

if TYPE_CHECKING:
    from fullconv.card import Card
    from fullconv.evaluation import Report
    from fullconv.predict import PredictJob, RunSummary
    from fullconv.segmenter import Segmenter


def evaluate(
    model: ModelArgument,
    data: DataArgument,
    split: Annotated[str, typer.Option(metavar="val|test|train|all", help="Pictures to score.")] = "val",
    per_image: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write image,class,tp,fp,fn for each picture and class.")
    ] = None,
    json: Json = False,
    policy: Annotated[
        str,
        typer.Option(metavar="nan|present_only", help="Classes of the mean: all that occur, or those in the truth."),
    ] = "nan",
    head: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this head of a model that has several.")
    ] = None,
    format: DataFormat = None,  # noqa: A002
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    batch_size: BatchSize = 1,
    engine: Engine = "auto",
    tta: Tta = "",
    timing: Timing = False,
) -> None:
    """Score MODEL on the pictures of DATA.

    Every picture is scored at its own resolution, by the same call that predicts.
    """
    choose("--split", split, ("val", "test", "train", "all"))
    choose("--policy", policy, ("nan", "present_only"))
    with tell_times(timing), results_only(), Progress("pictures") as progress:
        with starting():
            from fullconv.data import open_dataset
            from fullconv.evaluation import evaluate_heads, save_per_image

            segmenter = _opened(model, device, precision, engine, tta)
            dataset = open_dataset(data, format=format)
        reports = evaluate_heads(
            segmenter, dataset, split, head=head, policy=cast(Literal["nan", "present_only"], policy), progress=progress,
            on_error="record", batch_size=batch_size, workers=workers or 1,
        )  # fmt: skip
    if per_image is not None:
        save_per_image(reports, per_image)
    _tell(reports, json, tta)
    raise typer.Exit(3 if any(report.failed for report in reports.values()) else 0)


def _opened(model: str, device: str, precision: str, engine: str, tta: str) -> Segmenter:
    """Load a model as the options say."""
    from fullconv.segmenter import load
    from fullconv.tta import parse_views

    parse_views(tta)
    return load(model, precision=precision, engine=engine, device=device).with_options(tta=tta)


def _tell(reports: dict[str, Report], json: bool, tta: str) -> None:
    """Print scores by head, and what there is to know about them."""
    from fullconv.tta import parse_views

    if tta:
        say(f"Test-time augmentation ({tta}): the mean probabilities of {len(parse_views(tta))} views are scored.")
    first = next(iter(reports.values()))
    for sentence in first.notes:
        say(sentence)
    for reason in {failure["reason"]: None for report in reports.values() for failure in report.failed}:
        complain(reason)
    if json:
        heads = {name: report.to_dict() for name, report in reports.items()}
        more = {**({"heads": heads} if len(heads) > 1 else {}), **({"tta": tta} if tta else {})}
        print_json({**first.to_dict(), **more})
        return
    for report in reports.values():
        _show(report)


def _show(report: Report) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def figure(value: float | None) -> str:
        return "-" if value is None or value != value else f"{value:.4f}"

    interval = report.mean_iou_interval
    spread = f"  (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    lines = [
        *([f"head {report.head}"] if report.head else []),
        f"{report.images} pictures of {report.split}, {report.pixels:,} valid pixels",
        f"mean IU            {figure(report.mean_iou)}{spread}",
        f"pixel accuracy     {figure(report.pixel_accuracy)}",
        f"mean accuracy      {figure(report.mean_accuracy)}",
        f"freq. weighted IU  {figure(report.freq_weighted_iou)}",
        f"computed by        {report.engine}, {report.precision}",
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    for name in ("IU", "Dice", "accuracy", "pixels"):
        table.add_column(name, justify="right")
    for row in report.classes:
        table.add_row(
            Text(row["name"]), figure(row["iou"]), figure(row["dice"]), figure(row["accuracy"]), f"{row['pixels']:,}"
        )
    print_rich("\n".join(lines), table)


def predict(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Folder of the results.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="Pictures, folders, or patterns such as 'a/**/*.jpg'."),
    ] = None,
    listed: Annotated[
        str | None, typer.Option("--list", metavar="FILE|-", help="Pictures from a file with a path a line, or stdin.")
    ] = None,
    format: Annotated[  # noqa: A002
        str,
        typer.Option(metavar="index|grey|color|original", help="What NAME.png holds; original: the data set's values."),
    ] = "index",
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write NAME.overlay.png, to look at.")] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Also write probabilities: NAME.npz, float16 (K, H, W); for rasters a GeoTIFF."
        ),
    ] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave pictures whose results exist.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with rasters where a stopped run ended; leave finished results.")
    ] = False,
    polygons: Annotated[
        Path | None, typer.Option(metavar="FILE.gpkg|geojson", help="Also write the patches of one raster as polygons.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="i/n", help="Only the i-th of n parts (from 1), the same on every machine.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this head of a model that has several.")
    ] = None,
    bands_from: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Pictures of the same names with further bands, such as depth."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a picture may take, for example 2GB.  [default: a quarter]")
    ] = None,
    tile: Annotated[
        str, typer.Option(metavar="auto|none|N", help="Side of a tile's core in pixels; the answer is the same.")
    ] = "auto",
    blend: Annotated[
        bool,
        typer.Option("--blend", help="Average overlapping tiles, where a layer sees the whole picture: not exact."),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="cvat|labelme|coco|labelstudio", help="Also write annotations for such a tool to correct."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="With --to: largest distance in pixels that an outline may be moved.  [default: 1]"),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    batch_size: BatchSize = 1,
    engine: Engine = "auto",
    tta: Tta = "",
    timing: Timing = False,
) -> None:
    """Write a label map for every picture.

    OUT gets NAME.png for each picture among INPUT, summary.csv (pixels and share of each class) and predictions.jsonl.
    A georeferenced TIFF of any size gets NAME.tif on its own grid.
    """
    with tell_times(timing), results_only(), Progress("pictures") as progress:
        with starting():
            from fullconv.predict import FORMATS, Format, PredictJob, parse_shard

            job = PredictJob(
                inputs or [], out, listed, cast(Format, choose("--format", format, FORMATS)), overlay, probabilities,
                skip_existing or resume, parse_shard(shard) if shard else None, head, parse_tile(tile), workers,
                batch_size, polygons, bands_from,
            )  # fmt: skip
            _check_annotations(to, tolerance, job)
            allowed = parse_bytes(memory) if memory else None
            segmenter = _opened(model, device, precision, engine, tta).with_options(memory=allowed, blend=blend)
            if blend:
                _tell_blending(segmenter)
        tally = _predict(segmenter, job, progress)
    if to is not None and tally.failed < tally.total:
        _annotate(to, job, segmenter.card, 1.0 if tolerance is None else tolerance)
    raise typer.Exit(0 if not tally.failed else 2 if tally.failed == tally.total else 3)


def _tell_blending(segmenter: Segmenter) -> None:
    """Say what --blend means for this network."""
    if segmenter.network.halo is not None:
        say("Tiles of this network are exact, so none are averaged: --blend changes nothing.")
    else:
        say("Where a picture is cut into tiles, they are averaged: the answer is not exactly the whole picture's.")


def _predict(segmenter: Segmenter, job: PredictJob, progress: Progress) -> RunSummary:
    """Predict all pictures, and say how many there were, also where it is stopped."""
    from fullconv.predict import RunSummary, predict_files

    tally = RunSummary()
    try:
        with stop_requests() as stop:
            predict_files(
                segmenter, job, lambda path, reason: complain(reason), progress, tally, stop, lower_thread_priority
            )
    except (KeyboardInterrupt, TerminatedError):
        say(f"{_told(tally)}. What is in {job.out} stays; go on by the same command with --skip-existing.")
        raise
    say(f"{_told(tally)}; results are in {job.out}.")
    return tally


def _check_annotations(tool: str | None, tolerance: float | None, job: PredictJob) -> None:
    """Refuse what cannot be written as annotations, before anything is computed."""
    from fullconv.errors import RecipeError

    if tool is None:
        if tolerance is not None:
            raise RecipeError(f"--tolerance {tolerance:g} does nothing without --to: name a tool, or leave it away.")
        return
    from fullconv.annotations import TOOLS
    from fullconv.rasters.reader import import_rasterio

    choose("--to", tool, tuple(TOOLS))
    import_rasterio()
    if job.format != "index":
        raise RecipeError(f"--to {tool} reads label maps of indices: leave --format {job.format} away.")


def _annotate(tool: str, job: PredictJob, card: Card, tolerance: float) -> None:
    """Write the finished label maps as annotations, of the first head where there are several."""
    from fullconv.annotations import write_annotations
    from fullconv.predict import written_labels

    labels = next(iter(written_labels(card, job.head).values()))
    mark = f".{job.shard[0]}-of-{job.shard[1]}" if job.shard else ""
    with results_only():
        written = write_annotations(tool, job.out, job.out / f"predictions{mark}.jsonl", labels, tolerance)
    say(
        f"{written}: annotations for {tool}, outlines within {tolerance:g} px; data.toml goes beside the corrected export."
    )


def _told(tally: RunSummary) -> str:
    words = [f"{tally.done} picture{'s' * (tally.done != 1)} predicted"]
    words += [f"{tally.skipped} skipped"] if tally.skipped else []
    words += [f"{tally.failed} failed"] if tally.failed else []
    return ", ".join(words)


def parse_tile(text: str) -> int | Literal["auto", "none"]:
    """Read "auto", "none" or a number of pixels.

    Raises:
        RecipeError: It is none of these.
    """
    from fullconv.errors import RecipeError

    if text == "auto" or text == "none":
        return text  # type: ignore[return-value]
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise RecipeError(f"--tile {text}: write auto, none, or the side of a tile's core in pixels, for example 512.")


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Read "2GB", "500MB", "1.5GiB" or a number of bytes.

    >>> parse_bytes("2GB"), parse_bytes("1.5 KiB")
    (2000000000, 1536)

    Raises:
        RecipeError: It is no such size.
    """
    import re

    from fullconv.errors import RecipeError

    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    size = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ") if found else 0
    if size < 1:
        raise RecipeError(f"{option} {text}: write a size such as 2GB or 500MB.")
    return int(size)
