"""Nets of four and six channels: colour in one folder, depth or HHA in another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fullconv.cli import main
from fullconv.data import open_dataset
from fullconv.labels import read_label_map
from fullconv.metrics import confusion_matrix
from fullconv.modelfile import read_card
from fullconv.segmenter import load
from fullconv.training import train
from synthetic.shapes import draw, save_image, save_mask

SHORT = {"weights": "none", "width": 1 / 32, "steps": 2, "crop": "whole", "batch_size": 1, "lr": 1e-3, "workers": 0,
         "precision": "fp32", "augment": "none"}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bands")
    rng = np.random.default_rng(1)
    for number in range(5):
        image, mask = draw(rng, (30, 40), 3)
        split = "train" if number < 3 else "val"
        save_image(image, root / "images" / split / f"p{number}.png")
        save_image(image[..., ::-1] // 2, root / "hha" / split / f"p{number}.png")
        save_image(image[..., :1].astype(np.uint16) * 9, root / "depth" / split / f"p{number}.png")
        save_mask(mask, root / "masks" / split / f"p{number}.png")
    return root


@pytest.mark.parametrize(
    ("variant", "folder", "channels"), [("nyud-fcn32s-color-d", "depth", 4), ("nyud-fcn32s-color-hha", "hha", 6)]
)
def test_network_with_extra_bands_trains_evaluates_and_predicts(data, tmp_path, variant, folder, channels, capsys):
    (data / "data.toml").write_text(f'classes = ["a", "b", "c"]\nbands_from = "{folder}"\n', encoding="utf-8")
    train(data, tmp_path / "run", variant=variant, **SHORT)
    assert read_card(tmp_path / "run" / "model.safetensors").in_channels == channels
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), str(data), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    images, further = data / "images" / "val", data / folder / "val"
    line = ["predict", str(tmp_path / "run"), str(images), "-o", str(tmp_path / "out")]
    assert main([*line, "--bands-from", str(further)]) == 0
    pairs = [(path, tmp_path / "out" / path.name) for path in (data / "masks" / "val").iterdir()]
    counted = sum(confusion_matrix(*map(read_label_map, pair), 3) for pair in pairs)
    assert counted.tolist() == scored["confusion"]
    # the last channels reach the network
    dataset = open_dataset(data)
    image = dataset.read_image(dataset.samples("val")[0])
    other = image.copy()
    other[..., 3:] = other[..., 3:][::-1]
    segmenter = load(tmp_path / "run")
    assert not np.allclose(segmenter.logits(image), segmenter.logits(other))
    capsys.readouterr()
    for options, message in (
        ([], "has 3 bands, the model expects"),
        (["--bands-from", str(data / "nothing")], "nothing: no such folder"),
        (["--bands-from", str(data / folder / "train")], "no image of the same name in"),
    ):
        assert main([*line[:-1], str(tmp_path / "none"), *options]) == 2
        assert message in capsys.readouterr().err
