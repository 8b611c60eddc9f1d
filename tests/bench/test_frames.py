"""The call stack between a command and the loss stays short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_frames_from_the_command_to_the_loss():
    script = Path(__file__).parents[2] / "benchmarks" / "frames.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=300)
    frames = {name: int(count) for name, count in re.findall(r"frames to the ([\w ]+): (\d+)", done.stdout)}
    assert set(frames) == {"loss", "upsampling of a strip"}
    assert frames["loss"] <= 10
