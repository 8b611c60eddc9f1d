"""Predictions: overlays, confidence, pickling."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from fullconv.card import Labels
from fullconv.errors import MissingExtraError, OutputError
from fullconv.geometry.axis import IDENTITY
from fullconv.interpolation import ScoreLayout
from fullconv.prediction import ImageLogits, Prediction, overlay, show, to_rgb8
from fullconv.tta import TTAView, ViewScores

LABELS = Labels(classes=("ground", "disc", "a name that is rather long"), palette=((0, 0, 0), (255, 0, 0), (0, 0, 255)))


def prediction(label_map: np.ndarray) -> Prediction:
    one_hot = np.moveaxis(np.eye(3, dtype=np.float32)[label_map], -1, 0)[None]
    image, size = np.full((*label_map.shape, 3), 100, np.uint8), label_map.shape
    layout = ScoreLayout(IDENTITY, "none", "replicate", 1, (0, 0, 0, 0), 1, 1, 3, 12.0)
    logits = ImageLogits(layout, (ViewScores(TTAView(), size, {"": one_hot}),), size, "", None)
    return Prediction({"": label_map}, LABELS, None, image, logits)


def test_an_overlay_mixes_image_and_colour_and_names_the_classes_below():
    label_map = np.zeros((40, 200), np.uint8)
    label_map[:, 100:] = 1
    sheet = np.asarray(prediction(label_map).overlay())
    assert sheet[20, 50].tolist() == [50, 50, 50]
    assert sheet[20, 150].tolist() == [177, 50, 50]
    assert sheet.shape[0] > 40
    below = sheet[40:].reshape(-1, 3).tolist()
    assert [255, 0, 0] in below
    assert [0, 0, 255] not in below  # a class that is not there is not in the legend


def test_a_narrow_image_still_has_a_legend_and_void_is_not_in_it():
    label_map = np.array([[0, 255], [2, 1]], np.uint8)
    sheet = overlay(np.zeros((2, 2, 3), np.uint8), label_map, LABELS)
    assert sheet.width == 160
    assert sheet.height > 2 + 2 * 22  # three entries in two rows


def test_confidence_is_the_softmax_of_the_class_chosen():
    found = prediction(np.array([[0, 1], [2, 2]], np.uint8))
    np.testing.assert_allclose(found.confidence, np.e / (np.e + 2), rtol=1e-6)
    assert found.counts() == {"ground": 1, "disc": 1, "a name that is rather long": 2}
    assert repr(found) == "Prediction(2x2: ground 25.0 %, disc 25.0 %, a name that is rather long 50.0 %)"


def test_a_prediction_that_cannot_be_saved_is_an_error(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        prediction(np.zeros((2, 2), np.uint8)).save(tmp_path / "f" / "p.png")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_any_image_can_be_displayed(dtype, channels):
    image = (np.random.default_rng(0).random((8, 9, channels)) * 5000).astype(dtype)
    if dtype == np.float32:
        image[0, 0] = np.nan
    shown = to_rgb8(image)
    assert shown.shape == (8, 9, 3)
    assert shown.dtype == np.uint8
    assert shown.max() == 255
    Image.fromarray(shown)


def test_8_bit_images_are_shown_as_they_are_and_flat_ones_do_not_divide_by_zero():
    image = np.random.default_rng(0).integers(0, 99, (4, 4, 3), np.uint8)
    assert np.array_equal(to_rgb8(image), image)
    assert to_rgb8(np.full((3, 3, 1), 7, np.uint16)).max() == 0
    assert to_rgb8(np.full((3, 3, 1), np.nan, np.float32)).max() == 0


def test_without_matplotlib_show_names_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'fullconv\.show needs matplotlib.*pip install "fullconv\[plot\]"'):
        show(np.zeros((2, 2, 3), np.uint8))


def test_what_show_returns_shows_itself_in_a_notebook_where_pyplot_was_never_imported():
    pytest.importorskip("matplotlib")
    image = Image.open(io.BytesIO(show(np.zeros((20, 30, 3), np.uint8))._repr_png_()))
    assert image.format == "PNG"
    assert image.width > image.height > 100
