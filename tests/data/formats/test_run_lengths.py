from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic.images import write_noise
from synthetic.reading import codes, problems, read_mask, read_masks

SIZE = (20, 30)


def encode(mask):
    """Write run lengths as competitions state them: pixels are numbered from 1, down the first column, then the next."""
    numbers = [column * mask.shape[0] + row + 1 for column in range(mask.shape[1]) for row in range(mask.shape[0])
               if mask[row, column]]  # fmt: skip
    runs = []
    for number in numbers:
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


def blobs(seed):
    rng = np.random.default_rng(seed)
    return np.kron(rng.random((5, 10)) < 0.3, np.ones((4, 3), bool))


def make(root, heading, rows, names=("a", "b", "c"), delimiter=","):
    for name in names:
        write_noise(root / "train_images" / f"{name}.jpg", SIZE)
    lines = [delimiter.join(heading.split(",")), *(delimiter.join(row) for row in rows)]
    (root / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "heading",
    ["ImageId,EncodedPixels", "img,rle_mask", "id,rle", "id,encoding", "Image_Id, Encoded Pixels", "filename,mask_rle"],
)
@pytest.mark.parametrize("suffix", ["", ".jpg"])
def test_objects_of_an_image_are_united(tmp_path, heading, suffix):
    first, second = blobs(1), blobs(2)
    parts = [first & ~second, second]
    rows = [[f"a{suffix}", encode(part)] for part in parts] + [[f"b{suffix}", ""], [f"c{suffix}", encode(first)]]
    make(tmp_path, heading, rows)
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("run-lengths", ("background", "object"))
    masks = read_masks(tmp_path)
    np.testing.assert_array_equal(masks["train_images/a"], first | second)
    np.testing.assert_array_equal(masks["train_images/c"], first)
    assert not masks["train_images/b"].any()
    assert codes(tmp_path) <= {"unlabeled", "few-pictures", "constant-mask", "noise-image", "duplicate-picture"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("kind", ["column", "joined", "named"])
def test_classes_have_a_column_or_follow_the_name(tmp_path, kind, delimiter):
    labels = ("Fish", "Sugar") if kind == "named" else ("2", "10")
    one, two = blobs(3), blobs(4) & ~blobs(3)
    if kind == "column":
        heading, rows = (
            "ImageId,ClassId,EncodedPixels",
            [["a.jpg", labels[0], encode(one)], ["a.jpg", labels[1], encode(two)]],
        )
        rows += [["b.jpg", labels[0], "-1"], ["c.jpg", labels[1], encode(two)]]
    else:
        heading = "ImageId_ClassId,EncodedPixels" if kind == "joined" else "Image_Label,EncodedPixels"
        rows = [[f"a.jpg_{labels[0]}", encode(one)], [f"a.jpg_{labels[1]}", encode(two)], [f"b.jpg_{labels[0]}", ""],
                [f"c.jpg_{labels[1]}", encode(two)]]  # fmt: skip
    make(tmp_path, heading, rows, delimiter=delimiter)
    assert open_dataset(tmp_path).classes == ("background", *labels)
    np.testing.assert_array_equal(read_mask(tmp_path, "images/a"), one + 2 * two)
    assert not read_mask(tmp_path, "images/b").any()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_any_mask_is_read_as_it_was_written(tmp_path_factory, seed, share):
    root = tmp_path_factory.mktemp("rle")
    mask = np.random.default_rng(seed).random(SIZE) < share
    mask[0, 0] = True
    make(root, "ImageId,EncodedPixels", [["a", encode(mask)], ["b", encode(~mask)]], "ab")
    np.testing.assert_array_equal(read_mask(root, "images/a"), mask)
    np.testing.assert_array_equal(read_mask(root, "images/b"), ~mask)


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ("1 2 3", "odd number"),
        ("0 2", "below 1"),
        ("5 0", "below 1"),
        ("599 3", r"end beyond the image \(30x20 pixels\)"),
        ("1 x", "not whole numbers"),
        ("10 5 3 9", "overlap"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_place(tmp_path, runs, reason):
    make(tmp_path, "ImageId,EncodedPixels", [["a", encode(blobs(1))], ["b", runs], ["c", encode(blobs(1))]])
    found = [found for found in open_dataset(tmp_path).problems if found.code == "bad-shape"]
    assert (found[0].severity, found[0].files) == ("error", ("b in row 3",))
    assert re.search(reason, found[0].cause)


def test_short_rows_and_missing_images_are_named(tmp_path):
    make(tmp_path, "ImageId,ClassId,EncodedPixels", [["a", "1", "1 5"], ["b", "1"]])
    with pytest.raises(DataError, match=r"train\.csv: row 3 has 2 columns of 3"):
        open_dataset(tmp_path)
    make(tmp_path, "ImageId,EncodedPixels", [["a", "1 5"], ["b", "1 5"], ["gone", "1 5"]])
    found = problems(tmp_path)
    assert found["missing-picture"].files == ("gone",)
    assert found["unlisted"].files == ("train_images/c.jpg",)


def test_a_sample_of_a_submission_is_no_annotation_and_long_cells_are_read(tmp_path):
    rows = np.arange(40_000) * 2 + 1
    make(tmp_path, "ImageId,EncodedPixels", [["big", " ".join(f"{start} 1" for start in rows)]], ())
    for name in "big", "small":
        write_noise(tmp_path / "train_images" / f"{name}.png", (400, 200))
    (tmp_path / "sample_submission.csv").write_text("ImageId,EncodedPixels\nsmall,1 1\n")
    assert len(open_dataset(tmp_path).samples("all")) == 1
    assert (read_mask(tmp_path, "big").T.ravel() == np.tile([1, 0], 40_000)).all()
