from __future__ import annotations

import threading

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.data.prefetch import read_ahead, read_sample
from fullconv.errors import DataError
from synthetic.shapes import make_shapes, save_mask


@pytest.fixture
def data(tmp_path):
    return open_dataset(make_shapes(tmp_path, "camvid", images=9))


def test_a_mask_of_another_size_is_an_error_that_names_both(data):
    sample = data.samples("all")[0]
    save_mask(np.zeros((5, 7), np.uint8), sample.mask)
    with pytest.raises(DataError, match=r"shape000\.png: the mask is 7x5, its image shape000\.png 64x48\. Export both"):
        read_sample(data, sample)


def test_the_working_resolution_applies_to_both(data):
    image, masks = read_sample(data, data.samples("all")[0], scale=0.25)
    assert image.shape == (12, 16, 3)
    assert masks[""].shape == (12, 16)


def test_reading_ahead_keeps_order_passes_errors_on_and_ends_its_thread():
    assert list(read_ahead(iter(range(50)), 3)) == list(range(50))

    def failing():
        yield 1
        raise DataError("broken")

    read = read_ahead(failing(), 2)
    assert next(read) == 1
    with pytest.raises(DataError, match="broken"):
        next(read)
    endless = read_ahead(iter(int, 1), 2)
    next(endless)
    endless.close()
    assert not any(t.name == "fullconv-read-ahead" for t in threading.enumerate())
