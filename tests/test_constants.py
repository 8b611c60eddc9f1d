"""What is known of published data sets, against counts and colours of their papers and releases."""

from __future__ import annotations

import doctest
import sys

import pytest

import fullconv.dataset_constants
from fullconv.data.config import parse_settings
from fullconv.data.label_mapping import make_mapping
from fullconv.dataset_constants import LABELS, MEANS_BGR, channel_means, data_toml, seg11valid
from fullconv.errors import DataError
from fullconv.labels import VOID
from fullconv.nn import VARIANTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COUNTS = {"voc": [21], "nyud": [40], "siftflow": [33, 3], "pascalcontext": [60], "cityscapes": [19], "camvid": [11]}


def test_every_data_set_has_its_classes_each_with_its_own_colour():
    assert {name: [len(labels.classes) for labels in heads.values()] for name, heads in LABELS.items()} == COUNTS
    for heads in LABELS.values():
        for labels in heads.values():
            assert len(set(labels.palette)) == len(labels.classes)


def test_classes_have_the_indices_of_the_releases():
    voc, context = LABELS["voc"][""].classes, LABELS["pascalcontext"][""].classes
    assert [voc.index(name) for name in ("background", "aeroplane", "cat", "person", "tvmonitor")] == [0, 1, 8, 15, 20]
    assert context[:21] == voc
    assert [context.index(name) for name in ("bag", "building", "sky", "wood")] == [21, 25, 50, 59]
    nyud = LABELS["nyud"][""].classes
    assert [nyud.index(name) for name in ("wall", "floor", "bed", "person", "other prop")] == [0, 1, 3, 30, 39]
    semantic = LABELS["siftflow"]["semantic"].classes
    assert list(semantic) == sorted(semantic)
    assert {"cow", "desert", "moon"} <= set(semantic)  # which its test pictures lack
    assert LABELS["siftflow"]["geometric"].classes == ("sky", "horizontal", "vertical")


def test_colours_are_those_that_are_published():
    voc = dict(zip(LABELS["voc"][""].classes, LABELS["voc"][""].palette, strict=True))
    assert [voc[name] for name in ("aeroplane", "bicycle", "person", "tvmonitor")] == [
        (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128)
    ]  # fmt: skip
    city = dict(zip(LABELS["cityscapes"][""].classes, LABELS["cityscapes"][""].palette, strict=True))
    assert (city["road"], city["sky"], city["bicycle"]) == ((128, 64, 128), (70, 130, 180), (119, 11, 32))
    camvid = dict(zip(LABELS["camvid"][""].classes, LABELS["camvid"][""].palette, strict=True))
    assert (camvid["road"], camvid["sign"], camvid["bicyclist"]) == ((128, 64, 128), (192, 128, 128), (0, 128, 192))


def test_means_are_the_releases_in_channel_order():
    assert MEANS_BGR["voc"] == (104.00699, 116.66877, 122.67892)
    assert MEANS_BGR["siftflow"] == (114.578, 115.294, 108.353)
    for name, row in VARIANTS.items():
        if row.caffe is not None:
            assert len(channel_means(name)) == row.in_channels
    assert channel_means("nyud-fcn32s-color-d") == (92.318, 97.203, 116.190, 7.844)
    assert channel_means("nyud-fcn32s-color-hha")[3:] == (132.431, 94.076, 118.477)


def test_the_published_voc_scores_are_of_val_without_sbd_train():
    val, sbd = [f"2007_{i:06d}" for i in range(10)], {"2007_000003", "2008_000001"}
    assert seg11valid(val, sbd) == [stem for stem in val if stem != "2007_000003"]


@pytest.mark.parametrize("name", COUNTS)
def test_the_data_toml_of_a_data_set_reads_its_own_masks(name):
    settings = parse_settings(tomllib.loads(data_toml(name)), name)
    for head, labels in LABELS[name].items():
        own = settings.of_head(head)
        coding = make_mapping(own, own.class_names())
        assert coding.labels.classes == labels.classes
        assert coding.labels.palette == labels.palette
        first = 1 if name in ("nyud", "siftflow") else 0
        assert [coding.class_of(first + k) for k in range(len(labels.classes))] == list(range(len(labels.classes)))
        void = {"nyud": 0, "siftflow": 0, "camvid": 11}.get(name, VOID)
        assert coding.class_of(void) == VOID


def test_an_unknown_data_set_suggests_the_nearest():
    with pytest.raises(DataError, match=r"no published dataset 'nyu'\. Did you mean 'nyud'\?"):
        data_toml("nyu")


def test_docstring_examples():
    assert doctest.testmod(fullconv.dataset_constants).failed == 0
