"""Which pictures are shown, and how they follow each other."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fullconv.card import Labels
from fullconv.evaluation import Report
from fullconv.report.panels import MOST_IN_LEGEND, ReportPicture, article, legend_of

WORST = 12
MOST_BYTES = 18_000_000
"""Pictures that would make the page longer are left out, and it says so."""


def choose_pictures(report: Report, worst: int = WORST, typical: int = 4) -> list[str]:
    """Choose the pictures to show: those of the lowest mean IU, then some spread evenly over the others.

    Args:
        report: Scores of the split.
        worst: How many of the lowest; fewer where `typical` others would not be left.
        typical: How many of the others.

    Returns:
        Stems, the worst first. Pictures that are all void have no score and are left out.
    """
    scores = {stem: score for stem, score in report.scores_by_image().items() if not math.isnan(score)}
    order = sorted(scores, key=lambda stem: (scores[stem], stem))
    low = order[: min(worst, max(1, len(order) - typical))]
    others = order[len(low) :]
    count = min(typical, len(others))
    return low + [others[(2 * index + 1) * len(others) // (2 * count)] for index in range(count)]


def gallery(pictures: Iterable[ReportPicture], labels: Labels) -> str:
    """Return all pictures, the worst first; each is encoded before the next is taken."""
    articles: list[tuple[float, str]] = []
    length, left_out = 0, 0
    for picture in pictures:
        part = article(picture, labels)
        if length + len(part) > MOST_BYTES:
            left_out += 1
            continue
        length += len(part)
        articles.append((math.inf if math.isnan(picture.score) else picture.score, part))
    if not articles:
        return ""
    articles.sort(key=lambda pair: pair[0])
    worst, others = articles[:WORST], articles[WORST:]
    legend = legend_of(labels, range(len(labels.classes))) if len(labels.classes) <= MOST_IN_LEGEND else ""
    title = f"The {len(worst)} of lowest mean IU" if len(worst) > 1 else "The one of lowest mean IU"
    body = f"<h3>{title}</h3>" + "".join(part for _, part in worst)
    if others:
        body += "<h3>Typical ones</h3>" + "".join(part for _, part in others)
    if left_out:
        body += f'<p class="soft">{left_out} more would have made this file too large.</p>'
    return legend + body
