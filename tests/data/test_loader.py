from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fullconv.data import open_dataset
from fullconv.data.augmentation import PRESETS
from fullconv.data.loader import MIN_STEPS, BatchBuilder, TrainingBatches, read_ahead, read_sample
from fullconv.errors import DataError
from fullconv.labels import VOID
from fullconv.preprocess import working_size
from synthetic.shapes import make_shapes, save_image, save_mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes"), "camvid", images=14)


@pytest.fixture
def data(folder):
    return open_dataset(folder)


def loader(data, **options):
    return TrainingBatches(data, "train", **{"batch_size": 4, "crop": (32, 40), "seed": 3, **options})


def assert_same(a, b):
    assert a.step == b.step
    assert a.stems == b.stems
    assert torch.equal(a.images, b.images)
    assert a.masks.keys() == b.masks.keys()
    assert all(torch.equal(a.masks[head], b.masks[head]) for head in a.masks)


def test_a_batch_holds_crops_as_stored_with_their_masks(data):
    batch = next(loader(data).batches())
    assert (batch.images.shape, batch.images.dtype) == ((4, 32, 40, 3), torch.uint8)
    assert (batch.masks[""].shape, batch.masks[""].dtype) == ((4, 32, 40), torch.uint8)
    assert set(batch.masks[""].unique().tolist()) <= {0, 1, 2, 3, VOID}
    assert len(batch.stems) == 4
    assert batch.step == 0


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_types_stay_what_they_are(tmp_path, dtype):
    make_shapes(tmp_path, "camvid", images=5, channels=5, dtype=dtype, suffix=".tif")
    batch = next(loader(open_dataset(tmp_path)).batches())
    assert batch.images.shape == (4, 32, 40, 5)
    assert batch.images.dtype == getattr(torch, dtype)


def test_any_step_is_the_same_wherever_the_run_starts(data):
    whole = list(loader(data).batches(0, 9))
    for start in (1, 4, 8):
        for batch, expected in zip(loader(data).batches(start, 9), whole[start:], strict=True):
            assert_same(batch, expected)


def test_large_images_give_several_crops_and_any_step_is_the_same_there_too(tmp_path):
    make_shapes(tmp_path, "camvid", images=6, size=(96, 128))
    data = open_dataset(tmp_path)
    made = loader(data, crop=(32, 40))
    assert "8 crops are taken from each decoded image" in made.explain
    whole = list(made.batches(0, 20))
    assert [b.stems for b in whole[:8]] == [whole[0].stems] * 8
    assert whole[8].stems != whole[0].stems
    assert not torch.equal(whole[0].images, whole[1].images)
    for start in (3, 8, 13):
        for batch, expected in zip(loader(data, crop=(32, 40)).batches(start, 20), whole[start:], strict=True):
            assert_same(batch, expected)


def test_each_image_of_a_block_is_decoded_once(tmp_path, monkeypatch):
    make_shapes(tmp_path, "camvid", images=6, size=(96, 128))
    made = loader(open_dataset(tmp_path), batch_size=2, cache_bytes=0)
    reads = []
    monkeypatch.setattr("fullconv.data.loader.read_sample", lambda *a: reads.append(1) or read_sample(*a))
    assert len(list(made.batches(0, 8))) == 8
    assert len(reads) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(data, workers):
    expected = list(loader(data, sampling="rare").batches(2, 9))
    made = loader(data, sampling="rare", workers=workers)
    for batch, other in itertools.zip_longest(made.batches(2, 9), expected):
        assert_same(batch, other)


def test_what_is_sent_to_workers_can_be_pickled(data):
    made = loader(data, sampling="rare")
    sent = pickle.loads(pickle.dumps(made))
    for batch, other in zip(made.batches(4, 6), sent.batches(4, 6), strict=True):
        assert_same(batch, other)


@pytest.mark.slow
def test_workers_that_are_spawned_change_nothing(data, monkeypatch):
    monkeypatch.setattr("fullconv.data.loader.START_METHOD", "spawn")
    expected = list(loader(data).batches(0, 2))
    for batch, other in itertools.zip_longest(loader(data, workers=1).batches(0, 2), expected):
        assert_same(batch, other)


def test_the_number_of_threads_and_the_size_of_the_cache_change_nothing(data):
    expected = list(loader(data).batches(0, 6))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    others = list(loader(data, cache_bytes=0).batches(0, 6))
    torch.set_num_threads(before)
    for batch, other in zip(expected, others, strict=True):
        assert_same(batch, other)


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_what_stays_in_memory_is_known_beforehand(data, scale, monkeypatch):
    decoded = []
    monkeypatch.setattr("fullconv.data.loader.read_sample", lambda *a: decoded.append(1) or read_sample(*a))
    pictures = [read_sample(data, sample, scale, 3) for sample in data.splits["train"]]
    needed = sum(image.nbytes + sum(mask.nbytes for mask in masks.values()) for image, masks in pictures)
    for room, keeps in ((1.02 * needed, True), (0.9 * needed, False)):
        made = loader(data, scale=scale, cache_bytes=int(room))
        assert made.fits_in_cache is keeps
        list(made.batches(0, 2 * len(pictures)))
        decoded.clear()
        list(made.batches(0, len(pictures)))
        assert (decoded == []) is keeps
    assert not loader(data, workers=1).fits_in_cache  # they begin anew each time


KILLED = """
import multiprocessing, os, signal, sys
from fullconv.data import loader, open_dataset

if __name__ == "__main__":
    loader.START_METHOD = sys.argv[2]
    made = loader.TrainingBatches(open_dataset(sys.argv[1]), batch_size=2, crop=(32, 40), workers=2)
    batches = made.batches()
    next(batches)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="forks, and asks for processes by number")
@pytest.mark.parametrize("method", ["forkserver", pytest.param("fork", marks=pytest.mark.slow)])
def test_workers_end_with_a_run_that_is_killed(folder, tmp_path, method):
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    # workers keep what they inherit open, so the answer goes to a file
    with (tmp_path / "pids").open("w+") as file:
        done = subprocess.run([sys.executable, str(script), str(folder), method], stdout=file, timeout=200, check=False)
        assert done.returncode == -signal.SIGKILL
        file.seek(0)
        workers = [int(pid) for pid in file.read().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(lives(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in workers if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def lives(pid: int) -> bool:
    """Whether a process of that number is at work; one that waits to be buried is not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if sys.platform == "linux" else ""
    except OSError:
        return False
    return state != "Z"


def test_ranks_share_out_the_batch(data):
    whole = list(loader(data).batches(0, 3))
    parts = [list(loader(data, rank=rank, ranks=2).batches(0, 3)) for rank in range(2)]
    for step in range(3):
        for rank in range(2):
            assert parts[rank][step].stems == whole[step].stems[rank::2]
            assert torch.equal(parts[rank][step].images, whole[step].images[rank::2])


def test_another_seed_is_another_run(data):
    one, other = next(loader(data).batches()), next(loader(data, seed=4).batches())
    assert not torch.equal(one.images, other.images)


def test_each_image_comes_once_a_pass_in_an_order_of_its_own(data):
    count = len(data.splits["train"])
    stems = [stem for batch in loader(data, crop=(40, 56)).batches(0, 3 * count) for stem in batch.stems]
    passes = [stems[i : i + count] for i in range(0, 4 * 3 * count, count)]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    assert len({tuple(one) for one in passes}) > len(passes) // 2


def test_a_crop_depends_on_its_epoch_and_position_only(data):
    short, long = loader(data, steps_per_epoch=5), loader(data, steps_per_epoch=500)
    for batch, other in zip(short.batches(0, 5), long.batches(0, 5), strict=True):
        assert_same(batch, other)
    assert not torch.equal(next(short.batches(5)).images, next(long.batches(5)).images)


def test_the_same_place_of_another_epoch_is_another_crop(tmp_path):
    data = open_dataset(make_shapes(tmp_path, "camvid", images=2))
    made = loader(data, batch_size=1, steps_per_epoch=1, crop=(40, 56))
    first, second = made.batches(0, 2)
    assert first.stems == second.stems
    assert not torch.equal(first.images, second.images)


def test_an_epoch_is_one_crop_a_image_and_at_least_fifty_steps(data):
    assert loader(data).steps_per_epoch == MIN_STEPS == 50
    assert loader(data, steps_per_epoch=7).steps_per_epoch == 7
    many = open_dataset(data.root)
    many.splits["train"] = many.splits["train"] * 40
    assert loader(many, crop=(40, 56)).steps_per_epoch == 11 * 40 / 4
    assert loader(many).steps_per_epoch == 2 * 11 * 40 / 4  # two crops fit into a picture


def test_rare_sampling_centres_every_second_crop_on_a_class(tmp_path):
    make_shapes(tmp_path, "flat", images=6, size=(120, 160), classes=2)
    for number, path in enumerate(sorted((tmp_path / "masks").iterdir())):
        mask = np.zeros((120, 160), np.uint8)
        mask[20 * number, 10 * number + 5] = 1
        save_mask(mask, path)
    data = open_dataset(tmp_path)
    options = {"crop": (32, 40), "augment": "none"}
    made = loader(data, **options)
    assert made.sampling == "rare"
    assert "0.0052 % of the pixels" in made.explain
    hits = [bool((mask == 1).any()) for batch in made.batches(0, 20) for mask in batch.masks[""]]
    assert np.mean(hits[0::2]) > 0.9
    assert np.mean(hits[1::2]) < 0.5
    uniform = loader(data, sampling="uniform", **options)
    hits = [bool((mask == 1).any()) for batch in uniform.batches(0, 20) for mask in batch.masks[""]]
    assert np.mean(hits) < 0.4


def test_the_working_resolution_is_that_of_prediction(tmp_path):
    make_shapes(tmp_path, "camvid", images=4, size=(50, 70))
    data = open_dataset(tmp_path)
    size = working_size(50, 70, 0.5)
    made = TrainingBatches(data, "train", batch_size=3, crop=size, scale=0.5, augment="none")
    batch = next(made.batches())
    from fullconv.preprocess import rescale

    by_stem = {s.stem: s for s in data.splits["train"]}
    for image, mask, stem in zip(batch.images, batch.masks[""], batch.stems, strict=True):
        np.testing.assert_array_equal(image.numpy(), rescale(data.read_image(by_stem[stem])[None], size)[0])
        assert mask.shape == size
        assert (mask != VOID).any()


def test_grey_images_among_colour_get_three_channels(tmp_path):
    make_shapes(tmp_path, "camvid", images=5)
    save_image(np.full((48, 64, 1), 99, np.uint8), tmp_path / "train" / "shape000.png")
    stems = set()
    for batch in loader(open_dataset(tmp_path)).batches(0, 3):
        assert batch.images.shape[-1] == 3
        stems |= set(batch.stems)
    assert "shape000" in stems


def test_a_image_that_breaks_in_the_middle_of_a_run_is_named(tmp_path):
    make_shapes(tmp_path, "camvid", images=8)
    data = open_dataset(tmp_path)
    for workers in (0, 1):
        made = loader(data, workers=workers, cache_bytes=0)
        data.splits["train"][2].image.write_bytes(b"")
        with pytest.raises(
            DataError, match=r"shape002\.png: is empty .*during training; --skip-bad continues without it"
        ):
            list(made.batches(0, 4))


def test_with_skip_bad_the_next_image_takes_its_place_and_it_is_recorded(tmp_path):
    make_shapes(tmp_path, "camvid", images=8)
    data = open_dataset(tmp_path, skip_bad=True)
    made = [loader(data, workers=workers, cache_bytes=0) for workers in (0, 1)]
    save_mask(np.full((48, 64), 99, np.uint8), data.splits["train"][2].mask)
    first, second = (list(one.batches(0, 5)) for one in made)
    for batch, other in zip(first, second, strict=True):
        assert_same(batch, other)
    assert made[0].skipped == made[1].skipped
    assert list(made[0].skipped) == ["shape002"]
    assert "label 99" in made[0].skipped["shape002"]
    assert all("shape002" not in batch.stems for batch in first)


def test_no_image_that_can_be_read_is_an_error_even_with_skip_bad(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    data = open_dataset(tmp_path, skip_bad=True)
    made = loader(data)
    for sample in data.splits["train"]:
        sample.image.write_bytes(b"")
    with pytest.raises(DataError, match="none of 3 images can be read"):
        next(made.batches())


def test_batches_are_made_while_the_caller_works_and_the_thread_ends_with_them(data, monkeypatch):
    made = []
    original = BatchBuilder.__getitem__
    monkeypatch.setattr(BatchBuilder, "__getitem__", lambda self, block: made.append(block) or original(self, block))
    batches = loader(data, crop=(40, 56)).batches()
    next(batches)
    give_up = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < give_up:  # one taken, two waiting, one in the making
        time.sleep(0.01)
    assert made == [(0, 1), (1, 2), (2, 3), (3, 4)]
    batches.close()
    assert not any(t.name == "fullconv-read-ahead" for t in threading.enumerate())


def test_a_mask_of_another_size_is_an_error_that_names_both(tmp_path):
    data = open_dataset(make_shapes(tmp_path, "camvid", images=9))
    sample = data.samples("all")[0]
    save_mask(np.zeros((5, 7), np.uint8), sample.mask)
    with pytest.raises(DataError, match=r"shape000\.png: the mask is 7x5, its image shape000\.png 64x48\. Export both"):
        read_sample(data, sample)


def test_the_working_resolution_applies_to_both(tmp_path):
    data = open_dataset(make_shapes(tmp_path, "camvid", images=9))
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


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_exchange_left_and_right_where_they_mirror(tmp_path, workers):
    """The left half of an image is red and "left", so a red pixel of a mirrored crop is still "left" by its place."""
    root = tmp_path / "data"
    sides = np.repeat([[1] * 20 + [2] * 20], 40, 0).astype(np.uint8)
    for split in ("train", "val"):
        for n in range(4):
            image = np.zeros((40, 40, 3), np.uint8)
            image[:, :20, 0], image[:, 20:, 2] = 200, 200
            save_image(image, root / split / "images" / f"{split}{n}.png")
            save_mask(sides, root / split / "masks" / f"{split}{n}.png")
    lines = 'classes = ["background", "left", "right"]\nmirror_pairs = [["left", "right"]]\n'
    (root / "data.toml").write_text(lines)
    plain = replace(PRESETS["none"], crop=(40, 40), hflip=True, fill_value=(0.0, 0.0, 0.0))
    batches = loader(open_dataset(root), crop=(40, 40), augment=plain, workers=workers)
    mirrored = 0
    for batch in batches.batches(0, 4):
        for image, mask in zip(batch.images.numpy(), batch.masks[""].numpy(), strict=True):
            np.testing.assert_array_equal(mask, sides)
            mirrored += int(image[0, 0, 2] > 0)
    assert 2 < mirrored < 14
