"""Five healthy data sets of different formats, made of the same scenes: what `tests/faults.py` breaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

NAMES = ["ground", "brick", "disc", "tent"]
COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128)]
PAINT = [(110, 100, 90), (190, 70, 60), (70, 170, 90), (70, 90, 200)]
CLASSES = f"classes = {json.dumps(NAMES)}\n"
HEIGHT, WIDTH, TRAIN, COUNT = 96, 128, 8, 12
MASK_FOLDERS = ("trainannot", "valannot", "masks", "SegmentationClass")
PICTURE_FOLDERS = ("train", "val", "images", "JPEGImages")


class Scene(NamedTuple):
    """A picture (H, W, 3) uint8, its classes (H, W) uint8, and the outlines by class."""

    picture: np.ndarray
    labels: np.ndarray
    outlines: list[tuple[int, list[tuple[float, float]]]]


def outline(kind: int, x: float, y: float, side: float) -> list[tuple[float, float]]:
    """The corners of a brick, a disc or a tent around (x, y)."""
    if kind == 1:
        half = side // 2
        return [(x - side, y - half), (x + side, y - half), (x + side, y + half), (x - side, y + half)]
    if kind == 2:
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        return [(float(x + side * np.cos(t)), float(y + side * np.sin(t))) for t in turns]
    return [(x - side, y + side), (x + side, y + side), (x, y - side)]


def make_scene(seed: int, height: int = HEIGHT, width: int = WIDTH, pan: int = 0) -> Scene:
    """Shapes of three classes on textured ground; `pan` moves them as the next picture of a video would."""
    rng = np.random.default_rng(seed)
    labels = Image.new("L", (width, height))
    outlines = []
    for kind in (1, 2, 3, 1 + seed % 3):
        side = float(rng.integers(14, 26))
        x, y = (
            float(rng.integers(int(side), width - int(side)) + pan),
            float(rng.integers(int(side), height - int(side))),
        )
        outlines.append((kind, outline(kind, x, y, side)))
        ImageDraw.Draw(labels).polygon(outlines[-1][1], fill=kind)
    index = np.array(labels)
    coarse = Image.fromarray(rng.normal(0, 22, (5, 6)).astype(np.float32))
    shade = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    tint = rng.normal(0, 10, (4, 3))
    noise = np.random.default_rng(seed * 7 + pan).normal(0, 7, (height, width, 3))
    picture = (np.array(PAINT) + tint)[index] + shade[..., None] + noise
    return Scene(picture.clip(0, 255).astype(np.uint8), index, outlines)


def scenes(**size: int) -> list[tuple[str, Scene]]:
    """The pictures of a set with their stems."""
    return [(f"scene_{'abcdefghijkl'[i]}", make_scene(100 + i, **size)) for i in range(COUNT)]


def colored(labels: np.ndarray) -> np.ndarray:
    """(H, W) classes -> (H, W, 3) colours."""
    return np.array(COLORS, np.uint8)[labels]


def save(array: np.ndarray, path: Path, **more: Any) -> None:
    """Write an array as a picture; the suffix says how."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        more = {"quality": 92, **more}
    Image.fromarray(array).save(path, **more)


def save_json(value: Any, path: Path) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_camvid(root: Path, make: Callable[[], list[tuple[str, Scene]]] = scenes) -> None:
    """PNG pictures with grey PNG masks of class numbers."""
    for i, (stem, scene) in enumerate(make()):
        split = "train" if i < TRAIN else "val"
        save(scene.picture, root / split / f"{stem}.png")
        save(scene.labels, root / f"{split}annot" / f"{stem}.png")
    (root / "data.toml").write_text(CLASSES, encoding="utf-8")


def make_pairs(root: Path, make: Callable[[], list[tuple[str, Scene]]] = scenes) -> None:
    """JPEG pictures with RGB masks, whose colours data.toml names."""
    for stem, scene in make():
        save(scene.picture, root / "images" / f"{stem}.jpg")
        save(colored(scene.labels), root / "masks" / f"{stem}.png")
    named = ", ".join(f'"#{r:02x}{g:02x}{b:02x}" = "{name}"' for (r, g, b), name in zip(COLORS, NAMES, strict=True))
    (root / "data.toml").write_text(f"{CLASSES}colors = {{ {named} }}\n", encoding="utf-8")


def palette_bytes(colors: list[tuple[int, int, int]] | None = None) -> list[int]:
    """A palette of 256 colours, the last one that of void."""
    return [value for color in colors or COLORS for value in color] + [0] * 3 * 251 + [224, 224, 192]


def with_borders(labels: np.ndarray) -> np.ndarray:
    """255 where a neighbour is of another class."""
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return np.where(edge, 255, labels).astype(np.uint8)


def save_indexed(labels: np.ndarray, path: Path, colors: list[tuple[int, int, int]] | None = None) -> None:
    """Write an indexed PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels).convert("L")
    mask.putpalette(palette_bytes(colors))
    mask.save(path)


def make_voc(root: Path) -> None:
    """PASCAL VOC: JPEG pictures, indexed masks with void borders, lists."""
    stems = []
    for stem, scene in scenes():
        save(scene.picture, root / "JPEGImages" / f"{stem}.jpg")
        save_indexed(with_borders(scene.labels), root / "SegmentationClass" / f"{stem}.png")
        stems.append(stem)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[:TRAIN]) + "\n", encoding="utf-8")
    (lists / "val.txt").write_text("\n".join(stems[TRAIN:]) + "\n", encoding="utf-8")
    (root / "data.toml").write_text(CLASSES, encoding="utf-8")


def annotation(number: int, picture: int, kind: int, points: list[tuple[float, float]]) -> dict[str, Any]:
    """An outline as COCO has it."""
    xs, ys = zip(*points, strict=True)
    return {
        "id": number,
        "image_id": picture,
        "category_id": kind,
        "iscrowd": 0,
        "area": 100.0,
        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
        "segmentation": [[value for point in points for value in point]],
    }


def make_coco(root: Path) -> None:
    """COCO: JPEG pictures and a file of polygons a split; ids start at 10."""
    for split, part in (("train", scenes()[:TRAIN]), ("val", scenes()[TRAIN:])):
        pictures: list[dict[str, Any]] = []
        shapes: list[dict[str, Any]] = []
        for number, (stem, scene) in enumerate(part, 10):
            save(scene.picture, root / split / f"{stem}.jpg")
            pictures.append({"id": number, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
            for kind, points in scene.outlines:
                shapes.append(annotation(len(shapes) + 1, number, kind, points))
        kinds = [{"id": k, "name": NAMES[k]} for k in (1, 2, 3)]
        content = {"images": pictures, "annotations": shapes, "categories": kinds}
        save_json(content, root / "annotations" / f"instances_{split}.json")


def make_labelme(root: Path) -> None:
    """LabelMe: a JSON file beside each picture."""
    for stem, scene in scenes():
        save(scene.picture, root / f"{stem}.jpg")
        shapes = [
            {"label": NAMES[k], "points": p, "shape_type": "polygon", "flags": {}, "group_id": None}
            for k, p in scene.outlines
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg", "imageData": None}
        save_json({**content, "imageHeight": HEIGHT, "imageWidth": WIDTH}, root / f"{stem}.json")
    (root / "data.toml").write_text(CLASSES, encoding="utf-8")


SETS: dict[str, Callable[[Path], None]] = {
    "camvid": make_camvid,
    "pairs": make_pairs,
    "voc": make_voc,
    "coco": make_coco,
    "labelme": make_labelme,
}


def masks_of(root: Path) -> list[Path]:
    """All masks of a set of folders."""
    return sorted(path for name in MASK_FOLDERS for path in (root / name).glob("*"))


def pictures_of(root: Path) -> list[Path]:
    """All pictures of a set."""
    folders = [root / name for name in PICTURE_FOLDERS if (root / name).is_dir()] or [root]
    return sorted(path for folder in folders for path in folder.glob("*") if path.suffix in (".jpg", ".png"))
