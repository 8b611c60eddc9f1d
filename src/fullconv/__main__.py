"""The program: ``fullconv``, and ``python -m fullconv``."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn


def run() -> int:
    """Run the command that the process was started with.

    Returns:
        The exit code of `fullconv.cli.main`, to other programs; where this one is the process's own, it ends here.
    """
    try:
        from fullconv.cli import main

        code = main()
    except KeyboardInterrupt:  # while modules are still imported; later ones are told by `main`
        with suppress(OSError):
            print("fullconv: stopped by Ctrl-C.", file=sys.stderr)
        code = 130
    if _own_program():
        leave(code)
    return code


def _own_program() -> bool:
    """Say whether the process was started as `fullconv` or `python -m fullconv`, and is nobody else's."""
    started = sys.modules["__main__"]
    if (spec := getattr(started, "__spec__", None)) is not None and spec.name == "fullconv.__main__":
        return True
    file = Path(getattr(started, "__file__", None) or "")
    return file.name == "fullconv" or file.parent.name == "fullconv.exe"  # what pip makes of the entry in pyproject


def leave(code: int) -> NoReturn:
    """End the process without taking its modules apart: for PyTorch's that takes half a second, and frees nothing.

    What asked to be called at the end is called, and all that was printed gets out. Where something still looks on (a
    debugger, a profiler, a measurement of coverage, an open prompt) or works on (a thread), the process ends as usual.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if others or _watched():
        sys.exit(code)
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:
        sys.exit(code)  # Python says what cannot be written
    os._exit(code)


def _watched() -> bool:
    if sys.flags.interactive or sys.gettrace() is not None or sys.getprofile() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    return monitoring is not None and any(monitoring.get_tool(number) is not None for number in range(6))


if __name__ == "__main__":
    sys.exit(run())
