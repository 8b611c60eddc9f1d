"""Draws the plots of docs/reference/benchmarks.md from benchmarks/results, and writes the tables beside them.

Every group of contenders in a result, two or more with a median and quartiles, becomes a bar chart and a table. So what a
benchmark keeps is what the page shows, losses and wins. The page's text between the two marks is made here.

    python benchmarks/plots.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
PLOTS = ROOT / "docs" / "benchmarks"
BEGIN, END = "<!-- made by benchmarks/plots.py -->", "<!-- end of what is made -->"

Group = tuple[str, dict[str, dict[str, Any]]]
"""Where it lies in the file, and its contenders."""


def groups(value: Any, path: tuple[str, ...] = ()) -> Iterator[Group]:
    """Yield all contenders of a result that were measured side by side."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from groups(item, (*path, str(index)))
    if not isinstance(value, dict):
        return
    rows = {name: row for name, row in value.items() if isinstance(row, dict) and "median_s" in row}
    if len(rows) > 1:
        yield " ".join(step for step in path if step not in ("seconds", "kinds", "classes")), rows
        return
    for name, inner in value.items():
        yield from groups(inner, (*path, name))


def found() -> Iterator[tuple[str, dict[str, Any], list[Group]]]:
    """Yield each result that has such groups: its name, all of it, and them."""
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        measured = list(groups(result))
        if measured:
            yield path.stem, result, measured


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table of contenders; ratios are to the first."""
    equal = any("labels_equal" in row for row in rows.values())
    first = next(iter(rows.values()))["median_s"]
    lines = [
        f"| | median | quartiles | speed |{' labels equal |' if equal else ''}",
        f"|---|---|---|---|{'---|' if equal else ''}",
    ]
    for name, row in rows.items():
        same = f" {100 * row['labels_equal']:.2f} % |" if "labels_equal" in row else " |" if equal else ""
        low, high = 1000 * row["quartile_1_s"], 1000 * row["quartile_3_s"]
        lines.append(
            f"| {name} | {1000 * row['median_s']:.4g} ms | {low:.4g} to {high:.4g} | {first / row['median_s']:.2f} |{same}"
        )
    return lines


def text() -> str:
    """Return the made part of the page."""
    lines = [BEGIN]
    for name, result, measured in found():
        machine = result.get("machine", {})
        lines += ["", f"### {name}", ""]
        lines.append(
            f"`benchmarks/results/{name}.json`: {machine.get('processor', '?')}, {result.get('threads', '?')} threads,"
            f" torch {result.get('versions', {}).get('torch', '?')}. Speed is that of the first row, times this."
        )
        for key, label in (
            ("floor_s", "Arithmetic floor (all convolutions at the speed of the fastest one measured)"),
        ):
            if key in result:
                lines += [
                    "",
                    f"{label}: " + ", ".join(f"{word} {1000 * s:.0f} ms" for word, s in result[key].items()) + ".",
                ]
        lines += ["", f"![{name}](../benchmarks/{name}.svg)"]
        for title, rows in measured:
            lines += ["", *([f"**{title}**", ""] if title else []), *table(rows)]
    return "\n".join([*lines, "", END])


def draw() -> None:
    """Write a picture a result."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fullconv"  # the same file for the same numbers
    PLOTS.mkdir(exist_ok=True)
    for name, _, measured in found():
        heights = [0.5 + 0.32 * len(rows) for _, rows in measured]
        figure, axes = plt.subplots(
            len(measured),
            1,
            figsize=(8, sum(heights) + 0.4),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for axis, (title, rows) in zip(axes[:, 0], measured, strict=True):
            middle = [row["median_s"] for row in rows.values()]
            low = [m - row["quartile_1_s"] for m, row in zip(middle, rows.values(), strict=True)]
            high = [row["quartile_3_s"] - m for m, row in zip(middle, rows.values(), strict=True)]
            colors = [
                "#1f6f8b" if any(w in key for w in ("fullconv", "predict", "strips", "serve")) else "#b0b7bd"
                for key in rows
            ]
            axis.barh(list(rows), middle, xerr=[low, high], color=colors, ecolor="#333333", capsize=3)
            axis.invert_yaxis()
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_xlabel("seconds (median, quartiles)", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


def page() -> tuple[str, str]:
    """Return the page as it is, and as it should be."""
    now = PAGE.read_text(encoding="utf-8")
    head, _, rest = now.partition(BEGIN)
    return now, head + text() + rest.partition(END)[2]


def main() -> None:
    """Draw and write, or only say whether the page is current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only say whether the page's tables are the results'.")
    given = parser.parse_args()
    now, wanted = page()
    if given.check:
        missing = [name for name, _, _ in found() if not (PLOTS / f"{name}.svg").is_file()]
        if now != wanted or missing:
            sys.exit(f"{PAGE.name} is not of these results ({', '.join(missing) or 'tables'}): run benchmarks/plots.py")
        return
    draw()
    PAGE.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
