from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import BadDataError, inspect, open_dataset
from fullconv.errors import DataError, InputError
from fullconv.labels import VOID
from synthetic.reading import rewrite_masks, split_sizes
from synthetic.shapes import draw, make_shapes, save_image, save_mask, split_folders

LAYOUTS = ["camvid", "split-first", "kind-first", "flat"]
ENCODINGS = ["index", "palette", "rgb", "binary255"]


@pytest.mark.parametrize(("layout", "encoding"), list(itertools.product(LAYOUTS, ENCODINGS)))
def test_every_layout_and_encoding_gives_the_images_and_masks_that_were_written(tmp_path, layout, encoding):
    make_shapes(tmp_path, layout, images=8, encoding=encoding)
    data = open_dataset(tmp_path)
    assert data.format == ("camvid" if layout == "camvid" else "pairs")
    assert data.classes == (("ground", "disc") if encoding == "binary255" else ("ground", "disc", "box", "triangle"))
    assert sorted(s.stem for s in data.samples("all")) == [f"shape{i:03d}" for i in range(8)]
    rng = np.random.default_rng([0, 8, 4])
    for found in sorted(data.samples("all"), key=lambda s: s.stem):
        image, mask = draw(rng, (48, 64), 4, void=encoding != "binary255")
        np.testing.assert_array_equal(data.read_image(found), image)
        expected = np.where(mask > 0, 1, 0) if encoding == "binary255" else mask
        np.testing.assert_array_equal(data.read_mask(found), expected)
    assert inspect(data) == []


def test_splits_are_those_of_the_folders_and_sorted(tmp_path):
    make_shapes(tmp_path, "kind-first", images=8, test=3)
    data = open_dataset(tmp_path)
    assert split_sizes(tmp_path) == {"train": 6, "val": 2, "test": 3}
    assert [s.stem for s in data.splits["train"]] == sorted(s.stem for s in data.splits["train"])


def test_without_val_a_fifth_is_held_out_also_where_there_is_a_test_split(tmp_path):
    make_shapes(tmp_path, "split-first", images=12, test=2)
    for kind in ("images", "masks"):
        for path in (tmp_path / "val" / kind).iterdir():
            path.rename(tmp_path / "train" / kind / path.name)
    shutil.rmtree(tmp_path / "val")
    data = open_dataset(tmp_path)
    assert list(data.splits) == ["train", "val", "test"]
    assert len(data.splits["test"]) == 2
    assert len(data.splits["train"]) + len(data.splits["val"]) == 12
    assert data.splits["val"]


def test_two_layouts_that_fit_are_named_with_the_option(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    make_shapes(tmp_path, "flat", images=5)
    words = r"2 layouts fit: camvid \(train/ with trainannot/\) and flat \(images/ with masks/\)\. Specify one:"
    with pytest.raises(DataError, match=words + " --format camvid or --format flat"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, format="camvid").samples("all")) == 4
    assert len(open_dataset(tmp_path, format="flat").samples("all")) == 5
    (tmp_path / "data.toml").write_text('format = "pairs"\n' + (tmp_path / "data.toml").read_text())
    assert len(open_dataset(tmp_path).samples("all")) == 5
    assert len(open_dataset(tmp_path, format="camvid").samples("all")) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("camvit", r"there is no format 'camvit'\. Did you mean 'camvid'\? The formats are ade20k,.* camvid,"),
        ("camvid", r"does not have the layout 'camvid' \(it holds images/, masks/\)"),
    ],
)
def test_a_format_that_is_none_or_does_not_fit_is_refused(tmp_path, name, words):
    make_shapes(tmp_path, "flat", images=2)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path, format=name)


def test_a_folder_that_is_no_data_set_is_reported_what_would_be_one(tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError, match=r"unrecognized data set layout \(it holds stuff/\).*Put images in images/"):
        open_dataset(tmp_path)
    make_shapes(tmp_path / "inner", "flat", images=2)
    with pytest.raises(DataError, match=r"inner/ looks like one: did you mean .*inner\?"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("layout", "lost", "words"),
    [
        ("flat", "masks", r"images/ has no masks/ to go with it"),
        ("flat", "images", r"masks/ has no images to go with it"),
        ("camvid", "trainannot", r"train/ has no trainannot/ to go with it"),
        ("split-first", "train/masks", r"train/images/ has no masks/ to go with it"),
        ("kind-first", "masks", r"images/train/ has no masks/ to go with it"),
    ],
)
def test_a_folder_that_lacks_its_other_half_is_named(tmp_path, layout, lost, words):
    make_shapes(tmp_path, layout, images=4)
    if layout != "flat":
        for name in ("val", "valannot", "images/val", "masks/val"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.rmtree(tmp_path / lost)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_named_folders_globs_and_suffixes_pair(tmp_path):
    make_shapes(tmp_path, "flat", images=5, suffix=".jpg")
    (tmp_path / "images").rename(tmp_path / "photos")
    (tmp_path / "masks").rename(tmp_path / "labels")
    for path in (tmp_path / "labels").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    settings = (tmp_path / "data.toml").read_text()
    for images, masks in (("photos", "labels"), ("photos/*.jpg", "labels/*.png")):
        (tmp_path / "data.toml").write_text(
            f'images = "{images}"\nmasks = "{masks}"\nmask_suffix = "_mask"\n{settings}'
        )
        data = open_dataset(tmp_path)
        assert len(data.samples("all")) == 5
        assert data.format == "pairs"
        assert inspect(data) == []


def test_what_lacks_the_suffix_is_no_mask(tmp_path):
    make_shapes(tmp_path, "flat", images=4, toml='mask_suffix = "_mask"\n')
    for path in list((tmp_path / "masks").iterdir())[1:]:
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert [(p.code, p.count) for p in inspect(tmp_path)] == [("missing-mask", 1)]


def test_masks_may_be_beside_their_images(tmp_path):
    make_shapes(tmp_path, "flat", images=5)
    for path in (tmp_path / "masks").iterdir():
        path.rename(tmp_path / "images" / f"{path.stem}_m.png")
    settings = (tmp_path / "data.toml").read_text()
    (tmp_path / "data.toml").write_text(f'masks = "images"\nmask_suffix = "_m"\n{settings}')
    assert len(open_dataset(tmp_path).samples("all")) == 5
    (tmp_path / "data.toml").write_text(f'masks = "images"\n{settings}')
    with pytest.raises(DataError, match=r"images and masks are the same folder\. Set mask_suffix"):
        open_dataset(tmp_path)


def test_named_folders_may_hold_the_splits(tmp_path):
    make_shapes(tmp_path, "kind-first", images=8)
    (tmp_path / "images").rename(tmp_path / "photos")
    (tmp_path / "data.toml").write_text('images = "photos"\n' + (tmp_path / "data.toml").read_text())
    data = open_dataset(tmp_path)
    assert (len(data.splits["train"]), len(data.splits["val"])) == (6, 2)


def test_a_named_folder_that_is_not_there_is_reported(tmp_path):
    make_shapes(tmp_path, "flat", images=2, toml='images = "fotos"\n')
    with pytest.raises(
        DataError, match=r'data\.toml has images = "fotos", but there is no such folder; there is images/, masks/'
    ):
        open_dataset(tmp_path)


def test_equal_names_in_two_splits_become_unique_stems(tmp_path):
    for split in ("train", "val"):
        for number in range(3):
            image, mask = draw(np.random.default_rng([number, len(split)]), (20, 20), 3)
            images, masks = split_folders("split-first", split)
            save_image(image, tmp_path / images / f"{number}.png")
            save_mask(mask, tmp_path / masks / f"{number}.png")
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c"]\ngroups = "^(.)"\n')
    with pytest.raises(BadDataError, match="group-straddles"):
        raise BadDataError("x", inspect(tmp_path))
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c"]\n')
    data = open_dataset(tmp_path)
    assert [s.stem for s in data.splits["val"]] == ["val/0", "val/1", "val/2"]


def test_groups_keep_images_of_one_site_together(tmp_path):
    make_shapes(tmp_path, "flat", images=12, toml='groups = "^shape(00|01)"\n')
    data = open_dataset(tmp_path)
    assert {s.group for s in data.splits["train"]} & {s.group for s in data.splits["val"]} == set()
    assert {len(data.splits["train"]), len(data.splits["val"])} == {10, 2}


@pytest.mark.parametrize("toml", ["", "folds = 5\n"])
def test_folds_pool_train_and_val_and_leave_test_alone(tmp_path, toml):
    make_shapes(tmp_path, "camvid", images=10, test=2, toml=toml or True)
    given = {} if toml else {"folds": 5}
    folds = [open_dataset(tmp_path, fold=k, **given) for k in range(5)]
    assert sorted(s.stem for data in folds for s in data.splits["val"]) == [f"shape{i:03d}" for i in range(10)]
    assert all(len(data.splits["test"]) == 2 for data in folds)
    assert len(open_dataset(tmp_path, folds=2, fold=1).splits["val"]) == 5
    with pytest.raises(DataError, match="fold 5 does not exist"):
        open_dataset(tmp_path, fold=5, **given)
    if toml:
        assert open_dataset(tmp_path).splits == folds[0].splits
    else:
        with pytest.raises(DataError, match="folds = 5 needs the part that is val"):
            open_dataset(tmp_path, folds=5)


def test_lists_of_data_toml_split(tmp_path):
    make_shapes(tmp_path, "flat", images=6, toml='splits = { train = "lists/t.txt", val = "lists/v.txt" }\n')
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "t.txt").write_text("shape000\nshape001\nshape002\n")
    (tmp_path / "lists" / "v.txt").write_text("shape003.png\n")
    data = open_dataset(tmp_path)
    assert [s.stem for s in data.splits["val"]] == ["shape003"]
    assert [p.code for p in data.problems] == ["unlisted"]


def test_classes_are_counted_where_none_are_named(tmp_path):
    make_shapes(tmp_path, "camvid", images=8, toml=False)
    data = open_dataset(tmp_path)
    assert data.classes == ("class0", "class1", "class2", "class3")
    assert VOID in np.unique(data.read_mask(data.splits["train"][0]))


def rewrite(root: Path, change) -> None:
    rewrite_masks((root / "masks").iterdir(), change)


def assert_remedy_fixes(root: Path, words: str) -> None:
    """The lines after "Add to data.toml" make the data set open."""
    with pytest.raises(BadDataError, match=words) as caught:
        open_dataset(root)
    (found,) = caught.value.problems
    (root / "data.toml").write_text(found.remedy.split(":\n", 1)[1])
    data = open_dataset(root)
    for sample in data.samples("all"):
        data.read_mask(sample)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("index", "masks hold the labels 0, 1, 6, 9, which are not 0 to 3"),
        ("rgb", "masks are RGB with 5 colours that have no class"),
        (
            "binary255",
            r'hold only 0 and 255[\s\S]*classes = [\s\S]*values = \{ 0 = "background", 255 = "foreground" \}',
        ),
    ],
)
def test_masks_without_classes_are_reported_with_the_lines_that_fix_it(tmp_path, encoding, words):
    make_shapes(tmp_path, "flat", images=4, encoding=encoding, toml=False)
    if encoding == "index":
        rewrite(tmp_path, lambda mask: np.where((mask > 1) & (mask != VOID), mask * 3, mask).astype(np.uint8))
    assert_remedy_fixes(tmp_path, words)


def test_sixteen_bit_labels_are_counted_like_others(tmp_path):
    make_shapes(tmp_path, "flat", images=4, toml=False)
    rewrite(tmp_path, lambda mask: np.where(mask == VOID, 255, mask).astype(np.uint16))
    assert len(open_dataset(tmp_path).classes) == 4
    rewrite(tmp_path, lambda mask: mask.astype(np.uint16) * 256)
    assert_remedy_fixes(tmp_path, "masks hold the class labels times 256")


def test_grey_rgb_masks_are_numbers(tmp_path):
    make_shapes(tmp_path, "flat", images=4, toml=False)
    rewrite(tmp_path, lambda mask: np.repeat(mask[..., None], 3, axis=2))
    data = open_dataset(tmp_path)
    assert len(data.classes) == 4
    assert inspect(data) == []
    assert data.read_mask(data.samples("all")[0]).max() == VOID


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "masks hold only the label 0, and a network needs two classes"),
        (255, "masks hold no labels but void"),
        (7, "masks hold only the label 7"),
    ],
)
def test_too_few_classes_are_an_error(tmp_path, value, words):
    make_shapes(tmp_path, "flat", images=3, toml=False)
    rewrite(tmp_path, lambda mask: np.full_like(mask, value))
    with pytest.raises(BadDataError, match=words):
        open_dataset(tmp_path)


def test_more_labels_than_classes_may_be_are_an_error(tmp_path):
    make_shapes(tmp_path, "flat", images=3, size=(40, 40), toml=False)
    rewrite(tmp_path, lambda mask: np.arange(1600, dtype=np.uint16).reshape(40, 40))
    with pytest.raises(BadDataError, match=r"1599 different labels, more than 255 classes"):
        open_dataset(tmp_path)


def test_one_class_in_values_is_too_few(tmp_path):
    make_shapes(tmp_path, "flat", images=3, toml=False)
    (tmp_path / "data.toml").write_text('values = { 0 = "a", 255 = "void" }')
    with pytest.raises(DataError, match=r"the number of classes is 1\. Name 2 to 255"):
        open_dataset(tmp_path)


def test_palette_masks_are_decoded_by_colors_where_these_are_given(tmp_path):
    make_shapes(tmp_path, "flat", images=4, encoding="palette")
    by_index = open_dataset(tmp_path)
    expected = [by_index.read_mask(s) for s in by_index.samples("all")]
    lines = '"#5a5a5a" = "ground", "#c83c28" = "disc", "#32aa46" = "box", "#3c50d2" = "triangle"'
    void = "#{:02x}{:02x}{:02x}".format(*np.asarray(Image.open(by_index.samples("all")[0].mask).getpalette())[765:768])
    (tmp_path / "data.toml").write_text(
        f'classes = ["ground", "disc", "box", "triangle"]\ncolors = {{ {lines}, "{void}" = "void" }}'
    )
    data = open_dataset(tmp_path)
    assert inspect(data) == []
    for sample, mask in zip(data.samples("all"), expected, strict=True):
        np.testing.assert_array_equal(data.read_mask(sample), mask)


def test_bands_are_chosen_in_order(tmp_path):
    make_shapes(tmp_path, "flat", images=3, channels=5, dtype="uint16", suffix=".tif", toml="bands = [4, 2]\n")
    data = open_dataset(tmp_path)
    first = data.samples("all")[0]
    assert data.bands == (4, 2)
    assert data.read_image(first).shape == (48, 64, 2)
    assert data.statistics().channels == 2
    (tmp_path / "data.toml").write_text((tmp_path / "data.toml").read_text().replace("[4, 2]", "[9]"))
    data = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"has 5 bands, data\.toml asks for band 9"):
        data.read_image(first)
    with pytest.raises(DataError, match="asks for band 9"):
        data.statistics()


def test_a_split_that_is_not_there_is_named(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    with pytest.raises(DataError, match=r"there is no split 'tets', but train, val"):
        open_dataset(tmp_path).samples("tets")
    with pytest.raises(DataError, match=r"there is no split 'None', but train, val"):
        open_dataset(tmp_path).samples(None)


def test_no_pair_at_all_is_an_error_with_the_reason(tmp_path):
    make_shapes(tmp_path, "flat", images=3)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}seg.png"))
    with pytest.raises(BadDataError, match=r'images in images/ have no mask in masks/.*mask_suffix = "seg"'):
        open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(BadDataError, match=r"masks in masks/ have no image in images/"):
        open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / "masks").mkdir()
    with pytest.raises(BadDataError, match="there are no images in images/ and no masks in masks/"):
        open_dataset(tmp_path)


def test_the_fingerprint_changes_with_contents_names_and_meaning_only(tmp_path):
    make_shapes(tmp_path / "a", "camvid", images=5)
    first = open_dataset(tmp_path / "a").fingerprint()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_dataset(tmp_path / "b").fingerprint() == first
    (tmp_path / "b" / "data.toml").write_text('classes = ["w", "x", "y", "z"]')
    assert open_dataset(tmp_path / "b").fingerprint() != first
    path = sorted((tmp_path / "a" / "train").iterdir())[0]
    save_image(np.zeros((48, 64, 3), np.uint8), path)
    assert open_dataset(tmp_path / "a").fingerprint() != first


def test_reading_names_the_file(tmp_path):
    make_shapes(tmp_path, "flat", images=3)
    data = open_dataset(tmp_path)
    sample = data.samples("all")[0]
    save_mask(np.full((48, 64), 77, np.uint8), sample.mask)
    with pytest.raises(DataError, match=rf"{sample.mask.name}: label 77 is neither a class \(0 to 3\) nor void"):
        data.read_mask(sample)
    sample.image.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{sample.image.name}: is empty"):
        data.read_image(sample)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((48, 64), 0.5, np.float32), "the mask holds fractions"),
        (np.full((48, 64), -1, np.int32), "the mask holds -1 to -1; labels are 0 to 65535"),
        (
            np.dstack([np.zeros((48, 64, 3), np.uint8), np.full((48, 64), 9, np.uint8)]),
            "the mask is transparent in places",
        ),
    ],
)
def test_a_mask_without_whole_numbers_is_refused(tmp_path, array, words):
    make_shapes(tmp_path, "flat", images=3)
    data = open_dataset(tmp_path)
    sample = data.samples("all")[0]
    sample.mask.unlink()
    path = sample.mask.with_suffix(".tif")
    Image.fromarray(array).save(path)
    data = open_dataset(tmp_path)
    with pytest.raises(DataError, match=words):
        data.read_mask(data.samples("all")[0])


def test_a_mask_with_alpha_is_read_where_it_is_opaque_and_refused_where_not(tmp_path):
    make_shapes(tmp_path, "flat", images=3)
    data = open_dataset(tmp_path)
    sample = data.samples("all")[0]
    expected = data.read_mask(sample)
    opaque = Image.merge("LA", [Image.fromarray(expected), Image.new("L", (64, 48), 255)])
    opaque.save(sample.mask)
    np.testing.assert_array_equal(data.read_mask(sample), expected)
    opaque.putpixel((0, 0), (0, 100))
    opaque.save(sample.mask)
    with pytest.raises(DataError, match="the mask is transparent in places"):
        data.read_mask(sample)


def test_a_one_bit_mask_is_zeros_and_ones(tmp_path):
    make_shapes(tmp_path, "flat", images=3, classes=2, void=False)
    data = open_dataset(tmp_path)
    sample = data.samples("all")[0]
    expected = data.read_mask(sample)
    Image.fromarray(expected * 255).convert("1").save(sample.mask)
    np.testing.assert_array_equal(data.read_mask(sample), expected)


def test_camvid_opens_as_published_where_it_is():
    root = os.environ.get("FULLCONV_CAMVID")
    if root is None:
        pytest.skip("FULLCONV_CAMVID names no folder")
    data = open_dataset(root)
    sizes = len(data.splits["train"]), len(data.splits["val"])
    assert (data.format, *sizes, len(data.classes)) == ("camvid", 367, 101, 11)
    mask = data.read_mask(data.splits["train"][0])
    assert set(np.unique(mask)) <= {*range(11), VOID}


@pytest.mark.parametrize("folds", ["1", "true", '"5"'])
def test_folds_of_data_toml_that_cannot_be_are_refused(tmp_path, folds):
    make_shapes(tmp_path, "flat", images=4, toml=f"folds = {folds}\n")
    with pytest.raises(DataError, match="folds = "):
        open_dataset(tmp_path)
