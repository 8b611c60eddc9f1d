"""Faults of masks in exports: their numbers, how they were saved, how they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from doctor.export_sets import COLORS, color_mask, draw, indexed, save
from doctor.export_tools import edit_masks, fault, jpeg, masks_of, pictures_of, resized


def turn_tag(path: Path, orientation: int) -> None:
    """As a camera writes it: the stored picture turned, and the tag that turns it back."""
    image = Image.open(path)
    image.load()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=92)


@fault("suffix", "0/255 masks, two classes named", "binary-mask")
def _(root, made):
    edit_masks(root, lambda m: ((m > 0) * 255).astype(np.uint8))
    (root / "classes.txt").write_text("background\nroad\n")


@fault("suffix", "0/255 masks, nothing named", "binary-mask")
def _(root, made):
    edit_masks(root, lambda m: ((m == 3) * 255).astype(np.uint8))
    (root / "classes.txt").unlink()


@fault("suffix", "classes counted from 1", "off-by-one")
def _(root, made):
    edit_masks(root, lambda m: m + np.uint8(1))


@fault("roboflow", "classes counted from 1", "off-by-one")
def _(root, made):
    edit_masks(root, lambda m: m + np.uint8(1))


@fault("suffix", "all masks painted in colours", "rgb-mask")
def _(root, made):
    edit_masks(root, color_mask)


@fault("suffix", "one mask painted in colours", "rgb-mask", remedy="restore-all")
def _(root, made):
    edit_masks(root, color_mask, 3)


@fault("ade20k", "all masks painted in colours", "rgb-mask")
def _(root, made):
    table = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    edit_masks(root, lambda m: table[m])


@fault("cityscapes", "colour files under the name of labelIds", "rgb-mask mask-alpha")
def _(root, made):
    for path in root.rglob("*_color.png"):
        shutil.copy(path, path.with_name(path.name.replace("_color", "_labelIds")))


@fault("cityscapes", "instance ids under the name of labelIds", "instance-ids unknown-label")
def _(root, made):
    for path in root.rglob("*_instanceIds.png"):
        shutil.copy(path, path.with_name(path.name.replace("_instanceIds", "_labelIds")))


@fault(
    "cityscapes",
    "trainIds under the name of labelIds",
    "unknown-label off-by-one scaled-labels void-as-class nothing-to-learn",
)
def _(root, made):
    table = np.full(256, 255, np.uint8)
    table[[23, 7, 26, 21]] = [10, 0, 13, 8]
    edit_masks(root, lambda m: table[m])


@fault("suffix", "16-bit masks, value x 256", "scaled-labels")
def _(root, made):
    edit_masks(root, lambda m: m.astype(np.uint16) * 256)


@fault("ade20k", "16-bit masks, value x 257", "scaled-labels")
def _(root, made):
    edit_masks(root, lambda m: m.astype(np.uint16) * 257)


@fault("suffix", "labels spread over 0 to 255 to be seen", "scaled-labels")
def _(root, made):
    edit_masks(root, lambda m: m * np.uint8(85))


@fault("roboflow", "labels times 50 to be seen", "scaled-labels")
def _(root, made):
    edit_masks(root, lambda m: m * np.uint8(50))


@fault("suffix", "a number for every object", "instance-ids")
def _(root, made):
    (root / "classes.txt").unlink()
    for item, path in zip(
        sorted(made, key=lambda s: s.name), sorted(masks_of(root), key=lambda p: p.name), strict=True
    ):
        out = np.zeros(item.mask.shape, np.uint16)
        for number, (_, points) in enumerate(item.shapes):
            out[draw([(1, points)], *item.mask.shape) > 0] = number + 1
        save(path, out)


@fault("suffix", "transparent masks", "mask-alpha")
def _(root, made):
    edit_masks(root, lambda m: np.dstack([color_mask(m), (m > 0).astype(np.uint8) * 255]))


@fault("roboflow", "grey with alpha", "mask-alpha")
def _(root, made):
    edit_masks(root, lambda m: np.dstack([m, (m > 0).astype(np.uint8) * 255]), 4)


@fault("suffix", "fractions in float masks", "float-mask")
def _(root, made):
    edit_masks(root, lambda m: m.astype(np.float32) / 3, suffix=".tif")


@fault("suffix", "probabilities in one float mask", "float-mask")
def _(root, made):
    edit_masks(root, lambda m: np.random.default_rng(1).random(m.shape).astype(np.float32), 2, ".tif")


@fault("suffix", "NaN in a float mask", "not-finite")
def _(root, made):
    edit_masks(root, lambda m: np.where(m == 2, np.nan, m).astype(np.float32), 2, ".tif")


@fault("suffix", "one pixel region of a number that is no class", "unknown-label")
def _(root, made):
    edit_masks(root, lambda m: np.where(np.indices(m.shape).sum(0) < 9, np.uint8(7), m), 5)


@fault("ade20k", "a number over 150", "unknown-label")
def _(root, made):
    edit_masks(root, lambda m: np.where(m == 21, np.uint8(180), m), 1)


@fault("roboflow", "a number that _classes.csv does not list", "unknown-label")
def _(root, made):
    edit_masks(root, lambda m: np.where(m == 2, np.uint8(4), m), 1)


@fault("suffix", "void written as 254", "unknown-label")
def _(root, made):
    edit_masks(root, lambda m: np.where(np.indices(m.shape)[0] < 4, np.uint8(254), m))


@fault("suffix", "negative numbers", "bad-mask unknown-label")
def _(root, made):
    edit_masks(root, lambda m: np.where(m == 0, np.int32(-1), m), 0, ".tif")


@fault("suffix", "labels with gaps, nothing named", "label-gaps")
def _(root, made):
    (root / "classes.txt").unlink()
    edit_masks(root, lambda m: np.array([0, 1, 5, 9], np.uint8)[m])


@fault("suffix", "one class only, nothing named", "few-classes nothing-to-learn")
def _(root, made):
    (root / "classes.txt").unlink()
    edit_masks(root, lambda m: np.ones_like(m))


@fault("suffix", "class written as 255", "void-as-class")
def _(root, made):
    edit_masks(root, lambda m: np.where(m == 3, np.uint8(255), m))


@fault("roboflow", "class written as 255", "void-as-class")
def _(root, made):
    edit_masks(root, lambda m: np.where(m == 2, np.uint8(255), m))


@fault("suffix", "palette of one mask in another order", "palette-permuted")
def _(root, made):
    for number, path in enumerate(masks_of(root)):
        mask = np.asarray(Image.open(path))
        order = [0, 1, 3, 2] if number == 4 else [0, 1, 2, 3]
        indexed(np.argsort(order).astype(np.uint8)[mask], [COLORS[i] for i in order]).save(path)


@fault("cvat-masks", "a colour that labelmap.txt does not list", "unknown-color")
def _(root, made):
    edit_masks(root, lambda m: np.where((m == [0, 0, 142]).all(2, keepdims=True), np.uint8([10, 200, 30]), m), 2)


@fault("cvat-masks", "red and blue exchanged (written by OpenCV)", "unknown-color")
def _(root, made):
    edit_masks(root, lambda m: m[..., ::-1].copy())


@fault("cvat-masks", "a line of labelmap.txt lost", "unknown-color")
def _(root, made):
    path = root / "labelmap.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("car")))


@fault("roboflow", "a line of _classes.csv lost", "unknown-label")
def _(root, made):
    for path in root.rglob("_classes.csv"):
        path.write_text("".join(path.read_text().splitlines(True)[:-1]))


@fault("suffix", "fewer classes named than masks hold", "unknown-label off-by-one")
def _(root, made):
    (root / "classes.txt").write_text("background\nroad\ncar\n")


@fault("suffix", "more classes named than masks hold", "class-unused")
def _(root, made):
    (root / "classes.txt").write_text("background\nroad\ncar\ntree\nlamp\n")


@fault("suffix", "two-channel TIFF masks", "bad-mask mask-alpha")
def _(root, made):
    edit_masks(root, lambda m: np.dstack([m, np.zeros_like(m)]), 0)


@fault("suffix", "JPEG masks", "jpeg-mask")
def _(root, made):
    edit_masks(root, lambda m: m * np.uint8(60), suffix=".jpg")


@fault("cityscapes", "a JPEG named .png", "jpeg-mask")
def _(root, made):
    path = masks_of(root)[3]
    Image.open(path).save(path, "JPEG", quality=80)


@fault("suffix", "JPEG values inside the class range, in PNG", "lossy-mask")
def _(root, made):
    edit_masks(root, lambda m: np.clip(np.round(jpeg(m * np.uint8(12), 25) / 12), 0, 3).astype(np.uint8))


@fault("ade20k", "JPEG inside a PNG", "lossy-mask unknown-label")
def _(root, made):
    edit_masks(root, lambda m: jpeg(m * np.uint8(8), 80) // np.uint8(8))


@fault("roboflow", "one mask compressed by JPEG, inside PNG", "lossy-mask")
def _(root, made):
    edit_masks(root, lambda m: jpeg(m * np.uint8(80), 60) // np.uint8(80), 3)


@fault("cvat-masks", "anti-aliased colours", "lossy-mask unknown-color")
def _(root, made):
    edit_masks(
        root,
        lambda m: resized(
            resized(m, (m.shape[1] * 2, m.shape[0] * 2), Image.NEAREST), (m.shape[1], m.shape[0]), Image.BICUBIC
        ),
    )
    edit_masks(
        root,
        lambda m: resized(
            resized(m, (m.shape[1] // 2, m.shape[0] // 2), Image.NEAREST), (m.shape[1], m.shape[0]), Image.BILINEAR
        ),
    )


@fault("suffix", "bilinear scaling of numbers", "lossy-mask")
def _(root, made):
    edit_masks(
        root, lambda m: resized(resized(m, (m.shape[1] // 2, m.shape[0] // 2), Image.NEAREST), (m.shape[1], m.shape[0]))
    )


@fault("cityscapes", "bilinear scaling of labelIds", "lossy-mask")
def _(root, made):
    edit_masks(root, lambda m: resized(resized(m, (80, 48), Image.NEAREST), (160, 96)))


@fault("suffix", "a mask void all over", "all-void")
def _(root, made):
    edit_masks(root, lambda m: np.full_like(m, 255), 2)


@fault("ade20k", "a mask void all over (0)", "all-void")
def _(root, made):
    edit_masks(root, np.zeros_like, 2)


@fault("cityscapes", "a mask of ids that do not count", "all-void")
def _(root, made):
    edit_masks(root, lambda m: np.full_like(m, 4), 2)


@fault("suffix", "an empty mask", "constant-mask")
def _(root, made):
    edit_masks(root, np.zeros_like, 2)


@fault("cvat-masks", "an empty mask", "constant-mask")
def _(root, made):
    edit_masks(root, np.zeros_like, 6)


@fault("suffix", "all masks in train void", "nothing-to-learn")
def _(root, made):
    for path in (root / "train").glob("*_mask.png"):
        save(path, np.full_like(np.asarray(Image.open(path)), 255))


@fault("roboflow", "one mask for all pictures", "same-mask")
def _(root, made):
    first, *rest = masks_of(root)
    for path in rest:
        shutil.copy(first, path)


@fault("suffix", "picture in the place of the mask", "mask-is-picture")
def _(root, made):
    path = masks_of(root)[1]
    picture = path.with_name(path.name.replace("_mask.png", ".jpg"))
    array = np.asarray(Image.open(picture))
    picture.unlink()
    save(picture.with_suffix(".png"), array)
    shutil.copy(picture.with_suffix(".png"), path)


@fault("ade20k", "folders of pictures and masks exchanged", "folders-exchanged")
def _(root, made):
    (root / "images").rename(root / "x")
    (root / "annotations").rename(root / "images")
    (root / "x").rename(root / "annotations")


@fault("suffix", "EXIF 6, mask drawn on the stored picture", "exif-orientation")
def _(root, made):
    turn_tag(pictures_of(root)[2], 6)


@fault("suffix", "EXIF 3, mask drawn on the stored picture", "exif-orientation")
def _(root, made):
    turn_tag(pictures_of(root)[2], 3)


@fault("roboflow", "EXIF 6 on square pictures", "exif-orientation")
def _(root, made):
    turn_tag(pictures_of(root)[4], 6)


@fault("roboflow", "EXIF 8 on all square pictures", "exif-orientation")
def _(root, made):
    for path in pictures_of(root):
        turn_tag(path, 8)


@fault("cvat", "EXIF 6, drawn on the stored picture", "exif-orientation mask-size")
def _(root, made):
    turn_tag(pictures_of(root)[2], 6)


@fault("supervisely", "EXIF 6, drawn on the stored picture", "exif-orientation mask-size")
def _(root, made):
    turn_tag(pictures_of(root)[2], 6)


@fault("labelstudio", "EXIF 6, drawn on the stored picture", "exif-orientation mask-size bad-shape")
def _(root, made):
    turn_tag(pictures_of(root)[2], 6)


@fault("suffix", "mask a pixel narrower", "mask-size")
def _(root, made):
    edit_masks(root, lambda m: m[:, :-1].copy(), 2)


@fault("ade20k", "masks transposed", "mask-size")
def _(root, made):
    edit_masks(root, lambda m: m.T.copy())


@fault("suffix", "masks of half the size", "mask-size")
def _(root, made):
    edit_masks(root, lambda m: m[::2, ::2].copy())


@fault("cityscapes", "one mask of twice the size", "mask-size")
def _(root, made):
    edit_masks(root, lambda m: m.repeat(2, 0).repeat(2, 1), 5)


@fault("cvat-masks", "a mask cropped", "mask-size")
def _(root, made):
    edit_masks(root, lambda m: m[10:, :].copy(), 5)


@fault("cvat", "pictures scaled after annotation", "mask-size")
def _(root, made):
    for path in pictures_of(root):
        save(path, resized(np.asarray(Image.open(path)), (70, 50)))


@fault("supervisely", "one picture scaled after annotation", "mask-size")
def _(root, made):
    path = pictures_of(root)[3]
    save(path, resized(np.asarray(Image.open(path)), (60, 55)))


@fault("labelstudio", "one picture of another shape than annotated", "mask-size bad-shape")
def _(root, made):
    path = pictures_of(root)[3]
    save(path, np.asarray(Image.open(path))[:70].copy())


@fault("suffix", "all masks mirrored", "mask-turned")
def _(root, made):
    edit_masks(root, lambda m: m[:, ::-1].copy())


@fault("cityscapes", "all masks upside down", "mask-turned")
def _(root, made):
    edit_masks(root, lambda m: m[::-1].copy())


@fault("ade20k", "all masks turned by 180 degrees", "mask-turned")
def _(root, made):
    edit_masks(root, lambda m: m[::-1, ::-1].copy())


@fault("roboflow", "square masks transposed", "mask-turned")
def _(root, made):
    edit_masks(root, lambda m: m.T.copy())


@fault("supervisely", "y counted from the bottom", "mask-turned")
def _(root, made):
    for path in root.rglob("*.jpg.json"):
        data = json.loads(path.read_text())
        for item in data["objects"]:
            if "points" in item:
                item["points"]["exterior"] = [[x, 110 - y] for x, y in item["points"]["exterior"]]
        data["objects"] = [o for o in data["objects"] if "points" in o]
        path.write_text(json.dumps(data))
