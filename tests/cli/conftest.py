"""A data set, a model, and a call of the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fullconv.cli import main
from model_files import small_segmenter
from synthetic.shapes import make_shapes, names


class Done(NamedTuple):
    """Exit code and output of one call."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=8, size=(32, 40), test=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    small_segmenter(names(4), seed=5).save(path)
    return path


@pytest.fixture
def run(capfd) -> Callable[..., Done]:
    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, *capfd.readouterr())

    return call
