"""The public names, kept true."""

from __future__ import annotations

import inspect
import pickle

import pytest

import fullconv


@pytest.mark.parametrize("name", fullconv.__all__)
def test_a_public_name_resolves_and_has_a_docstring(name):
    value = getattr(fullconv, name)
    assert name == "__version__" or inspect.getdoc(value)
    assert getattr(fullconv, name) is value


def test_the_names_of_the_interface_are_there():
    wanted = {"build", "train", "load", "Segmenter", "evaluate", "open_dataset", "show", "read_image", "__version__"}
    assert wanted <= set(fullconv.__all__)
    assert set(dir(fullconv)) >= set(fullconv.__all__)
    assert list(fullconv.__all__) == sorted(fullconv.__all__)


def test_every_lazy_name_is_public_and_the_other_way_round():
    assert set(fullconv._PUBLIC) == set(fullconv.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fullconv' has no attribute 'Segmentor'"):
        _ = fullconv.Segmentor


def test_public_names_can_be_sent_to_another_process():
    for name in ("build", "Segmenter", "Recipe", "Card", "FullconvError"):
        assert pickle.loads(pickle.dumps(getattr(fullconv, name))) is getattr(fullconv, name)
