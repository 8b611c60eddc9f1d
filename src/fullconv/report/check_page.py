"""The page of `fullconv check --html`: the problems of a data set, with images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fullconv._version import __version__
from fullconv.data import Examination
from fullconv.labels import full_palette
from fullconv.report.html import MAX_IMAGE_BYTES, count, write_page
from fullconv.report.thumbnails import SampleThumbnails, Thumbnail

MAX_SAMPLES = 4
"""Samples shown per problem and per split."""
MAX_SIZES = 12
"""Image sizes with a row of their own."""


def write_check_page(path: str | Path, found: Examination, name: str) -> None:
    """Write the result of a check as one HTML file that loads nothing."""
    summary = found.summary()
    thumbnails = SampleThumbnails(found.root, found.dataset)
    splits = [f"{count(number)} {split}" for split, number in summary["splits"].items()]
    heads = summary.get("heads", {"": summary["classes"]})
    subtitle = [
        str(summary["format"] or "unrecognized format"),
        *(f"{len(rows)} classes{f' of {head}' if head else ''}" for head, rows in heads.items() if rows),
        *([f"{', '.join(splits)} images"] if splits else []),
    ]
    problems: list[tuple[Any, dict[str, dict[str, Thumbnail | str]]]] = []
    length = 0
    for problem in found.problems:
        samples = thumbnails.of_files(problem.files, MAX_SAMPLES) if length < MAX_IMAGE_BYTES else {}
        length += sum(
            len(one.uri) for parts in samples.values() for one in parts.values() if isinstance(one, Thumbnail)
        )
        problems.append((problem, samples))
    write_page(
        path,
        "check.html",
        page_type="check",
        title=Path(name).name or name,
        subtitle=subtitle,
        version=__version__,
        ok=summary["ok"],
        counts={
            **{f"{level}s": sum(p.severity == level for p in found.problems) for level in ("error", "warning", "note")},
            "images": sum(summary["splits"].values()),
        },
        expectations=found.expect(),
        problems=problems,
        heads=_classes(found, summary),
        sizes=_sizes(found),
        splits={
            split: {
                sample.stem: thumbnails.of_sample(sample)
                for sample in members[:: max(1, len(members) // MAX_SAMPLES)][:MAX_SAMPLES]
            }
            for split, members in (found.dataset.splits.items() if found.dataset is not None else ())
        },
    )


def _classes(found: Examination, summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the class frequencies of each head."""
    if found.dataset is None or not summary["classes"]:
        return {}
    heads = {}
    for head, classes in summary.get("heads", dict.fromkeys(found.aggregates, summary["classes"])).items():
        palette = full_palette(found.dataset.labels[head].palette)
        rows = [
            {"name": row["name"], "color": palette[row["index"]], "count": row["pixels"], "images": row["pictures"]}
            for row in classes
        ]
        if void := found.aggregates[head].void_pixels:
            rows.append({"name": "void", "color": None, "count": void, "images": None})
        heads[head] = _with_shares(rows)
    return heads


def _sizes(found: Examination) -> list[dict[str, Any]]:
    """Return the image sizes, the most frequent first."""
    if found.first is None or not found.first.sizes:
        return []
    sizes = sorted(found.first.sizes.items(), key=lambda pair: (-pair[1], -math.prod(pair[0])))
    rows = [{"name": f"{width} × {height}", "count": number} for (height, width), number in sizes[:MAX_SIZES]]
    if len(sizes) > MAX_SIZES:
        others = sum(number for _, number in sizes[MAX_SIZES:])
        rows.append({"name": f"{count(len(sizes) - MAX_SIZES, 'other size')}", "count": others})
    return _with_shares(rows)


def _with_shares(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add each row's share of the total, and its length relative to the longest."""
    counts = [row["count"] for row in rows]
    return [
        {**row, "share": row["count"] / max(1, sum(counts)), "length": row["count"] / max(1, *counts)} for row in rows
    ]
