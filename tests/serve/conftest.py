"""Services that tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from serving import CLASSES, RunningService, draw_image  # noqa: E402

from model_files import small_segmenter, two_headed_segmenter  # noqa: E402


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("served") / "shapes" / "model.safetensors"
    small_segmenter(CLASSES, seed=5).save(path)
    return path


@pytest.fixture(scope="session")
def two_headed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("two") / "two.safetensors"
    two_headed_segmenter().save(path)
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of images of several kinds."""
    folder = tmp_path_factory.mktemp("images")
    for seed, size in enumerate([(96, 128), (96, 128), (61, 47), (64, 64)]):
        Image.fromarray(draw_image(seed, size)).save(folder / f"p{seed}.png")
    Image.fromarray(draw_image(7)).save(folder / "photo.jpg", quality=90)
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(draw_image(8, (40, 72))).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(draw_image(9)[..., 0]).save(folder / "grey.png")
    Image.fromarray(draw_image(4)).quantize(16).save(folder / "palette.png")
    Image.fromarray(np.dstack([draw_image(5), draw_image(6)[..., :1]])).save(folder / "alpha.png")
    Image.fromarray(draw_image(3)).save(folder / "plain.tif")
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory, model) -> Iterator[Callable[..., RunningService]]:
    """Start a service on a free port; all are ended in the end."""
    running: list[RunningService] = []

    def begin(*options: object, model: Path | str = model.parent) -> RunningService:
        log = tmp_path_factory.mktemp("log") / "service.log"
        command = [sys.executable, "-m", "fullconv", "serve", str(model), "--port", "0", *map(str, options)]
        running.append(RunningService(command, log))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def service(start) -> RunningService:
    """One with the defaults, which every test leaves as it was."""
    return start()


@pytest.fixture(scope="session")
def strict(start) -> RunningService:
    """One with narrow limits and a token."""
    limits = ("--max-body", "1MB", "--max-pixels", "200000", "--timeout", "3", "--queue", "2")
    return start(*limits, "--token", "open-sesame", "--batch-size", "4")
