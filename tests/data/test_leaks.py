"""Images that a model was trained on, found by name and content."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.card import Card
from fullconv.data import describe_images, leak, open_dataset, trained_on
from fullconv.data.dataset import Dataset

RNG = np.random.default_rng(0)


def write(root: Path, split: str, stem: str, image: Image.Image, suffix: str = ".png", **options) -> None:
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    image.save(root / "images" / split / f"{stem}{suffix}", **options)
    mask = (np.arange(image.height * image.width).reshape(image.height, image.width) // 40 % 2).astype(np.uint8)
    Image.fromarray(mask).save(root / "masks" / split / f"{stem}.png")


def scenes(count: int) -> list[Image.Image]:
    """Different scenes of smooth patches."""
    small = [Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize((64, 48), Image.Resampling.BICUBIC) for image in small]


def card_of(dataset: Dataset, start: Card | None = None) -> Card:
    return Card(variant="fcn8s", backbone="tiny", classes=dataset.classes, data=describe_images(dataset, start))


@pytest.fixture
def trained(tmp_path) -> tuple[Path, list[Image.Image]]:
    images = scenes(10)
    for i, image in enumerate(images):
        write(tmp_path / "first", "train" if i < 8 else "val", f"s{i}", image)
    return tmp_path / "first", images


def test_its_own_val_images_are_none(trained):
    dataset = open_dataset(trained[0])
    card = card_of(dataset)
    assert leak(card, dataset, "val", dataset.samples("val"), "the model") is None
    assert len(trained_on(card, dataset, dataset.samples("train"))) == 8


def test_files_are_found_under_any_name_and_images_saved_again_by_their_names(trained, tmp_path):
    root, images = trained
    card, new = card_of(open_dataset(root)), scenes(4)
    other = tmp_path / "other"
    for i in range(4):
        write(other, "train", f"n{i}", new[i])
    shutil.copy(root / "images" / "train" / "s0.png", tmp_path / "x.png")
    write(other, "val", "renamed", images[0])
    shutil.copy(tmp_path / "x.png", other / "images" / "val" / "renamed.png")
    write(other, "val", "s1", images[1], ".jpg", quality=80)
    write(other, "val", "s2", images[2].resize((32, 24)))
    write(other, "val", "s3", scenes(1)[0])  # another image of the same name
    dataset = open_dataset(other)
    found = trained_on(card, dataset, dataset.samples("val"))
    assert sorted(sample.stem for sample in found) == ["renamed", "s1", "s2"]
    notice = leak(card, dataset, "val", dataset.samples("val"), "leak.safetensors")
    assert notice is not None
    assert (notice.code, notice.count) == ("trained-on", 3)
    assert "leak.safetensors was trained on 3 of 4 images of val, so scores on val are too good." in notice.message


def test_a_model_remembers_what_the_weights_that_it_started_from_had_seen(trained, tmp_path):
    root, images = trained
    first = card_of(open_dataset(root))
    other = tmp_path / "other"
    for i, image in enumerate(scenes(6)):
        write(other, "train", f"n{i}", image)
    write(other, "val", "v0", scenes(1)[0])
    second = card_of(open_dataset(other), first)
    write(other, "val", "later", images[3])
    shutil.copy(root / "images" / "train" / "s3.png", other / "images" / "val" / "later.png")
    dataset = open_dataset(other)
    assert [sample.stem for sample in trained_on(second, dataset, dataset.samples("val"))] == ["later"]
    assert trained_on(card_of(dataset), dataset, dataset.samples("val")) == []


def test_cards_without_hashes_count_by_name_in_their_own_data_only(trained, tmp_path):
    root, _ = trained
    dataset = open_dataset(root)
    splits = {"train": [f"s{i}" for i in range(2, 10)], "val": ["s0", "s1"]}  # another fold
    card = Card(variant="fcn8s", backbone="tiny", classes=dataset.classes, data={"splits": splits})
    assert {s.stem for s in trained_on(card, dataset, dataset.samples("val"))} == {"s8", "s9"}
    other = tmp_path / "other"
    for i, image in enumerate(scenes(3)):
        write(other, "train" if i < 2 else "val", f"s{i + 6}", image)
    foreign = open_dataset(other)
    assert trained_on(card, foreign, foreign.samples("val")) == []
