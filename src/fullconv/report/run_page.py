"""The page: headline, curves, classes, confusion, pictures, data, set-up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullconv.card import Card, Labels
from fullconv.errors import InputError
from fullconv.evaluation import Report
from fullconv.profiling import duration
from fullconv.report.charts import TALL, Line, line_chart, series
from fullconv.report.gallery import gallery
from fullconv.report.html import STYLE, interval, percent, short, text, whole
from fullconv.report.panels import ReportPicture
from fullconv.report.setup import data_section, setup_section
from fullconv.report.tables import class_table, confusion_table, confusions_list, split_table
from fullconv.storage import write_text

# Whatever a class or a file is called, the page can load and run nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    path: str | Path,
    *,
    card: Card,
    history: Sequence[Mapping[str, Any]] = (),
    reports: Mapping[str, Report],
    heads: Mapping[str, Mapping[str, Report]] | None = None,
    pictures: Iterable[ReportPicture] = (),
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    machine: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of a run: one HTML file under 20 MB that loads nothing from anywhere.

    Args:
        path: The file; its final name only ever shows the whole.
        card: The model.
        history: The lines of `metrics.jsonl`: `epoch`, `train_loss`, `lr`, `seconds`, `val` (None or scores).
        reports: Scores by split. Those of "test" are the headline where there are any, else those of "val".
        heads: Scores by split and head, of a network that has several; all but the first have a section of their own.
        pictures: What `choose_pictures` chose, taken one at a time. The 12 of lowest score are shown as the worst,
            others as typical.
        recipe: The resolved settings; nested tables are flattened.
        data: See `summarize_data`; other keys are shown as they are.
        notes: Sentences for the reader.
        machine: Facts by name: processor, versions, time.

    Raises:
        InputError: There are no scores, or a picture does not fit its truth.
        OutputError: The file cannot be written.
    """
    if not reports:
        raise InputError("a report needs the scores of at least one split.")
    head = "test" if "test" in reports else "val" if "val" in reports else next(iter(reports))
    labels = card.labels()
    sections = {
        "Scores": _scores(reports, head) + _honesty(reports, head, history) + _notices(notes, reports),
        "Training": _curves(history),
        "Classes": class_table(reports[head], labels) + _caption(head),
        "Confusion": _confusion(reports[head], labels, head),
        "Heads": _heads((heads or {}).get(head, {}), card, head),
        "Pictures": gallery(pictures, labels),
        "Data": data_section(data or {}, labels),
        "Set-up": setup_section(card, recipe or {}, machine or {}),
    }
    title = card.variant + (f" on {card.backbone}" if card.backbone else "")
    footer = (
        f"Written by fullconv {text(card.fullconv)}. IU is intersection over union (IoU). All scores come"
        " from one confusion matrix over all pictures, each at its own size; void pixels do not count."
    )
    write_text(path, document(title, _subtitle(labels, history, data or {}), sections, footer))


def document(title: str, subtitle: str, sections: Mapping[str, str], footer: str, kind: str = "report") -> str:
    """Put the sections that have content (HTML by name) into a page that loads nothing; ``footer`` is HTML."""
    filled = {name: content for name, content in sections.items() if content}
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in filled)
    first = next(iter(filled))
    body = "".join(
        f'<section id="{name.lower()}"><h2{" class=hidden" if name == first else ""}>{name}</h2>{content}</section>'
        for name, content in filled.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(title)}: {kind}</title><style>{STYLE}</style></head><body>"
        f'<header class="top"><h1>{text(title)}</h1><p class="subtitle">{text(subtitle)}</p><nav>{links}</nav></header>'
        f"<main>{body}<footer>{footer}</footer></main></body></html>\n"
    )


def _subtitle(labels: Labels, history: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> str:
    parts = [f"{len(labels.classes)} classes"]
    if data.get("name"):
        parts.insert(0, str(data["name"]))
    if train := data.get("splits", {}).get("train"):
        parts.append(f"trained on {whole(train)} pictures")
    if history:
        seconds = sum(float(line.get("seconds") or 0) for line in history)
        epochs = f"{len(history)} epoch{'s' * (len(history) != 1)}"
        parts.append(epochs + (f" in {duration(seconds)}" if seconds else ""))
    return " · ".join(parts)


def _scores(reports: Mapping[str, Report], head: str) -> str:
    """Return the headline: mean IU with its interval on a scale, the paper's other scores, all splits."""
    report = reports[head]
    low, high = report.mean_iou_interval or (math.nan, math.nan)
    marks, words = "", "no interval from so few pictures"
    if not math.isnan(low):
        marks = f'<i style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'
        words = f"95 % interval {interval(low, high)}"
    if not math.isnan(report.mean_iou):
        marks += f'<b style="left:{100 * report.mean_iou:.2f}%"></b>'
    others = {
        "pixel accuracy": report.pixel_accuracy,
        "mean accuracy": report.mean_accuracy,
        "f.w. IU": report.freq_weighted_iou,
    }
    facts = "".join(
        f'<div class="fact"><div class="label">{name}</div>'
        f'<div class="value">{percent(score)}<small>%</small></div></div>'
        for name, score in others.items()
    )
    pictures = f"{whole(report.images)} picture{'s' * (report.images != 1)}"
    return (
        f'<div class="hero"><div class="main"><div class="label">mean IU on {text(head)}, {pictures}</div>'
        f'<div class="number">{percent(report.mean_iou)}<small>%</small></div>'
        f'<div class="scale" aria-hidden="true">{marks}</div>'
        f'<div class="ends"><span>0</span><span>{words}</span><span>100</span></div></div>'
        f'<div class="facts">{facts}</div></div>' + (split_table(reports) if len(reports) > 1 else "")
    )


def _honesty(reports: Mapping[str, Report], head: str, history: Sequence[Mapping[str, Any]]) -> str:
    """Say on which pictures the epoch was chosen, what the interval is, and what that means for the numbers."""
    said = []
    best = _best(history)
    if best is not None:
        said.append(f"The model is that of epoch {best[0]:g}, which was best on val.")
        if head == "test":
            said.append("The test pictures had no part in that choice: test is the score to quote, val is optimistic.")
        elif head == "val":
            said.append("The same pictures chose it, so these scores are a little optimistic: prove it on unseen ones.")
        seen = series(history, "val", "images")
        if seen and "val" in reports and seen[-1][1] < reports["val"].images:
            said.append(
                f"While it trained, {whole(seen[-1][1])} of {whole(reports['val'].images)} val pictures were scored."
            )
    elif history:
        said.append("No epoch was chosen by a score; the model is that of the last one.")
    if reports[head].mean_iou_interval is not None:
        said.append("The interval is what other pictures of the same kind would give (bootstrap over pictures).")
    if reports[head].policy == "present_only":
        said.append("Only classes in the truth count towards the mean.")
    return f'<p class="soft said">{" ".join(said)}</p>' if said else ""


def _notices(notes: Sequence[str], reports: Mapping[str, Report]) -> str:
    """Return what the reader must know: notes of the run and of the evaluation, pictures that failed."""
    items = [*notes, *(note for report in reports.values() for note in report.notes)]
    for split, report in reports.items():
        if report.failed:
            named = ", ".join(Path(row["input"]).name for row in report.failed[:5])
            more = f" and {len(report.failed) - 5} more" if len(report.failed) > 5 else ""
            items.append(f"Not scored, as they cannot be used: {len(report.failed)} of {split} ({named}{more}).")
    listed = "".join(f"<li>{text(item)}</li>" for item in items)
    return f'<ul class="notice" role="note">{listed}</ul>' if items else ""


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Return validation scores, training loss and learning rate over epochs."""
    charts = []
    best = _best(history)
    if best is not None:
        lines = [
            Line("mean IU", series(history, "val", "mean_iou"), "a"),
            Line("pixel accuracy", series(history, "val", "pixel_accuracy"), "b"),
        ]
        mark = f"best {percent(best[1])} at epoch {best[0]:g}"
        charts.append(line_chart("Validation, %", lines, lambda y: f"{100 * y:.3g}", height=TALL, floor=0, mark=mark))
    for title, key in (("Training loss", "train_loss"), ("Learning rate", "lr")):
        points = series(history, key)
        if points:
            lowest = min(y for _, y in points)
            charts.append(line_chart(title, [Line(title.lower(), points)], short, floor=min(0.0, lowest)))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _best(history: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return the epoch of the highest validation mean IU, the first of equals, and that score."""
    points = series(history, "val", "mean_iou")
    return max(points, key=lambda point: point[1]) if points else None


def _heads(reports: Mapping[str, Report], card: Card, split: str) -> str:
    """Return the scores of every head but the first, which has the page."""
    parts = []
    for name, report in list(reports.items())[1:]:
        low, high = report.mean_iou_interval or (math.nan, math.nan)
        spread = "" if math.isnan(low) else f", 95 % interval {interval(low, high)}"
        words = f"mean IU {percent(report.mean_iou)} %{spread}, pixel accuracy {percent(report.pixel_accuracy)} %"
        parts.append(f"<h3>{text(name)}</h3><p>{words}</p>{class_table(report, card.labels(name))}{_caption(split)}")
    return "".join(parts)


def _confusion(report: Report, labels: Labels, head: str) -> str:
    if not report.pixels:
        return ""
    table = confusion_table(report.confusion, labels)
    return table + _caption(head, "of each true class") + confusions_list(report.confusion, labels)


def _caption(split: str, of: str = "") -> str:
    return f'<p class="soft caption">In percent{f" {of}" if of else ""}, on {text(split)}.</p>'
