"""How faults get into files: what `tests/faults.py` breaks sets with."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from doctor.sets import (
    CLASSES,
    TRAIN,
    make_pairs,
    make_scene,
    masks_of,
    palette_bytes,
    pictures_of,
    save,
    save_json,
    scenes,
)

Change = Callable[[np.ndarray], np.ndarray]


def rewrite(path: Path, change: Change, **more: Any) -> None:
    """Change the pixels of a file; a palette stays."""
    with Image.open(path) as image:
        array, mode = np.array(image), image.mode
    changed = change(array)
    if mode == "P" and changed.dtype == np.uint8:
        mask = Image.fromarray(changed).convert("L")
        mask.putpalette(palette_bytes())
        mask.save(path, **more)
    else:
        save(changed, path, **more)


def remap(root: Path, change: Change, named: str | None = CLASSES, some: slice = slice(None)) -> None:
    """Change the numbers of masks, and write data.toml anew (None: delete it)."""
    for path in masks_of(root)[some]:
        rewrite(path, change)
    (root / "data.toml").unlink()
    if named is not None:
        (root / "data.toml").write_text(named, encoding="utf-8")


def all_masks(root: Path, change: Change, some: slice = slice(None)) -> None:
    """Change masks; what data.toml says stays."""
    for path in masks_of(root)[some]:
        rewrite(path, change)


def third_mask(root: Path) -> Path:
    """The third mask, which is in train."""
    return masks_of(root)[2]


def third_picture(root: Path) -> Path:
    """The third picture, which is in train."""
    return pictures_of(root)[2]


def truth() -> np.ndarray:
    """The labels of the third picture."""
    return make_scene(102).labels


def replace(path: Path, name: str, array: np.ndarray, **more: Any) -> None:
    """A file of another name in the place of `path`."""
    path.unlink()
    save(array, path.with_name(name), **more)


def replace_with(path: Path, make: Callable[[Path], object]) -> None:
    """Something else under the name of a file."""
    path.unlink()
    make(path)


def edit_json(root: Path, edit: Callable[[dict[str, Any]], object], name: str = "scene_c.json") -> None:
    """Edit a JSON file of a set."""
    path = next(root.rglob(name))
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    save_json(value, path)


def edit_coco(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the train file of the COCO set."""
    edit_json(root, edit, "instances_train.json")


def jpeg_bytes(array: np.ndarray, quality: int = 75) -> bytes:
    """An array as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def compressed(array: np.ndarray, quality: int = 75) -> np.ndarray:
    """An array after a visit to JPEG."""
    return np.array(Image.open(io.BytesIO(jpeg_bytes(array, quality))))


def brighter(array: np.ndarray) -> np.ndarray:
    """A picture as another program would save it."""
    return compressed((array * 0.9 + 20).astype(np.uint8))


def orient(root: Path, orientation: int, some: slice = slice(None)) -> None:
    """Give JPEG pictures an EXIF orientation that their masks do not know."""
    exif = Image.Exif()
    exif[274] = orientation
    for path in pictures_of(root)[some]:
        rewrite(path, np.asarray, exif=exif)


def shift(root: Path, by: int) -> None:
    """Masks change places."""
    data = [path.read_bytes() for path in masks_of(root)]
    for i, path in enumerate(masks_of(root)):
        path.write_bytes(data[(i + by) % len(data)])


def shift_json(root: Path) -> None:
    """The shapes of labelme files change places."""
    files = sorted(root.glob("*.json"))
    shapes = [json.loads(path.read_text(encoding="utf-8"))["shapes"] for path in files]
    for i, path in enumerate(files):
        edit_json(root, lambda v, i=i: v.update(shapes=shapes[(i + 1) % len(files)]), path.name)  # type: ignore[misc]


def shift_coco(root: Path) -> None:
    """The shapes of COCO pictures change places."""
    for split, count in (("train", TRAIN), ("val", 12 - TRAIN)):

        def edit(value: dict[str, Any], count: int = count) -> None:
            for shape in value["annotations"]:
                shape["image_id"] = 10 + (shape["image_id"] - 9) % count

        edit_json(root, edit, f"instances_{split}.json")


def cut(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def spoil(path: Path) -> None:
    """Bytes in the middle of a file are others."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 12] = bytes(255 - value for value in data[middle : middle + 12])
    path.write_bytes(bytes(data))


def instance_ids(mask: np.ndarray) -> np.ndarray:
    """Every shape a number of its own, 16-bit, others in every mask."""
    start = int(mask.sum(dtype=np.int64)) % 60000 + 10
    return np.where(mask == 0, 0, start + mask.astype(np.int64) * 3).astype(np.uint16)


def smooth(mask: np.ndarray) -> np.ndarray:
    """Scaled down and up again with interpolation."""
    small = Image.fromarray(mask).resize((mask.shape[1] * 2 // 3, mask.shape[0] * 2 // 3), Image.Resampling.BILINEAR)
    return np.array(small.resize((mask.shape[1], mask.shape[0]), Image.Resampling.BILINEAR))


def with_alpha(mask: np.ndarray) -> np.ndarray:
    """Transparent where the class is 0."""
    return np.dstack([mask, np.where(mask.any(2), 255, 0).astype(np.uint8)])


def video(root: Path) -> None:
    """Pictures of one panned scene, dealt out to both splits."""
    shutil.rmtree(root)
    frames = [(f"scene_{i:03d}", make_scene(500 + i // 8, pan=i % 8)) for i in range(16)]
    order = frames[0::4] + frames[1::4] + frames[2::4] + frames[3::4]
    for i, (stem, scene) in enumerate(order):
        split = "train" if i < 12 else "val"
        save(scene.picture, root / split / f"{stem}.png")
        save(scene.labels, root / f"{split}annot" / f"{stem}.png")
    (root / "data.toml").write_text(CLASSES, encoding="utf-8")


def copy_to_val(root: Path, change: Change) -> None:
    """A picture of train, changed, is in val too, with its mask."""
    source = third_picture(root)
    if (root / "ImageSets").exists():
        if change is np.asarray:
            shutil.copy(source, source.with_name("again.jpg"))
        else:
            save(change(np.array(Image.open(source))), source.with_name("again.jpg"))
        shutil.copy(third_mask(root), third_mask(root).with_name("again.png"))
        with (root / "ImageSets/Segmentation/val.txt").open("a", encoding="utf-8") as file:
            file.write("again\n")
        return
    save(change(np.array(Image.open(source))), root / "val" / "again.png")
    shutil.copy(third_mask(root), root / "valannot" / "again.png")


def exchange(root: Path) -> None:
    """Pictures are in the folder of masks, and masks in that of pictures."""
    (root / "images").rename(root / "other")
    (root / "masks").rename(root / "images")
    (root / "other").rename(root / "masks")
    (root / "data.toml").write_text(CLASSES, encoding="utf-8")


def square(root: Path) -> None:
    """Square pictures whose orientation the masks do not know."""
    shutil.rmtree(root)
    make_pairs(root, lambda: scenes(height=112, width=112))
    orient(root, 6)


def same_mask(root: Path) -> None:
    """One mask for all pictures."""
    data = third_mask(root).read_bytes()
    for path in masks_of(root):
        path.write_bytes(data)


def append(path: Path, text: str) -> None:
    """Add to a text file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def empty(root: Path, *folders: str) -> None:
    """Folders without files."""
    for name in folders:
        for path in (root / name).glob("*"):
            path.unlink()
