"""Section 8 of the interface, line by line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import contract_tools as tools
import numpy as np
import pytest
import torch
from contract_tools import scene
from PIL import Image

import fullconv


def test_import_fullconv_is_spawn_safe(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\nimport fullconv\n\n"
        "def work(n):\n    return fullconv.__version__, n\n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(work, [1]))\n",
        "utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert fullconv.__version__ in done.stdout


def test_load_gives_a_segmenter_with_network_and_card(segmenter, model):
    assert isinstance(segmenter, fullconv.Segmenter)
    assert isinstance(segmenter.network, torch.nn.Module)
    card = segmenter.card
    assert card.variant == "fcn8s"
    assert card.weights_sha256 == tools.card_of(model)["weights_sha256"]
    assert isinstance(fullconv.load(str(model)), fullconv.Segmenter)


def test_predict_takes_a_path_a_pil_image_or_an_array(segmenter, shapes):
    file = shapes / "val/images/odd.png"
    array = tools.read(file)
    maps = [segmenter.predict(image).label_map for image in (file, str(file), Image.open(file), array)]
    for labels in maps:
        assert labels.shape == (33, 47)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, maps[0])


def test_a_prediction_has_label_map_probabilities_and_confidence(segmenter, shapes):
    file = shapes / "val/images/odd.png"
    plain = segmenter.predict(file, tile="auto", probabilities=False)
    assert plain.probabilities is None
    rich = segmenter.predict(file, probabilities=True)
    np.testing.assert_array_equal(rich.label_map, plain.label_map)
    p = rich.probabilities
    assert p.shape == (3, 33, 47)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(p.argmax(axis=0), rich.label_map)
    np.testing.assert_allclose(rich.confidence, p.max(axis=0), atol=1e-6)
    assert plain.confidence.shape == (33, 47)
    np.testing.assert_allclose(plain.confidence, rich.confidence, atol=1e-6)


def test_python_and_command_line_give_the_same_label_maps(segmenter, shapes, predicted):
    for file in sorted((shapes / "val/images").iterdir()):
        labels = segmenter.predict(file).label_map
        np.testing.assert_array_equal(labels, tools.read(predicted / f"{file.stem}.png"))


def test_train_returns_a_segmenter_whose_keywords_are_the_recipe_s_names(shapes, tmp_path):
    out = tmp_path / "a"
    segmenter = fullconv.train(
        str(shapes),
        out=str(out),
        variant="fcn8s",
        backbone="tiny",
        weights="none",
        epochs=1,
        batch_size=2,
        crop="32x32",
        precision="fp32",
        workers=0,
        seed=11,
    )
    assert isinstance(segmenter, fullconv.Segmenter)
    loaded = fullconv.load(out / "model.safetensors", precision="fp32", device="cpu")
    assert loaded.card.weights_sha256 == segmenter.card.weights_sha256
    assert {"model.safetensors", "recipe.toml", "metrics.jsonl", "report.html"} <= {f.name for f in out.iterdir()}
    picture = scene(8)[0]
    np.testing.assert_array_equal(segmenter.predict(picture).label_map, loaded.predict(picture).label_map)


def test_train_names_a_wrong_keyword(shapes, tmp_path):
    with pytest.raises(Exception, match="epochs"):
        fullconv.train(shapes, out=tmp_path / "a", variant="fcn8s", backbone="tiny", epoch=1)
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").iterdir())


def test_evaluate_gives_the_number_of_the_command(segmenter, model, shapes):
    report = fullconv.evaluate(segmenter, str(shapes), split="val")
    found = tools.call("evaluate", model, shapes, "--split", "val", "--json", "--precision", "fp32").json()
    assert report.mean_iou == pytest.approx(found["mean_iou"], abs=1e-12)
    assert np.asarray(report.confusion).tolist() == found["confusion"]


def test_a_bad_image_is_reported(segmenter, tmp_path):
    Path(tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(Exception, match=r"bad\.png"):
        segmenter.predict(tmp_path / "bad.png")
    with pytest.raises(Exception, match=r"missing\.png"):
        segmenter.predict(tmp_path / "missing.png")
