"""Faults of exports in which the files are sound: partners that are missing or exchanged, splits that share pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from doctor.export_sets import PAINT, Scene, draw, save, scene
from doctor.export_tools import fault, masks_of, pictures_of, resized


def copy_to_valid(
    root: Path, made: list[Scene], change: Callable[[np.ndarray], np.ndarray], turn: Callable = lambda a: a
) -> None:
    item = made[3]
    save(root / "valid" / "extra.jpg", change(turn(item.picture)), quality=70)
    save(root / "valid" / "extra_mask.png", turn(item.mask).copy())


def shift(paths: list[Path]) -> None:
    data = [p.read_bytes() for p in paths]
    for path, content in zip(paths, data[1:] + data[:1], strict=True):
        path.write_bytes(content)


@fault("suffix", "a picture without a mask", "missing-mask")
def _(root, made):
    masks_of(root)[2].unlink()


@fault("cityscapes", "a picture without labelIds", "missing-mask")
def _(root, made):
    masks_of(root)[2].unlink()


@fault("roboflow", "a picture without a mask", "missing-mask")
def _(root, made):
    masks_of(root)[2].unlink()


@fault("ade20k", "a picture without a mask", "missing-mask")
def _(root, made):
    masks_of(root)[2].unlink()


@fault("cvat-masks", "a listed mask that is not there", "missing-mask missing-listed")
def _(root, made):
    masks_of(root)[2].unlink()


@fault("suffix", "a mask without a picture", "missing-picture")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("cityscapes", "a mask without a picture", "missing-picture")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("ade20k", "a mask without a picture", "missing-picture")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("cvat", "a picture of the XML that is not there", "missing-picture")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("labelstudio", "a picture of the JSON that is not there", "missing-picture")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("supervisely", "an annotation without a picture", "missing-picture")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("cvat-masks", "a listed picture that is not there", "missing-picture missing-listed")
def _(root, made):
    pictures_of(root)[2].unlink()


@fault("cvat", "a picture that the XML does not know", "unlisted")
def _(root, made):
    save(root / "images" / "later.jpg", scene("later", 77, 100, 140).picture)


@fault("labelstudio", "a picture that the JSON does not know", "unlisted")
def _(root, made):
    save(root / "images" / "later.jpg", scene("later", 77, 100, 140).picture)


@fault("supervisely", "a picture without an annotation file", "missing-mask unlisted")
def _(root, made):
    sorted(root.rglob("*.jpg.json"))[2].unlink()


@fault("cvat-masks", "a picture and mask on no list", "unlisted")
def _(root, made):
    path = root / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text("".join(path.read_text().splitlines(True)[1:]))


@fault("suffix", "a.jpg and a.png", "duplicate-stem")
def _(root, made):
    path = pictures_of(root)[2]
    save(path.with_suffix(".png"), np.asarray(Image.open(path)))


@fault("ade20k", "a.jpg and a.png", "duplicate-stem")
def _(root, made):
    path = pictures_of(root)[2]
    save(path.with_suffix(".png"), np.asarray(Image.open(path)))


@fault("suffix", "masks shifted by one", "mask-mismatch")
def _(root, made):
    shift(sorted((root / "train").glob("*_mask.png")))
    shift(sorted((root / "val").glob("*_mask.png")))


@fault("cvat-masks", "masks shifted by one", "mask-mismatch")
def _(root, made):
    shift(masks_of(root))


@fault("cityscapes", "masks mixed up", "mask-mismatch")
def _(root, made):
    paths = masks_of(root)
    data = [p.read_bytes() for p in paths]
    for path, index in zip(paths, np.random.default_rng(5).permutation(len(paths)), strict=True):
        path.write_bytes(data[index])


@fault("supervisely", "annotation files mixed up", "mask-mismatch")
def _(root, made):
    paths = sorted(root.rglob("*.jpg.json"))
    data = [p.read_bytes() for p in paths]
    for path, index in zip(paths, np.random.default_rng(6).permutation(len(paths)), strict=True):
        path.write_bytes(data[index])


@fault("labelstudio", "pictures shifted by one", "mask-mismatch")
def _(root, made):
    shift(pictures_of(root))


@fault("cvat", "pictures shifted by one", "mask-mismatch")
def _(root, made):
    shift(pictures_of(root))


@fault("suffix", "two masks exchanged", "mask-mismatch")
def _(root, made):
    shift(masks_of(root)[2:4])


@fault("ade20k", "two masks exchanged", "mask-mismatch")
def _(root, made):
    shift(masks_of(root)[2:4])


@fault("ade20k", "names differ in case", "missing-mask missing-picture")
def _(root, made):
    path = pictures_of(root)[2]
    path.rename(path.with_name(path.name.lower()))


@fault("ade20k", "no masks of validation", "missing-folder missing-mask")
def _(root, made):
    shutil.rmtree(root / "annotations" / "validation")


@fault("cityscapes", "masks of one town lost", "missing-mask")
def _(root, made):
    shutil.rmtree(root / "gtFine" / "train" / "jena")


@fault("suffix", "a picture of train in val, byte by byte", "duplicate-across-splits")
def _(root, made):
    path = pictures_of(root / "train")[1]
    for source in (path, path.with_name(path.stem + "_mask.png")):
        shutil.copy(source, root / "val" / f"copy{'_mask' if 'mask' in source.name else ''}{source.suffix}")


@fault("ade20k", "a picture of training in validation, saved as PNG", "duplicate-across-splits")
def _(root, made):
    source = root / "images" / "training" / f"{made[2].name}.jpg"
    save(root / "images" / "validation" / "copy.png", np.asarray(Image.open(source)))
    shutil.copy(
        root / "annotations" / "training" / f"{made[2].name}.png", root / "annotations" / "validation" / "copy.png"
    )


@fault("roboflow", "a picture of train in valid, compressed again", "near-duplicate duplicate-across-splits")
def _(root, made):
    copy_to_valid(root, made, lambda a: a)


@fault("roboflow", "a picture of train in valid, brighter", "near-duplicate")
def _(root, made):
    copy_to_valid(root, made, lambda a: np.clip(a * 1.15 + 12, 0, 255).astype(np.uint8))


@fault("roboflow", "a picture of train in valid, mirrored", "near-duplicate")
def _(root, made):
    copy_to_valid(root, made, lambda a: a, lambda a: a[:, ::-1].copy())


@fault("roboflow", "a picture of train in valid, turned", "near-duplicate")
def _(root, made):
    copy_to_valid(root, made, lambda a: a, lambda a: np.rot90(a).copy())


@fault("roboflow", "a picture of train in valid, blurred and noisy", "near-duplicate")
def _(root, made):
    rng = np.random.default_rng(1)
    copy_to_valid(
        root,
        made,
        lambda a: np.clip(resized(resized(a, (56, 56)), (112, 112)) + rng.normal(0, 8, a.shape), 0, 255).astype(
            np.uint8
        ),
    )


@fault("roboflow", "a picture of train in valid, in grey", "near-duplicate grey-among-color")
def _(root, made):
    copy_to_valid(root, made, lambda a: np.repeat(a.mean(2, keepdims=True), 3, 2).astype(np.uint8))


@fault("cityscapes", "a picture of train in val, scaled", "near-duplicate")
def _(root, made):
    item = made[1]
    stem = "lindau_000099_000019"
    save(
        root / "leftImg8bit" / "val" / "lindau" / f"{stem}_leftImg8bit.png",
        resized(item.picture, (128, 80), Image.BICUBIC),
    )
    ids = np.asarray(Image.open(next(root.rglob(f"{item.name}_gtFine_labelIds.png"))))
    save(root / "gtFine" / "val" / "lindau" / f"{stem}_gtFine_labelIds.png", resized(ids, (128, 80), Image.NEAREST))


@fault("cvat-masks", "a name on two lists", "duplicate-across-splits")
def _(root, made):
    path = root / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text(path.read_text() + made[0].name + "\n")


@fault("suffix", "groups straddle (expression)", "group-straddles")
def _(root, made):
    (root / "data.toml").write_text('groups = "^([a-z])"\n')
    shutil.move(root / "train" / f"{made[0].name}.jpg", root / "val" / "mill_zzz.jpg")
    shutil.move(root / "train" / f"{made[0].name}_mask.png", root / "val" / "mill_zzz_mask.png")


@fault("ade20k", "groups straddle (CSV)", "group-straddles")
def _(root, made):
    (root / "sites.csv").write_text("stem,group\n" + "".join(f"{s.name},site{i % 5}\n" for i, s in enumerate(made)))
    (root / "data.toml").write_text('groups = "sites.csv"\n')


@fault("suffix", "a class in val only", "class-missing-in-train", None)
def _(root, made):
    for path in (root / "train").glob("*_mask.png"):
        mask = np.asarray(Image.open(path))
        save(path, np.where(mask == 2, np.uint8(0), mask))


@fault("cvat-masks", "a class in val only", "class-missing-in-train", None)
def _(root, made):
    for name in (root / "ImageSets" / "Segmentation" / "train.txt").read_text().split():
        mask = np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))
        save(
            root / "SegmentationClass" / f"{name}.png",
            np.where((mask == [0, 0, 142]).all(2, keepdims=True), np.uint8(0), mask),
        )


@fault("suffix", "val empty", "empty-split empty-folder")
def _(root, made):
    for path in list((root / "val").iterdir()):
        path.unlink()


@fault("cvat-masks", "train list empty", "empty-split")
def _(root, made):
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("")


@fault("roboflow", "neighbours of one video in train and valid", "video-neighbours near-duplicate", None)
def _(root, made):
    rng = np.random.default_rng(9)
    for path in [*pictures_of(root), *masks_of(root)]:
        path.unlink()
    base = scene("film", 4242, 112, 112)
    for number in range(16):
        shapes = [(c, p + np.array([number * (1.5 if c == 2 else 0.7), 0.3 * number])) for c, p in base.shapes]
        mask = draw(shapes, 112, 112)
        grain = np.random.default_rng(3)
        picture = np.clip(
            PAINT[mask] + np.roll(grain.normal(0, 14, (112, 112, 1)), number, 1) + rng.normal(0, 4, (112, 112, 3)),
            0,
            255,
        )
        folder = root / ("valid" if number % 4 == 1 else "train")
        save(folder / f"frame_{number:04d}.jpg", picture.astype(np.uint8))
        save(folder / f"frame_{number:04d}_mask.png", mask)
