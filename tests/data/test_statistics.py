from __future__ import annotations

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from fullconv.labels import VOID
from synthetic.shapes import make_shapes, save_image, save_mask


def everything(data, split="train"):
    images = [data.read_image(s) for s in data.splits[split]]
    masks = [data.read_mask(s) for s in data.splits[split]]
    return images, masks


@pytest.mark.parametrize(
    ("channels", "dtype", "suffix"),
    [(3, "uint8", ".png"), (1, "uint8", ".jpg"), (1, "uint16", ".png"), (4, "uint8", ".tif"), (5, "float32", ".tif")],
)
def test_numbers_are_those_of_all_pixels_together(tmp_path, channels, dtype, suffix):
    make_shapes(tmp_path, "camvid", images=6, channels=channels, dtype=dtype, suffix=suffix)
    save_mask(np.zeros((48, 64), np.uint8), tmp_path / "trainannot" / "shape000.png")
    data = open_dataset(tmp_path)
    images, masks = everything(data)
    numbers = data.statistics()
    flat = np.concatenate([image.reshape(-1, channels) for image in images]).astype(np.float64)
    low, high = (0, 255) if dtype == "uint8" else (flat.min(), flat.max())
    assert numbers.range == (low, high)
    np.testing.assert_allclose(numbers.mean, (flat.mean(0) - low) / (high - low), rtol=1e-6)
    np.testing.assert_allclose(numbers.std, flat.std(0) / (high - low), rtol=1e-5)
    np.testing.assert_allclose(numbers.fill, flat.mean(0), rtol=1e-6)
    assert (numbers.channels, numbers.dtype, numbers.sizes) == (channels, dtype, [(48, 64)] * len(images))
    assert numbers.pixels.tolist() == [sum(int((m == k).sum()) for m in masks) for k in range(4)]
    assert numbers.pictures.tolist() == [sum(bool((m == k).any()) for m in masks) for k in range(4)]
    assert numbers.void == sum(int((m == VOID).sum()) for m in masks)
    valid = [int((m != VOID).sum()) for m in masks]
    assert numbers.area.tolist() == [
        sum(v for m, v in zip(masks, valid, strict=True) if (m == k).any()) for k in range(4)
    ]


def test_bands_are_counted_in_the_chosen_order(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    whole = open_dataset(tmp_path).statistics()
    (tmp_path / "data.toml").write_text("bands = [3, 1]\n" + (tmp_path / "data.toml").read_text())
    chosen = open_dataset(tmp_path).statistics()
    assert chosen.mean == (whole.mean[2], whole.mean[0])
    assert chosen.channels == 2


def test_grey_images_among_colour_count_in_every_channel(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    path = tmp_path / "train" / "shape000.png"
    save_image(np.full((48, 64, 1), 100, np.uint8), path)
    data = open_dataset(tmp_path)
    mixed = data.statistics()
    save_image(np.full((48, 64, 3), 100, np.uint8), path)
    assert mixed.channels == 3
    np.testing.assert_allclose(mixed.mean, open_dataset(tmp_path).statistics().mean)


def test_images_of_different_types_or_none_at_all_are_errors(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    save_image(np.full((48, 64, 1), 100, np.uint16), tmp_path / "train" / "shape000.png")
    with pytest.raises(DataError, match="images differ in kind: 1 channels of uint16, 3 channels of uint8"):
        open_dataset(tmp_path).statistics()
    for path in (tmp_path / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"\(train\): no image can be read"):
        open_dataset(tmp_path).statistics()


def test_constant_images_are_an_error_unless_they_are_eight_bit(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    for path in (tmp_path / "train").iterdir():
        save_image(np.full((48, 64, 1), 100, np.uint8), path)
    assert open_dataset(tmp_path).statistics().std == (1e-3,)
    for path in (tmp_path / "train").iterdir():
        save_image(np.full((48, 64, 1), 100, np.uint16), path)
    with pytest.raises(DataError, match="every pixel of every image is 100"):
        open_dataset(tmp_path).statistics()
