"""What shows only beside the others: masks that lie elsewhere, one of another kind; JPEG data that something changed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect
from fullconv.errors import InputError
from fullconv.images import read_image
from synthetic.shapes import save_image, save_mask

SIZE = (64, 96)


def scene(number):
    """Return a picture with texture and its mask, three blobs of two classes."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = np.zeros(SIZE, np.uint8)
    for i in range(3):
        mask[(y - rng.uniform(14, 50)) ** 2 + (x - rng.uniform(18, 78)) ** 2 < rng.uniform(8, 13) ** 2] = 1 + i % 2
    colors = np.array([[90, 120, 80], [190, 70, 60], [60, 80, 190]]) + rng.normal(0, 12, (3, 3))
    return np.clip(colors[mask] + rng.normal(0, 8, (*SIZE, 3)), 0, 255).astype(np.uint8), mask


def make(root, change=lambda number, mask: mask):
    for number in range(12):
        picture, mask = scene(number)
        save_image(picture, root / "images" / f"{number}.png")
        save_mask(change(number, mask), root / "masks" / f"{number}.png")
    (root / "data.toml").write_text('classes = ["a", "b", "c"]')
    return {problem.code: problem for problem in inspect(root)}


def test_sound_masks_and_borders_of_a_few_pixels_are_no_problem(tmp_path):
    assert make(tmp_path / "sound") == {}
    assert make(tmp_path / "wide", lambda number, mask: np.roll(mask, 2, 1)) == {}


def binary(mask):
    return np.where(mask, 255, 0).astype(np.uint8)


def test_one_mask_of_0_and_255_among_others_is_told(tmp_path):
    found = make(tmp_path / "one", lambda number, mask: binary(mask) if number == 4 else mask)
    assert (found["binary-mask"].severity, found["binary-mask"].files) == ("warning", ("masks/4.png",))

    def with_void(number, mask):
        mask = binary(mask) if number == 4 else mask.copy()
        mask[:2] = 255  # void is used elsewhere, too
        return mask

    assert "binary-mask" not in make(tmp_path / "void", with_void)


def jpeg(picture, **keys):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", **{"quality": 95, **keys})
    return buffer.getvalue()


def test_a_jpeg_that_was_sent_as_text_is_an_error():
    data = jpeg(np.tile(scene(0)[0], (2, 2, 1)))
    start = data.index(b"\xff\xda")
    head, body = data[:start], data[start:]
    with pytest.raises(InputError, match="carriage return before each line feed"):
        read_image(head + body.replace(b"\n", b"\r\n"))


def test_a_jpeg_with_zeros_in_the_middle_is_an_error():
    data = jpeg(scene(0)[0])
    middle = len(data) // 2
    with pytest.raises(InputError, match="64 zeros and more"):
        read_image(data[:middle] + bytes(512) + data[middle + 512 :])


@pytest.mark.parametrize("keys", [{"optimize": True}, {"progressive": True}, {"quality": 30}])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_jpegs_are_no_error(keys, value):
    picture = np.full((600, 800, 3), value, np.uint8)
    picture[:64, :96] = scene(1)[0]
    assert read_image(jpeg(picture, **keys)).shape == picture.shape
    assert read_image(jpeg(picture[..., 0], **keys)).shape == (600, 800, 1)


def test_what_lies_behind_a_jpeg_is_not_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(scene(0)[0]))
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # a sparse file; reading it all would take its size in memory
    assert read_image(path).shape == (*SIZE, 3)
