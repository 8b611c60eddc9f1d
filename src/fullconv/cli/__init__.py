"""The command line: one module per command, without torch until a command needs it.

A new command is a function in a module of its own, and a line in `COMMANDS`.
"""

from __future__ import annotations

from fullconv.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
