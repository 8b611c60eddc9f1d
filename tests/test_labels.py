"""Palettes, colours and label-map files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fullconv.card import Labels
from fullconv.errors import InputError
from fullconv.labels import (
    colorize,
    encode_label_map,
    format_color,
    full_palette,
    indexed_image,
    parse_color,
    read_label_map,
    voc_palette,
)

maps = arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)))


def test_vocs_palette_is_vocs():
    """The colours of PASCAL VOC's classes as its development kit lists them."""
    wanted = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128),
        (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128),
        (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
    ]  # fmt: skip
    assert voc_palette(21) == wanted
    assert len(set(voc_palette())) == 256
    assert voc_palette()[255] == (224, 224, 192)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_is_read_as_it_was_written(color):
    assert parse_color(format_color(color)) == color
    assert parse_color(format_color(color).upper().removeprefix("#")) == color


@pytest.mark.parametrize("text", ["", "#12345", "#1234567", "#12345g", "red", "#+1+1+1"])
def test_invalid_colours_are_reported(text):
    with pytest.raises(InputError, match="is not a colour; write it as '#rrggbb'"):
        parse_color(text)


@given(maps)
def test_an_indexed_image_holds_indices_and_colours(label_map):
    data = encode_label_map(label_map, [(1, 2, 3), (250, 0, 9)])
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), label_map)
        assert np.array_equal(np.asarray(image.convert("RGB")), colorize(label_map, [(1, 2, 3), (250, 0, 9)]))
    with Image.open(io.BytesIO(encode_label_map(label_map, None))) as grey:
        assert grey.mode == "L"


@given(maps)
def test_a_label_map_is_read_as_it_was_written(label_map):
    for palette in (None, [(9, 9, 9)]):
        assert np.array_equal(read_label_map(io.BytesIO(encode_label_map(label_map, palette))), label_map)


def test_a_palette_is_filled_up_with_vocs():
    palette = full_palette([(1, 2, 3)])
    assert palette[0] == (1, 2, 3)
    assert palette[1:] == voc_palette()[1:]


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 3), np.uint8)])
def test_what_is_no_label_map_is_refused(wrong):
    with pytest.raises(InputError, match=r"a label map must be \(H, W\) uint8, not"):
        indexed_image(wrong, [])


def test_a_file_that_is_no_label_map_is_named(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match=r"rgb\.png: a label map has one channel, this image is RGB"):
        read_label_map(tmp_path / "rgb.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: cannot be read as an image"):
        read_label_map(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"none\.png: cannot be read as an image"):
        read_label_map(tmp_path / "none.png")


def test_a_label_map_damaged_anywhere_is_no_traceback(tmp_path):
    data = encode_label_map(np.arange(4096, dtype=np.uint8).reshape(64, 64), [(1, 1, 1)])
    for place in range(0, len(data), 7):
        broken = bytearray(data)
        broken[place] ^= 0x55
        for content in (bytes(broken), data[:place]):
            (tmp_path / "m.png").write_bytes(content)
            said = "m.png"
            try:
                read_label_map(tmp_path / "m.png")
            except InputError as error:
                said = str(error)
            assert "m.png" in said


def test_original_values_are_the_masks_own():
    assert Labels(classes=("a", "b")).original_values() == [0, 1]
    labels = Labels(classes=("a", "b", "c"), values={7: 1, 3: 1, 0: 0, 9: 255, 200: 2})
    assert labels.original_values() == [0, 3, 200]
    assert labels.void_values == (255,)
    assert Labels(classes=("a",), ignore_index=(3, 4)).void_values == (3, 4)
