"""Line charts as inline SVG; colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fullconv.report.html import text

WIDTH = 520
LOW, TALL = 250, 556
"""Heights; a tall chart stands beside two low ones."""
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 16, 34
MAX_POINTS = 300
"""More are thinned out: a screen has not many more columns."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Points
    """(x, y), finite, x rising."""
    tone: str = "a"
    """Class of its colour: "a" to "h"."""


def series(history: Sequence[Mapping[str, Any]], *keys: str) -> Points:
    """Return (epoch, value) of a key of each line of a log, where it is there and finite."""
    points = []
    for line in history:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)) and math.isfinite(value):
            points.append((float(line["epoch"]), float(value)))
    return points


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers that span a range, about as many as asked for.

    >>> nice_ticks(0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / about))
    step *= next((m for m in (1, 2, 5) if span / (m * step) <= about + 1), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 3 - math.floor(math.log10(step))  # behind the step's own: a learning rate may be 1e-14
    return [round(index * step, digits) for index in range(first, last + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    show: Callable[[float], str],
    *,
    height: int = LOW,
    floor: float | None = None,
    mark: str = "",
    legend: bool = True,
) -> str:
    """Draw lines over epochs.

    Args:
        title: What is drawn, for the caption and for screen readers.
        lines: At least one, each with at least one point.
        show: How to write a y value.
        height: `LOW` or `TALL`, in units of a `WIDTH` of 520.
        floor: Lowest y, where the data should not choose it.
        mark: Words for the highest point of the first line; empty for no mark.
        legend: Whether several lines are named above the chart.

    Returns:
        A `<figure>`.
    """
    lines = [Line(line.name, _thinned(line.points), line.tone) for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low, high = (min(ys) if floor is None else floor), max(ys)
    if not high > low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    ticks = nice_ticks(low, high)
    first, last = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)

    def across(x: float) -> float:
        return LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (ticks[-1] - y) / (ticks[-1] - ticks[0]) * (height - TOP - BOTTOM)

    epochs = [t for t in nice_ticks(first, last, 6) if first <= t <= last and t == int(t)]
    parts = _y_axis(ticks, down, show) + _x_axis(epochs, across, height - BOTTOM)
    parts += [_path(line, across, down) for line in lines]
    if mark:
        parts.append(_mark(lines, mark, across, down))
    parts.append(_hits(lines, across, show, height))
    keys = "".join(f'<span class="key tone-{line.tone}">{text(line.name)}</span>' for line in lines)
    named = f'<span class="keys">{keys}</span>' if len(lines) > 1 and legend else ""
    kind = "chart tall" if height == TALL else "chart"
    said = text(f"{title}, from {show(lines[0].points[0][1])} to {show(lines[0].points[-1][1])}")
    return (
        f'<figure class="{kind}"><figcaption><b>{text(title)}</b>{named}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}">{"".join(parts)}</svg></figure>'
    )


def _thinned(points: Points) -> Points:
    if len(points) <= MAX_POINTS:
        return points
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * step)] for index in range(MAX_POINTS)]


def _y_axis(ticks: Sequence[float], down: Callable[[float], float], show: Callable[[float], str]) -> list[str]:
    parts = []
    for index, y in enumerate(ticks):
        kind = "grid" if index else "axis"
        parts.append(f'<path class="{kind}" d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{text(show(y))}</text>')
    return parts


def _x_axis(ticks: Sequence[float], across: Callable[[float], float], bottom: float) -> list[str]:
    parts = [f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">{x:.0f}</text>' for x in ticks]
    return [*parts, f'<text x="{WIDTH - RIGHT}" y="{bottom + 33}" text-anchor="end">epoch</text>']


def _path(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    places = [f"{across(x):.1f} {down(y):.1f}" for x, y in line.points]
    if len(places) == 1:
        x, y = places[0].split()
        return f'<circle class="dot tone-{line.tone}" cx="{x}" cy="{y}" r="4"/>'
    return f'<path class="line tone-{line.tone}" d="M{"L".join(places)}"/>'


def _mark(lines: Sequence[Line], words: str, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    """Point at the highest point of the first line, with words where no line runs through them."""
    x, y = max(lines[0].points, key=lambda point: point[1])
    left, top = across(x), down(y)
    turned = left > WIDTH / 2
    length = 6.9 * len(words)
    start = left - length if turned else left
    places = [(across(px), down(py)) for line in lines for px, py in _filled(line.points)]
    near = [py for px, py in places if start - 8 <= px <= start + length + 8]
    # Baselines above and below; the letters reach from 11 above to 3 below one.
    tries = [top + shift for shift in (-12, 26, 40, 56, 74, 96)]
    baseline = next((t for t in tries if t > TOP and all(not t - 17 < py < t + 9 for py in near)), top - 12)
    return (
        f'<circle class="dot tone-{lines[0].tone}" cx="{left:.1f}" cy="{top:.1f}" r="4.5"/>'
        f'<text class="mark" x="{left:.1f}" y="{baseline:.1f}" text-anchor="{"end" if turned else "start"}">'
        f"{text(words)}</text>"
    )


def _filled(points: Points) -> Points:
    """Return points with seven more between each two."""
    between = [
        (a[0] + (b[0] - a[0]) * k / 8, a[1] + (b[1] - a[1]) * k / 8) for a, b in pairwise(points) for k in range(8)
    ]
    return [*between, points[-1]]


def _hits(lines: Sequence[Line], across: Callable[[float], float], show: Callable[[float], str], height: int) -> str:
    """Lay invisible columns over the chart whose tooltips hold the numbers."""
    values: dict[float, list[str]] = {}
    for line in lines:
        for x, y in line.points:
            values.setdefault(x, []).append(f"{line.name} {show(y)}")
    columns = sorted(values)
    parts = []
    for index, x in enumerate(columns):
        start = across(x) if index == 0 else (across(columns[index - 1]) + across(x)) / 2
        stop = across(x) if index == len(columns) - 1 else (across(columns[index + 1]) + across(x)) / 2
        words = text(f"epoch {x:g}: " + ", ".join(values[x]))
        parts.append(
            f'<rect class="hit" x="{start - 1:.1f}" y="{TOP}" width="{stop - start + 2:.1f}"'
            f' height="{height - TOP - BOTTOM}"><title>{words}</title></rect>'
        )
    return "".join(parts)
