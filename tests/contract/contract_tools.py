"""Helpers of the contract tests: call the command as a user does, read its results, and write small data sets.

Nothing here looks inside the package: commands are called through the installed console script, model files are read
byte by byte, label maps with Pillow.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("background", "disc", "box")
PALETTE = ((0, 0, 0), (250, 40, 30), (20, 60, 240))
EVALUATE_KEYS = {
    "images", "pixels", "pixel_accuracy", "mean_accuracy", "mean_iou", "freq_weighted_iou", "classes",
    "mean_iou_interval", "confusion", "policy", "engine", "precision", "failed", "seconds",
}  # fmt: skip
CARD_KEYS = {
    "format", "variant", "backbone", "in_channels", "classes", "palette", "ignore_index", "values", "mean", "std",
    "range", "scale", "stride", "receptive_field", "recipe", "scores", "agreement", "data", "weights_origin",
    "weights_license", "fullconv", "weights_sha256",
}  # fmt: skip
SMALL = (
    "--variant", "fcn8s", "--backbone", "tiny", "--weights", "none", "--crop", "32x32", "--batch-size", "2",
    "--precision", "fp32", "--device", "cpu", "--set", "width=0.25",
)  # fmt: skip
QUICK = (*SMALL, "--epochs", "1", "--workers", "0")
STRAIGHT = (*SMALL, "--epochs", "2", "--seed", "7", "--set", "validate_every=2")
"""Of two epochs, scored at the end only: how many images are scored in between depends on the speed of the machine."""


# --- calling ---------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """The result of a command: exit status, bytes on stdout and stderr."""

    rc: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode("utf-8")

    @property
    def err(self) -> str:
        return self.stderr.decode("utf-8")

    @property
    def text(self) -> str:
        """Both streams on one line, without frames and colors, so that wrapping does not matter."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.err + "\n" + self.out)
        return " ".join(re.sub(r"[│╭╮╰╯─┃━┏┓┗┛┡┩╇┳┻]+", " ", plain).split())

    def json(self) -> dict:
        """The one JSON object on stdout; strict, so NaN and Infinity are refused."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        answer = json.loads(self.out, parse_constant=refuse)
        assert isinstance(answer, dict)
        return answer

    def __str__(self) -> str:
        return f"exit {self.rc}\n--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-5000:]}"


_HOME = tempfile.TemporaryDirectory(prefix="contract-home-")


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who is offline, has empty caches, a plain terminal and one thread to spare."""
    home = _HOME.name
    return {
        "FULLCONV_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{home}/hf",
        "TORCH_HOME": f"{home}/torch",
        "XDG_CACHE_HOME": f"{home}/cache",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **more,
    }


def spawn(*arguments: object, stdin: bytes = b"", seconds: float = 300, limit=None, **more: str) -> Answer:
    """``python -m fullconv ARGUMENTS`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fullconv", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=seconds,
        env={**os.environ, **environment(**more)},
        preexec_fn=limit,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def start(*arguments: object, log: Path, **more: str) -> subprocess.Popen:
    """Start the same without waiting; its output goes to ``log``."""
    with log.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "fullconv", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(**more)},
        )


def _entry():
    (point,) = importlib.metadata.entry_points(group="console_scripts", name="fullconv")
    return point.load()


def call(*arguments: object, stdin: bytes = b"", **more: str) -> Answer:
    """The installed console script, in this process (an import of torch for all tests instead of one for each)."""
    if os.environ.get("FULLCONV_CONTRACT_SPAWN"):
        return spawn(*arguments, stdin=stdin, **more)
    out, err = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in (out, err)]
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    saved = sys.argv, sys.stdin, dict(os.environ)
    source = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    try:
        sys.argv = ["fullconv", *map(str, arguments)]
        sys.stdin = source
        os.environ.update(environment(**more))
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]), warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                rc = _entry()() or 0
            except SystemExit as stop:
                rc = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except Exception:
                rc = 1
                streams[1].write(traceback.format_exc())
    finally:
        sys.argv, sys.stdin, before = saved
        os.environ.clear()
        os.environ.update(before)
        for name, handler in handlers.items():
            signal.signal(name, handler)
    for stream in streams:
        stream.flush()
    return Answer(rc, out.getvalue(), err.getvalue())


def file_size_limit():
    """Makes limits for a process that cannot write a file longer than so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    return lambda size: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def assert_user_error(answer: Answer, *patterns: str) -> None:
    """Check for exit 2 without a traceback, and for each pattern in the message."""
    assert answer.rc == 2, str(answer)
    assert "Traceback (most recent call last)" not in answer.text, str(answer)
    for pattern in patterns:
        assert re.search(pattern, answer.text, flags=re.IGNORECASE), f"no {pattern!r} in:\n{answer}"


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below the folder with its time and the digest of its bytes."""
    return {
        file.relative_to(folder).as_posix(): (
            file.stat().st_mtime_ns,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- reading what a run left -----------------------------------------------------------------------------------------


def header_of(model: Path) -> dict:
    raw = model.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def card_of(model: Path) -> dict:
    """The card, read without the package: JSON under the key ``fullconv`` of the safetensors header."""
    return json.loads(header_of(model)["__metadata__"]["fullconv"])


def tensors_of(model: Path) -> dict[str, str]:
    """A digest of every tensor of a safetensors file, by name."""
    raw = model.read_bytes()
    start_of_data = 8 + int.from_bytes(raw[:8], "little")
    digests = {}
    for name, entry in header_of(model).items():
        if name != "__metadata__":
            a, b = entry["data_offsets"]
            text = repr((entry["dtype"], entry["shape"])).encode() + raw[start_of_data + a : start_of_data + b]
            digests[name] = hashlib.sha256(text).hexdigest()
    return digests


def metrics_of(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without ``seconds``, at whatever depth."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if key != "seconds"}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return [clean(json.loads(line)) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def last_checkpoint(run: Path) -> dict[str, dict[str, str]]:
    """The tensors of ``checkpoints/last``, whether it is a file or a folder."""
    found = sorted((run / "checkpoints").glob("last*"))
    assert found, sorted((run / "checkpoints").rglob("*"))
    files = [f for item in found for f in ([item] if item.is_file() else sorted(item.rglob("*"))) if f.is_file()]
    weights = [f for f in files if f.read_bytes()[8:10] == b'{"']
    assert weights, files
    return {file.relative_to(run).as_posix(): tensors_of(file) for file in weights}


def assert_same_run(a: Path, b: Path) -> None:
    """The same by section 7: weights of the model and of the last checkpoint, and the metrics without seconds."""
    assert card_of(a / "model.safetensors")["weights_sha256"] == card_of(b / "model.safetensors")["weights_sha256"]
    assert tensors_of(a / "model.safetensors") == tensors_of(b / "model.safetensors")
    assert metrics_of(a) == metrics_of(b)
    assert last_checkpoint(a) == last_checkpoint(b)


def confusion_from(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Count with numpy only: rows ground truth, columns prediction; ground truth outside the classes is void."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for truth, predicted in pairs:
        assert truth.shape == predicted.shape
        valid = truth < classes
        np.add.at(matrix, (truth[valid].astype(int), predicted[valid].astype(int)), 1)
    return matrix


# --- writing data -----------------------------------------------------------------------------------------------------


def scene(seed: int, height: int = 48, width: int = 64, void: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Draw a red disc and a blue box on a gray, textured background, void at the rims: image and mask."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 120.0)
    mask = np.zeros((height, width), dtype=np.uint8)
    radius = draw.uniform(0.18, 0.28) * min(height, width)
    cy, cx = draw.uniform(0.3, 0.7) * height, draw.uniform(0.2, 0.35) * width
    distance = np.hypot(y - cy, x - cx)
    picture[distance < radius] = (225, 60, 50)
    mask[distance < radius] = 1
    if void:
        mask[np.abs(distance - radius) < 0.8] = 255
    top, left = int(draw.uniform(0.1, 0.4) * height), int(draw.uniform(0.6, 0.7) * width)
    box = np.s_[top : top + height // 2, left : left + width // 4]
    picture[box] = (45, 70, 215)
    mask[box] = 2
    picture += draw.normal(0, 12, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), mask


def save(array: np.ndarray, file: Path, **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jpg":
        options = {"quality": 95, **options}
    Image.fromarray(array).save(file, **options)
    return file


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def fill(images: Path, masks: Path, count: int, seed: int = 0, size: tuple[int, int] = (48, 64), **how: object) -> None:
    """Pairs ``p00.png`` ... in two folders; ``change`` is applied to each mask."""
    change = how.get("change", lambda mask: mask)
    for i in range(count):
        picture, mask = scene(seed + i, *size)
        save(picture, images / f"{how.get('prefix', 'p')}{i:02d}{how.get('suffix', '.png')}")
        save(change(mask), masks / f"{how.get('prefix', 'p')}{i:02d}.png")


def toml(folder: Path, text: str = "") -> Path:
    """A data.toml with our three classes, or the text given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.toml").write_text(
        text or f"classes = {json.dumps(CLASSES)}\npalette = {json.dumps(PALETTE)}\n", "utf-8"
    )
    return folder


def pairs(folder: Path, count: int = 10, text: str = "", **how: object) -> Path:
    """Layout 3 with its data.toml."""
    fill(folder / "images", folder / "masks", count, **how)
    return toml(folder, text)
