"""How deep the call stack is: frames of fullconv from a command's function to the loss, and to the upsampling of a strip.

Runs a tiny `fullconv train` and a tiny `fullconv predict` in this process under a profile hook, which notes the deepest
stack over all calls of each target. Comprehensions of Python 3.11 and older count as frames, generators do while they
run. Nothing is patched.

    python benchmarks/frames.py [--show]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from PIL import Image

import fullconv
from fullconv.cli import main as command
from fullconv.losses import PixelLoss
from fullconv.nn import Network

PACKAGE = str(Path(fullconv.__file__).parent)
LIMIT = 10
"""Frames from the command to the target, both included."""


class StackRecorder:
    """A profile hook that notes the deepest stack over all calls of a function.

    Args:
        target: The function.
        start: Name of the command's function, at which the stack begins.
    """

    def __init__(self, target: Callable[..., Any], start: str) -> None:
        self.code: CodeType = target.__code__  # type: ignore[attr-defined]
        self.start = start
        self.stack: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note the stack, the command first, if it is the deepest so far."""
        if event != "call" or frame.f_code is not self.code:
            return
        stack: list[str] = []
        caller: FrameType | None = frame
        while caller is not None:
            path = caller.f_code.co_filename
            if path.startswith(PACKAGE):
                name = getattr(caller.f_code, "co_qualname", caller.f_code.co_name)
                stack.append(f"{Path(path).relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}:{name}")
                if caller.f_code.co_name == self.start and "cli" in path:
                    break
            caller = caller.f_back
        self.stack = max(self.stack, stack[::-1], key=len)

    def record(self, arguments: list[str]) -> list[str]:
        """Run a command line, and return the stack."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            code = command(arguments)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
        if code or not self.stack:
            raise SystemExit(f"fullconv {' '.join(arguments)}: exit {code}, {len(self.stack)} frames")
        return self.stack


def write_data(root: Path) -> Path:
    """Write 6 images of two classes; return one image."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            mask = (rng.random((3, 4)) < 0.5).repeat(16, 0).repeat(16, 1).astype(np.uint8)
            noise = rng.integers(0, 99, (48, 64, 3))
            for part, array in (("images", noise + 99 * mask[..., None]), ("masks", mask)):
                path = root / split / part / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(path)
    (root / "data.toml").write_text('classes = ["ground", "box"]\n', encoding="utf-8")
    return root / "val" / "images" / "val0.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the frames")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data, run, out = (Path(temporary) / name for name in ("data", "run", "out"))
        image = write_data(data)
        small = ["--backbone", "tiny", "--weights", "none", "--crop", "32x32", "--batch-size", "2", "--set", "steps=2"]
        machine = ["--device", "cpu", "--precision", "fp32", "--workers", "0"]
        stacks = {
            "loss": StackRecorder(PixelLoss.sums, "train").record(
                ["train", str(data), "-o", str(run), *small, *machine]
            ),
            "upsampling of a strip": StackRecorder(Network.upsample, "predict").record(
                ["predict", str(run), str(image), "-o", str(out), "--engine", "torch", "--precision", "fp32"]
            ),
        }
    for name, stack in stacks.items():
        print(f"frames to the {name}: {len(stack)} (at most {LIMIT})")
        if options.show:
            print("".join(f"  {frame}\n" for frame in stack), end="")


if __name__ == "__main__":
    main()
