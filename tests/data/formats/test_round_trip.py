"""A synthetic scene, written in a format, read, converted, and read again: the same masks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullconv.data import convert_dataset, open_dataset
from fullconv.labels import VOID
from synthetic.exports import FORMATS, Scene, names_of

FAMILY = {"loose-coco": "coco", "polygon-coco": "coco", "ade20k-full": "ade20k"}


def by_name(mask: np.ndarray, classes: tuple[str, ...] | list[str]) -> np.ndarray:
    table = np.array([*classes, *["?"] * (VOID - len(classes)), "void"], object)
    return table[mask]


def check(root: Path, scene: Scene, kind: str) -> None:
    data = open_dataset(root)
    found = {sample.image.stem.removesuffix("_leftImg8bit"): sample for sample in data.samples("all")}
    assert found.keys() == scene.masks.keys()
    for name, mask in scene.masks.items():
        np.testing.assert_array_equal(data.read_image(found[name]), scene.images[name])
        expected = by_name(mask, names_of(kind))
        np.testing.assert_array_equal(by_name(data.read_mask(found[name]), data.classes), expected)


def round_trip(kind: str, to: str, scene: Scene) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in ä"
        FORMATS[kind](scene, root)
        assert open_dataset(root).format == FAMILY.get(kind, kind)
        check(root, scene, kind)
        done = convert_dataset(root, Path(folder) / "out", to)
        assert (done.written, done.failed, done.problems) == (len(scene.masks), [], [])
        check(Path(folder) / "out", scene, kind)


SCENES = st.builds(Scene.make, st.integers(0, 2**32), st.just(3), st.integers(3, 30), st.integers(4, 40))
ANY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=2, deadline=None, suppress_health_check=ANY)
@given(scene=SCENES, to=st.sampled_from(["pairs", "voc", "coco"]))
def test_a_round_trip_loses_nothing(kind, to, scene):
    round_trip(kind, to, scene)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=ANY)
@given(scene=SCENES, to=st.sampled_from(["pairs", "voc", "coco"]))
def test_no_round_trip_of_many_loses_anything(kind, to, scene):
    round_trip(kind, to, scene)
