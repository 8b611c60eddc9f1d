"""Faults that show only over many masks and pictures: each is found by its code, and healthy sets are not accused."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from fullconv.data.problems import errors
from fullconv.labels import VOID
from synthetic.images import encode
from synthetic.reading import problems, rewrite_masks
from synthetic.shapes import COLORS, make_shapes

Array = np.ndarray
CLASSES = 5


def shapes(root: Path, **options) -> Path:
    return make_shapes(root, "camvid", images=24, size=(96, 128), classes=CLASSES, **options)


def files(root: Path, kind: str = "annot") -> list[Path]:
    return sorted(path for split in ("train", "val") for path in (root / f"{split}{kind}").iterdir())


def redo(change: Callable[[Array], Array]) -> Callable[[Path], None]:
    """Change every mask."""

    def fault(root: Path) -> None:
        rewrite_masks(files(root), change)

    return fault


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def jpeg(quality: int, color: bool = False) -> Callable[[Array], Array]:
    """What JPEG makes of a mask, its numbers kept within the classes."""
    table = np.array([COLORS[i % len(COLORS)] for i in range(256)], np.uint8)

    def change(mask: Array) -> Array:
        found = decoded(encode(Image.fromarray(table[mask] if color else mask), "JPEG", quality=quality))
        return np.asarray(found) if color else np.minimum(np.asarray(found), mask.max())

    return change


def averaged(mask: Array, color: bool = False) -> Array:
    """Anti-aliased: what drawing at three times the size, and averaging, gives."""
    table = np.array([COLORS[i % len(COLORS)] for i in range(256)], np.uint8)
    image = Image.fromarray(table[mask] if color else mask)
    large = np.roll(np.asarray(image.resize((image.width * 3, image.height * 3), 0)), (1, 1), (0, 1))
    return np.asarray(Image.fromarray(large).resize(image.size, Image.Resampling.BOX))


def enlarged(mask: Array) -> Array:
    image = Image.fromarray(mask)
    return np.asarray(
        image.resize((image.width // 2, image.height // 2), 0).resize(image.size, Image.Resampling.BILINEAR)
    )


def exchange(order: Callable[[int], list[int]]) -> Callable[[Path], None]:
    """Give each mask of a split another one's content."""

    def fault(root: Path) -> None:
        for split in ("train", "val"):
            paths = sorted((root / f"{split}annot").iterdir())
            contents = [path.read_bytes() for path in paths]
            for path, other in zip(paths, order(len(paths)), strict=True):
                path.write_bytes(contents[other])

    return fault


def flip(number: int | None) -> Callable[[Path], None]:
    def fault(root: Path) -> None:
        for path in files(root) if number is None else [files(root)[number]]:
            Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)

    return fault


def oriented(orientation: int, square: bool) -> Callable[[Path], None]:
    """Save pictures with an EXIF orientation that nobody heeded when the masks were drawn."""

    def fault(root: Path) -> None:
        for path, mask in zip(files(root, ""), files(root), strict=True):
            picture = Image.open(path).copy()
            if square:
                picture = picture.crop((0, 0, 96, 96))
                Image.open(mask).crop((0, 0, 96, 96)).save(mask)
            exif = Image.Exif()
            exif[274] = orientation
            path.unlink()
            picture.save(path.with_suffix(".jpg"), quality=92, exif=exif)

    return fault


def copy_of_train(change: Callable[[Image.Image], Image.Image], **options) -> Callable[[Path], None]:
    def fault(root: Path) -> None:
        source, target = files(root, "")[1], files(root, "")[-1]
        change(Image.open(source)).save(target, **options)
        shutil.copy(files(root)[1], files(root)[-1])

    return fault


def through_jpeg(image: Image.Image) -> Image.Image:
    return decoded(encode(image, "JPEG", quality=60))


def palettes(root: Path) -> None:
    """Number the classes otherwise than data.toml, with the palette that goes with the numbers."""
    order = [0, 2, 1, 4, 3]
    table = np.arange(256, dtype=np.uint8)
    table[:5] = order
    colors = [(0, 0, 0)] * 256
    for index, place in enumerate(order):
        colors[place] = COLORS[index]
    for path in files(root):
        image = Image.fromarray(table[np.asarray(Image.open(path))])
        image.putpalette([channel for color in colors[:255] for channel in color] + [250, 250, 250])
        image.save(path)
    lines = f"palette = {[list(color) for color in COLORS[:5]]}\n"
    (root / "data.toml").write_text((root / "data.toml").read_text() + lines)


def as_tiff(change: Callable[[Array], Array]) -> Callable[[Path], None]:
    def fault(root: Path) -> None:
        for path in files(root):
            Image.fromarray(change(np.asarray(Image.open(path)).astype(np.float32))).save(path.with_suffix(".tif"))
            path.unlink()

    return fault


def with_nan(mask: Array) -> Array:
    mask[0, 0] = np.nan
    return mask


def with_alpha(alpha: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda mask: np.dstack([mask, mask, mask, alpha(mask)]).astype(np.uint8)


def exchange_folders(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).rename(root / "other")
        (root / f"{split}annot").rename(root / split)
        (root / "other").rename(root / f"{split}annot")


def loop(root: Path) -> None:
    files(root, "")[0].unlink()
    (root / "train" / "shape000.png").symlink_to("shape000.png")


def no_void(root: Path) -> Path:
    return shapes(root, void=False)


def no_toml(root: Path) -> Path:
    return shapes(root, toml=False)


def neither(root: Path) -> Path:
    return shapes(root, void=False, toml=False)


FAULTS: list[tuple[str, str, str, Callable, Callable]] = [
    ("lossy-mask", "warning", "JPEG in a PNG", no_void, redo(jpeg(90))),
    ("lossy-mask", "error", "JPEG in a PNG with void", no_toml, redo(jpeg(85))),
    ("lossy-mask", "error", "JPEG of colours", no_toml, redo(jpeg(85, color=True))),
    ("lossy-mask", "warning", "averaged", no_void, redo(averaged)),
    ("lossy-mask", "warning", "averaged, not named", neither, redo(averaged)),
    ("lossy-mask", "error", "averaged colours", no_toml, redo(lambda mask: averaged(mask, color=True))),
    ("lossy-mask", "error", "bilinear", shapes, redo(enlarged)),
    ("mask-mismatch", "warning", "shifted", shapes, exchange(lambda n: [*range(1, n), 0])),
    ("mask-mismatch", "warning", "shuffled", shapes, exchange(lambda n: np.random.default_rng(3).permutation(n).tolist())),
    ("mask-mismatch", "warning", "two exchanged", shapes, exchange(lambda n: [n - 2, *range(1, n - 2), 0, n - 1])),
    ("mask-turned", "warning", "all upside down", shapes, flip(None)),
    ("mask-turned", "warning", "one upside down", shapes, flip(3)),
    ("exif-orientation", "error", "6", shapes, oriented(6, square=False)),
    ("exif-orientation", "error", "6, square", shapes, oriented(6, square=True)),
    ("exif-orientation", "error", "3", shapes, oriented(3, square=False)),
    ("duplicate-across-splits", "warning", "saved again", shapes, copy_of_train(lambda image: image, compress_level=1)),
    ("near-duplicate", "warning", "through JPEG", shapes, copy_of_train(through_jpeg)),
    ("near-duplicate", "warning", "resized", shapes, copy_of_train(lambda i: i.resize((64, 48)).resize(i.size))),
    ("near-duplicate", "warning", "flipped", shapes, copy_of_train(lambda i: i.transpose(Image.Transpose.ROTATE_180))),
    ("void-as-class", "warning", "last class as 255", no_void, redo(lambda m: np.where(m == 4, VOID, m).astype(np.uint8))),
    ("scaled-labels", "error", "16 bits by 256", shapes, redo(lambda m: m.astype(np.uint16) * 256)),
    ("scaled-labels", "error", "16 bits by 257", no_toml, redo(lambda m: m.astype(np.uint16) * 257)),
    ("scaled-labels", "error", "times 50", no_void, redo(lambda m: m * np.uint8(50))),
    ("scaled-labels", "error", "spread", neither, redo(lambda m: np.round(m * (255 / 4)).astype(np.uint8))),
    ("off-by-one", "error", "not named", no_toml, redo(lambda m: np.where(m == VOID, VOID, m + 1).astype(np.uint8))),
    ("off-by-one", "error", "0 is void", shapes, redo(lambda m: np.where(m == VOID, 0, m + 1).astype(np.uint8))),
    ("palette-permuted", "error", "", shapes, palettes),
    ("float-mask", "error", "fractions", shapes, as_tiff(lambda mask: mask / 255)),
    ("float-mask", "note", "whole", shapes, as_tiff(lambda mask: mask)),
    ("not-finite", "error", "NaN in masks", shapes, as_tiff(with_nan)),
    ("mask-alpha", "note", "opaque", shapes, redo(with_alpha(lambda mask: np.full_like(mask, 255)))),
    ("mask-alpha", "error", "transparent", shapes, redo(with_alpha(lambda mask: np.where(mask == 0, 0, 255)))),
    ("nothing-to-learn", "error", "all empty", shapes, redo(lambda mask: mask * 0)),
    ("mask-is-picture", "error", "", shapes, lambda r: shutil.copy(files(r, "")[1], files(r)[1])),
    ("folders-exchanged", "error", "", shapes, exchange_folders),
]  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "what", "make", "fault"), FAULTS, ids=[f"{f[0]} {f[2]}" for f in FAULTS])
def test_a_fault_is_found(tmp_path, code, severity, what, make, fault):
    make(tmp_path)
    fault(tmp_path)
    found = inspect(tmp_path)
    assert (code, severity) in {(problem.code, problem.severity) for problem in found}
    assert {problem.code for problem in errors(found)} <= {code}


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are made otherwise on Windows")
@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("link-loop", lambda r: (r / "train" / "loop").symlink_to("..")),
        ("link-loop", loop),
        ("not-a-picture", lambda r: (files(r, "")[0].unlink(), (r / "train" / "shape000.png").mkdir())),
        ("not-a-picture", lambda r: (files(r, "")[0].unlink(), os.mkfifo(r / "train" / "shape000.png"))),
    ],
)
def test_links_folders_and_pipes_are_reported(tmp_path, code, fault):
    fault(shapes(tmp_path))
    assert [problem.code for problem in inspect(tmp_path)] == [code]


def borders(mask: Array) -> Array:
    """Background, borders, cells: every edge goes over the number in between, and rightly so."""
    inside = mask == 1
    core = inside & np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
    return (inside.astype(np.uint8) + core).astype(np.uint8)


def lines(mask: Array) -> Array:
    """Thin lines of several classes on a ground."""
    thin = np.zeros_like(mask)
    for number in range(1, 5):
        edge = (mask == number) & (np.roll(mask, 1, 1) != number)
        thin[edge] = number
    return thin


@pytest.mark.parametrize("make", [shapes, no_void, no_toml, neither])
def test_a_healthy_data_set_has_no_problems(tmp_path, make):
    assert inspect(make(tmp_path)) == []


@pytest.mark.parametrize("change", [borders, lines])
def test_thin_classes_are_not_taken_for_interpolation(tmp_path, change):
    redo(change)(shapes(tmp_path))
    (tmp_path / "data.toml").write_text(
        'classes = ["a", "b", "c"]' if change is borders else 'classes = ["a", "b", "c", "d", "e"]'
    )
    assert {problem.code for problem in inspect(tmp_path)} <= {"constant-mask"}


def test_masks_drawn_on_upright_images_have_no_problems(tmp_path):
    shapes(tmp_path)
    for path in files(tmp_path, ""):
        exif = Image.Exif()
        exif[274] = 6
        turned = Image.open(path).transpose(Image.Transpose.ROTATE_90)
        path.unlink()
        turned.save(path.with_suffix(".jpg"), quality=92, exif=exif)
    assert inspect(tmp_path) == []


def test_partial_comparison_of_a_large_set_is_reported_and_equal_images_are_still_found(tmp_path, monkeypatch):
    shapes(tmp_path)
    train, val = ([path for path in files(tmp_path, "") if path.parent.name == split] for split in ("train", "val"))
    for source, target in zip(train, val, strict=False):  # all of val is in train, the first of them turned
        shutil.copy(source, target)
    Image.open(train[0]).transpose(Image.Transpose.ROTATE_180).save(val[0])
    monkeypatch.setattr("fullconv.data.checks.duplicates._MAX_ORIENTED", len(train) * len(val) - 1)
    found = problems(tmp_path)
    assert found["compared-in-part"].cause == (
        "the data set is large (flipped and turned copies were not searched in val)"
    )
    assert found["duplicate-across-splits"].count == len(val) - 1
    assert "near-duplicate" not in found
    monkeypatch.setattr("fullconv.data.checks.duplicates._MAX_COMPARISONS", -(-len(train) * len(val) // 3))
    found = problems(tmp_path)
    assert "only one in 3 images of val was compared with train for near copies" in found["compared-in-part"].cause
    assert found["duplicate-across-splits"].count == len(val) - 1


def pasted(root: Path, remedy: str) -> None:
    """Do what a remedy says: put its lines into data.toml, instead of those with the same key."""
    new = [line for line in remedy.splitlines() if " = " in line]
    old = (root / "data.toml").read_text().splitlines() if (root / "data.toml").exists() else []
    gone = {line.split(" = ")[0] for line in new}
    (root / "data.toml").write_text("\n".join([line for line in old if line.split(" = ")[0] not in gone] + new) + "\n")


@pytest.mark.parametrize(
    ("make", "fault"),
    [(make, fault) for code, _, _, make, fault in FAULTS if code in ("void-as-class", "scaled-labels", "off-by-one")]
    + [(no_void, redo(lambda m: np.where(m == 3, 9, m).astype(np.uint8)))]  # unknown-label
    + [(neither, redo(lambda m: np.where(m == 3, 9, m).astype(np.uint8)))],  # label-gaps
)
def test_the_lines_of_a_remedy_fix_it(tmp_path, make, fault):
    make(tmp_path)
    fault(tmp_path)
    before = inspect(tmp_path)
    assert before
    pasted(tmp_path, next(problem.remedy for problem in before if " = " in problem.remedy))
    assert not errors(inspect(tmp_path))
    assert not {problem.code for problem in inspect(tmp_path)} & {problem.code for problem in before} - {"class-unused"}


def test_the_colors_of_a_permuted_palette_fix_it(tmp_path):
    palettes(shapes(tmp_path))
    (found,) = inspect(tmp_path)
    pasted(tmp_path, found.remedy.split("\nIf the numbers")[0])
    assert inspect(tmp_path) == []


def test_frames_of_one_video_in_two_splits_are_found(tmp_path):
    rng = np.random.default_rng(1)
    scene = Image.fromarray(rng.integers(0, 256, (12, 40, 3), dtype=np.uint8)).resize(
        (400, 96), Image.Resampling.BICUBIC
    )
    label = np.kron(rng.integers(0, 3, (4, 20), dtype=np.uint8), np.ones((24, 20), np.uint8))
    for frame in range(40):
        split = "val" if frame % 4 == 1 else "train"
        left = 3 * frame
        for folder, image in ((split, scene), (f"{split}annot", Image.fromarray(label))):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.crop((left, 0, left + 128, 96)).save(tmp_path / folder / f"clip_{frame:04d}.png")
    assert "video-neighbours" in {problem.code for problem in inspect(tmp_path)}


def test_numbers_of_single_things_are_found_and_can_be_merged(tmp_path):
    root = make_shapes(tmp_path, "flat", images=16, size=(96, 128), classes=2, void=False)
    rng = np.random.default_rng(0)
    for path in sorted((root / "masks").iterdir()):
        cells = np.zeros((96, 128), np.uint8)
        for number in range(1, int(rng.integers(5, 30))):
            y, x = rng.integers(0, (88, 120))
            cells[y : y + 8, x : x + 8] = number
        present = np.unique(cells)
        Image.fromarray(np.searchsorted(present, cells).astype(np.uint8)).save(path)
    (root / "data.toml").unlink()
    found = next(problem for problem in inspect(root) if problem.severity == "error")
    assert found.code == "instance-ids"
    pasted(root, found.remedy)
    assert not errors(inspect(root))


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (["background", "left hand", "right hand"], [["left hand", "right hand"]]),
        (["bg", "RightEye", "r_brow", "l_brow", "LeftEye"], [["l_brow", "r_brow"], ["LeftEye", "RightEye"]]),
        (["bg", "LEFT LUNG", "RIGHT LUNG"], [["LEFT LUNG", "RIGHT LUNG"]]),
    ],
)
def test_left_and_right_without_mirror_pairs_are_a_warning_whose_line_ends_it(tmp_path, classes, pairs):
    root = make_shapes(tmp_path / "data", "flat", images=6, classes=len(classes))
    before = f"classes = {json.dumps(classes)}\n"
    (root / "data.toml").write_text(before)
    (found,) = [one for one in inspect(root) if one.code == "mirror-pairs"]
    assert found.severity == "warning"
    line = found.remedy.splitlines()[-1]
    assert line == f"mirror_pairs = {json.dumps(pairs)}"
    for text in (line, "mirror_pairs = []"):
        (root / "data.toml").write_text(before + text + "\n")
        assert not [one for one in inspect(root) if one.code == "mirror-pairs"]
    (root / "data.toml").write_text(before + line + "\n")
    assert open_dataset(root).labels[""].mirror_order == [
        classes.index(dict([*map(tuple, pairs), *((b, a) for a, b in pairs)]).get(name, name)) for name in classes
    ]


@pytest.mark.parametrize(
    "classes", [["bg", "left"], ["cleft", "bright", "leftover"], ["l", "m", "n"], ["left", "Right"]]
)
def test_classes_without_a_partner_are_no_left_and_right(tmp_path, classes):
    root = make_shapes(tmp_path / "data", "flat", images=6, classes=len(classes))
    (root / "data.toml").write_text(f"classes = {json.dumps(classes)}\n")
    assert not [one for one in inspect(root) if one.code == "mirror-pairs"]
