"""Section 8 of the interface, line by line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import contract_tools as tools
import numpy as np
import pytest
from contract_tools import CLASSES, scene
from PIL import Image

torch = pytest.importorskip("torch")

import fullconv  # noqa: E402

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- import ----------------------------------------------------------------------------------------------------------


def test_import_fullconv_loads_no_torch():
    code = "import fullconv, sys; print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    assert in_a_new_process(code) == "[]"


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


def test_names_are_listed_and_an_unknown_one_is_an_attribute_error():
    assert {"build", "train", "load", "Segmenter", "evaluate", "open_dataset", "show"} <= set(dir(fullconv))
    with pytest.raises(AttributeError):
        fullconv.nothing_of_the_kind  # noqa: B018


# --- build -----------------------------------------------------------------------------------------------------------


def test_build_gives_a_module_in_eval_mode():
    network = fullconv.build("fcn8s", backbone="tiny", num_classes=5, in_channels=3, weights=None)
    assert isinstance(network, torch.nn.Module)
    assert not any(module.training for module in network.modules())
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 17, 23)).shape == (1, 5, 17, 23)


# --- load, predict ---------------------------------------------------------------------------------------------------


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


def test_a_pil_image_is_turned_as_exif_says(segmenter, shapes):
    file = shapes / "val/images/turned.jpg"
    labels = segmenter.predict(file).label_map
    assert labels.shape == (64, 40)
    np.testing.assert_array_equal(segmenter.predict(Image.open(file)).label_map, labels)
    np.testing.assert_array_equal(segmenter.predict(fullconv.read_image(file)).label_map, labels)


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


def test_probabilities_are_the_softmax_and_labels_the_argmax_of_the_logits(segmenter, shapes):
    file = shapes / "val/images/odd.png"
    logits = segmenter.logits(file, tile="none")
    assert logits.shape == (3, 33, 47)
    assert logits.dtype == np.float32
    prediction = segmenter.predict(file, probabilities=True)
    np.testing.assert_array_equal(prediction.label_map, logits.argmax(axis=0))
    softmax = torch.softmax(torch.from_numpy(logits), 0).numpy()
    np.testing.assert_allclose(prediction.probabilities, softmax, atol=1e-6)


def test_a_prediction_saves_as_indexed_png_and_paints_itself(segmenter, shapes, tmp_path):
    prediction = segmenter.predict(shapes / "val/images/p00.png")
    prediction.save(tmp_path / "street.png")
    prediction.save(str(tmp_path / "again.png"))
    with Image.open(tmp_path / "street.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == [value for colour in tools.PALETTE for value in colour]
        np.testing.assert_array_equal(np.asarray(image), prediction.label_map)
    overlay = prediction.overlay()
    assert isinstance(overlay, Image.Image)
    assert overlay.width >= 64
    assert overlay.height >= 48
    shows = [
        name for name in ("_repr_png_", "_repr_html_", "_repr_mimebundle_", "_repr_jpeg_") if hasattr(prediction, name)
    ]
    assert shows
    assert any(getattr(prediction, name)() for name in shows)


def test_python_and_command_line_give_the_same_label_maps(segmenter, shapes, predicted):
    for file in sorted((shapes / "val/images").iterdir()):
        labels = segmenter.predict(file).label_map
        np.testing.assert_array_equal(labels, tools.read(predicted / f"{file.stem}.png"))


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 2), (97, 31), (130, 161)])
def test_logits_have_the_picture_s_size(segmenter, size):
    picture = scene(3, 200, 200)[0][: size[0], : size[1]]
    assert segmenter.logits(picture).shape == (3, *size)
    assert segmenter.predict(picture).label_map.shape == size


@pytest.mark.parametrize("variant", ["fcn32s", "fcn8s", "fcn4s"])
def test_logits_of_tiles_are_those_of_the_whole(variant):
    torch.manual_seed(3)
    network = fullconv.build(variant, backbone="tiny", num_classes=4, in_channels=3, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.out_channels == 4:
            torch.nn.init.normal_(module.weight, std=0.05)
    segmenter = fullconv.Segmenter.from_network(network.eval(), classes=list("abcd"))
    picture = scene(4, 203, 331)[0]
    whole = segmenter.logits(picture, tile="none")
    assert np.ptp(whole) > 1e-2
    for tile in (32, 64, 33, "auto"):
        tiles = segmenter.logits(picture, tile=tile)
        assert tiles.shape == whole.shape
        assert np.abs(tiles - whole).max() <= 1e-5 * max(1.0, np.abs(whole).max()), tile


# --- from_network ----------------------------------------------------------------------------------------------------


def test_any_module_serves_with_imagenet_statistics_by_default():
    segmenter = fullconv.Segmenter.from_network(torch.nn.Identity(), classes=["road", "sky", "tree"])
    picture = scene(5, 37, 50)[0]
    expected = ((picture.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(segmenter.logits(picture), expected, atol=1e-5)
    labels = segmenter.predict(picture).label_map
    assert labels.shape == (37, 50)
    picked = np.take_along_axis(expected, labels[None].astype(int), 0)[0]
    assert (picked >= expected.max(axis=0) - 1e-5).all()
    saved = segmenter.predict(picture)
    assert saved.overlay().size[0] >= 50


def test_any_module_serves_with_its_own_statistics():
    module = torch.nn.Conv2d(3, 2, 3, padding=1)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    segmenter = fullconv.Segmenter.from_network(module, classes=["road", "sky"], mean=mean, std=std)
    picture = scene(6, 64, 96)[0]
    x = torch.from_numpy(((picture / 255.0 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.inference_mode():
        expected = module(x)[0].numpy()
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(segmenter.logits(picture)[inner], expected[inner], atol=1e-4)


def test_a_network_of_ours_serves_from_memory():
    network = fullconv.build("fcn16s", backbone="tiny", num_classes=2, in_channels=1, weights=None)
    segmenter = fullconv.Segmenter.from_network(network, classes=["road", "sky"], mean=[0.5], std=[0.25])
    grey = scene(6, 40, 41)[0][..., 0]
    np.testing.assert_array_equal(segmenter.logits(grey), segmenter.logits(grey[..., None]))
    assert segmenter.predict(grey).label_map.shape == (40, 41)


# --- train, evaluate, data, show -------------------------------------------------------------------------------------


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
    found = tools.call("evaluate", model, shapes, "--json", "--precision", "fp32").json()
    assert report.mean_iou == pytest.approx(found["mean_iou"], abs=1e-12)
    assert np.asarray(report.confusion).tolist() == found["confusion"]


def test_open_dataset_gives_classes_and_splits(shapes):
    dataset = fullconv.open_dataset(str(shapes))
    assert [getattr(entry, "name", entry) for entry in dataset.classes] == list(CLASSES)
    assert {name: len(items) for name, items in dataset.splits.items()} == {"train": 8, "val": 4, "test": 2}


def test_open_dataset_says_what_is_wrong(tmp_path):
    with pytest.raises(Exception, match="nowhere"):
        fullconv.open_dataset(tmp_path / "nowhere")


def test_show_gives_a_matplotlib_figure(segmenter, shapes):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    file = shapes / "val/images/p00.png"
    prediction = segmenter.predict(file)
    figure = fullconv.show(tools.read(file), tools.read(shapes / "val/masks/p00.png"), prediction)
    assert isinstance(figure, Figure)
    assert len(figure.axes) >= 3
    assert isinstance(fullconv.show(file, None, prediction), Figure)


def test_a_missing_extra_is_one_sentence_with_the_install_line(shapes):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np, fullconv\n"
        "try:\n    fullconv.show(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), None)\n"
        "except Exception as error:\n    print(error)\n"
    )
    said = in_a_new_process(code)
    assert "pip install" in said
    assert "fullconv[" in said


def test_a_bad_picture_is_named(segmenter, tmp_path):
    Path(tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(Exception, match=r"bad\.png"):
        segmenter.predict(tmp_path / "bad.png")
    with pytest.raises(Exception, match=r"missing\.png"):
        segmenter.predict(tmp_path / "missing.png")


@pytest.mark.parametrize(
    "array", [np.zeros((8,), np.uint8), np.zeros((8, 8, 7), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_an_array_that_is_no_picture_for_this_model_is_refused(segmenter, array):
    with pytest.raises(Exception, match=r"\d|shape|channel|band|empty"):
        segmenter.predict(array)
