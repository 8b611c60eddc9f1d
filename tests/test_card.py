"""The model card: there and back, its labels, and statistics for any number of channels."""

from __future__ import annotations

import json

import pytest

from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card, Labels, adapt_statistics
from fullconv.errors import ModelFileError
from fullconv.labels import voc_palette

CARD = Card(variant="fcn8s", classes=("ground", "Gebäude"), values={0: 0, 200: 1, 7: 255}, bands=(4, 3, 2))


def test_a_card_is_read_as_it_was_written():
    assert Card.from_json(CARD.to_json()) == CARD
    assert "Gebäude" in CARD.to_json()
    assert list(json.loads(CARD.to_json())) == sorted(json.loads(CARD.to_json()))


def test_colours_that_are_not_given_are_vocs():
    assert [tuple(color) for color in CARD.palette] == voc_palette(2)


def test_labels_go_by_head():
    assert CARD.labels() == Labels(classes=CARD.classes, palette=CARD.palette, values=CARD.values)
    assert CARD.num_classes == 2
    with pytest.raises(ModelFileError, match=r"one head without a name, no head 'x'. Omit --head"):
        CARD.labels("x")
    heads = {"what": Labels(classes=("a",)), "where": Labels(classes=("b", "c"))}
    two = Card(variant="fcn8s", classes=("a",), heads=heads)
    assert two.num_classes == {"what": 1, "where": 2}
    assert two.labels() == heads["what"]
    assert two.labels("where") == heads["where"]
    with pytest.raises(ModelFileError, match="this model has no head 'x', it has what, where"):
        two.labels("x")
    assert Card.from_json(two.to_json()) == two


def test_statistics_spread_over_any_number_of_channels():
    assert adapt_statistics(IMAGENET_MEAN, IMAGENET_STD, 3)["mean"] == IMAGENET_MEAN
    for channels in (1, 2, 5):
        spread = adapt_statistics(IMAGENET_MEAN, IMAGENET_STD, channels)
        assert spread["mean"] == pytest.approx((sum(IMAGENET_MEAN) / 3,) * channels)
        assert len(spread["std"]) == channels
