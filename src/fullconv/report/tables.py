"""Scores as tables: splits, classes with intervals, confusion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Labels
from fullconv.evaluation import Report
from fullconv.report.html import MISSING, data_uri, interval, percent, swatch, text, whole

MOST_CELLS = 32
"""Classes up to which the confusion matrix is a table with numbers; above, it is a picture."""


def split_table(reports: Mapping[str, Report]) -> str:
    """Return the paper's four scores by split."""
    rows = []
    for split, report in reports.items():
        spread = report.mean_iou_interval or (math.nan, math.nan)
        rows.append(
            f'<tr><th scope="row">{text(split)}</th><td>{whole(report.images)}</td>'
            f"<td><b>{percent(report.mean_iou)}</b></td><td>{interval(*spread)}</td>"
            f"<td>{percent(report.pixel_accuracy)}</td><td>{percent(report.mean_accuracy)}</td>"
            f"<td>{percent(report.freq_weighted_iou)}</td></tr>"
        )
    return (
        '<div class="wide"><table class="numbers"><thead><tr><th scope="col">split</th><th scope="col">pictures</th>'
        '<th scope="col">mean IU</th><th scope="col">95 % interval</th><th scope="col">pixel accuracy</th>'
        '<th scope="col">mean accuracy</th><th scope="col">f.w. IU</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def class_table(report: Report, labels: Labels) -> str:
    """Return a row a class: IU as a bar with its interval, and the numbers."""
    ends = report.class_intervals()
    pixels = max(report.pixels, 1)
    rows = []
    for row, (low, high), color in zip(report.classes, ends, labels.palette, strict=True):
        value = row["iou"]
        rows.append(
            f'<tr><th scope="row">{swatch(color)}{text(row["name"])}</th>'
            f'<td class="bar">{_bar(value, float(low), float(high))}</td><td><b>{percent(value)}</b></td>'
            f'<td class="soft">{interval(low, high)}</td><td>{percent(row["dice"])}</td>'
            f"<td>{percent(row['accuracy'])}</td><td>{_share(row['pixels'] / pixels)}</td></tr>"
        )
    return (
        '<div class="wide"><table class="numbers classes"><thead><tr><th scope="col">class</th>'
        '<th scope="col" class="bar"><span class="hidden">IU as a bar</span></th><th scope="col">IU</th>'
        '<th scope="col">95 % interval</th><th scope="col">Dice</th><th scope="col">accuracy</th>'
        f'<th scope="col">of pixels</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _bar(value: float | None, low: float, high: float) -> str:
    """Return a bar from 0 to a fraction, with a line over its interval."""
    if value is None:
        return ""
    whisker = ""
    if not math.isnan(low):
        whisker = f'<i class="whisker" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
    return f'<span class="track" aria-hidden="true"><i style="width:{100 * value:.1f}%"></i>{whisker}</span>'


def _share(value: float) -> str:
    return MISSING if value == 0 else "&lt;0.1" if value < 0.001 else percent(value)


def confusion_table(confusion: NDArray[np.int64], labels: Labels) -> str:
    """Return the confusion matrix, each row in percent of its true class; counts are in the tooltips."""
    sums = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(sums, 1)
    if len(labels.classes) > MOST_CELLS:
        return _confusion_picture(shares)
    head = "".join(
        f'<th scope="col"><span>{swatch(color)}{text(name)}</span></th>'
        for name, color in zip(labels.classes, labels.palette, strict=True)
    )
    rows = []
    for i, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True)):
        cells = "".join(_cell(labels.classes, shares, confusion, i, j) for j in range(len(labels.classes)))
        rows.append(f'<tr><th scope="row">{text(name)}{swatch(color)}</th>{cells}</tr>')
    return (
        '<div class="wide"><table class="confusion"><thead><tr><td class="corner">truth ↓ &nbsp; predicted →</td>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(names: Sequence[str], shares: NDArray[np.float64], counts: NDArray[np.int64], i: int, j: int) -> str:
    share = float(shares[i, j])
    words = f"{names[i]} predicted as {names[j]}: {whole(counts[i, j])} pixels, {percent(share)} % of {names[i]}"
    shown = f"{100 * share:.0f}" if share >= 0.005 else "·" if counts[i, j] else ""
    kind = ' class="strong"' if share > 0.5 else ""
    return f'<td{kind} style="--v:{share:.3f}" title="{text(words)}">{shown}</td>'


def _confusion_picture(shares: NDArray[np.float64]) -> str:
    scale = max(1, 720 // len(shares))
    # The square root keeps confusions of a few percent visible.
    grey = (255 - np.sqrt(shares) * 235).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    return (
        f'<img class="matrix" src="{data_uri(Image.fromarray(grey), "PNG")}" alt="Confusion matrix of {len(shares)}'
        ' classes: rows are the truth, columns the prediction, darker is more">'
    )


def confusions_list(confusion: NDArray[np.int64], labels: Labels, most: int = 8) -> str:
    """Return the largest confusions in words: which class was taken for which."""
    sums = confusion.sum(axis=1)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:most]
    rows = []
    for i, j in (divmod(int(place), len(sums)) for place in order):
        if wrong[i, j] == 0:
            break
        rows.append(
            f'<tr><th scope="row">{swatch(labels.palette[i])}{text(labels.classes[i])}</th>'
            f'<td class="name">{swatch(labels.palette[j])}{text(labels.classes[j])}</td>'
            f"<td>{percent(wrong[i, j] / sums[i])}</td><td>{percent(wrong[i, j] / max(1, wrong.sum()))}</td>"
            f'<td class="soft">{whole(wrong[i, j])}</td></tr>'
        )
    if not rows:
        return ""
    return (
        '<h3>The largest confusions</h3><div class="wide"><table class="numbers"><thead><tr><th scope="col">truth</th>'
        '<th scope="col" class="name">predicted</th><th scope="col">% of truth</th><th scope="col">% of all errors</th>'
        f'<th scope="col">pixels</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
