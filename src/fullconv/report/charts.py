"""Lay out line charts over epochs; the templates draw them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

WIDTH = 520
LOW, TALL = 250, 556
"""Heights; a tall chart stands beside two low ones."""
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 16, 34
MAX_POINTS = 300
"""A longer line is thinned out: a screen has not many more columns."""

Points = list[tuple[float, float]]


class Line(NamedTuple):
    """One line of a chart: points (x, y), finite, x rising; its tone is "a" to "h"."""

    name: str
    points: Points
    tone: str = "a"


class Mark(NamedTuple):
    """A label at a point."""

    x: float
    y: float
    baseline: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart in SVG units: what the template draws."""

    title: str
    label: str
    """For screen readers."""
    height: int
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    mark: Mark | None
    columns: list[tuple[float, float, str]]
    """x, width and text of the tooltips."""
    legend: bool
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def bottom(self) -> int:
        """The y of the horizontal axis."""
        return self.height - BOTTOM

    @property
    def is_tall(self) -> bool:
        """Whether the chart takes two rows of the grid."""
        return self.height == TALL


def series(history: Sequence[Mapping[str, Any]], *keys: str) -> Points:
    """Return (epoch, value) of a key of each line of a log, where the value is present and finite."""
    points = []
    for line in history:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)) and math.isfinite(value):
            points.append((float(line["epoch"]), float(value)))
    return points


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return about as many round numbers that span a range.

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
) -> Chart:
    """Lay out lines over epochs, each with at least one point; `height` is `LOW` or `TALL`.

    `show` formats a y value, `floor` is the lowest y (by default that of the points), `mark` labels the highest point of
    the first line, and `legend` names several lines above the chart.
    """
    lines = [line._replace(points=_thin_out(line.points)) for line in lines]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low, high = (min(ys) if floor is None else floor), max(ys)
    if not high > low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    ticks = nice_ticks(low, high)
    first, last = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)

    def to_svg(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[0] - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        y = TOP + (ticks[-1] - point[1]) / (ticks[-1] - ticks[0]) * (height - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    drawn = [line._replace(points=[to_svg(point) for point in line.points]) for line in lines]
    epochs = [t for t in nice_ticks(first, last, 6) if first <= t <= last and t == int(t)]
    points = lines[0].points
    return Chart(
        title=title,
        label=f"{title}, from {show(points[0][1])} to {show(points[-1][1])}",
        height=height,
        lines=drawn,
        x_ticks=[(to_svg((x, low))[0], f"{x:.0f}") for x in epochs],
        y_ticks=[(to_svg((first, y))[1], show(y)) for y in ticks],
        mark=_place_mark(drawn, mark) if mark else None,
        columns=_tooltips(lines, show, lambda x: to_svg((x, low))[0]),
        legend=legend and len(lines) > 1,
    )


def _thin_out(points: Points) -> Points:
    if len(points) <= MAX_POINTS:
        return points
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * step)] for index in range(MAX_POINTS)]


def _place_mark(lines: Sequence[Line], text: str) -> Mark:
    """Label the highest point of the first line, where no line runs through the text."""
    left, top = min(lines[0].points, key=lambda point: point[1])
    anchor = "end" if left > WIDTH / 2 else "start"
    length = 6.9 * len(text)
    start = left - length if anchor == "end" else left
    # Each line with seven more points between every two.
    dense = [
        (a[0] + (b[0] - a[0]) * k / 8, a[1] + (b[1] - a[1]) * k / 8)
        for line in lines
        for a, b in [*pairwise(line.points), (line.points[-1],) * 2]
        for k in range(8)
    ]
    near = [y for x, y in dense if start - 8 <= x <= start + length + 8]
    # Baselines above and below; the letters reach from 11 above to 3 below one.
    tries = [top + shift for shift in (-12, 26, 40, 56, 74, 96)]
    baseline = next((t for t in tries if t > TOP and all(not t - 17 < y < t + 9 for y in near)), top - 12)
    return Mark(left, top, round(baseline, 1), anchor, text)


def _tooltips(
    lines: Sequence[Line], show: Callable[[float], str], across: Callable[[float], float]
) -> list[tuple[float, float, str]]:
    """Return columns that cover the chart, one an epoch, with the values of all lines."""
    values: dict[float, list[str]] = {}
    for line in lines:
        for x, y in line.points:
            values.setdefault(x, []).append(f"{line.name} {show(y)}")
    epochs = sorted(values)
    places = [across(x) for x in epochs]
    edges = [places[0], *((a + b) / 2 for a, b in pairwise(places)), places[-1]]
    return [
        (round(start - 1, 1), round(stop - start + 2, 1), f"epoch {x:g}: {', '.join(values[x])}")
        for x, (start, stop) in zip(epochs, pairwise(edges), strict=True)
    ]
