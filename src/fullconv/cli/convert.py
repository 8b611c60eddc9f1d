"""`fullconv convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from fullconv.cli.console import Progress, print_error, print_json, status, stdout_to_stderr
from fullconv.cli.options import DataArgument, DataFormat, Json, check_choice
from fullconv.errors import plural


def convert(
    data: DataArgument,
    output: Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="New folder.")],
    to: Annotated[str, typer.Option("--to", metavar="pairs|voc|coco", help="What to write.")] = "pairs",
    json: Json = False,
    format: DataFormat = None,  # noqa: A002
) -> None:
    """Write DATA as clean files.

    Images are copied, masks become class indices. Files that cannot be read are reported and omitted; the exit code is
    then 3.
    """
    from fullconv.data import TARGETS, convert_dataset

    check_choice("--to", to, TARGETS)
    with stdout_to_stderr(), Progress() as progress:
        done = convert_dataset(data, output, to, format, progress)
    for problem in done.problems:
        print_error(f"[{problem.code}] {problem}")
    for _, reason in done.failed:
        print_error(reason)
    if json:
        failed = [{"input": name, "reason": reason} for name, reason in done.failed]
        problems = [problem.to_dict() for problem in done.problems]
        print_json({"written": done.written, "failed": failed, "problems": problems})
    else:
        status(f"{plural(done.written, 'image')} with masks written to {output}.")
    raise typer.Exit(3 if done.failed or done.problems else 0)
