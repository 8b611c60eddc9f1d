"""Data and runs that many contract tests share; each is made once a session."""

from __future__ import annotations

import contextlib
from pathlib import Path

import contract_tools as tools
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, with caches of our own, also for calls of the Python interface."""
    for name, value in tools.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layout 2 with three splits; in val an odd size and a JPEG that EXIF turns by a quarter."""
    data = tools.toml(tmp_path_factory.mktemp("shapes") / "data")
    tools.fill(data / "train/images", data / "train/masks", 8, seed=100, suffix=".jpg")
    tools.fill(data / "val/images", data / "val/masks", 2, seed=200)
    tools.fill(data / "test/images", data / "test/masks", 2, seed=300, size=(64, 80))
    picture, mask = tools.scene(210, 33, 47)
    tools.save(picture, data / "val/images/odd.png")
    tools.save(mask, data / "val/masks/odd.png")
    picture, mask = tools.scene(211, 64, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    tools.save(np.rot90(picture, 1).copy(), data / "val/images/turned.jpg", exif=exif)
    tools.save(mask, data / "val/masks/turned.png")
    return data


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tools.Answer]:
    """A finished run of two epochs, and the output of the command."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    answer = tools.call("train", shapes, "-o", run, *tools.STRAIGHT, "--workers", 0)
    assert answer.rc == 0, str(answer)
    return run, answer


@pytest.fixture(scope="session")
def run(trained: tuple[Path, tools.Answer]) -> Path:
    return trained[0]


@pytest.fixture(scope="session")
def model(run: Path) -> Path:
    return run / "model.safetensors"


@pytest.fixture(scope="session")
def segmenter(model: Path):
    import fullconv

    return fullconv.load(model, precision="fp32", engine="auto", device="cpu")


@pytest.fixture(scope="session")
def predicted(model: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of the four val pictures."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    answer = tools.call("predict", model, shapes / "val/images", "-o", out, "--precision", "fp32")
    assert answer.rc == 0, str(answer)
    return out


@pytest.fixture
def closing():
    """Processes put here are ended when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda process: stack.callback(lambda: process.poll() is None and (process.kill(), process.wait()))
