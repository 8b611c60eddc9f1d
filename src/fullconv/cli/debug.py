"""`fullconv debug`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import stdout_to_stderr


def debug(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that stopped with a non-finite loss.")],
) -> None:
    """Replay the step of RUN with a non-finite loss.

    Reports the first layer or parameter that is non-finite or explodes, the images of the batch, and settings to change.
    """
    from fullconv.training import debug as replay

    with stdout_to_stderr():
        lines = replay(run)
    print("\n".join(lines))
