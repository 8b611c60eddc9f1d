"""All commands, and the one place that turns errors into messages and exit codes."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, cast

import typer

from fullconv._version import __version__
from fullconv.cli.batch import batch
from fullconv.cli.bench import bench
from fullconv.cli.check import check
from fullconv.cli.compare import compare
from fullconv.cli.console import SIGTERM_CODE, TerminatedError, print_error, print_json, show_log
from fullconv.cli.convert import convert
from fullconv.cli.debug import debug
from fullconv.cli.demo import demo
from fullconv.cli.evaluate import evaluate
from fullconv.cli.export import export
from fullconv.cli.import_ import import_model
from fullconv.cli.info import info
from fullconv.cli.models import models
from fullconv.cli.predict import predict
from fullconv.cli.rank import rank
from fullconv.cli.runs import runs
from fullconv.cli.serve import serve
from fullconv.cli.startup import process_settings, use_utf8
from fullconv.cli.train import train
from fullconv.errors import FullconvError, nearest
from fullconv.system import handle_signals

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "check": check,
    "convert": convert,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "import": import_model,
    "info": info,
    "models": models,
    "compare": compare,
    "debug": debug,
    "bench": bench,
    "batch": batch,
    "runs": runs,
    "rank": rank,
    "serve": serve,
}
"""By name, in the order of `fullconv --help`."""

app = typer.Typer(
    name="fullconv",
    help="Fully convolutional networks for semantic segmentation: the same answer everywhere, at any size.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command_name, function in COMMANDS.items():
    app.command(command_name)(function)

_ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""Base of typer's usage errors; typer has brought its own click since 0.20, and used click's before."""


def _show_version(requested: bool) -> None:
    if requested:
        print(f"fullconv {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        0 done; 2 an error that the user can fix, one line on stderr; 3 done in part; 130 and 143 stopped by Ctrl-C and
        SIGTERM. A bug is raised: it keeps its traceback and ends the process with 1.
    """
    started = time.monotonic()
    arguments = list(sys.argv[1:] if argv is None else argv)
    use_utf8()
    show_log()
    try:
        with handle_signals(_raise_terminated, signal.SIGTERM), process_settings():
            program: Any = typer.main.get_command(app)
            try:
                with program.make_context("fullconv", arguments, obj=started) as context:
                    result = program.invoke(context)
            except typer.Exit as end:
                result = end.exit_code
            sys.stdout.flush()
            return result if isinstance(result, int) else 0
    except FullconvError as error:
        return _report(str(error), arguments, error.exit_code, getattr(error, "failed", None))
    except _ClickException as error:
        return _report(_usage(error, arguments), arguments, 2)
    except KeyboardInterrupt:
        print_error("stopped by Ctrl-C.")
        return 130
    except TerminatedError:
        print_error("stopped by SIGTERM.")
        return SIGTERM_CODE
    except BrokenPipeError:  # as in `fullconv models | head`: the reader needs no more
        _close_stdout()
        return 0
    except OSError as error:
        if _can_print():
            raise
        _close_stdout()
        print_error(f"the results cannot be written to stdout ({error.strerror or error}).")
        return 2


def _report(message: str, arguments: Sequence[str], code: int, failed: list[dict[str, str]] | None = None) -> int:
    """Print a message; with --json on stdout, too, so that there is always one JSON object."""
    print_error(message)
    if "--json" in arguments:
        with suppress(BrokenPipeError):
            print_json({"error": message} | ({"failed": failed} if failed else {}))
            sys.stdout.flush()
    return code


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """Return a usage error as one line, with the nearest name and a pointer to --help."""
    context = getattr(error, "ctx", None)
    name = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        known = [option for param in context.command.params for option in param.opts if option.startswith("--")]
        message = f"no such option: {name}.{nearest(str(name), [*known, '--help'])}"
    else:
        text = str(error.format_message()).replace("\n\t", " ").replace("\n", " ").strip()
        given = _given(getattr(error, "param", None), arguments)
        text = f"{error.message}" if given and error.message else text
        if unknown := re.match(r"No such command '(.*?)'", text):  # typer names all that are near
            text = f"{unknown[0]}.{nearest(unknown[1], COMMANDS)}"
        message = (f"{given}: " if given else "") + text[:1].lower() + text[1:]
        message += "" if message.endswith((".", "?")) else "."
    path = context.command_path if context is not None else "fullconv"
    return f"{message} See `{path} --help`."


def _given(param: Any, arguments: Sequence[str]) -> str:
    """Return an option with its value as typed, which typer's message omits; empty for other parameters."""
    for option in param.opts if param is not None else ():
        for place, argument in enumerate(arguments):
            if argument == option and place + 1 < len(arguments):
                return f"{argument} {arguments[place + 1]}"
            if option.startswith("--") and argument.startswith(f"{option}="):
                return argument
    return ""


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    """End a command at SIGTERM as at Ctrl-C, so that progress is saved."""
    raise TerminatedError


def _can_print() -> bool:
    """Return whether a line can be written to stdout; on a full disk it cannot."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _close_stdout() -> None:
    """Keep Python from writing the rest to a closed pipe or full disk at exit, which would print a traceback."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), cast(int, sys.stdout.fileno()))
