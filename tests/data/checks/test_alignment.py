from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from doctor.healthy import DRAWN, alarms_of, save_drawn
from PIL import Image

from fullconv.data import inspect
from synthetic.reading import camvid_masks, rewrite_masks

SIZE = 64


def make_roads(root, images: int = 24) -> None:
    """Bright sky above dark trees above a road that has the trees' colour: the road's mask upside down covers the sky."""
    draw = np.random.default_rng(0)
    for number in range(images):
        split = "val" if number % 4 == 0 else "train"
        road = np.zeros((SIZE, SIZE), np.uint8)
        road[SIZE * 2 // 3 + int(draw.integers(-3, 4)) :] = 1
        image = np.full((SIZE, SIZE, 3), 70.0) + draw.normal(0, 8, (SIZE, SIZE, 3))
        image[: SIZE // 3 + int(draw.integers(-3, 4))] += 150
        for folder, array in ((split, image.clip(0, 255).astype(np.uint8)), (f"{split}annot", road)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number:03d}.png")
    (root / "data.toml").write_text('classes = ["rest", "road"]\n', encoding="utf-8")


def test_a_road_that_covers_the_sky_upside_down_is_not_called_turned(tmp_path):
    make_roads(tmp_path)
    assert not {"mask-turned", "mask-mismatch"} & {found.code for found in inspect(tmp_path)}


@pytest.mark.parametrize("count", [1, 24])
def test_road_in_images_with_an_exif_orientation_is_not_called_drawn_without_it(tmp_path, count):
    make_roads(tmp_path)
    exif = Image.Exif()
    exif[274] = 3
    for path in sorted((tmp_path / "train").iterdir())[:count]:  # stored upside down, shown upright, as its mask
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path, exif=exif)
    assert "exif-orientation" not in {found.code for found in inspect(tmp_path)}


@pytest.mark.parametrize("name", DRAWN)
def test_healthy_drawn_sets_raise_no_alarm(tmp_path, name):
    assert alarms_of(save_drawn(tmp_path, name, 11)) == []


CHANGES: dict[str, Callable] = {
    "mirrored": lambda mask: mask[:, ::-1],
    "upside down": lambda mask: mask[::-1],
    "by 180 degrees": lambda mask: mask[::-1, ::-1],
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("name", ["two classes", "many classes", "thresholds"])
def test_turned_masks_are_found(tmp_path, name, how):
    root = save_drawn(tmp_path, name, 11)
    rewrite_masks(camvid_masks(root), CHANGES[how])
    assert "mask-turned" in alarms_of(root)


@pytest.mark.parametrize("name", ["two classes", "many classes", "thresholds"])
def test_a_shifted_list_of_masks_is_found(tmp_path, name):
    root = save_drawn(tmp_path, name, 11)
    for split in ("train", "val"):
        paths = camvid_masks(root, split)
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)
    assert "mask-mismatch" in alarms_of(root)
