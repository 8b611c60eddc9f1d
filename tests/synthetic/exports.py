"""Scenes written in every format: the masks that are read back must be the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as tools

from fullconv.labels import VOID, full_palette
from synthetic.images import as_text
from synthetic.labelstudio import strokes

NAMES = ["background", "Straße nass", 'car "A" & <B>', "tree: 1"]
COLORS = np.array([(0, 0, 0), (250, 50, 83), (10, 200, 30), (77, 77, 77)], np.uint8)
VOID_COLOR = (224, 224, 192)


@dataclass
class Scene:
    """Images by name, with their masks: indices of NAMES and VOID."""

    images: dict[str, NDArray[np.uint8]]
    masks: dict[str, NDArray[np.uint8]]

    @classmethod
    def make(cls, seed: int, count: int, height: int, width: int) -> Scene:
        rng = np.random.default_rng(seed)
        scene = cls({}, {})
        for number in range(count):
            size = (height + number, width)
            coarse = rng.choice([0, 1, 2, 3, VOID], (-(-size[0] // 4), -(-size[1] // 3)), p=[0.4, 0.2, 0.2, 0.15, 0.05])
            mask = np.kron(coarse, np.ones((4, 3), int))[: size[0], : size[1]].astype(np.uint8)
            mask[rng.random(size) < 0.05] = rng.integers(0, 4)
            mask.flat[:4] = range(4)  # every class in every image
            scene.masks[f"bild ü {number}"] = mask
            scene.images[f"bild ü {number}"] = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        return scene

    def save(self, root: Path, place: str, suffix: str = ".png") -> None:
        for name, image in self.images.items():
            save(image, root / place.format(name=name) if "{" in place else root / place / f"{name}{suffix}")


def save(array: NDArray[np.uint8], path: Path, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette([channel for color in full_palette(COLORS.tolist()) for channel in color])
    image.save(path, format="PNG")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def parts(mask: NDArray[np.uint8], void: str = "void") -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the regions that are not background: name and pixels."""
    values = [int(value) for value in np.unique(mask) if value]
    return [(void if value == VOID else NAMES[value], mask == value) for value in values]


def toml(root: Path) -> None:
    write(root / "data.toml", f"classes = {json.dumps(NAMES, ensure_ascii=False)}\n")


def pairs(scene: Scene, root: Path) -> None:
    scene.save(root, "images")
    toml(root)
    for name, mask in scene.masks.items():
        save(mask, root / "masks" / f"{name}.png", palette=True)


def voc(scene: Scene, root: Path) -> None:
    scene.save(root, "JPEGImages")
    write(root / "class_names.txt", "__ignore__\n_background_\n" + "\n".join(NAMES[1:]) + "\n")
    names = list(scene.masks)
    write(root / "ImageSets" / "Segmentation" / "train.txt", "\n".join(names[1:]) + "\n")
    write(root / "ImageSets" / "Segmentation" / "val.txt", names[0] + "\n")
    for name, mask in scene.masks.items():
        save(mask, root / "SegmentationClass" / f"{name}.png", palette=True)


def coco(scene: Scene, root: Path, packed: bool = True) -> None:
    scene.save(root, "images")
    images: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    for number, (name, mask) in enumerate(scene.masks.items(), 500):
        images.append({"id": number, "file_name": f"{name}.png", "height": mask.shape[0], "width": mask.shape[1]})
        for title, bits in parts(mask):
            code = tools.encode(np.asfortranarray(bits).view(np.uint8))
            outline: Any = {"size": list(mask.shape), "counts": code["counts"].decode()}
            if not packed:
                flat = bits.T.ravel()
                edges = np.flatnonzero(np.diff(flat)) + 1
                runs = np.diff([0, *edges, len(flat)]).tolist()
                outline = {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}
            category = 90 if title == "void" else 11 * NAMES.index(title)
            drawn.append({"id": len(drawn) + 7, "image_id": number, "category_id": max(category % 90, 11),
                          "iscrowd": int(title == "void"), "segmentation": outline, "bbox": [0, 0, 1, 1], "area": 1})  # fmt: skip
    categories = [{"id": 11 * i, "name": name, "supercategory": ""} for i, name in enumerate(NAMES) if i]
    table = {"info": {}, "licenses": [], "images": images, "annotations": drawn, "categories": categories}
    write(root / "annotations" / "instances_default.json", json.dumps(table))


def loose_coco(scene: Scene, root: Path) -> None:
    coco(scene, root, packed=False)


def polygon_coco(scene: Scene, root: Path) -> None:
    """Write each pixel as a box: polygons of COCO can hold any mask."""
    coco(scene, root)
    path = root / "annotations" / "instances_default.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    for entry in table["annotations"]:
        if not entry["iscrowd"]:
            mask = list(scene.masks.values())[entry["image_id"] - 500]
            entry["segmentation"] = [
                [int(c) for c in (x, y, x + 1, y, x + 1, y + 1, x, y + 1)]
                for y, x in np.argwhere(mask == entry["category_id"] // 11)
            ]
    path.write_text(json.dumps(table), encoding="utf-8")


def cvat(scene: Scene, root: Path) -> None:
    scene.save(root, "images")
    tree = ElementTree.Element("annotations")
    ElementTree.SubElement(tree, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(tree, "meta"), "task"), "labels")
    for title in NAMES:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = title
    for number, (name, mask) in enumerate(scene.masks.items(), 3):
        image = ElementTree.SubElement(
            tree, "image", id=str(number), name=f"{name}.png", width=str(mask.shape[1]), height=str(mask.shape[0])
        )
        for title, bits in parts(mask):
            rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
            cut = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].ravel()
            edges = np.flatnonzero(np.diff(cut)) + 1
            runs = [*([0] if cut[0] else []), *np.diff([0, *edges, len(cut)]).tolist()]
            width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
            box = {"left": columns[0], "top": rows[0], "width": width, "height": height}
            ElementTree.SubElement(
                image, "mask", label=title, source="manual", occluded="0", rle=", ".join(map(str, runs)), z_order="0",
                **{key: str(value) for key, value in box.items()},
            )  # fmt: skip
        ElementTree.SubElement(image, "polygon", label="tree: 1", points="0,0;999,0;999,999;0,999", z_order="-5")
        ElementTree.SubElement(image, "box", label="background", xtl="0", ytl="0", xbr="9999", ybr="9999", z_order="-4")
    ElementTree.ElementTree(tree).write(root / "annotations.xml", encoding="utf-8", xml_declaration=True)
    write(root / "data.toml", 'boxes = "fill"')


def cvat_masks(scene: Scene, root: Path) -> None:
    scene.save(root, "JPEGImages")
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(NAMES, COLORS.tolist(), strict=True)]
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join([*lines, "void:224,224,192::"]) + "\n")
    table = np.zeros((256, 3), np.uint8)
    table[:4], table[VOID] = COLORS, VOID_COLOR
    write(root / "ImageSets" / "Segmentation" / "default.txt", "\n".join(scene.masks) + "\n")
    for name, mask in scene.masks.items():
        save(table[mask], root / "SegmentationClass" / f"{name}.png")
        save(mask, root / "SegmentationObject" / f"{name}.png")


def labelme(scene: Scene, root: Path) -> None:
    scene.save(root, "")
    for name, mask in scene.masks.items():
        shapes = []
        for title, bits in parts(mask, "__ignore__"):
            rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
            cut = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            corners = [[float(columns[0]), float(rows[0])], [float(columns[-1]), float(rows[-1])]]
            data = as_text(Image.fromarray(cut.astype(np.uint8) * 255))
            shapes.append({"label": title, "points": corners, "shape_type": "mask", "mask": data, "flags": {}})
        table = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None,
                 "imageHeight": mask.shape[0], "imageWidth": mask.shape[1]}  # fmt: skip
        write(root / f"{name}.json", json.dumps(table, ensure_ascii=False, indent=2))


def labelstudio(scene: Scene, root: Path) -> None:
    scene.save(root, "media")
    tasks = []
    for number, (name, mask) in enumerate(scene.masks.items(), 30):
        rows = [
            {"id": f"r{i}", "type": "brushlabels", "from_name": "tag", "to_name": "image", "origin": "manual",
             "original_width": mask.shape[1], "original_height": mask.shape[0], "image_rotation": 0,
             "value": {"format": "rle", "rle": strokes(bits), "brushlabels": [title]}}
            for i, (title, bits) in enumerate(parts(mask))
        ]  # fmt: skip
        done = {"id": number * 2, "result": rows, "was_cancelled": False, "ground_truth": False, "completed_by": 1}
        address = f"/data/upload/4/0a1b2c3d-{name}.png"
        tasks.append({"id": number, "annotations": [done], "predictions": [], "data": {"image": address}})
    write(root / "project-4-at-2026.json", json.dumps(tasks))


def supervisely(scene: Scene, root: Path) -> None:
    scene.save(root, "ds one/img")
    classes = [{"title": name, "shape": "bitmap", "color": "#FF0000"} for name in [*NAMES, "void"]]
    write(root / "meta.json", json.dumps({"classes": classes, "tags": []}))
    for name, mask in scene.masks.items():
        objects = []
        for title, bits in parts(mask):
            rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
            image = Image.fromarray(bits[rows[0] :, columns[0] :].astype(np.uint8))
            image.putpalette([0, 0, 0, 255, 255, 255])
            data = as_text(image, compress=True, transparency=0)
            objects.append({"classTitle": title, "geometryType": "bitmap",
                            "bitmap": {"data": data, "origin": [int(columns[0]), int(rows[0])]}})  # fmt: skip
        size = {"height": mask.shape[0], "width": mask.shape[1]}
        write(root / "ds one" / "ann" / f"{name}.png.json", json.dumps({"size": size, "objects": objects}))


def roboflow(scene: Scene, root: Path) -> None:
    for number, (name, mask) in enumerate(scene.masks.items()):
        place = root / ("valid" if number == 0 else "train")
        save(scene.images[name], place / f"{name}.png")
        save(np.where(mask == VOID, 9, mask).astype(np.uint8), place / f"{name}_mask.png")
        rows = "".join(f'{i}, "{text}"\n' for i, text in enumerate(n.replace('"', '""') for n in NAMES))
        write(place / "_classes.csv", f"Pixel Value, Class\n{rows}9, void\n")


def listed(scene: Scene, root: Path) -> None:
    scene.save(root, "a/fotos")
    toml(root)
    for name, mask in scene.masks.items():
        save(mask, root / "b" / "m" / f"{name}.png")
    lines = [f"/home/x/a/fotos/{name}.png,/home/x/b/m/{name}.png" for name in scene.masks]
    write(root / "train.csv", "image,mask\n" + "\n".join(lines) + "\n")


def suffix(scene: Scene, root: Path) -> None:
    scene.save(root, "")
    toml(root)
    for name, mask in scene.masks.items():
        save(mask, root / f"{name}_mask.png")


CITY = {0: 7, 1: 8, 2: 26, 3: 33, VOID: 4}


def cityscapes(scene: Scene, root: Path) -> None:
    for number, (name, mask) in enumerate(scene.masks.items()):
        stem = f"{'val' if number == 0 else 'train'}/köln/{name}"
        save(scene.images[name], root / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        ids = np.vectorize(CITY.get)(mask).astype(np.uint8)
        save(ids, root / "gtFine" / f"{stem}_gtFine_labelIds.png")


def ade20k(scene: Scene, root: Path) -> None:
    for number, (name, mask) in enumerate(scene.masks.items()):
        split = "validation" if number == 0 else "training"
        save(scene.images[name], root / "images" / split / f"{name}.jpg")
        save(np.where(mask == VOID, 0, mask + 1).astype(np.uint8), root / "annotations" / split / f"{name}.png")


def ade20k_full(scene: Scene, root: Path) -> None:
    numbers = {0: 3050, 1: 401, 2: 2836, 3: 64, VOID: 0}
    for number, (name, mask) in enumerate(scene.masks.items()):
        base = root / "images" / "ADE" / ("validation" if number == 0 else "training") / "street"
        save(scene.images[name], base / f"{name}.jpg")
        index = np.vectorize(numbers.get)(mask)
        code = np.stack([index // 256 * 10, index % 256, np.zeros_like(index)], -1).astype(np.uint8)
        save(code, base / f"{name}_seg.png")
        rows = [{"name": text + ", other words", "name_ndx": numbers[i]} for i, text in enumerate(NAMES)]
        write(base / f"{name}.json", json.dumps({"annotation": {"object": rows}}))


def squares(mask: NDArray[np.uint8]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Return each pixel that is not background as a polygon with its name: polygons can hold any mask."""
    return [
        (title, [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)])
        for title, bits in parts(mask)
        for y, x in np.argwhere(bits).tolist()
    ]


def yolo(scene: Scene, root: Path) -> None:
    scene.save(root, "images/train")
    titles = [*NAMES[1:], "void"]
    write(root / "data.yaml", f"path: .\ntrain: images/train\nnames: {json.dumps(titles, ensure_ascii=False)}\n")
    for name, mask in scene.masks.items():
        height, width = mask.shape
        lines = [
            f"{titles.index(title)} {' '.join(f'{x / width:.9f} {y / height:.9f}' for x, y in ring)}\n"
            for title, ring in squares(mask)
        ]
        write(root / "labels/train" / f"{name}.txt", "".join(lines))


def via(scene: Scene, root: Path) -> None:
    scene.save(root, "")
    table = {}
    for name, mask in scene.masks.items():
        regions = [
            {"shape_attributes": {"name": "polygon", "all_points_x": [x for x, _ in ring], "all_points_y": [y for _, y in ring]},
             "region_attributes": {"type": title}} for title, ring in squares(mask)
        ]  # fmt: skip
        table[f"{name}.png77"] = {"filename": f"{name}.png", "size": 77, "regions": regions, "file_attributes": {}}
    write(root / "via_region_data.json", json.dumps(table))


def labelbox(scene: Scene, root: Path) -> None:
    scene.save(root, "images")
    lines = []
    for name, mask in scene.masks.items():
        objects = [{"name": title, "annotation_kind": "ImagePolygon", "polygon": [{"x": x, "y": y} for x, y in ring]}
                   for title, ring in squares(mask)]  # fmt: skip
        lines.append({"data_row": {"id": "c", "external_id": f"{name}.png"},
                      "media_attributes": {"height": mask.shape[0], "width": mask.shape[1]},
                      "projects": {"p": {"labels": [{"annotations": {"objects": objects}}]}}})  # fmt: skip
    write(root / "export.ndjson", "".join(f"{json.dumps(line)}\n" for line in lines))


def darwin(scene: Scene, root: Path) -> None:
    scene.save(root, "images")
    for name, mask in scene.masks.items():
        changes = np.flatnonzero(np.diff(mask.ravel().astype(int))) + 1
        starts = np.concatenate([[0], changes])
        counts = np.diff([*starts, mask.size])
        runs = np.stack([mask.ravel()[starts], counts], axis=1).ravel().tolist()
        titles = {value: "void" if value == VOID else NAMES[value] for value in np.unique(mask).tolist() if value}
        layer = {"dense_rle": runs, "mask_annotation_ids_mapping": {f"m{value}": value for value in titles}}
        drawn = [{"id": f"m{value}", "name": title, "mask": {}} for value, title in titles.items()]
        slot = {"type": "image", "slot_name": "0", "height": mask.shape[0], "width": mask.shape[1]}
        table = {"version": "2.0", "item": {"name": f"{name}.png", "path": "/", "slots": [slot]},
                 "annotations": [{"id": "l", "name": "__raster_layer__", "raster_layer": layer}, *drawn]}  # fmt: skip
        write(root / "annotations" / f"{name}.json", json.dumps(table))


def run_lengths(scene: Scene, root: Path) -> None:
    scene.save(root, "train_images")
    lines = ["ImageId,ClassId,EncodedPixels"]
    for name, mask in scene.masks.items():
        for title, bits in parts(mask):
            edges = np.diff(np.pad(bits.T.ravel().astype(int), 1))
            starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
            runs = " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
            quoted = title.replace('"', '""')
            lines.append(f'{name}.png,"{quoted}",{runs}')
    write(root / "train.csv", "\n".join(lines) + "\n")


def mapillary(scene: Scene, root: Path) -> None:
    rows = [
        {"name": f"x--{i}", "readable": name, "evaluate": True, "color": COLORS[i].tolist()}
        for i, name in enumerate(NAMES)
    ]
    rows.append({"name": "void--unlabeled", "readable": "Unlabeled", "evaluate": False, "color": [0, 0, 0]})
    write(root / "config.json", json.dumps({"labels": rows}))
    for number, (name, mask) in enumerate(scene.masks.items()):
        place = root / ("validation" if number == 0 else "training")
        save(scene.images[name], place / "images" / f"{name}.jpg")
        save(np.where(mask == VOID, 4, mask).astype(np.uint8), place / "labels" / f"{name}.png", palette=True)


FORMATS: dict[str, Callable[[Scene, Path], None]] = {
    "pairs": pairs, "voc": voc, "coco": coco, "loose-coco": loose_coco, "polygon-coco": polygon_coco, "cvat": cvat,
    "cvat-masks": cvat_masks, "labelme": labelme, "labelstudio": labelstudio, "supervisely": supervisely,
    "roboflow": roboflow, "list": listed, "suffix": suffix, "cityscapes": cityscapes, "ade20k": ade20k,
    "ade20k-full": ade20k_full, "yolo": yolo, "via": via, "labelbox": labelbox, "darwin": darwin,
    "run-lengths": run_lengths, "mapillary": mapillary,
}  # fmt: skip


def names_of(kind: str) -> list[str]:
    """Return the names of the scene's classes in a format."""
    return {
        "cityscapes": ["road", "sidewalk", "car", "bicycle"],
        "ade20k": ["class1", "class2", "class3", "class4"],
    }.get(kind, NAMES)
