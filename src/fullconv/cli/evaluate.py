"""`fullconv evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from fullconv.cli.console import (
    Progress,
    make_table,
    print_counts,
    print_error,
    print_json,
    print_rich,
    status,
    stdout_to_stderr,
)
from fullconv.cli.console import timing as print_timing
from fullconv.cli.options import (
    SPLITS,
    BatchSize,
    DataArgument,
    DataFormat,
    Device,
    Engine,
    EvaluateSplit,
    Head,
    Json,
    ModelArgument,
    Precision,
    Scale,
    Timing,
    Tta,
    Workers,
    check_choice,
    describe_resizing,
)
from fullconv.cli.startup import starting
from fullconv.errors import plural

if TYPE_CHECKING:
    from fullconv.evaluation import Report


def evaluate(
    model: ModelArgument,
    data: DataArgument,
    split: EvaluateSplit = None,
    per_image: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write image,class,tp,fp,fn for each image and class.")
    ] = None,
    json: Json = False,
    policy: Annotated[
        str,
        typer.Option(
            metavar="nan|present_only", help="Classes in the mean: all that occur, or those in the ground truth."
        ),
    ] = "nan",
    head: Head = None,
    format: DataFormat = None,  # noqa: A002
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    batch_size: BatchSize = 1,
    engine: Engine = "auto",
    tta: Tta = "",
    scale: Scale = None,
    timing: Timing = False,
) -> None:
    """Score MODEL on the images of DATA.

    Images are scored at their own resolution, with the label maps that predict writes.
    """
    if split is not None:
        check_choice("--split", split, SPLITS)
    check_choice("--policy", policy, ("nan", "present_only"))
    with print_timing(timing), stdout_to_stderr(), Progress() as progress:
        with starting():
            from fullconv.data import open_dataset
            from fullconv.evaluation import evaluate_heads, save_per_image
            from fullconv.segmenter import load
            from fullconv.tta import parse_views

            views = parse_views(tta)
            loaded = load(model, precision=precision, engine=engine, device=device)
            segmenter = loaded.with_options(tta=tta, scale=scale)
            if text := describe_resizing(segmenter):
                status(text)
            dataset = open_dataset(data, format=format)
        reports = evaluate_heads(
            segmenter, dataset, split, head=head, policy=cast(Literal["nan", "present_only"], policy), progress=progress,
            on_error="record", batch_size=batch_size, workers=workers or 1,
        )  # fmt: skip
    if per_image is not None:
        save_per_image(reports, per_image)
    if tta:
        status(f"Test-time augmentation ({tta}): scores are of the mean probabilities of {plural(len(views), 'view')}.")
    first = next(iter(reports.values()))
    for sentence in first.notes:
        status(sentence)
    print_counts(first.notices)
    for warning in {report.below_baseline: None for report in reports.values()}:
        if warning is not None:
            status(warning)
    for reason in {failure["reason"]: None for report in reports.values() for failure in report.failed}:
        print_error(reason)
    if json:
        heads = {name: report.to_dict() for name, report in reports.items()}
        more = {**({"heads": heads} if len(heads) > 1 else {}), **({"tta": tta} if tta else {})}
        print_json({**first.to_dict(), **more})
    else:
        for report in reports.values():
            _print_report(report)
    raise typer.Exit(3 if any(report.failed for report in reports.values()) else 0)


def _print_report(report: Report) -> None:
    from rich.text import Text

    def figure(value: float | None) -> str:
        return "-" if value is None or value != value else f"{value:.4f}"

    table = make_table("class", ">IoU", ">Dice", ">accuracy", ">pixels")
    for row in report.classes:
        figures = [figure(row[key]) for key in ("iou", "dice", "accuracy")]
        table.add_row(Text(row["name"]), *figures, f"{row['pixels']:,}")
    print_rich("\n".join(report.summary()), table)
