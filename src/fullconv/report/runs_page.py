"""A page that compares runs: scores, curves, settings that differ, classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fullconv._version import __version__
from fullconv.report.charts import LOW, TALL, Chart, Line, line_chart, series
from fullconv.report.html import MISSING, count, short, write_page
from fullconv.runs import Run, differing_settings

TONES = "abcdefgh"
"""Colours of lines; further runs are in the tables only."""


def write_runs_page(path: str | Path, runs: Sequence[Run], title: str, notes: Sequence[str] = ()) -> None:
    """Write the page: one HTML file that loads nothing."""
    trained = [run for run in runs if run.history]
    drawn = trained[: len(TONES)]
    notices = [*notes]
    if len({run.fingerprint for run in runs if run.fingerprint}) > 1:
        notices.append("These runs used different data: their scores are not comparable.")
    if len(drawn) < len(trained):
        notices.append(f"The curves show the first {len(TONES)} runs of the table.")
    finished = sum(run.status == "finished" for run in runs)
    scores = [{row["name"]: row.get("iou") for row in (run.final or {}).get("classes", [])} for run in runs]
    classes = {
        name: [row.get(name) for row in scores] for name in dict.fromkeys(name for row in scores for name in row)
    }
    write_page(
        path,
        "runs.html",
        page_type="runs",
        title=title,
        subtitle=[f"{count(len(runs), 'run')}, {finished} finished"],
        version=__version__,
        notices=notices,
        runs=[_row(run, TONES[drawn.index(run)] if run in drawn else None) for run in runs],
        charts=_charts(drawn),
        settings=differing_settings(runs) if len(runs) > 1 else {},
        classes=classes,
    )


def _row(run: Run, tone: str | None) -> dict[str, Any]:
    final = run.final or {}
    is_partial = run.status != "finished" and run.steps
    return {
        "name": run.name,
        "tone": tone,
        "network": f"{run.settings.get('variant', MISSING)} on {run.settings.get('backbone', MISSING)}",
        "status": f"{run.status}, {100 * run.step // run.steps} %" if is_partial else run.status,
        "epochs": run.epochs,
        "seconds": run.seconds,
        "mean_iou": run.mean_iou,
        "interval": final.get("mean_iou_interval"),
        "constant": (final.get("baseline") or {}).get("mean_iou"),
        "pixel_accuracy": final.get("pixel_accuracy"),
    }


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """Lay out validation score, training loss and learning rate of all runs over each other."""
    charts: list[Chart] = []
    for title, keys, show, height in (
        ("Validation, mIoU, %", ("val", "mean_iou"), lambda y: f"{100 * y:.3g}", TALL),
        ("Training loss", ("train_loss",), short, LOW),
        ("Learning rate", ("lr",), short, LOW),
    ):
        curves = [series(run.history, *keys) for run in runs]
        lines = [Line(run.name, points, tone) for run, points, tone in zip(runs, curves, TONES, strict=False) if points]
        if lines:
            floor = min(0.0, *(y for line in lines for _, y in line.points))
            charts.append(line_chart(title, lines, show, floor=floor, height=height, legend=not charts))
    return charts
