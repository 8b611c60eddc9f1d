"""Faults as people make them, each seeded alone into healthy sets of five formats.

Written from the specification and the names of the codes, before the doctor's rules were read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from doctor.seeding import (
    all_masks,
    append,
    brighter,
    compressed,
    copy_to_val,
    cut,
    edit_coco,
    edit_json,
    empty,
    exchange,
    instance_ids,
    jpeg_bytes,
    orient,
    remap,
    replace,
    replace_with,
    rewrite,
    same_mask,
    shift,
    shift_coco,
    shift_json,
    smooth,
    spoil,
    square,
    third_mask,
    third_picture,
    truth,
    video,
    with_alpha,
)
from doctor.sets import (
    COLORS,
    HEIGHT,
    WIDTH,
    colored,
    make_pairs,
    make_scene,
    pictures_of,
    save,
    save_indexed,
)


class Fault(NamedTuple):
    """What is broken in which set, the codes that are right, and what its remedy is (None: there is none to try).

    A remedy is `lines` of data.toml or a command, to `delete` the file named last, to put back (`restore`) the files named,
    to `move` from val to train, or to export everything anew (`restore-all`). Only `lines` and
    `delete` are judged as printed; the others are words for people.
    """

    kind: str
    base: str
    codes: frozenset[str]
    seed: Callable[[Path], object]
    remedy: str | None


FAULTS: list[Fault] = []
WIDE = f"classes = {json.dumps([f'c{i}' for i in range(31)])}\n"
GAPS = np.array([0, 2, 5, 9], np.uint8)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n"
PAGE = "<!DOCTYPE html><html><body>404 Not Found</body></html>"
TORN = np.full((HEIGHT, WIDTH), np.nan, np.float32)


def add(bases: str, codes: str, remedy: str | None, kind: str, seed: Callable[[Path], object]) -> None:
    """Note a fault for each of the sets named."""
    FAULTS.extend(Fault(kind, base, frozenset(codes.split()), seed, remedy) for base in bases.split())


# fmt: off
# ruff: noqa: E501
FOLDERS, ALL, GREY = "camvid pairs voc", "camvid pairs voc coco labelme", "camvid voc"

# mask values
add("camvid", "binary-mask", "lines", "masks of 0 and 255", lambda r: remap(r, lambda m: ((m > 0) * 255).astype(np.uint8), None))
add("pairs", "rgb-mask", "lines", "RGB masks, colours not named", lambda r: (r / "data.toml").unlink())
add("camvid", "off-by-one", "lines", "classes counted from 1", lambda r: remap(r, lambda m: m + 1))
add("camvid", "off-by-one", "lines", "classes counted from 1, 0 is void", lambda r: remap(r, lambda m: np.where(np.indices(m.shape)[0] < 4, 0, m + 1).astype(np.uint8)))
add(GREY, "void-as-class", "lines", "255 used as a class", lambda r: remap(r, lambda m: np.where(m == 255, 0, np.where(m == 3, 255, m)).astype(np.uint8)))
add("camvid", "scaled-labels", "lines", "16-bit, value x 256", lambda r: remap(r, lambda m: m.astype(np.uint16) * 256))
add("camvid", "scaled-labels", "lines", "16-bit, value x 257", lambda r: remap(r, lambda m: m.astype(np.uint16) * 257))
add("camvid", "scaled-labels", "lines", "class numbers x 40", lambda r: remap(r, lambda m: m * 40))
add("camvid", "scaled-labels label-gaps", "lines", "class numbers x 85, no names", lambda r: remap(r, lambda m: m * 85, None))
add("camvid", "instance-ids", "restore", "16-bit instance numbers", lambda r: remap(r, instance_ids))
add("camvid", "label-gaps", "lines", "numbers with gaps, no names", lambda r: remap(r, lambda m: GAPS[m], None))
add("camvid", "few-classes nothing-to-learn", "restore", "one class only, no names", lambda r: remap(r, lambda m: m * 0, None))
add(GREY, "unknown-label", "restore", "a number without a class", lambda r: rewrite(third_mask(r), lambda m: np.where(m == 2, 9, m).astype(np.uint8)))
add("pairs", "unknown-color", "restore", "a colour without a class", lambda r: rewrite(third_mask(r), lambda m: np.where(m == 128, 90, m).astype(np.uint8)))
add("pairs", "unknown-color rgb-mask", "restore", "one grey mask among RGB ones", lambda r: save(truth() + 100, third_mask(r)))
add("camvid", "rgb-mask unknown-color", "restore", "one RGB mask among grey ones", lambda r: save(colored(truth()), third_mask(r)))
add("voc", "palette-permuted", "restore", "a palette in another order", lambda r: save_indexed(np.array([0, 2, 3, 1], np.uint8)[truth()], third_mask(r), [COLORS[i] for i in (0, 3, 1, 2)]))
add("pairs", "mask-alpha", "restore", "a mask with transparent ground", lambda r: rewrite(third_mask(r), with_alpha))
add("pairs", "mask-alpha", "restore", "masks with transparent ground", lambda r: all_masks(r, with_alpha))
add(FOLDERS, "float-mask", "restore", "a float TIFF with fractions", lambda r: replace(third_mask(r), "scene_c.tif", smooth(truth().astype(np.float32))))
add("camvid", "not-finite", "restore", "a float TIFF with NaN", lambda r: replace(third_mask(r), "scene_c.tif", np.where(truth() == 3, np.nan, 1).astype(np.float32)))
add("camvid", "bad-mask unknown-label", "restore", "a mask with negative numbers", lambda r: replace(third_mask(r), "scene_c.tif", truth().astype(np.int32) - 1))

# mask quality
add(FOLDERS, "jpeg-mask", "restore", "a JPEG mask", lambda r: replace(third_mask(r), "scene_c.jpg", truth()))
add(FOLDERS, "jpeg-mask", "restore", "a JPEG mask named .png", lambda r: third_mask(r).write_bytes(jpeg_bytes(colored(truth()))))
add("camvid", "lossy-mask", None, "JPEG values inside PNG, all inside the classes", lambda r: remap(r, lambda m: compressed(m * 10).clip(0, 30), WIDE))
add("camvid", "lossy-mask", "restore", "one mask with JPEG values inside the classes", lambda r: (remap(r, lambda m: m * 10, WIDE), rewrite(third_mask(r), lambda m: compressed(m).clip(0, 30))))
add("camvid", "lossy-mask", None, "masks scaled with interpolation, values inside the classes", lambda r: remap(r, lambda m: smooth(m * 10), WIDE))
add("camvid", "lossy-mask", None, "masks of 0 and 255 as JPEG inside PNG, no names", lambda r: remap(r, lambda m: compressed(((m > 0) * 255).astype(np.uint8)), None))
add("pairs", "lossy-mask", "restore", "an anti-aliased RGB mask", lambda r: rewrite(third_mask(r), smooth))
add("pairs", "lossy-mask", "restore", "an RGB mask saved as JPEG, then as PNG", lambda r: rewrite(third_mask(r), compressed))
add("pairs", "lossy-mask", "restore", "all RGB masks saved as JPEG, then as PNG", lambda r: all_masks(r, compressed))
add(GREY, "constant-mask", None, "an empty mask", lambda r: rewrite(third_mask(r), lambda m: m * 0))
add("pairs", "constant-mask", None, "an empty mask", lambda r: rewrite(third_mask(r), lambda m: m * 0))
add("labelme", "constant-mask", None, "an empty mask", lambda r: edit_json(r, lambda v: v.update(shapes=[])))
add(GREY, "all-void", "restore", "a mask that is all void", lambda r: rewrite(third_mask(r), lambda m: m * 0 + 255))
add(GREY, "nothing-to-learn", "restore", "all masks are void", lambda r: all_masks(r, lambda m: m * 0 + 255))
add(FOLDERS, "same-mask", "restore", "one mask for all pictures", same_mask)

# geometry
add("pairs voc", "exif-orientation", "restore", "EXIF 6 on a picture, not its mask", lambda r: orient(r, 6, slice(2, 3)))
add("pairs voc", "exif-orientation", "restore", "EXIF 8 on all pictures", lambda r: orient(r, 8))
add("pairs voc", "exif-orientation", "restore", "EXIF 3 on all pictures", lambda r: orient(r, 3))
add("pairs", "exif-orientation", None, "EXIF 6 on square pictures", square)
add(FOLDERS, "mask-size", "restore", "a mask one pixel short", lambda r: rewrite(third_mask(r), lambda m: m[:-1]))
add(FOLDERS, "mask-size", "restore", "a transposed mask", lambda r: rewrite(third_mask(r), lambda m: np.ascontiguousarray(m.swapaxes(0, 1))))
add(FOLDERS, "mask-size", "restore", "a mask of half size", lambda r: rewrite(third_mask(r), lambda m: np.ascontiguousarray(m[::2, ::2])))
add(FOLDERS, "mask-size", "restore", "all masks of half size", lambda r: all_masks(r, lambda m: np.ascontiguousarray(m[::2, ::2])))

# pairing
add("camvid pairs", "missing-mask", "restore", "a picture without a mask", lambda r: third_mask(r).unlink())
add("voc", "missing-mask missing-listed", "restore", "a picture without a mask", lambda r: third_mask(r).unlink())
add("labelme", "missing-mask other-file unlisted", None, "a picture without a mask", lambda r: (r / "scene_c.json").unlink())
add("camvid pairs", "missing-picture", "restore", "a mask without a picture", lambda r: third_picture(r).unlink())
add("voc coco labelme", "missing-picture missing-listed", "restore", "a mask without a picture", lambda r: third_picture(r).unlink())
add("pairs voc", "duplicate-stem", "delete", "a.jpg and a.png", lambda r: save(make_scene(102).picture, third_picture(r).with_suffix(".png")))
add("camvid", "duplicate-stem", "delete", "two masks of one name", lambda r: save(truth(), third_mask(r).with_suffix(".tif")))
add("camvid", "missing-folder", "restore", "no folder of masks for val", lambda r: shutil.rmtree(r / "valannot"))
add("camvid", "empty-folder empty-split", "restore", "empty folders for val", lambda r: empty(r, "val", "valannot"))
add("pairs", "empty-folder missing-mask", "restore", "an empty folder of masks", lambda r: empty(r, "masks"))
add("voc", "empty-split", "restore", "an empty list for train", lambda r: (r / "ImageSets/Segmentation/train.txt").write_text(""))
add("voc", "missing-listed missing-picture", "restore", "a list names a picture that is not there", lambda r: append(r / "ImageSets/Segmentation/train.txt", "scene_z\n"))
add(FOLDERS, "mask-mismatch", "restore", "a shifted list of masks", lambda r: shift(r, 1))
add(FOLDERS, "mask-mismatch", "restore", "masks of other pictures", lambda r: shift(r, 5))
add("labelme", "mask-mismatch", "restore", "a shifted list of masks", shift_json)
add("coco", "mask-mismatch", "restore", "a shifted list of masks", shift_coco)
add("camvid pairs voc", "mask-turned", "restore", "all masks mirrored", lambda r: all_masks(r, lambda m: np.ascontiguousarray(m[:, ::-1])))
add("camvid voc", "mask-turned", "restore", "all masks upside down", lambda r: all_masks(r, lambda m: np.ascontiguousarray(m[::-1])))
add("pairs", "folders-exchanged", "restore-all", "the two folders exchanged", exchange)
add("camvid", "mask-is-picture", "restore", "a mask that is its picture", lambda r: shutil.copy(third_picture(r), third_mask(r)))
add("pairs voc", "mask-is-picture jpeg-mask", "restore", "a mask that is its picture", lambda r: shutil.copy(third_picture(r), third_mask(r)))

# splits
add("camvid voc", "duplicate-across-splits", "delete", "a picture in two splits", lambda r: copy_to_val(r, np.asarray))
add("voc", "duplicate-across-splits", "restore", "a stem in both lists", lambda r: append(r / "ImageSets/Segmentation/val.txt", "scene_c\n"))
add("camvid voc", "near-duplicate", "delete", "a picture in two splits, compressed and brighter", lambda r: copy_to_val(r, brighter))
add("camvid", "video-neighbours near-duplicate", None, "one video in two splits", video)
add("camvid", "group-straddles", "restore", "a group in two splits", lambda r: append(r / "data.toml", 'groups = "^(scene)_"\n'))
add("voc", "group-straddles", "restore", "a group in two splits", lambda r: append(r / "data.toml", 'groups = "^(scene)_"\n'))
add("camvid", "class-missing-in-train", "move", "a class in val that train lacks", lambda r: all_masks(r, lambda m: np.where(m == 3, 0, m).astype(np.uint8), slice(0, 8)))
add("voc", "class-missing-in-train", "move", "a class in val that train lacks", lambda r: all_masks(r, lambda m: np.where(m == 3, 0, m).astype(np.uint8), slice(0, 8)))

# files
add(ALL, "truncated", "restore", "half a picture", lambda r: cut(third_picture(r), 0.5))
add(FOLDERS, "truncated", "restore", "a mask without its end", lambda r: cut(third_mask(r), 0.6))
add(ALL, "empty-file", "restore", "a picture of 0 bytes", lambda r: third_picture(r).write_bytes(b""))
add(FOLDERS, "empty-file", "restore", "a mask of 0 bytes", lambda r: third_mask(r).write_bytes(b""))
add(ALL, "not-a-picture", "restore", "a web page named as a picture", lambda r: third_picture(r).write_text(PAGE))
add(FOLDERS, "not-a-picture", "restore", "a Git LFS pointer for a mask", lambda r: third_mask(r).write_text(POINTER))
add(ALL, "not-a-picture unreadable", "restore", "junk named as a picture", lambda r: third_picture(r).write_bytes(np.random.default_rng(0).bytes(900)))
add("camvid", "unreadable truncated", "restore", "bytes changed inside a PNG", lambda r: spoil(third_picture(r)))
add(FOLDERS, "unreadable truncated", "restore", "bytes changed inside a mask", lambda r: spoil(third_mask(r)))
add(ALL, "not-a-picture", "restore", "a folder named as a picture", lambda r: replace_with(third_picture(r), Path.mkdir))
add(ALL, "not-a-picture", "restore", "a pipe named as a picture", lambda r: replace_with(third_picture(r), os.mkfifo))
add(FOLDERS, "link-loop", "restore", "a link to itself", lambda r: replace_with(third_mask(r), lambda p: p.symlink_to(p.name)))
add(FOLDERS, "missing-file", "restore", "a broken link", lambda r: replace_with(third_mask(r), lambda p: p.symlink_to("gone.png")))
add(ALL, "missing-file missing-picture", "restore", "a broken link for a picture", lambda r: replace_with(third_picture(r), lambda p: p.symlink_to("gone.png")))
add("camvid", "dtype-differs channels-differ", "restore", "a 16-bit picture among 8-bit ones", lambda r: replace(third_picture(r), "scene_c.png", make_scene(102).picture[..., 0].astype(np.uint16) * 257))
add("camvid", "not-finite dtype-differs", "restore", "a float picture with NaN", lambda r: replace(third_picture(r), "scene_c.tif", TORN))
add(ALL, "missing-band", "restore", "a band that is not there", lambda r: append(r / "data.toml", "bands = [1, 2, 5]\n"))
add(ALL, "constant-pictures", "restore", "pictures of one colour", lambda r: [rewrite(p, lambda a: a * 0 + 77) for p in pictures_of(r)])

# settings
add("camvid pairs voc labelme", "unusable", "restore", "a misspelt key in data.toml", lambda r: (r / "data.toml").write_text((r / "data.toml").read_text().replace("classes", "clases")))
add("camvid", "unusable", "restore", "data.toml that is no TOML", lambda r: append(r / "data.toml", "colors = { #800000 = crack }\n"))
add("camvid", "unusable", None, "two layouts that fit", lambda r: make_pairs(r))

# annotations
add("coco", "orphan-annotation", "restore", "an annotation of no picture", lambda r: edit_coco(r, lambda v: v["annotations"][0].update(image_id=999)))
add("coco", "bad-shape", "restore", "an outline of two points", lambda r: edit_coco(r, lambda v: v["annotations"][0].update(segmentation=[[1, 2, 30, 40]])))
add("coco", "unknown-class bad-shape unusable", "restore", "a category that is not listed", lambda r: edit_coco(r, lambda v: v["annotations"][0].update(category_id=77)))
add("coco", "mask-size", "restore", "sizes in the file are others than the pictures'", lambda r: edit_coco(r, lambda v: [i.update(width=WIDTH * 2, height=HEIGHT * 2) for i in v["images"]]))
add("coco", "box-only", "lines", "a box without an outline", lambda r: edit_coco(r, lambda v: v["annotations"][0].update(segmentation=[])))
add("coco", "unusable unreadable truncated", "restore", "half a JSON file", lambda r: cut(r / "annotations/instances_train.json", 0.5))
add("labelme", "unknown-class", "restore", "a name that is no class", lambda r: edit_json(r, lambda v: v["shapes"][0].update(label="bricks")))
add("labelme", "path-mended", None, "the path of another machine", lambda r: edit_json(r, lambda v: v.update(imagePath="C:\\data\\photos\\scene_c.jpg")))
add("labelme", "bad-shape", "restore", "an outline without numbers", lambda r: edit_json(r, lambda v: v["shapes"][0].update(points=[["x", 1], [2, 3], [4, 5]])))
add("labelme", "no-area", "restore", "a class drawn by lines that have no area", lambda r: edit_json(r, lambda v: v["shapes"][0].update(points=[[5, 5], [5, 5], [5, 5]])))
add("labelme", "mask-size", "restore", "an annotation made on a smaller copy", lambda r: edit_json(r, lambda v: v.update(imageHeight=HEIGHT // 2, imageWidth=WIDTH // 2)))
add("labelme", "unusable unreadable truncated", "restore", "half a JSON file", lambda r: cut(r / "scene_c.json", 0.5))
# fmt: on
