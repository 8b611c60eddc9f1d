"""The page of `fullconv check --html`: what is wrong with a data set, seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fullconv._version import __version__
from fullconv.data import Examination
from fullconv.data.problems import Problem
from fullconv.labels import Color, full_palette
from fullconv.report.html import STYLE, percent, swatch, text, whole
from fullconv.report.run_page import POLICY
from fullconv.report.thumbnails import Offenders
from fullconv.storage import write_text

_ROWS = 4
"""Offenders shown a problem."""

_MOST_BYTES = 18_000_000
_SIZES = 12

_STYLE = """
.verdict { font-size: 20px; font-weight: 620; margin: 0 0 4px; }
.problem { padding: 22px 0 6px; } .problem + .problem { border-top: 1px solid var(--line); }
.problem header { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; margin: 0 0 6px; }
.badge { font-size: 12.5px; font-weight: 620; padding: 2px 9px; border-radius: 10px; background: var(--track); }
.badge.error { background: #b3261e; color: #fff; } .badge.warning { background: var(--warn-line); color: #1a1200; }
.problem code { font: 13.5px ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--pale); border-radius: 4px;
  padding: 10px 14px; margin: 8px 0 12px; white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); }
.offenders { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 18px 32px;
  margin: 12px 0 8px; }
.offender figcaption { font-size: 13px; color: var(--soft); margin: 0 0 5px; overflow-wrap: anywhere; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px; align-items: start; }
.none { font-size: 13px; color: var(--soft); background: var(--pale); border: 1px dashed var(--line); padding: 10px;
  border-radius: 4px; overflow-wrap: anywhere; min-height: 64px; }
.numbers .bar { width: 40%; min-width: 130px; } details { margin: 0 0 12px; } summary { cursor: pointer; }
details p { font-size: 14px; margin: 6px 0; overflow-wrap: anywhere; }
@media (max-width: 640px) { .numbers .bar { width: 20%; min-width: 36px; } .numbers th, .numbers td { padding-right: 8px; } }
"""


def write_health(path: str | Path, found: Examination, name: str) -> None:
    """Write what was found as one HTML file that loads nothing from anywhere.

    Args:
        path: The file; its final name only ever shows the whole.
        found: As `examine` returned it.
        name: What the data set is called.

    Raises:
        OutputError: The file cannot be written.
    """
    told = found.summary()
    sections = {
        "Summary": _summary(found, told),
        "Problems": _problems(found),
        "Classes": _classes(found, told),
        "Sizes": _sizes(found),
        "Pictures": _some(found),
    }
    filled = {title: content for title, content in sections.items() if content}
    links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title in filled)
    body = "".join(
        f'<section id="{title.lower()}"><h2{" class=hidden" if title == "Summary" else ""}>{title}</h2>{content}</section>'
        for title, content in filled.items()
    )
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(Path(name).name or name)}: check</title><style>{STYLE}{_STYLE}</style></head><body>"
        f'<header class="top"><h1>{text(Path(name).name or name)}</h1><p class="subtitle">{text(_subtitle(told))}</p>'
        f"<nav>{links}</nav></header><main>{body}<footer>Written by fullconv {text(__version__)}. Every picture and mask"
        " was decoded. The codes are explained in docs/checks.md.</footer></main></body></html>\n",
    )


def _subtitle(told: Mapping[str, Any]) -> str:
    splits = [f"{whole(count)} {split}" for split, count in told["splits"].items()]
    parts = [str(told["format"] or "format not known")]
    heads = told.get("heads", {"": told["classes"]})
    parts += [f"{len(rows)} classes{f' of {head}' if head else ''}" for head, rows in heads.items() if rows]
    return " · ".join([*parts, *([f"{', '.join(splits)} pictures"] if splits else [])])


def _summary(found: Examination, told: Mapping[str, Any]) -> str:
    counts = {kind: sum(p.severity == kind for p in found.problems) for kind in ("error", "warning", "note")}
    words = "Ready for train." if told["ok"] else "Training would not start: mend the errors first."
    facts = "".join(
        f'<div class="fact"><div class="label">{kind}s</div><div class="value">{count}</div></div>'
        for kind, count in counts.items()
    )
    pictures = sum(told["splits"].values())
    facts += f'<div class="fact"><div class="label">pictures</div><div class="value">{whole(pictures)}</div></div>'
    expected = "".join(f"<li>{text(sentence)}</li>" for sentence in found.expect())
    said = f'<h3>What to expect</h3><ul class="notice">{expected}</ul>' if expected else ""
    return f'<div class="hero"><div class="main"><p class="verdict">{words}</p></div><div class="facts">{facts}</div></div>{said}'


def _problems(found: Examination) -> str:
    if not found.problems:
        return '<p class="soft">None was found.</p>'
    offenders = Offenders(found.root, found.dataset)
    samples = offenders.by_name()
    parts: list[str] = []
    length = 0
    for problem in found.problems:
        thumbnails = offenders.rows(problem.files, samples, _ROWS) if length < _MOST_BYTES else ""
        length += len(thumbnails)
        parts.append(_problem(problem) + thumbnails + "</div>")
    return "".join(parts)


def _problem(problem: Problem) -> str:
    """Return a problem's head, still open: its thumbnails follow."""
    names = ""
    if problem.files:
        more = problem.count - len(problem.files)
        listed = ", ".join(text(name) for name in problem.files) + (f" and {whole(more)} more" if more > 0 else "")
        names = f"<details><summary>{whole(problem.count)} named</summary><p>{listed}</p></details>"
    remedy = f"<pre>{text(problem.remedy)}</pre>" if problem.remedy else ""
    return (
        f'<div class="problem"><header><span class="badge {problem.severity}">{problem.severity}</span>'
        f"<code>{text(problem.code)}</code></header><p>{text(_capital(problem.cause))}.</p>{remedy}{names}"
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _classes(found: Examination, told: Mapping[str, Any]) -> str:
    """Return the histogram of class frequencies, of each head."""
    if found.dataset is None or not told["classes"]:
        return ""
    tables = []
    for head, rows in told.get("heads", dict.fromkeys(found.tallies, told["classes"])).items():
        title = f"<h3>{text(head)}</h3>" if head else ""
        palette = full_palette(found.dataset.labels[head].palette)
        tables.append(title + _frequencies(rows, palette, found.tallies[head].void_pixels))
    return "".join(tables)


def _frequencies(classes: Sequence[Mapping[str, Any]], palette: Sequence[Color], void: int) -> str:
    total = sum(row["pixels"] for row in classes) + void or 1
    largest = max(*(row["pixels"] for row in classes), void, 1)
    rows = [
        _row(swatch(palette[row["index"]]) + text(row["name"]), row["pixels"], total, largest, whole(row["pictures"]))
        for row in classes
    ]
    if void:
        rows.append(_row('<i class="swatch void"></i>void', void, total, largest, ""))
    return _table(("class", "", "% of pixels", "pixels", "in pictures"), rows)


def _sizes(found: Examination) -> str:
    """Return the histogram of sizes, the commonest first."""
    if found.tally is None or not found.tally.sizes:
        return ""
    sizes = sorted(found.tally.sizes.items(), key=lambda pair: (-pair[1], -math.prod(pair[0])))
    total, largest = sum(found.tally.sizes.values()), sizes[0][1]
    rows = [_row(f"{width} × {height}", count, total, largest, None) for (height, width), count in sizes[:_SIZES]]
    if len(sizes) > _SIZES:
        rest = sum(count for _, count in sizes[_SIZES:])
        rows.append(_row(f"{whole(len(sizes) - _SIZES)} other sizes", rest, total, largest, None))
    return _table(("width × height", "", "% of pictures", "pictures"), rows)


def _row(name: str, count: int, total: int, largest: int, more: str | None) -> str:
    last = "" if more is None else f"<td>{more}</td>"
    return (
        f'<tr><th scope="row">{name}</th><td class="bar"><span class="track"><i style="width:{100 * count / largest:.2f}%">'
        f'</i></span></td><td>{percent(count / total, 2)}</td><td class="soft">{whole(count)}</td>{last}</tr>'
    )


def _table(heads: tuple[str, ...], rows: list[str]) -> str:
    columns = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    return (
        f'<div class="wide"><table class="numbers"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _some(found: Examination) -> str:
    """Return some pictures of each split under their masks, spread evenly."""
    if found.dataset is None:
        return ""
    offenders = Offenders(found.root, found.dataset)
    parts = []
    for split, members in found.dataset.splits.items():
        chosen = members[:: max(1, len(members) // _ROWS)][:_ROWS]
        rows = "".join(
            f'<figure class="offender"><figcaption>{text(sample.stem)}</figcaption>{offenders.pair(sample)}</figure>'
            for sample in chosen
        )
        parts.append(f'<h3>{text(split)}</h3><div class="offenders">{rows}</div>' if rows else "")
    return "".join(parts)
