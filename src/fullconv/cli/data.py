"""Commands about data sets."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fullconv.cli.console import Progress, choose, complain, print_json, print_rich, results_only, say
from fullconv.cli.options import DataArgument, DataFormat, Json


def check(
    data: DataArgument,
    json: Json = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write a page that shows what was found.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write what was found out about classes and masks to DATA/data.toml.")
    ] = False,
    format: DataFormat = None,  # noqa: A002
) -> None:
    """Say all that is wrong with DATA, at once.

    Every picture and mask is looked at. The exit code is 0 exactly when train would start.
    """
    from fullconv.data import examine

    with results_only(), Progress("pictures") as progress:
        found = examine(data, progress, format)
        if write:
            from fullconv.data.config_writer import write as write_toml

            say(write_toml(found.dataset, found.problems, found.root, data))
            found = examine(data, progress, format)
        if html is not None:
            from fullconv.report import write_check_page

            write_check_page(html, found, data)
            say(f"Wrote {html}.")
    told = found.summary()
    if json:
        print_json(told)
    else:
        _show(data, told, found.expect())
    if not told["ok"] and (json or not sys.stdout.isatty()):  # where the page goes elsewhere, what to mend is told here
        for problem in told["problems"]:
            if problem["severity"] == "error":
                complain(f"[{problem['code']}] {_sentence(problem)}")
    raise typer.Exit(0 if told["ok"] else 2)


def _show(data: str, found: dict[str, Any], expected: list[str]) -> None:
    from rich.text import Text

    parts: list[Any] = []
    if found["classes"]:
        splits = ", ".join(f"{count} {split}" for split, count in found["splits"].items())
        heads: dict[str, Any] = found.get("heads", {"": found["classes"]})
        classes = " and ".join(f"{len(rows)} classes{f' of {head}' if head else ''}" for head, rows in heads.items())
        parts.append(Text(f"{data}: {found['format']}, {classes}, {splits} pictures"))
        for head, rows in heads.items():
            parts.append(_table(rows, f"class of {head}" if head else "class"))
    colors = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    for problem in found["problems"]:
        line = Text(problem["severity"], style=colors[problem["severity"]])
        parts.append(line.append(f" [{problem['code']}] {_sentence(problem)}", style="default not bold"))
    parts += [Text(f"expect: {sentence}") for sentence in expected]
    bad = sum(problem["severity"] == "error" for problem in found["problems"])
    parts.append(Text(f"{bad} error{'s' * (bad != 1)}: train would not start." if bad else "Ready for train."))
    print_rich(*parts)


def _table(rows: list[dict[str, Any]], title: str) -> Any:
    """Return the classes of one head with how often they occur."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in (("index", "right"), (title, "left"), ("pixels", "right"), ("share", "right"),
                       ("pictures", "right")):  # fmt: skip
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    total = sum(row["pixels"] for row in rows) or 1
    for row in rows:
        share = f"{100 * row['pixels'] / total:.2f} %"
        table.add_row(str(row["index"]), Text(row["name"]), f"{row['pixels']:,}", share, f"{row['pictures']:,}")
    return table


def _sentence(problem: dict[str, Any]) -> str:
    files, count = problem["files"], problem["count"]
    shown = ", ".join(files[:5]) + (f" and {count - 5} more" if count > 5 else "")
    named = f" ({count}: {shown})" if files else ""
    return f"{problem['cause']}{named}. {problem['remedy']}".strip()


def convert(
    data: DataArgument,
    output: Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="Folder to make.")],
    to: Annotated[str, typer.Option("--to", metavar="pairs|voc|coco", help="What to write.")] = "pairs",
    json: Json = False,
    format: DataFormat = None,  # noqa: A002
) -> None:
    """Write DATA as clean files.

    Pictures as they are, masks of class numbers. What cannot be read is named and left out; the exit code is then 3.
    """
    from fullconv.data.convert import TARGETS
    from fullconv.data.convert import convert as write

    choose("--to", to, TARGETS)
    with results_only(), Progress("pictures") as progress:
        done = write(data, output, to, format, progress)
    for problem in done.problems:
        complain(f"[{problem.code}] {problem}")
    for _, reason in done.failed:
        complain(reason)
    if json:
        failed = [{"input": name, "reason": reason} for name, reason in done.failed]
        problems = [problem.to_dict() for problem in done.problems]
        print_json({"written": done.written, "failed": failed, "problems": problems})
    else:
        say(f"{done.written} pictures with masks written to {output}.")
    raise typer.Exit(3 if done.failed or done.problems else 0)
