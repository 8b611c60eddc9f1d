"""The program: ``fullconv``, and ``python -m fullconv``."""

from __future__ import annotations

import sys
from contextlib import suppress


def run() -> int:
    """Run the command that the process was started with.

    Returns:
        The exit code of `fullconv.cli.main`, to other programs; a process of the command itself ends here.
    """
    try:
        from fullconv.cli import main
        from fullconv.cli.startup import exit_now, is_own_process

        code = main()
    except KeyboardInterrupt:  # while modules are imported; later ones are handled by `main`
        with suppress(OSError):
            print("fullconv: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    if is_own_process():
        exit_now(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
