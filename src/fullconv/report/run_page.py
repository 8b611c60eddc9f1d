"""The report of a run: scores, curves, classes, confusion, images, data, setup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Card, Labels
from fullconv.data import Dataset
from fullconv.errors import InputError
from fullconv.profiling import duration
from fullconv.report.charts import TALL, Chart, Line, line_chart, series
from fullconv.report.html import MAX_IMAGE_BYTES, count, data_uri, percent, short, write_page
from fullconv.report.thumbnails import MAX_LEGEND_CLASSES, ErrorPanels, ReportImage, error_panels, legend_entries
from fullconv.runs import flatten

if TYPE_CHECKING:
    from fullconv.evaluation import Report

WORST = 12
"""Images of lowest score that the page shows."""
MAX_CELLS = 32
"""Classes up to which the confusion matrix is a table of numbers; with more, it is an image."""


def write_report(
    path: str | Path,
    *,
    card: Card,
    history: Sequence[Mapping[str, Any]] = (),
    reports: Mapping[str, Report],
    heads: Mapping[str, Mapping[str, Report]] | None = None,
    images: Iterable[ReportImage] = (),
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    machine: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of a run: one HTML file under 20 MB that loads nothing.

    Args:
        path: The file, written atomically.
        card: The model.
        history: The lines of `metrics.jsonl`: `epoch`, `train_loss`, `lr`, `seconds`, `val` (None or scores).
        reports: Scores by split. The headline is "test" where present, else "val".
        heads: Scores by split and head of a network with several heads; all but the first have a section of their own.
        images: Those that `choose_images` chose, consumed one at a time. The 12 of lowest score are shown as the worst,
            the others as typical.
        recipe: The resolved settings; nested tables are flattened.
        data: See `summarize_data`; other keys are shown as they are.
        notes: Sentences for the reader.
        machine: Facts by name: processor, versions, time.
    """
    if not reports:
        raise InputError("a report needs the scores of at least one split.")
    split = "test" if "test" in reports else "val" if "val" in reports else next(iter(reports))
    report, labels, data = reports[split], card.labels(), data or {}
    others = list((heads or {}).get(split, {}).items())[1:]
    best = max(series(history, "val", "mean_iou"), key=lambda point: point[1], default=None)  # the first of equals
    articles, omitted = _encode_images(images, labels)
    write_page(
        path,
        "run.html",
        page_type="report",
        title=card.variant + (f" on {card.backbone}" if card.backbone else ""),
        subtitle=_subtitle(labels, history, data),
        version=card.fullconv,
        split=split,
        report=report,
        reports=reports,
        selection=_describe_selection(reports, split, history, best),
        notices=_notices(notes, reports),
        charts=_charts(history, best),
        classes=_class_rows(report, labels),
        confusion=_confusion(report.confusion, labels) if report.pixels else None,
        heads=[
            {"name": name, "report": found, "classes": _class_rows(found, card.labels(name))} for name, found in others
        ],
        worst=articles[:WORST],
        typical=articles[WORST:],
        omitted=omitted,
        legend=legend_entries(labels, range(len(labels.classes))) if len(labels.classes) <= MAX_LEGEND_CLASSES else [],
        data=_data_tables(data, labels),
        setup=_setup_tables(card, recipe or {}, machine or {}),
    )


def choose_images(report: Report, worst: int = WORST, typical: int = 4) -> list[str]:
    """Return the stems of the images to show: those of the lowest mIoU, the worst first, then typical ones.

    The typical ones are spread evenly over the others; fewer of the lowest are chosen where so many would not be left.
    Images that are all void have no score and are omitted.
    """
    scores = {stem: score for stem, score in report.scores_by_image().items() if not math.isnan(score)}
    order = sorted(scores, key=lambda stem: (scores[stem], stem))
    low = order[: min(worst, max(1, len(order) - typical))]
    others = order[len(low) :]
    number = min(typical, len(others))
    return low + [others[(2 * index + 1) * len(others) // (2 * number)] for index in range(number)]


def _subtitle(labels: Labels, history: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> list[str]:
    parts = [str(data["name"])] if data.get("name") else []
    parts.append(f"{len(labels.classes)} classes")
    if train := data.get("splits", {}).get("train"):
        parts.append(f"trained on {count(train, 'image')}")
    if history:
        seconds = float(history[-1].get("seconds") or 0)  # since the start
        parts.append(count(len(history), "epoch") + (f" in {duration(seconds)}" if seconds else ""))
    return parts


def _describe_selection(
    reports: Mapping[str, Report], split: str, history: Sequence[Mapping[str, Any]], best: tuple[float, float] | None
) -> list[str]:
    """Return on which images the epoch was chosen, what the interval is, and what that means for the scores."""
    sentences = []
    if best is not None:
        sentences.append(f"The model is that of epoch {best[0]:g}, the best on val.")
        if split == "test":
            sentences.append("No test image had a part in that choice: quote the score on test; val is optimistic.")
        elif split == "val":
            sentences.append(
                "The same images chose it, so these scores are a little optimistic: evaluate on held-out images."
            )
        scored = series(history, "val", "images")
        if scored and "val" in reports and scored[-1][1] < reports["val"].images:
            sentences.append(
                f"During training, {count(scored[-1][1])} of {count(reports['val'].images, 'val image')} were scored."
            )
    elif history:
        sentences.append("No epoch was chosen by a score; the model is that of the last one.")
    if reports[split].mean_iou_interval is not None:
        sentences.append("The interval estimates how scores vary with the choice of images (bootstrap over images).")
    if reports[split].policy == "present_only":
        sentences.append("Only classes in the ground truth count towards the mean.")
    return sentences


def _notices(notes: Sequence[str], reports: Mapping[str, Report]) -> list[str]:
    """Return notes of the run and of the evaluation, and the images that failed."""
    items = [*notes, *(note for report in reports.values() for note in report.notes)]
    items += [f"Warning: {notice.message}" for report in reports.values() for notice in report.warnings]
    for split, report in reports.items():
        if report.failed:
            named = ", ".join(Path(row["input"]).name for row in report.failed[:5])
            more = f" and {len(report.failed) - 5} more" if len(report.failed) > 5 else ""
            items.append(
                f"Not scored, because unreadable: {count(len(report.failed), 'image')} of {split} ({named}{more})."
            )
    return items


def _charts(history: Sequence[Mapping[str, Any]], best: tuple[float, float] | None) -> list[Chart]:
    """Lay out validation scores, training loss and learning rate over epochs."""
    charts = []
    if best is not None:
        lines = [
            Line("mIoU", series(history, "val", "mean_iou"), "a"),
            Line("pixel accuracy", series(history, "val", "pixel_accuracy"), "b"),
        ]
        lines = [line for line in lines if line.points]
        mark = f"best {percent(best[1])} at epoch {best[0]:g}"
        charts.append(line_chart("Validation, %", lines, lambda y: f"{100 * y:.3g}", height=TALL, floor=0, mark=mark))
    for title, key in (("Training loss", "train_loss"), ("Learning rate", "lr")):
        if points := series(history, key):
            floor = min(0.0, *(y for _, y in points))
            charts.append(line_chart(title, [Line(title.lower(), points)], short, floor=floor))
    return charts


def _class_rows(report: Report, labels: Labels) -> list[dict[str, Any]]:
    """Return a class's scores, colour, interval (None where there is none) and share of the pixels."""
    return [
        {
            **row,
            "color": color,
            "interval": None if math.isnan(low) else (low, high),
            "share": row["pixels"] / max(report.pixels, 1),
        }
        for row, (low, high), color in zip(report.classes, report.class_intervals(), labels.palette, strict=True)
    ]


def _confusion(confusion: NDArray[np.int64], labels: Labels) -> dict[str, Any]:
    """Return the confusion matrix as counts and shares of each row (or as an image), and its largest entries."""
    sums = confusion.sum(axis=1)
    shares = confusion / np.maximum(sums, 1)[:, None]
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    largest = [
        divmod(int(place), len(sums))
        for place in np.argsort(errors, axis=None, kind="stable")[::-1][:8]
        if errors.flat[place]
    ]
    image = None
    if len(sums) > MAX_CELLS:
        scale = max(1, 720 // len(sums))
        # The square root keeps confusions of a few percent visible.
        grey = (255 - np.sqrt(shares) * 235).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
        image = data_uri(Image.fromarray(grey), "PNG")
    return {
        "labels": list(zip(labels.classes, labels.palette, strict=True)),
        "counts": confusion.tolist(),
        "shares": shares.tolist(),
        "image": image,
        "largest": largest,
        "errors": int(errors.sum()),
    }


def _encode_images(images: Iterable[ReportImage], labels: Labels) -> tuple[list[ErrorPanels], int]:
    """Encode images, each before the next is taken; returns them, the worst first, and how many were omitted."""
    encoded: list[ErrorPanels] = []
    length = omitted = 0
    for image in images:
        panels = error_panels(image, labels)
        if length + panels.nbytes > MAX_IMAGE_BYTES:
            omitted += 1
            continue
        length += panels.nbytes
        encoded.append(panels)
    encoded.sort(key=lambda panels: math.inf if math.isnan(panels.score) else panels.score)
    return encoded, omitted


def summarize_data(dataset: Dataset) -> dict[str, Any]:
    """Return what the report shows of a data set: name, format, images by split, pixels and images by class.

    The classes are counted in the training split, or in the first split with images where there is none.
    """
    split = (
        "train" if dataset.splits.get("train") else next(name for name, members in dataset.splits.items() if members)
    )
    statistics = dataset.statistics(split)
    smallest, largest = (f(statistics.sizes, key=math.prod) for f in (min, max))  # (H, W)
    size = f"{smallest[1]} × {smallest[0]}" + (f" to {largest[1]} × {largest[0]}" if largest != smallest else "")
    return {
        "name": dataset.root.name,
        "format": dataset.format,
        "size": f"{size} px",
        "channels": f"{statistics.channels}, {statistics.dtype}",
        "splits": {name: len(members) for name, members in dataset.splits.items()},
        "counted": split,
        "classes": [
            {"name": name, "pixels": int(pixels), "images": int(images)}
            for name, pixels, images in zip(dataset.classes, statistics.pixels, statistics.pictures, strict=True)
        ],
        "void": int(statistics.void),
    }


def _data_tables(data: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    """Return a summary's facts by name, and the rows of its classes: name, colour, pixels, share, images."""
    facts = {key: value for key, value in data.items() if key not in ("splits", "classes", "void", "counted")}
    facts |= {f"images in {name}": count(number) for name, number in data.get("splits", {}).items()}
    palette = dict(zip(labels.classes, labels.palette, strict=True))
    rows = [{**row, "color": palette.get(row["name"], (128, 128, 128))} for row in data.get("classes", ())]
    if rows and data.get("void"):
        rows.append({"name": "void", "color": None, "pixels": data["void"], "images": None})
    total = max(1, sum(row["pixels"] for row in rows))
    rows = [{**row, "share": row["pixels"] / total} for row in rows]
    return {"facts": facts, "classes": rows, "counted": data.get("counted", "train")}


def _setup_tables(card: Card, recipe: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the facts of the model, the machine and the recipe."""
    model = {
        "network": card.variant,
        "backbone": card.backbone,
        "channels": card.in_channels,
        "stride": card.stride,
        "receptive field": f"{card.receptive_field} px" if card.receptive_field else "unbounded",
        "working scale": card.scale,
        "pretrained weights": card.weights_origin or "none",
        "their licence": card.weights_license,
        "weights_sha256": card.weights_sha256[:16] or None,
    }
    known = {key: value for key, value in model.items() if value is not None}
    return {
        "Model": known,
        "Machine": machine,
        "Recipe": {key: value for key, value in flatten(recipe).items() if value is not None},
    }
