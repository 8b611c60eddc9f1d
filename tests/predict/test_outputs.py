"""Label maps as files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.card import Labels
from fullconv.predict.outputs import count_file, count_pixels, encode

COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0))


@pytest.mark.parametrize("encoding", ["index", "grey", "color", "original"])
def test_a_label_map_in_any_format_keeps_its_pixels(tmp_path, encoding):
    labels = Labels(classes=("a", "b", "c"), palette=COLORS, values={0: 0, 300: 1, 7: 2, 9: 255})
    label_map = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.uint8)
    (tmp_path / "m.png").write_bytes(encode(label_map, labels, encoding))
    assert count_file(str(tmp_path / "m.png"), labels, encoding).tolist() == np.bincount(label_map.ravel()).tolist()
    with Image.open(tmp_path / "m.png") as image:
        pixels = np.asarray(image)
        assert image.mode == {"index": "P", "grey": "L", "color": "RGB"}.get(encoding, image.mode)
    expected = {"color": np.array(COLORS)[label_map], "original": np.array([0, 300, 7])[label_map]}
    np.testing.assert_array_equal(pixels, expected.get(encoding, label_map))


def test_original_values_up_to_255_stay_8_bit(tmp_path):
    labels = Labels(classes=("a", "b"), values={0: 0, 255: 1}, ignore_index=9)
    (tmp_path / "m.png").write_bytes(encode(np.array([[0, 1]], np.uint8), labels, "original"))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[0, 255]]


@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (300, 1)])
def test_pixels_are_counted_by_class(shape):
    label_map = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    np.testing.assert_array_equal(count_pixels(label_map, 255), np.bincount(label_map.reshape(-1), minlength=255))
    np.testing.assert_array_equal(count_pixels(label_map.T[::-1], 255), count_pixels(label_map, 255))  # any layout
