"""A service in a process of its own, as a user starts it, and images for it."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from synthetic.images import chunk, encode
from synthetic.shapes import draw

CLASSES = ["ground", "disc", "box", "triangle"]


class RunningService:
    """A running service and its log."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("FULLCONV_TOKEN", None)
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
        self.address = self._wait()
        self.port = int(self.address.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.address, timeout=60, trust_env=False)

    def _wait(self) -> str:
        for _ in range(4000):
            found = re.search(r"^Serving .* at (http://\S+)\. Ctrl-C stops\.$", self.text, re.MULTILINE)
            if found:
                return found[1]
            assert self.process.poll() is None, self.text
            time.sleep(0.1)
        raise AssertionError(self.text)

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log's JSON lines."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def workers(self) -> list[int]:
        """Ids of the worker processes."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(word) for word in found.stdout.split()]

    def is_ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.client.get("/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    def stop(self) -> int:
        """Stop it and return its exit code."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll a condition, which must hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def draw_image(seed: int = 0, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A synthetic image (H, W, 3) uint8."""
    return draw(np.random.default_rng(seed), size, 4)[0]


def png(array: np.ndarray) -> bytes:
    """The bytes of a PNG."""
    return encode(Image.fromarray(array))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(9000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
