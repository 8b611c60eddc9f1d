"""What the command line changes in its own process: the library leaves the process of its users as it is.

Importing is most of the time of a short command: timm is imported as far as needed, and the garbage collector does not
search the imported modules (a tenth of the start). At exit, PyTorch's modules are not taken apart (half a second).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fullconv.profiling import STARTING, timed
from fullconv.system import lazy_packages, retain_freed


@contextmanager
def process_settings() -> Iterator[None]:
    """Set up this process for one command, and restore it afterwards, for programs that call `main` themselves."""
    frozen = gc.get_freeze_count()
    try:
        with lazy_packages(), retain_freed():
            yield
    finally:
        if not frozen:
            gc.unfreeze()


@contextmanager
def starting() -> Iterator[None]:
    """Time the start of a command without the garbage collector; imported modules are exempt until the command ends."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with timed(STARTING):
            yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def use_utf8() -> None:
    """Write UTF-8 whatever the system's code page is; bytes of file names that are not UTF-8 are escaped.

    A stream that the parent has closed, as services do, is replaced by the null device.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def is_own_process() -> bool:
    """Return whether the process was started as `fullconv` or `python -m fullconv`."""
    started = sys.modules["__main__"]
    if (spec := getattr(started, "__spec__", None)) is not None and spec.name == "fullconv.__main__":
        return True
    file = Path(getattr(started, "__file__", None) or "")
    return file.name == "fullconv" or file.parent.name == "fullconv.exe"  # what pip makes of the entry in pyproject


def exit_now(code: int) -> NoReturn:
    """End the process without taking its modules apart.

    Exit handlers run and output is flushed. With another thread at work, or under a debugger, a profiler, a coverage
    measurement or an open prompt, the process ends as usual.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    observed = sys.flags.interactive or sys.gettrace() is not None or sys.getprofile() is not None
    observed = observed or (monitoring is not None and any(monitoring.get_tool(number) for number in range(6)))
    if others or observed:
        sys.exit(code)
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:
        sys.exit(code)  # Python reports what cannot be written
    os._exit(code)
