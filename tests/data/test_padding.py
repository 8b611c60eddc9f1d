"""Whole pictures of several sizes in one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fullconv.data import open_dataset
from fullconv.data.loader import TrainingBatches, pad_together
from fullconv.errors import RecipeError
from fullconv.labels import VOID
from fullconv.losses import PixelLoss
from fullconv.recipe import parse_recipe
from synthetic.shapes import draw, save_image, save_mask

SIZES = ((40, 48), (33, 60), (52, 31), (40, 48))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_images_lie_in_the_corner_and_what_is_added_is_mean_and_void(sizes):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    masks = [{"a": rng.integers(0, 4, size).astype(np.uint8)} for size in sizes]
    padded, labels = pad_together(images, masks, (1.4, 100.6, 7.0))
    for image, mask, whole, label in zip(images, masks, padded, labels, strict=True):
        h, w = image.shape[:2]
        assert whole.shape[:2] == label["a"].shape == (max(s[0] for s in sizes), max(s[1] for s in sizes))
        assert (whole[:h, :w] == image).all()
        assert (label["a"][:h, :w] == mask["a"]).all()
        assert (whole[h:] == (1, 101, 7)).all()
        assert (whole[:, w:] == (1, 101, 7)).all()
        assert (label["a"][h:] == VOID).all()
        assert (label["a"][:, w:] == VOID).all()


@pytest.fixture
def mixed(tmp_path):
    rng = np.random.default_rng(3)
    for number, size in enumerate(SIZES):
        image, mask = draw(rng, size, 3)
        save_image(image, tmp_path / "train" / "images" / f"{number}.png")
        save_mask(mask, tmp_path / "train" / "masks" / f"{number}.png")
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c"]', encoding="utf-8")
    return open_dataset(tmp_path)


def test_whole_images_come_as_they_are_stored(mixed):
    batches = TrainingBatches(mixed, batch_size=1, crop="whole", augment="none")
    stored = {sample.stem: sample for sample in mixed.samples("all")}
    for batch in batches.batches(0, 8):
        sample = stored[batch.stems[0]]
        assert (batch.images[0].numpy() == mixed.read_image(sample)).all()
        assert (batch.masks[""][0].numpy() == mixed.read_mask(sample)).all()
    assert "not cropped" in batches.explain


def test_padding_adds_nothing_to_the_loss(mixed):
    samples = mixed.samples("train")
    (batch,) = TrainingBatches(mixed, batch_size=len(samples), crop="whole", augment="none").batches(0, 1)
    single = list(TrainingBatches(mixed, batch_size=1, crop="whole", augment="none").batches(0, len(samples)))
    loss = PixelLoss()
    logits = torch.zeros(len(samples), 3, *batch.images.shape[1:3])
    logits[:, 1] = 2.0
    together = loss.sums(logits, batch.masks[""])
    apart = [loss.sums(logits[:1, :, : b.images.shape[1], : b.images.shape[2]], b.masks[""]) for b in single]
    assert together.denominator == sum(part.denominator for part in apart)
    torch.testing.assert_close(together.numerator, sum(part.numerator for part in apart))


def test_rare_sampling_of_whole_images_is_refused():
    with pytest.raises(RecipeError, match="sampling = rare does nothing with crop = whole"):
        parse_recipe({"crop": "whole", "sampling": "rare"})
