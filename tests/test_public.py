"""The public names, and errors for wrong arguments."""

from __future__ import annotations

import inspect
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from fullconv.errors import FullconvError


@pytest.mark.parametrize("name", fullconv.__all__)
def test_a_public_name_resolves_and_has_a_docstring(name):
    value = getattr(fullconv, name)
    assert name == "__version__" or inspect.getdoc(value)
    assert getattr(fullconv, name) is value


def test_the_names_of_the_interface_exist():
    expected = {
        "build",
        "train",
        "load",
        "Segmenter",
        "evaluate",
        "open_dataset",
        "predict_raster",
        "show",
        "read_image",
    }
    assert "__version__" in fullconv.__all__
    assert expected <= set(fullconv.__all__)
    assert set(dir(fullconv)) >= set(fullconv.__all__)
    assert list(fullconv.__all__) == sorted(fullconv.__all__)
    with pytest.raises(AttributeError):
        fullconv.no_such_name  # noqa: B018


def test_public_names_pickle():
    for name in ("build", "Segmenter", "Recipe", "Card", "FullconvError"):
        assert pickle.loads(pickle.dumps(getattr(fullconv, name))) is getattr(fullconv, name)


@cache
def network():
    return fullconv.build("fcn8s", backbone="tiny", num_classes=2, width=0.25)


@cache
def segmenter():
    return fullconv.Segmenter.from_network(network(), classes=["road", "sky"], precision="fp32")


def prediction():
    return segmenter().predict(np.zeros((8, 9, 3), np.uint8))


def made(**options):
    return fullconv.Segmenter.from_network(network(), **{"classes": ["road", "sky"], **options})


WRONG = [
    (lambda: fullconv.build("fcn8s", backbone="tiny", num_classes="two"), "num_classes and in_channels are whole numbers"),
    (lambda: fullconv.build("fcn8s", backbone="tiny", num_classes=2, in_channels=3.0), "are whole numbers, not 2 and 3.0"),
    (lambda: fullconv.build(None, num_classes=2), "there is no variant 'None'"),
    (lambda: fullconv.build("fcn8s", backbone=18, num_classes=2), "backbone is a name, not 18"),
    (lambda: fullconv.build("fcn8s", backbone="tiny", num_classes=2, weights=3), 'a file, "imagenet" or "none", not 3'),
    (lambda: network()(torch.zeros(1, 4, 32, 32)), r"takes a float tensor \(N, 3, H, W\), not \(1, 4, 32, 32\)"),
    (lambda: network()(torch.zeros(3, 32, 32)), r"not \(3, 32, 32\) torch.float32"),
    (lambda: network()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "torch.uint8"),
    (lambda: network()(np.zeros((1, 3, 32, 32), np.float32)), "not ndarray"),
    (lambda: network().upsample(torch.zeros(1, 2, 4, 4), (32, 32), rows=(5, 2)), "rows 5 to 2 are not among the 32"),
    (lambda: network().upsample(torch.zeros(1, 2, 4, 4), (32, 32), rows=(30, 33)), "rows 30 to 33"),
    (lambda: fullconv.load(None), "path of a model file or run folder, not None"),
    (lambda: made(classes=2), "a list of names, not 2"),
    (lambda: made(mean=[0.5, float("nan"), 0.5]), "mean is to be finite in every channel, not 0.5, nan, 0.5"),
    (lambda: prediction().save(3), "the path of a file, not 3"),
    (lambda: fullconv.show(np.zeros((8, 9, 3), np.uint8), None, "map.png"), "prediction of Segmenter.predict, not str"),
    (lambda: fullconv.train("data", out="run", recipe=3), "recipe is a file, or the name of a recipe .* not 3"),
    (lambda: made(mean=[0.5]), "mean has 1 numbers for 3 channels"),
    (lambda: made(std=[0, 0, 0]), "std must be above 0"),
    (lambda: made(classes=["a", "a"]), "class 'a' is listed twice"),
    (lambda: made(classes="ab"), "a list of names, not the string 'ab'"),
    (lambda: fullconv.Segmenter.from_network(lambda x: x, classes=["a", "b"]), "torch.nn.Module, not function"),
    (lambda: segmenter().predict(None), "expected an image as a path, a PIL image or an array .* not NoneType"),
    (lambda: segmenter().predict([1, 2]), "not list"),
    (lambda: prediction().save("map.jpg"), r"map\.jpg: label maps are written as PNG"),
    (lambda: fullconv.evaluate(3, "data"), "cannot score a int: give what fullconv.load"),
    (lambda: fullconv.evaluate("nowhere", "data"), "nowhere: there is no such model file"),
    (lambda: fullconv.evaluate(segmenter(), None), "a data set is the path of its folder or .zip, not None"),
    (lambda: fullconv.open_dataset(None), "not None"),
    (lambda: fullconv.train(None, out="run"), "data is the path of a folder, not None"),
    (lambda: fullconv.train("data", out=None), "out is the path of a folder, not None"),
    (lambda: fullconv.show(3), "not int"),
    (lambda: fullconv.show(np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8), np.uint8)), "mask is 9x8, the image 8x9"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments_raise_errors_of_the_tree(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = WRONG[number]
    with pytest.raises(FullconvError, match=words):
        call()
    assert not list(tmp_path.iterdir())


def test_show_takes_a_mask_by_its_path(tmp_path):
    pytest.importorskip("matplotlib")
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(8, 9) % 2).save(tmp_path / "mask.png")
    figure = fullconv.show(np.zeros((8, 9, 3), np.uint8), tmp_path / "mask.png", prediction())
    assert [axis.get_title() for axis in figure.axes] == ["image", "mask", "prediction"]
