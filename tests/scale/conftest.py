from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    from fullconv import Segmenter, build

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Segmenter.from_network(build("fcn8s", backbone="tiny", num_classes=3, width=0.5), classes=["a", "b", "c"]).save(
        path
    )
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
