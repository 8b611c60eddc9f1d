"""Commands about many runs, and about what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.console import Progress, choose, complain, print_json, print_rich, results_only, say
from fullconv.cli.options import Device, Engine, Json, ModelArgument, Precision

if TYPE_CHECKING:
    from rich.table import Table

    from fullconv.runs import Run

ORDERS = ("score", "time", "name")


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds runs, at any depth.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one page that compares them.")
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="score|time|name", help="Best, newest or first in the alphabet first.")
    ] = "score",
    json: Json = False,
) -> None:
    """List runs with their scores, and compare them on a page.

    A page holds the curves over each other, the settings that differ, and each class's IU.
    """
    choose("--sort", sort, ORDERS)
    from fullconv.runs import find_runs

    found, unread = find_runs(folder)
    found = _sorted(found, sort)
    for sentence in unread:
        complain(sentence)
    if html is not None:
        from fullconv.report import write_runs_page

        write_runs_page(html, found, folder.resolve().name, unread)
        say(f"{html}: {len(found)} run{'s side by side' * (len(found) != 1)}.")
    if json:
        print_json({"runs": [run.to_dict() for run in found], "unread": unread})
    elif found:
        print_rich(_table(found))
    if unread:
        raise typer.Exit(3 if found else 2)


def _sorted(found: list[Run], order: str) -> list[Run]:
    if order == "name":
        return found
    if order == "time":
        return sorted(found, key=lambda run: -run.modified)
    return sorted(found, key=lambda run: -1.0 if run.mean_iou is None else -1.0 - run.mean_iou)


def _table(found: list[Run]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("network")
    table.add_column("status")
    for name in ("epochs", "minutes", "mean IU", "95 % interval", "pixel acc."):
        table.add_column(name, justify="right")
    for run in found:
        final = run.final or {}
        spread = final.get("mean_iou_interval")
        done = (
            run.status if run.status == "finished" or not run.steps else f"{run.status} {100 * run.step // run.steps} %"
        )
        table.add_row(
            run.name, f"{run.settings.get('variant', '-')} {run.settings.get('backbone', '-')}", done, str(run.epochs),
            f"{run.seconds / 60:.1f}", _fraction(run.mean_iou), "-" if not spread else f"{spread[0]:.3f} to {spread[1]:.3f}",
            _fraction(final.get("pixel_accuracy")),
        )  # fmt: skip
    return table


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def rank(
    model: ModelArgument,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Unlabelled pictures: a folder or pattern.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.csv", help="Where the order goes.  [default: stdout]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many are chosen to be unlike each other too.")] = 100,
    labelled: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Data set that has labels already: what it shows is not new.")
    ] = None,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Order unlabelled pictures by what their labels would teach.

    First come pictures of which the model is unsure, and which are unlike those before them.
    """
    from fullconv.data import open_dataset
    from fullconv.errors import InputError
    from fullconv.predict import expand, why_empty
    from fullconv.ranking import rank, summarize_images, summarize_labeled, to_csv, to_dict
    from fullconv.segmenter import load
    from fullconv.storage import write_text

    failed: list[dict[str, str]] = []

    def note(path: str, reason: str) -> None:
        complain(reason)
        failed.append({"input": path, "reason": reason})

    paths = [path for path, _ in expand(folder, Path(".none"))]
    if not paths:
        raise InputError(why_empty(folder))
    with results_only(), Progress("pictures") as progress:
        segmenter = load(model, precision=precision, engine=engine, device=device)
        known = summarize_labeled(segmenter, open_dataset(labelled)) if labelled else []
        glances = summarize_images(segmenter, paths, note, progress)
    if not glances:
        raise typer.Exit(2)
    order = rank(glances, top, known)
    if out is not None:
        write_text(out, to_csv(order))
        say(f"{out}: {len(order)} pictures, the ones to label first on top.")
    if json:
        print_json({"order": to_dict(order), "failed": failed})
    elif out is None:
        print(to_csv(order), end="")
    raise typer.Exit(3 if failed else 0)
