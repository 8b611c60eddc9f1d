from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.data.config import parse_settings
from fullconv.data.label_mapping import make_mapping, pack_colors
from fullconv.errors import DataError
from fullconv.labels import VOID

ABC = ("a", "b", "c")


def coding(**keys):
    return make_mapping(parse_settings({"classes": list(ABC), **keys}, "data.toml"), ABC)


@pytest.mark.parametrize(
    ("keys", "meanings"),
    [
        ({}, {0: 0, 2: 2, 3: None, 255: VOID, 1000: None}),
        ({"ignore_index": 3}, {2: 2, 3: VOID, 4: None, 255: VOID}),
        ({"ignore_index": [3, 9]}, {3: VOID, 9: VOID, 255: VOID, 4: None}),
        ({"ignore_index": 0}, {0: VOID, 1: 1}),
        ({"values": {"0": "a", "255": "b"}}, {0: 0, 255: 1, 1: None}),
        ({"values": {"10": "c", "7": "void"}}, {10: 2, 7: VOID, 255: VOID, 0: None}),
        ({"values": {"256": "b", "512": "c"}}, {256: 1, 512: 2, 0: None}),
    ],
)
def test_a_mask_value_means_what_data_toml_says(keys, meanings):
    assert {value: coding(**keys).class_of(value) for value in meanings} == meanings


@given(
    st.dictionaries(st.integers(0, 300), st.sampled_from([*ABC, "void"]), max_size=5),
    st.lists(st.integers(0, 300), max_size=2),
    st.integers(0, 2**32),
)
def test_decoding_a_mask_is_the_meaning_of_each_pixel(values, ignore, seed):
    keys = {"values": {str(value): name for value, name in values.items()}} if values else {}
    if any(number != VOID and values.get(number, "void") != "void" for number in ignore):
        with pytest.raises(DataError, match="is void by ignore_index and"):
            coding(**keys, ignore_index=ignore)
        return
    table = coding(**keys, ignore_index=ignore)
    known = [value for value in range(301) if table.class_of(value) is not None]
    raw = np.random.default_rng(seed).choice(known, (5, 6)).astype(np.uint16)
    expected = [[table.class_of(int(value)) for value in row] for row in raw]
    decoded = table.decode(raw, "x")
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == expected


def test_plain_indices_are_a_copy_that_may_be_written_to():
    raw = np.array([[0, 1], [2, 2]], np.uint8)
    raw.flags.writeable = False
    decoded = coding().decode(raw, "x")
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, raw)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        ({}, 200, r"m\.png: label 200 is neither a class \(0 to 2\) nor void.*set ignore_index = 200"),
        ({"values": {"0": "a", "9": "b"}}, 3, r"m\.png: label 3 is not in values \(0, 9\)"),
    ],
)
def test_an_unknown_label_is_named_with_its_file(keys, value, words):
    with pytest.raises(DataError, match=words):
        coding(**keys).decode(np.array([[0, value]], np.uint8), "m.png")


def test_colours_are_decoded_by_their_table():
    table = coding(colors={"#ff0000": "b", "#00ff00": "c", "#000000": "a", "#ffffff": "void"})
    raw = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert table.decode(raw, "x").tolist() == [[1, 2], [0, VOID]]
    assert table.labels.palette == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    with pytest.raises(DataError, match=r"m\.png: colour #010203 has no class\. Add it to colors in data\.toml"):
        table.decode(np.array([[[1, 2, 3]]], np.uint8), "m.png")


def test_colours_without_a_table_are_an_error_with_the_line_to_add():
    with pytest.raises(DataError, match=r'm\.png: the mask is in colour.*colors = \{ "#0a141e" = "a"'):
        coding().decode(np.array([[[10, 20, 30]]], np.uint8), "m.png")


def test_the_stated_palette_comes_before_the_colours_of_masks():
    table = coding(colors={"#ff0000": "b"}, palette=[[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    assert table.labels.palette == ((1, 1, 1), (2, 2, 2), (3, 3, 3))


def test_packing_keeps_the_order_of_channels():
    assert pack_colors(np.array([[[0x12, 0x34, 0x56]]], np.uint8)).tolist() == [[0x123456]]
