from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_files import small_segmenter


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    small_segmenter().save(path)
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Thirty images in two folders, two of the same name, one truncated, and a text file."""
    folder = tmp_path_factory.mktemp("images") / "in"
    (folder / "inner").mkdir(parents=True)
    for n in range(28):
        noise = np.random.default_rng(n).integers(0, 256, (20 + n, 33, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / ("inner" if n % 3 else "") / f"{n:02}.png")
    Image.new("RGB", (8, 9), (250, 0, 0)).save(folder / "00.jpg")
    (folder / "inner" / "broken.png").write_bytes((folder / "inner" / "01.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("notes")
    return folder
