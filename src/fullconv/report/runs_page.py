"""One page that compares runs: scores, curves over each other, settings that differ, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from fullconv._version import __version__
from fullconv.profiling import duration
from fullconv.report.charts import LOW, TALL, Line, line_chart, series
from fullconv.report.html import MISSING, interval, percent, plain, short, text
from fullconv.report.run_page import document
from fullconv.runs import Run, differing_settings
from fullconv.storage import write_text

TONES = "abcdefgh"
"""Colours of lines; more runs than these are in the tables only."""


def write_overview(path: str | Path, runs: Sequence[Run], title: str, notes: Sequence[str] = ()) -> None:
    """Write the page: one HTML file that loads nothing from anywhere.

    Args:
        path: The file; its final name only ever shows the whole.
        runs: At least one, best first.
        title: Heading, for example the folder's name.
        notes: Sentences for the reader.

    Raises:
        OutputError: The file cannot be written.
    """
    drawn = [run for run in runs if run.history][: len(TONES)]
    several = len({run.fingerprint for run in runs if run.fingerprint}) > 1
    said = [*notes]
    if several:
        said.append("These runs had different data: their scores are not comparable.")
    if len(drawn) < len([run for run in runs if run.history]):
        said.append(f"The curves show the first {len(TONES)} runs of the table.")
    sections = {
        "Runs": _notices(said) + _runs_table(runs, drawn),
        "Curves": _curves(drawn),
        "Settings": _settings(runs),
        "Classes": _classes(runs),
    }
    finished = sum(run.status == "finished" for run in runs)
    subtitle = f"{len(runs)} run{'s' * (len(runs) != 1)}, {finished} finished"
    write_text(path, document(title, subtitle, sections, _footer(), kind="runs"))


def _footer() -> str:
    return (
        f"Written by fullconv {text(__version__)}. Scores are on val: of the finished model where there is one, else of the"
        " best validation so far. A difference within the intervals may be noise: fullconv compare RUN_A RUN_B DATA"
        " says more."
    )


def _notices(said: Sequence[str]) -> str:
    listed = "".join(f"<li>{text(sentence)}</li>" for sentence in said)
    return f'<ul class="notice" role="note">{listed}</ul>' if said else ""


def _runs_table(runs: Sequence[Run], drawn: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        tone = f' class="key tone-{TONES[drawn.index(run)]}"' if run in drawn else ""
        final = run.final or {}
        spread = final.get("mean_iou_interval") or (math.nan, math.nan)
        net = f"{run.settings.get('variant', MISSING)} on {run.settings.get('backbone', MISSING)}"
        done = (
            run.status
            if run.status == "finished" or not run.steps
            else f"{run.status}, {100 * run.step // run.steps} %"
        )
        rows.append(
            f'<tr><th scope="row"><span{tone}>{text(run.name)}</span></th><td class="name">{text(net)}</td>'
            f'<td class="name">{text(done)}</td><td>{run.epochs}</td><td>{duration(run.seconds)}</td>'
            f"<td><b>{percent(run.mean_iou)}</b></td><td class=soft>{interval(*spread)}</td>"
            f"<td>{percent(final.get('pixel_accuracy'))}</td></tr>"
        )
    return (
        '<div class="wide"><table class="numbers"><thead><tr><th scope="col">run</th><th scope="col" class="name">network'
        '</th><th scope="col" class="name">status</th><th scope="col">epochs</th><th scope="col">time</th>'
        '<th scope="col">mean IU</th><th scope="col">95 % interval</th><th scope="col">pixel accuracy</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curves(runs: Sequence[Run]) -> str:
    """Return validation score and training loss of all runs over each other."""
    charts: list[str] = []
    for title, keys, show, height in (
        ("Validation, mean IU, %", ("val", "mean_iou"), lambda y: f"{100 * y:.3g}", TALL),
        ("Training loss", ("train_loss",), short, LOW),
        ("Learning rate", ("lr",), short, LOW),
    ):
        lines = [
            Line(run.name, points, TONES[index])
            for index, run in enumerate(runs)
            if (points := series(run.history, *keys))
        ]
        if lines:
            floor = min(0.0, min(y for line in lines for _, y in line.points))
            charts.append(line_chart(title, lines, show, floor=floor, height=height, legend=not charts))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _settings(runs: Sequence[Run]) -> str:
    """Return a row a setting in which the runs differ."""
    if len(runs) < 2:
        return ""
    differing = differing_settings(runs)
    if not differing:
        return '<p class="soft">All settings are the same.</p>'
    rows = "".join(
        f'<tr><th scope="row">{text(key)}</th>'
        + "".join(f"<td>{text(plain(value))}</td>" for value in values)
        + "</tr>"
        for key, values in differing.items()
    )
    return (
        f'<div class="wide"><table class="numbers"><thead><tr><th scope="col">setting</th>{_heads(runs)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="soft caption">Settings that all runs share are left out.</p>'
    )


def _classes(runs: Sequence[Run]) -> str:
    """Return a row a class: each run's IU, the best one marked."""
    by_run = [{row["name"]: row.get("iou") for row in (run.final or {}).get("classes", [])} for run in runs]
    names = dict.fromkeys(name for scores in by_run for name in scores)
    if not names:
        return ""
    rows = []
    for name in names:
        values = [scores.get(name) for scores in by_run]
        best = max((value for value in values if value is not None), default=None)
        cells = "".join(
            f"<td>{f'<b>{percent(value)}</b>' if value is not None and value == best else percent(value)}</td>"
            for value in values
        )
        rows.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table class="numbers"><thead><tr><th scope="col">class</th>{_heads(runs)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="soft caption">IU in percent, on val; the highest of each class is bold.</p>'
    )


def _heads(runs: Sequence[Run]) -> str:
    return "".join(f'<th scope="col">{text(run.name)}</th>' for run in runs)
