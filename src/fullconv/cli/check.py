"""`fullconv check`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fullconv.cli.console import Progress, make_table, print_error, print_json, print_rich, status, stdout_to_stderr
from fullconv.cli.options import DataArgument, DataFormat, Json
from fullconv.errors import plural


def check(
    data: DataArgument,
    json: Json = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write a page that shows the findings.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the classes and mask values that were inferred to DATA/data.toml.")
    ] = False,
    format: DataFormat = None,  # noqa: A002
) -> None:
    """List every problem of DATA at once, with its cause and the fix.

    Reads every image and mask. The exit code is 0 exactly when train would start.
    """
    from fullconv.data import examine

    with stdout_to_stderr(), Progress() as progress:
        report = examine(data, progress, format)
        if write:
            from fullconv.data import write_config

            status(write_config(report, data))
            report = examine(data, progress, format)
        if html is not None:
            from fullconv.report import write_check_page

            write_check_page(html, report, data)
            status(f"Wrote {html}.")
    summary = report.summary()
    if json:
        print_json(summary)
    else:
        _print_summary(data, summary, report.expect())
    if not summary["ok"] and (json or not sys.stdout.isatty()):  # stdout goes elsewhere: errors on stderr, too
        for problem in summary["problems"]:
            if problem["severity"] == "error":
                print_error(f"[{problem['code']}] {_sentence(problem)}")
    raise typer.Exit(0 if summary["ok"] else 2)


def _print_summary(data: str, summary: dict[str, Any], expected: list[str]) -> None:
    from rich.text import Text

    parts: list[Any] = []
    if summary["classes"]:
        splits = ", ".join(f"{count} {split}" for split, count in summary["splits"].items())
        heads: dict[str, Any] = summary.get("heads", {"": summary["classes"]})
        classes = " and ".join(
            plural(len(rows), "class", "classes") + (f" of {head}" if head else "") for head, rows in heads.items()
        )
        parts.append(Text(f"{data}: {summary['format']}, {classes}, {splits} images"))
        for head, rows in heads.items():
            table = make_table(">index", f"class of {head}" if head else "class", ">pixels", ">share", ">images")
            total = sum(row["pixels"] for row in rows) or 1
            for row in rows:
                share = f"{100 * row['pixels'] / total:.2f} %"
                label = Text(row["name"])
                table.add_row(str(row["index"]), label, f"{row['pixels']:,}", share, f"{row['pictures']:,}")
            parts.append(table)
    colors = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    for problem in summary["problems"]:
        line = Text(problem["severity"], style=colors[problem["severity"]])
        parts.append(line.append(f" [{problem['code']}] {_sentence(problem)}", style="default not bold"))
    parts += [Text(f"expect: {sentence}") for sentence in expected]
    errors = sum(problem["severity"] == "error" for problem in summary["problems"])
    parts.append(Text(f"{plural(errors, 'error')}: train would not start." if errors else "Ready for train."))
    print_rich(*parts)


def _sentence(problem: dict[str, Any]) -> str:
    files, count = problem["files"], problem["count"]
    shown = ", ".join(files[:5]) + (f" and {count - 5} more" if count > 5 else "")
    listed = f" ({count}: {shown})" if files else ""
    return f"{problem['cause']}{listed}. {problem['remedy']}".strip()
