"""`fullconv runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import make_table, print_error, print_json, print_rich, status
from fullconv.cli.options import Json, check_choice
from fullconv.errors import plural


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds runs, at any depth.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one page that compares them.")
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="score|time|name", help="Best, newest or alphabetically first.")
    ] = "score",
    json: Json = False,
) -> None:
    """List runs with their scores, and compare them on a page.

    The page overlays their curves and lists the settings that differ and the IoU of each class.
    """
    check_choice("--sort", sort, ("score", "time", "name"))
    from fullconv.runs import find_runs

    found, unread = find_runs(folder)
    if sort == "time":
        found = sorted(found, key=lambda run: -run.modified)
    elif sort == "score":
        found = sorted(found, key=lambda run: -1.0 if run.mean_iou is None else -1.0 - run.mean_iou)
    for sentence in unread:
        print_error(sentence)
    if html is not None:
        from fullconv.report import write_runs_page

        write_runs_page(html, found, folder.resolve().name, unread)
        status(f"{html}: {plural(len(found), 'run')}{' side by side' * (len(found) != 1)}.")
    if json:
        print_json({"runs": [run.to_dict() for run in found], "unread": unread})
    elif found:

        def fraction(value: float | None) -> str:
            return "-" if value is None else f"{value:.3f}"

        columns = (
            "run",
            "network",
            "status",
            ">epochs",
            ">minutes",
            ">val mIoU",
            ">95 % interval",
            ">constant",
            ">pixel acc.",
        )
        table = make_table(*columns, line=False)
        for run in found:
            final = run.final or {}
            interval = final.get("mean_iou_interval")
            partial = "" if run.status == "finished" or not run.steps else f" {100 * run.step // run.steps} %"
            table.add_row(
                run.name, f"{run.settings.get('variant', '-')} {run.settings.get('backbone', '-')}", run.status + partial,
                str(run.epochs), f"{run.seconds / 60:.1f}", fraction(run.mean_iou),
                "-" if not interval else f"{interval[0]:.3f} to {interval[1]:.3f}",
                fraction((final.get("baseline") or {}).get("mean_iou")), fraction(final.get("pixel_accuracy")),
            )  # fmt: skip
        print_rich(table)
    if unread:
        raise typer.Exit(3 if found else 2)
