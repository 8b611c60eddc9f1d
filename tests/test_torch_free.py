"""The half of the package that works where torch cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv.exports import export_model
from fullconv.nn import build
from fullconv.segmenter import Segmenter, load
from networks import enliven
from synthetic.shapes import draw

BLOCK = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
"""
MODULES = [
    "errors", "notices", "labels", "card", "modelfile", "geometry.axis", "tiling.plan", "images", "preprocess", "data.files",
    "interpolation", "prediction", "tta", "engines", "engines.autotune", "engines.exported", "engines.onnxruntime",
    "engines.openvino", "segmenter", "rasters", "predict",
]  # fmt: skip


def run(code: str, *arguments: object, folder: Path) -> str:
    """Run code in a process without torch; returns what it prints."""
    command = [sys.executable, "-c", BLOCK + code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ}, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_modules_import_without_torch(tmp_path):
    run("\n".join(f"import fullconv.{module}" for module in MODULES), folder=tmp_path)


def test_reading_preprocessing_plans_stitching_and_interpolation(tmp_path):
    Image.fromarray(draw(np.random.default_rng(0), (90, 70), 3)[0]).save(tmp_path / "a.png")
    code = """
import numpy as np
from fullconv.card import Card
from fullconv.geometry.axis import Axis, Geometry
from fullconv.images import read_image
from fullconv.interpolation import ScoreLayout, argmax
from fullconv.preprocess import normalization, rescale, select_bands
from fullconv.tiling import plan, tiled_scores

card = Card(variant="fcn32s", classes=["a", "b", "c"])
pixels = select_bands(read_image("a.png"), card)
factor, shift = normalization(card)
image = rescale(pixels[None], (45, 35)) * factor + shift
axis = Axis.identity().conv(3, stride=4, padding=1)
layout = ScoreLayout(Geometry(axis, axis), "stride", "replicate", 4, (4, 4, 4, 4), 4, 4, 3, 12.0)

def scores(x):
    # a mean over 3x3 pixels around every fourth, with zeros beyond the border
    rows, columns = -(-x.shape[1] // 4), -(-x.shape[2] // 4)
    x = np.pad(x, ((0, 0), (1, 4), (1, 4), (0, 0)))
    parts = [x[:, i : i + 4 * rows : 4, j : j + 4 * columns : 4] for i in range(3) for j in range(3)]
    return {"": np.mean(parts, axis=0).transpose(0, 3, 1, 2)}

height, width = image.shape[1:3]
whole = scores(image)[""]
tiled = tiled_scores(scores, image, *plan(layout, height, width, 8))[""]
assert np.array_equal(whole, tiled)
labels = argmax(layout.upsample(whole.astype(np.float32), (height, width))[0])
assert labels.shape == (45, 35) and labels.dtype == np.uint8
"""
    run(code, folder=tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = enliven(build("fcn8s", backbone="tiny", num_classes=3, width=0.5))
    segmenter = Segmenter.from_network(network, ("ground", "disc", "box"), device="cpu", precision="fp32")
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_model(segmenter, path, "onnx", force=True)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_exported_file_predicts_images_without_torch_as_with_it(exported, engine, tmp_path):
    pytest.importorskip(engine)
    image = draw(np.random.default_rng(3), (150, 101), 3)[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    code = """
import sys, json, pickle, copy
import numpy as np
from fullconv.engines import read_exported
from fullconv.segmenter import load

segmenter = load(sys.argv[1], engine=sys.argv[2])
plain = segmenter.predict("a.png", probabilities=True)
tiled = segmenter.predict("a.png", tile=32)
np.savez("found.npz", plain=plain.label_map, tiled=tiled.label_map, probabilities=plain.probabilities,
         augmented=segmenter.with_options(tta="flip,0.5").predict("a.png").label_map)
copied = pickle.loads(pickle.dumps(segmenter)).predict("a.png")
assert np.array_equal(copied.label_map, plain.label_map)
assert pickle.loads(pickle.dumps(plain)).confidence.shape == plain.label_map.shape
assert "torch" not in sys.modules
print(json.dumps([str(segmenter.device), segmenter.engine.name]))
"""
    assert json.loads(run(code, exported, engine, folder=tmp_path)) == ["cpu", engine]
    found, segmenter = np.load(tmp_path / "found.npz"), load(exported, engine=engine)
    expected = segmenter.predict(image, probabilities=True)
    assert np.array_equal(found["plain"], expected.label_map)
    assert np.array_equal(found["tiled"], segmenter.predict(image, tile=32).label_map)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)
    augmented = segmenter.with_options(tta="flip,0.5").predict(image).label_map
    assert (found["augmented"] != augmented).mean() < 1e-3  # resized without torch: other roundings


@pytest.mark.parametrize("tile", ["none", 32])
def test_an_exported_file_predicts_a_raster_without_torch_as_with_it(exported, tile, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    image = draw(np.random.default_rng(3), (150, 101), 3)[0]
    profile = {"driver": "GTiff", "height": 150, "width": 101, "count": 3, "dtype": "uint8", "crs": "EPSG:32632",
               "transform": rasterio.Affine(0.5, 0, 440720, 0, -0.5, 5100000)}  # fmt: skip
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(np.moveaxis(image, -1, 0))
    code = """
import sys
from fullconv.rasters import predict_raster
from fullconv.segmenter import load

tile = "none" if sys.argv[2] == "none" else int(sys.argv[2])
predict_raster(load(sys.argv[1]), "a.tif", "labels.tif", tile=tile, probabilities="chances.tif")
assert "torch" not in sys.modules
"""
    run(code, exported, tile, folder=tmp_path)
    expected = load(exported).predict(image, tile="none").label_map
    with rasterio.open(tmp_path / "labels.tif") as file:
        assert np.array_equal(file.read(1), expected)
