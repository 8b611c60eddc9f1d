"""What a trial found on this machine, kept for whoever comes next."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import threading
from pathlib import Path
from typing import Any

import torch

from fullconv.engines.runtimes import threads
from fullconv.storage import cache_folder

LOG = logging.getLogger("fullconv.engines")

Choice = tuple[str, str]
"""Engine and precision."""


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a trial's result depends on besides the model and the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": device.type, "name": name, "threads": threads(), "system": platform.system()}


def _processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and abilities, so that a virtual machine that moves is another machine."""
    try:
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = {
            line.split(":")[0].strip(): line for line in lines if line.startswith(("model name", "flags", "Features"))
        }
        return hashlib.sha256("".join(kept.values()).encode()).hexdigest()[:16] if kept else platform.processor()
    except OSError:
        return platform.processor()


class Memory:
    """The answer to one question, in a file of the user's cache folder.

    Args:
        question: All that the answer depends on; among it `candidates`, one of which it is.
    """

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        self.path = cache_folder() / "engines" / f"{digest[:40]}.json"

    def read(self) -> Choice | None:
        """Return the choice that was made before, if there is one."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            choice = str(found["engine"]), str(found["precision"])
            return choice if list(choice) in self.question["candidates"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def can_write(self) -> bool:
        """Say whether an answer can be kept."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self._part()
            probe.touch()
            probe.unlink()
        except OSError:
            return False
        return True

    def keep(self, choice: Choice, seconds: dict[Choice, float]) -> Choice:
        """Write a choice, unless another process was first; returns the one that holds."""
        times = {" ".join(tried): round(taken, 4) for tried, taken in seconds.items()}
        text = json.dumps({"engine": choice[0], "precision": choice[1], "seconds": times, **self.question}, indent=1)
        part = self._part()
        try:
            part.write_text(text, encoding="utf-8")
            try:
                self.path.hardlink_to(part)  # whole from the start, and only where nothing has the name yet
            except FileExistsError:
                if self.read() is None:  # what cannot be read answers nothing
                    part.replace(self.path)
            except OSError:  # a file system without links
                part.replace(self.path)
        except OSError as error:
            LOG.info("engine: the choice could not be kept (%s)", error.strerror or error)
        finally:
            part.unlink(missing_ok=True)
        return self.read() or choice

    def _part(self) -> Path:
        return self.path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
