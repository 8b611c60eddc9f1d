"""Masks on other grids than their images, and masks of several layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.warp import transform

from fullconv.data import examine, open_dataset
from fullconv.errors import DataError
from fullconv.labels import VOID

EAST, NORTH = 500_000.0, 5_400_000.0
RNG = np.random.default_rng(0)


def write(path: Path, values: np.ndarray, affine: tuple[float, ...], crs: str = "EPSG:32632") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    options = {"dtype": values.dtype, "count": len(planes), "height": planes.shape[1], "width": planes.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", transform=rasterio.Affine(*affine), crs=crs, **options) as file:
        file.write(planes)


def data_set(
    root: Path, mask: np.ndarray, affine: tuple[float, ...], crs: str = "EPSG:32632", align: bool = False
) -> Path:
    """Four images of 40x50 pixels of half a metre, and the same mask on another grid."""
    for stem in "abcd":
        image = RNG.integers(1, 256, (40, 50, 3), dtype=np.uint8)
        write(root / "images" / f"{stem}.tif", image, (0.5, 0, EAST, 0, -0.5, NORTH))
        write(root / "masks" / f"{stem}.tif", mask, affine, crs)
    lines = 'classes = ["a", "b", "c"]\n' + ('align = "nearest"\n' if align else "")
    (root / "data.toml").write_text(lines)
    return root


def nearest(mask: np.ndarray, affine: tuple[float, ...], crs: str) -> np.ndarray:
    """The label under the centre of each pixel of the images, by coordinates; void outside."""
    rows, columns = np.mgrid[0:40, 0:50]
    x, y = EAST + 0.5 * (columns + 0.5), NORTH - 0.5 * (rows + 0.5)
    if crs != "EPSG:32632":
        x, y = (np.reshape(c, x.shape) for c in transform("EPSG:32632", crs, x.ravel(), y.ravel()))
    column, row = ~rasterio.Affine(*affine) @ np.stack([x.ravel(), y.ravel()])
    row, column = (np.floor(v).astype(int).reshape(40, 50) for v in (row, column))
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    return np.where(inside, mask[row.clip(0, len(mask) - 1), column.clip(0, mask.shape[1] - 1)], VOID)


GRIDS = {
    "metre pixels": ((1.0, 0, EAST, 0, -1.0, NORTH), "EPSG:32632"),
    "shifted by three pixels": ((0.5, 0, EAST - 1.5, 0, -0.5, NORTH + 1.5), "EPSG:32632"),
    "a finer grid that covers a part": ((0.2, 0, EAST + 3.03, 0, -0.2, NORTH - 2.01), "EPSG:32632"),
    "degrees": ((6.8e-6, 0, 9.0 - 1e-5, 0, -4.5e-6, 48.7526), "EPSG:4326"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_another_grid_is_an_error_that_names_both_and_align_warps_the_mask(tmp_path, name):
    affine, crs = GRIDS[name]
    mask = RNG.integers(0, 3, (60, 60), dtype=np.uint8)
    data_set(tmp_path / "plain", mask, affine, crs)
    found = [p for p in examine(tmp_path / "plain").problems if p.code == "grids-differ"]
    assert [p.severity for p in found] == ["error"]
    assert len(found[0].files) == 4
    assert crs in str(found[0])
    assert "EPSG:32632, origin (500000, 5400000), pixel size (0.5, -0.5)" in str(found[0])
    plain = open_dataset(tmp_path / "plain")
    with pytest.raises(DataError, match=r'a\.tif: the mask\'s grid is EPSG.*Write align = "nearest" in data\.toml'):
        plain.read_mask(plain.samples("all")[0])

    warped = open_dataset(data_set(tmp_path / "aligned", mask, affine, crs, align=True))
    assert "grids-differ" not in {p.code for p in examine(tmp_path / "aligned").problems}
    expected = nearest(mask, affine, crs)
    for sample in warped.samples("all"):
        found_mask = warped.read_mask(sample)
        assert np.mean(found_mask != expected) < (0.002 if crs == "EPSG:4326" else 1e-9)
        assert (found_mask == VOID).any() == (expected == VOID).any()


def test_a_mask_without_georeferencing_or_on_the_same_grid_is_read_as_it_is(tmp_path):
    mask = RNG.integers(0, 3, (40, 50), dtype=np.uint8)
    root = data_set(tmp_path, mask, (0.5, 0, EAST, 0, -0.5, NORTH + 0.004), align=True)
    tifffile.imwrite(root / "masks" / "b.tif", mask)
    dataset = open_dataset(root)
    assert not [p for p in examine(root).problems if p.code in ("grids-differ", "mask-size")]
    for sample in dataset.samples("all"):
        np.testing.assert_array_equal(dataset.read_mask(sample), mask)


def test_pixels_outside_the_mask_are_void_in_the_counts_too(tmp_path):
    mask = np.repeat(np.arange(2, dtype=np.uint8), 20)[:, None].repeat(25, 1)
    root = data_set(tmp_path, mask, (0.5, 0, EAST, 0, -0.5, NORTH), align=True)
    dataset = open_dataset(root)
    statistics = dataset.statistics()
    images = len(dataset.samples("train"))
    assert statistics.pixels.tolist() == [20 * 25 * images, 20 * 25 * images, 0]
    assert statistics.void == 0


# --- layers -----------------------------------------------------------------------------------------------------------


def paged(root: Path, pages: list[np.ndarray], toml: str, suffix: str = "tif") -> Path:
    """Four images with masks of several pages."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for stem in "abcd":
        Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / "images" / f"{stem}.png")
        first, *rest = [Image.fromarray(page) for page in pages]
        first.save(root / "masks" / f"{stem}.{suffix}", save_all=True, append_images=rest)
    if toml:
        (root / "data.toml").write_text(toml)
    return root


DISC, BOX = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
DISC[2:12, 3:15], BOX[8:18, 10:28] = 255, 1
TWO = np.where(BOX > 0, 2, np.where(DISC > 0, 1, 0))


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_pages_that_differ_are_an_error_and_pages_names_their_classes(tmp_path, suffix):
    root = paged(tmp_path / "plain", [DISC, BOX * 255], 'classes = ["background", "disc"]\n', suffix)
    found = {p.code: p for p in examine(root).problems}
    assert (found["pages-differ"].severity, found["pages-differ"].count) == ("error", 4)
    dataset = open_dataset(root)
    with pytest.raises(DataError, match=r"page 2 is another mask than the first.*pages = "):
        dataset.read_mask(dataset.samples("all")[0])
    for name, toml, expected in (
        ("named", 'pages = ["disc", "box"]\n', TWO),
        ("ordered", 'classes = ["disc", "box", "rest"]\npages = ["disc", "box"]\nunlabeled = "rest"\n', (TWO + 2) % 3),
        ("void", 'classes = ["rest", "disc"]\npages = ["disc", "void"]\n', np.where(TWO == 2, VOID, TWO)),
    ):
        dataset = open_dataset(paged(tmp_path / name, [DISC, BOX * 255], toml, suffix))
        assert not [p for p in examine(tmp_path / name).problems if p.severity == "error"]
        for sample in dataset.samples("all"):
            np.testing.assert_array_equal(dataset.read_mask(sample), expected)
    assert open_dataset(tmp_path / "named").classes == ("background", "disc", "box")


def test_equal_pages_are_a_note_and_another_number_of_pages_is_an_error(tmp_path):
    root = paged(tmp_path / "equal", [DISC, DISC], 'values = { 0 = "rest", 255 = "disc" }\n')
    assert [p.severity for p in examine(root).problems if p.code in ("several-frames", "pages-differ")] == ["note"]
    root = paged(tmp_path / "three", [DISC, BOX, DISC], 'pages = ["disc", "box"]\n')
    (found,) = (p for p in examine(root).problems if p.code == "pages-differ")
    assert "has 3 pages, pages in data.toml names 2" in str(found)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('pages = ["a", "b"]\nthreshold = 128\n', "so threshold has no meaning"),
        ('classes = ["a", "b"]\npages = ["a", "c"]\n', "pages names 'c', which is not in classes"),
    ],
)
def test_pages_that_cannot_be_are_refused(tmp_path, toml, words):
    with pytest.raises(DataError, match=words):
        open_dataset(paged(tmp_path, [DISC, BOX], toml))


@pytest.mark.parametrize("bits", [1, 8])
def test_masks_of_min_is_white_are_read_by_their_light(tmp_path, bits):
    root = paged(tmp_path, [DISC], 'classes = ["rest", "disc"]\nvalues = { 0 = "rest", 255 = "disc", 1 = "disc" }\n')
    for stem, photometric in zip("abcd", ["minisblack", "miniswhite"] * 2, strict=True):
        stored = DISC if photometric == "minisblack" else 255 - DISC
        stored = stored > 0 if bits == 1 else stored
        tifffile.imwrite(root / "masks" / f"{stem}.tif", stored, photometric=photometric)
    dataset = open_dataset(root)
    for sample in dataset.samples("all"):
        np.testing.assert_array_equal(dataset.read_mask(sample), DISC > 0)
