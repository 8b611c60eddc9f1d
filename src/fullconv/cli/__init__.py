"""The command line: one function a command, each in a module that it shares with its kin; no torch before it is needed.

A new command is a function in one of these modules, and a line in `COMMANDS`.
"""

from __future__ import annotations

from fullconv.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
