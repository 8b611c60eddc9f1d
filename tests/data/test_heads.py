"""Several masks a picture, and further bands from a second folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.cli import main
from fullconv.data import open_dataset
from fullconv.data.checks.run import inspect
from fullconv.data.loader import read_sample
from fullconv.data.statistics import Statistics
from fullconv.errors import DataError
from fullconv.labels import VOID
from synthetic.shapes import draw, save_image, save_mask

PLACES = {
    "camvid": ("train", "trainannot_{}", "val", "valannot_{}"),
    "split-first": ("train/images", "train/masks_{}", "val/images", "val/masks_{}"),
    "kind-first": ("images/train", "masks_{}/train", "images/val", "masks_{}/val"),
    "flat": ("images", "masks_{}", "images", "masks_{}"),
}
TOML = '[heads.what]\nclasses = ["a", "b", "c"]\n[heads.solid]\nclasses = ["no", "yes"]\nvalues = { 1 = "no", 9 = "yes" }\n'


def solid(mask: np.ndarray) -> np.ndarray:
    """The second head: whether there is a shape; 1 and 9 in files, 255 stays void."""
    return np.where(mask == VOID, VOID, np.where(mask > 0, 9, 1)).astype(np.uint8)


def make(root: Path, layout: str = "split-first", toml: str = TOML, count: int = 4) -> list[np.ndarray]:
    """Make a data set of two heads; return the masks of the first."""
    rng = np.random.default_rng(5)
    places, masks = PLACES[layout], []
    for number in range(count):
        image, mask = draw(rng, (24, 30), 3)
        images, labels = places[:2] if number % 2 == 0 else places[2:]
        save_image(image, root / images / f"p{number}.png")
        save_mask(mask, root / labels.format("what") / f"p{number}.png")
        save_mask(solid(mask), root / labels.format("solid") / f"p{number}.png")
        masks.append(mask)
    if toml:
        (root / "data.toml").write_text(toml, encoding="utf-8")
    return masks


@pytest.mark.parametrize("layout", PLACES)
def test_each_head_has_its_masks_and_classes_in_every_layout(tmp_path, layout):
    masks = make(tmp_path, layout)
    dataset = open_dataset(tmp_path)
    assert dataset.heads == ["what", "solid"]
    assert {head: labels.classes for head, labels in dataset.labels.items()} == {
        "what": ("a", "b", "c"), "solid": ("no", "yes"),
    }  # fmt: skip
    for sample in dataset.samples("all"):
        number = int(sample.stem[-1])
        _, found = read_sample(dataset, sample)
        assert (found["what"] == masks[number]).all()
        wanted = np.where(masks[number] == VOID, VOID, masks[number] > 0)
        assert (found["solid"] == wanted).all()
    assert inspect(dataset) == [] or all(found_problems.severity != "error" for found_problems in inspect(dataset))


def test_statistics_count_each_head_by_itself(tmp_path):
    masks = make(tmp_path)
    dataset = open_dataset(tmp_path)
    train = [masks[0], masks[2]]
    by_head: dict[str, Statistics] = {head: dataset.statistics("train", head) for head in dataset.heads}
    assert by_head["what"].pixels.tolist() == [sum(int((m == k).sum()) for m in train) for k in range(3)]
    assert by_head["solid"].pixels.tolist() == [sum(int((m == 0).sum()) for m in train),
                                                sum(int(((m > 0) & (m < VOID)).sum()) for m in train)]  # fmt: skip


def test_without_data_toml_the_folders_name_the_heads_and_classes_are_counted(tmp_path):
    make(tmp_path, toml="")
    for place in ("train/masks_solid", "val/masks_solid"):
        for path in (tmp_path / place).iterdir():
            values = np.asarray(Image.open(path))
            Image.fromarray(np.where(values == 9, 1, np.where(values == 1, 0, values)).astype(np.uint8)).save(path)
    dataset = open_dataset(tmp_path)
    assert dataset.heads == ["solid", "what"]
    assert [len(labels.classes) for labels in dataset.labels.values()] == [2, 3]


def test_classes_can_be_in_a_text_file_by_head(tmp_path):
    make(tmp_path, toml="")
    (tmp_path / "classes_what.txt").write_text("a 1 2 3\nb 4 5 6\nc 7 8 9\n")
    with pytest.raises(DataError, match=r"(?s)head solid: .*\[heads\.solid\]\nclasses = \[.class0.*\nvalues = \{ 1 = "):
        open_dataset(tmp_path)
    (tmp_path / "data.toml").write_text(TOML.replace('classes = ["a", "b", "c"]', "ignore_index = 254"))
    labels = open_dataset(tmp_path).labels["what"]
    assert (labels.classes, labels.palette[2], labels.ignore_index) == (("a", "b", "c"), (7, 8, 9), 254)


def test_problems_name_their_head(tmp_path):
    make(tmp_path)
    save_mask(np.full((24, 30), 7, np.uint8), tmp_path / "train/masks_solid/p0.png")
    (tmp_path / "train/masks_what/p2.png").unlink()
    found_problems = {found.code: found for found in inspect(tmp_path)}
    assert found_problems["unknown-label"].cause.startswith(
        "head solid: masks hold labels that are neither a class nor void: 7"
    )
    assert found_problems["missing-mask"].cause == "images in train/images/ have no mask in train/masks_what/"


def test_check_counts_the_classes_of_all_heads(tmp_path, capsys):
    make(tmp_path)
    assert main(["check", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["classes"]] == ["a", "b", "c"]
    assert [row["name"] for row in found["heads"]["solid"]] == ["no", "yes"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[heads.one]\nclasses = ["a", "b"]', "heads has fewer than two"),
        ('classes = ["a", "b"]\n' + TOML, r"classes belongs to one head. Write it below \[heads\.what\]"),
        ("[heads.what]\nclases = 1\n[heads.solid]", r"no key 'heads\.what\.clases'\. Did you mean 'classes'"),
        ('[heads."a b"]\n[heads.c]', "'a b' is no valid name"),
    ],
)
def test_wrong_heads_are_refused(tmp_path, toml, words):
    make(tmp_path, toml=toml)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_a_folder_of_masks_that_is_missing_is_named(tmp_path):
    make(tmp_path)
    (tmp_path / "val/masks_solid").rename(tmp_path / "val/elsewhere")
    (found,) = [found for found in inspect(tmp_path) if found.code == "missing-folder"]
    assert found.cause == "val/images/ has images, but there is no folder with the masks of head solid"


def test_heads_and_bands_go_with_folders_of_masks_only(tmp_path):
    for kind in ("JPEGImages", "SegmentationClass"):
        (tmp_path / kind).mkdir()
    (tmp_path / "data.toml").write_text('bands_from = "hha"')
    save_image(np.zeros((4, 4, 3), np.uint8), tmp_path / "JPEGImages/a.png")
    save_mask(np.zeros((4, 4), np.uint8), tmp_path / "SegmentationClass/a.png")
    with pytest.raises(DataError, match="bands_from is for folders of images and masks, not for the format voc"):
        open_dataset(tmp_path)


def test_convert_keeps_heads_and_bands(tmp_path):
    make(tmp_path / "in", toml='bands_from = "depth"\n' + TOML)
    with_depth(tmp_path / "in")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    before, after = open_dataset(tmp_path / "in"), open_dataset(tmp_path / "out")
    assert after.heads == before.heads
    for one, other in zip(before.samples("all"), after.samples("all"), strict=True):
        assert (before.read_image(one) == after.read_image(other)).all()
        for head in before.heads:
            assert (before.read_mask(one, head) == after.read_mask(other, head)).all()
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "voc"), "--to", "voc"]) == 2


# --- further bands ---------------------------------------------------------------------------------------------------


def with_depth(root: Path, dtype: type = np.uint8) -> None:
    """Add a picture of one band beside each of a split-first data set."""
    for path in [*root.glob("*/images/*.png")]:
        number = int(path.stem[-1])
        depth = (np.arange(24 * 30).reshape(24, 30, 1) % 200 + number).astype(dtype)
        save_image(depth, path.parents[1] / "depth" / path.name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_of_the_second_folder_follow_those_of_the_first(tmp_path, dtype):
    make(tmp_path, toml='bands_from = "depth"\n' + TOML)
    with_depth(tmp_path, dtype)
    dataset = open_dataset(tmp_path)
    for sample in dataset.samples("all"):
        image = dataset.read_image(sample)
        assert (image.shape, image.dtype) == ((24, 30, 4), dtype)
        assert (image[..., :3] == np.asarray(Image.open(sample.image))).all()
        assert (image[..., 3] == np.asarray(Image.open(sample.more))).all()
    stacked = np.concatenate([dataset.read_image(s).reshape(-1, 4) for s in dataset.samples("train")]).astype(float)
    found = dataset.statistics("train")
    low, high = found.range
    assert (found.channels, found.dtype) == (4, np.dtype(dtype).name)
    np.testing.assert_allclose(found.mean, (stacked.mean(0) - low) / (high - low), rtol=1e-9)
    np.testing.assert_allclose(found.std, stacked.std(0) / (high - low), rtol=1e-9)
    assert not [found_problems for found_problems in inspect(dataset) if found_problems.severity == "error"]


def test_bands_count_over_both_folders(tmp_path):
    make(tmp_path, toml='bands_from = "depth"\nbands = [4, 1]\n' + TOML)
    with_depth(tmp_path)
    dataset = open_dataset(tmp_path)
    sample = dataset.samples("train")[0]
    assert (dataset.read_image(sample)[..., 0] == np.asarray(Image.open(sample.more))).all()


def test_a_missing_partner_another_size_and_a_missing_folder_are_named(tmp_path):
    make(tmp_path, toml='bands_from = "depth"\n' + TOML)
    with pytest.raises(DataError, match=r'bands_from = "depth", but there is no such folder for the images in train'):
        open_dataset(tmp_path)
    with_depth(tmp_path)
    (tmp_path / "train/depth/p0.png").unlink()
    save_image(np.zeros((24, 31, 1), np.uint8), tmp_path / "val/depth/p1.png")
    found_problems = {found.code: found for found in inspect(tmp_path)}
    assert found_problems["missing-bands"].files == ("train/images/p0.png",)
    assert found_problems["band-size"].files == ("val/depth/p1.png",)
    assert "is 31x24 pixels, its image 30x24" in found_problems["band-size"].cause
    dataset = open_dataset(tmp_path, skip_bad=True)
    assert [sample.stem for sample in dataset.samples("train")] == ["p2"]
    with pytest.raises(DataError, match=r"p1\.png: is 31x24 pixels, p1\.png 30x24\. Export both at one size"):
        dataset.read_image(dataset.samples("val")[0])


def test_the_fingerprint_knows_the_second_folder(tmp_path):
    make(tmp_path, toml='bands_from = "depth"\n' + TOML)
    with_depth(tmp_path)
    before = open_dataset(tmp_path).fingerprint()
    save_image(np.zeros((24, 30, 1), np.uint8), tmp_path / "train/depth/p0.png")
    assert open_dataset(tmp_path).fingerprint() != before
