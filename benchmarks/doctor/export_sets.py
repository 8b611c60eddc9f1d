"""Healthy data sets in the formats of annotation tools and public sets, made from drawn scenes.

Every scene is sky, road, trees and cars: polygons, whose rasters are the masks, under texture, light and noise. Sets are written
from the published schemas of the tools, without the package's own code.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("background", "road", "car", "tree")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142), (107, 142, 35))
PAINT = np.array([[150, 180, 215], [105, 95, 100], [150, 45, 40], [60, 105, 45]], float)


@dataclass
class Scene:
    """A picture, its shapes from back to front as (class, points in pixels), and the mask that they make."""

    name: str
    picture: np.ndarray
    shapes: list[tuple[int, np.ndarray]]
    mask: np.ndarray = field(repr=False)


def raster(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centre a polygon holds (even-odd), as bool."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        if y1 != y0:
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    small = rng.normal(0, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))


def draw(shapes: list[tuple[int, np.ndarray]], height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for index, points in shapes:
        mask[raster(points, height, width)] = index
    return mask


def paint(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    paints = PAINT + rng.normal(0, 14, PAINT.shape)
    color = paints[mask]
    light = np.linspace(*rng.uniform(-18, 18, 2), height)[:, None] + np.linspace(*rng.uniform(-15, 15, 2), width)
    rough = np.array([4, 6, 8, 20])[mask]
    grain = noise(rng, height, width, 3) * rough + noise(rng, height, width, 24) * 10 + light
    color = color + grain[..., None] + rng.normal(0, 3, color.shape)
    return np.clip(color, 0, 255).astype(np.uint8)


def scene(name: str, seed: int, height: int, width: int) -> Scene:
    rng = np.random.default_rng(seed)
    horizon = rng.uniform(0.35, 0.65, 2) * height
    left, right = sorted(rng.uniform(0.05, 0.95, 2) * width)
    shapes = [
        (1, np.array([[-4.0, height + 3], [left - 12, horizon[0]], [right + 12, horizon[1]], [width + 3, height + 2]]))
    ]
    for index, number in ((3, rng.integers(2, 4)), (2, rng.integers(1, 4))):
        for _ in range(number):
            low, high = (0.15, 0.55) if index == 3 else (0.5, 0.85)
            center = np.array([rng.uniform(0.1, 0.9) * width, rng.uniform(low, high) * height])
            angles = np.sort(rng.uniform(0, 2 * np.pi, 11))
            radius = rng.uniform(0.09, 0.17) * width * rng.uniform(0.7, 1.15, 11)
            points = center + np.stack([np.cos(angles), np.sin(angles) * 0.8], 1) * radius[:, None]
            shapes.append((index, np.round(points, 2)))
    mask = draw(shapes, height, width)
    return Scene(name, paint(mask, rng), shapes, mask)


def scenes(seed: int, count: int = 12, height: int = 100, width: int = 140) -> list[Scene]:
    words = ["harbour", "mill", "lane", "ford", "grove", "quay", "moor", "dale", "field", "bridge", "tower", "park"]
    return [
        scene(f"{words[i % 12]}_{37 * (i + seed) % 1000:03d}", 1000 * seed + i, height, width) for i in range(count)
    ]


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 92} if path.suffix == ".jpg" else {}) | options)
    return path


def color_mask(mask: np.ndarray) -> np.ndarray:
    return np.array(COLORS, np.uint8)[mask]


def indexed(mask: np.ndarray, colors=COLORS) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([v for c in colors for v in c])
    return image


# --- CVAT for images 1.1


def cvat_rle(mask: np.ndarray) -> tuple[str, int, int, int, int]:
    ys, xs = np.nonzero(mask)
    top, left, bottom, right = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
    flat = np.concatenate([[0], mask[top:bottom, left:right].astype(np.uint8).ravel()])
    cuts = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], cuts, [flat.size - 1]]))
    return ", ".join(map(str, runs)), int(left), int(top), int(right - left), int(bottom - top)


def cvat_shape(index: int, points: np.ndarray, order: int, size: tuple[int, int]) -> str:
    label = f'label="{NAMES[index]}" source="manual" occluded="0"'
    if index == 3 and order % 2:
        rle, left, top, width, height = cvat_rle(raster(points, *size))
        box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
        return f'    <mask {label} rle="{rle}" {box} z_order="{order}">\n    </mask>\n'
    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'    <polygon {label} points="{text}" z_order="{order}">\n    </polygon>\n'


def make_cvat(root: Path) -> list[Scene]:
    made = scenes(1)
    labels = "".join(
        f"        <label>\n          <name>{n}</name>\n          <color>#{c[0]:02x}{c[1]:02x}{c[2]:02x}</color>\n"
        f"          <type>any</type>\n          <attributes>\n          </attributes>\n        </label>\n"
        for n, c in zip(NAMES, COLORS, strict=True)
    )
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <job>\n      <id>7</id>\n'
        f"      <size>{len(made)}</size>\n      <mode>annotation</mode>\n      <labels>\n{labels}      </labels>\n    </job>\n"
        "    <dumped>2024-05-01 10:00:00.000000+00:00</dumped>\n  </meta>\n"
    )
    for number, item in enumerate(made):
        height, width = item.mask.shape
        save(root / "images" / f"{item.name}.jpg", item.picture)
        text += f'  <image id="{number}" name="{item.name}.jpg" width="{width}" height="{height}">\n'
        text += "".join(cvat_shape(c, p, i, (height, width)) for i, (c, p) in enumerate(item.shapes)) + "  </image>\n"
    (root / "annotations.xml").write_text(text + "</annotations>\n", encoding="utf-8")
    return made


# --- CVAT "Segmentation mask 1.1"


def make_cvat_masks(root: Path) -> list[Scene]:
    made = scenes(2)
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(NAMES, COLORS, strict=True)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "labelmap.txt").write_text("\n".join(lines) + "\n")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, part in (("train", made[:8]), ("val", made[8:])):
        (lists / f"{split}.txt").write_text("".join(f"{s.name}\n" for s in part))
    for item in made:
        save(root / "JPEGImages" / f"{item.name}.jpg", item.picture)
        save(root / "SegmentationClass" / f"{item.name}.png", color_mask(item.mask))
        save(root / "SegmentationObject" / f"{item.name}.png", color_mask((item.mask > 1).astype(np.uint8)))
    return made


# --- Label Studio


def bits(value: int, count: int) -> str:
    return format(value, f"0{count}b")


def brush_rle(mask: np.ndarray) -> list[int]:
    """RGBA bytes of a stroke in thi.ng's rle-pack: 32 bits of length, word size, four run sizes, then runs."""
    flat = np.repeat((mask.ravel() * 255).astype(np.uint8), 4)
    text = bits(flat.size, 32) + bits(7, 5) + "".join(bits(s - 1, 4) for s in (3, 4, 8, 16))
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    for start, stop in pairwise(cuts.tolist()):
        for first in range(start, stop, 65536):
            text += "1" + bits(3, 2) + bits(min(stop, first + 65536) - first - 1, 16) + bits(int(flat[start]), 8)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def studio_result(index: int, points: np.ndarray, number: int, size: tuple[int, int]) -> dict:
    height, width = size
    base = {
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "id": f"r{number}",
        "to_name": "image",
    }
    base["origin"] = "manual"
    if index == 3 and number % 2:
        value = {"format": "rle", "rle": brush_rle(raster(points, *size)), "brushlabels": [NAMES[index]]}
        return base | {"from_name": "brush", "type": "brushlabels", "value": value}
    percent = (points / [width, height] * 100).clip(0, 100).tolist()
    return base | {
        "from_name": "label",
        "type": "polygonlabels",
        "value": {"points": percent, "closed": True, "polygonlabels": [NAMES[index]]},
    }


def make_studio(root: Path) -> list[Scene]:
    made = scenes(3)
    tasks = []
    for number, item in enumerate(made):
        name = f"{number:08x}-{item.name}.jpg"
        save(root / "images" / name, item.picture)
        results = [studio_result(c, p, i, item.mask.shape) for i, (c, p) in enumerate(item.shapes)]
        annotation = {
            "id": 100 + number,
            "completed_by": 1,
            "result": results,
            "was_cancelled": False,
            "ground_truth": False,
        }
        task = {"id": number + 1, "annotations": [annotation], "file_upload": name, "drafts": [], "predictions": []}
        tasks.append(task | {"data": {"image": f"/data/upload/1/{name}"}, "meta": {}, "project": 1})
    (root / "project-1-at-2024-05-01.json").write_text(json.dumps(tasks), encoding="utf-8")
    return made


# --- Cityscapes

CITY_IDS = np.array([23, 7, 26, 21], np.uint8)
CITY_TRAIN = np.array([10, 0, 13, 8], np.uint8)


def make_city(root: Path) -> list[Scene]:
    made = scenes(4, height=96, width=160)
    for number, item in enumerate(made):
        split, town = ("train", "ulm" if number < 4 else "jena") if number < 8 else ("val", "lindau")
        item.name = f"{town}_{number:06d}_000019"
        save(root / "leftImg8bit" / split / town / f"{item.name}_leftImg8bit.png", item.picture)
        stem = root / "gtFine" / split / town / f"{item.name}_gtFine"
        ids = CITY_IDS[item.mask]
        ids[-6:] = 1  # ego vehicle
        save(stem.with_name(stem.name + "_labelIds.png"), ids)
        save(stem.with_name(stem.name + "_instanceIds.png"), np.where(ids == 26, 26000, ids).astype(np.uint16))
        save(stem.with_name(stem.name + "_color.png"), np.dstack([color_mask(item.mask), np.full_like(item.mask, 255)]))
        stem.with_name(stem.name + "_polygons.json").write_text(
            json.dumps({"imgHeight": 96, "imgWidth": 160, "objects": []})
        )
    return made


# --- masks beside their pictures


def make_suffix(root: Path) -> list[Scene]:
    made = scenes(5, height=128, width=112)
    for number, item in enumerate(made):
        folder = root / ("train" if number < 8 else "val")
        save(folder / f"{item.name}.jpg", item.picture)
        save(folder / f"{item.name}_mask.png", item.mask)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return made


# --- Supervisely


def bitmap(mask: np.ndarray) -> dict:
    ys, xs = np.nonzero(mask)
    top, left = int(ys.min()), int(xs.min())
    image = Image.fromarray((mask[top : ys.max() + 1, left : xs.max() + 1] * 255).astype(np.uint8)).convert("1")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return {"data": base64.b64encode(zlib.compress(stream.getvalue())).decode(), "origin": [left, top]}


def make_supervisely(root: Path) -> list[Scene]:
    made = scenes(6, height=110, width=120)
    classes = [
        {
            "title": n,
            "shape": "any",
            "color": f"#{c[0]:02X}{c[1]:02X}{c[2]:02X}",
            "geometry_config": {},
            "id": i + 1,
            "hotkey": "",
        }
        for i, (n, c) in enumerate(zip(NAMES, COLORS, strict=True))
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "meta.json").write_text(json.dumps({"classes": classes, "tags": [], "projectType": "images"}))
    for item in made:
        height, width = item.mask.shape
        objects = []
        for number, (index, points) in enumerate(item.shapes):
            common = {"id": number, "classId": index + 1, "classTitle": NAMES[index], "description": "", "tags": []}
            if index == 3:
                objects.append(common | {"geometryType": "bitmap", "bitmap": bitmap(raster(points, height, width))})
            else:
                outline = {"exterior": np.round(points).astype(int).tolist(), "interior": []}
                objects.append(common | {"geometryType": "polygon", "points": outline})
        save(root / "ds0" / "img" / f"{item.name}.jpg", item.picture)
        text = json.dumps(
            {"description": "", "tags": [], "size": {"height": height, "width": width}, "objects": objects}
        )
        (root / "ds0" / "ann").mkdir(parents=True, exist_ok=True)
        (root / "ds0" / "ann" / f"{item.name}.jpg.json").write_text(text)
    return made


# --- Roboflow's semantic segmentation masks


def make_roboflow(root: Path) -> list[Scene]:
    made = scenes(7, height=112, width=112)
    for number, item in enumerate(made):
        folder = root / ("train" if number < 8 else "valid")
        item.name = f"{item.name}_jpg.rf.{number * 7919 + 12345:032x}"
        save(folder / f"{item.name}.jpg", item.picture)
        save(folder / f"{item.name}_mask.png", item.mask)
    for split in ("train", "valid"):
        (root / split / "_classes.csv").write_text(
            "Pixel Value, Class\n" + "".join(f"{i}, {n}\n" for i, n in enumerate(NAMES))
        )
    (root / "README.dataset.txt").write_text("made\n")
    return made


# --- ADE20K, scene parsing

ADE = np.array([3, 7, 21, 5], np.uint8)  # sky, road, car, tree


def make_ade(root: Path) -> list[Scene]:
    made = scenes(8, height=104, width=136)
    for number, item in enumerate(made):
        split = "training" if number < 8 else "validation"
        item.name = f"ADE_{'train' if number < 8 else 'val'}_{number + 1:08d}"
        save(root / "images" / split / f"{item.name}.jpg", item.picture)
        mask = ADE[item.mask]
        mask[:3] = 0
        save(root / "annotations" / split / f"{item.name}.png", mask)
    return made


EXPORTS = {
    "cvat": make_cvat,
    "cvat-masks": make_cvat_masks,
    "labelstudio": make_studio,
    "cityscapes": make_city,
    "suffix": make_suffix,
    "supervisely": make_supervisely,
    "roboflow": make_roboflow,
    "ade20k": make_ade,
}
