"""Faults in the JSON of Label Studio and Supervisely."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from doctor.export_sets import brush_rle
from doctor.export_tools import cut, fault, results, studio


def sly(root: Path, change: Callable[[dict], object], index: int = 1) -> None:
    path = sorted(root.rglob("*.jpg.json"))[index]
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def first(data: dict, kind: str) -> dict:
    return next(o for o in data["objects"] if o["geometryType"] == kind)


@fault("labelstudio", "pixels where percents belong", "bad-shape mask-mismatch outside-picture", remedy=None)
def _(root, made):
    def change(tasks):
        for item in results(tasks, "polygon"):
            item["value"]["points"] = [[x * 1.4, y * 1.0 + 0.001] for x, y in item["value"]["points"]]

    studio(root, change)


@fault(
    "labelstudio",
    "coordinates from 0 to 1 where percents belong",
    "bad-shape mask-mismatch outside-picture no-area",
    remedy=None,
)
def _(root, made):
    def change(tasks):
        for task in tasks:
            for annotation in task["annotations"]:
                annotation["result"] = [r for r in annotation["result"] if r["type"] == "polygonlabels"]
        for item in results(tasks):
            item["value"]["points"] = [[x / 100, y / 100] for x, y in item["value"]["points"]]

    studio(root, change)


@fault("labelstudio", "a region without a label", "bad-shape unknown-class", remedy=None)
def _(root, made):
    studio(root, lambda tasks: results(tasks, "polygon")[0]["value"].pop("polygonlabels") and None)


@fault(
    "labelstudio",
    "a region with two labels",
    "bad-shape several-labels",
    remedy=None,
)
def _(root, made):
    studio(root, lambda tasks: results(tasks, "polygon")[0]["value"]["polygonlabels"].append("tree"))


@fault("labelstudio", "NaN among the points", "bad-shape", remedy=None)
def _(root, made):
    def change(tasks):
        results(tasks, "polygon")[0]["value"]["points"][0][0] = float("nan")

    studio(root, change)


@fault("labelstudio", "text among the points", "bad-shape", remedy=None)
def _(root, made):
    def change(tasks):
        results(tasks, "polygon")[0]["value"]["points"][0] = ["12%", "30%"]

    studio(root, change)


@fault("labelstudio", "value is null", "bad-shape", remedy=None)
def _(root, made):
    def change(tasks):
        results(tasks, "polygon")[0]["value"] = None

    studio(root, change)


@fault("labelstudio", "result is no list", "bad-shape unreadable unusable unlisted", remedy=None)
def _(root, made):
    def change(tasks):
        tasks[0]["annotations"][0]["result"] = {"oops": 1}

    studio(root, change)


@fault("labelstudio", "JSON cut short", "unusable unreadable truncated", remedy=None)
def _(root, made):
    cut(next(root.glob("*.json")))


@fault("labelstudio", "an empty list of tasks", "unusable", remedy=None)
def _(root, made):
    studio(root, lambda tasks: tasks.clear())


@fault("labelstudio", "brush stroke cut short", "bad-shape", remedy=None)
def _(root, made):
    def change(tasks):
        value = results(tasks, "brush")[0]["value"]
        value["rle"] = value["rle"][: len(value["rle"]) // 2]

    studio(root, change)


@fault("labelstudio", "brush stroke of another size", "bad-shape mask-size", remedy=None)
def _(root, made):
    def change(tasks):
        results(tasks, "brush")[0]["value"]["rle"] = brush_rle(np.ones((30, 40), bool))

    studio(root, change)


@fault("labelstudio", "brush stroke that claims 4 billion pixels", "bad-shape", remedy=None)
def _(root, made):
    def change(tasks):
        value = results(tasks, "brush")[0]["value"]
        value["rle"] = [255, 255, 255, 240, *value["rle"][4:]]

    studio(root, change)


@fault("labelstudio", "key points among polygons", "no-area", remedy=None)
def _(root, made):
    def change(tasks):
        item = results(tasks, "polygon")[0]
        item.update(type="keypointlabels", value={"x": 10, "y": 20, "width": 1, "keypointlabels": ["car"]})

    studio(root, change)


@fault("labelstudio", "names that differ in case and spaces", "similar-classes", remedy=None)
def _(root, made):
    def change(tasks):
        results(tasks, "polygon")[1]["value"]["polygonlabels"] = ["Road "]

    studio(root, change)


@fault("labelstudio", "a task that nobody annotated", "unlisted missing-mask", remedy=None)
def _(root, made):
    studio(root, lambda tasks: tasks[2]["annotations"].clear())


@fault("labelstudio", "a task that was skipped", "unlisted missing-mask", remedy=None)
def _(root, made):
    def change(tasks):
        tasks[2]["annotations"][0].update(was_cancelled=True, result=[])

    studio(root, change)


@fault("labelstudio", "an annotation without a region", "constant-mask", remedy=None)
def _(root, made):
    studio(root, lambda tasks: tasks[2]["annotations"][0]["result"].clear())


@fault("labelstudio", "two annotators in conflict", "several-annotations", remedy=None)
def _(root, made):
    def change(tasks):
        other = json.loads(json.dumps(tasks[3]["annotations"][0]))
        other.update(id=999, completed_by=2)
        for item in other["result"]:
            item["value"].update({k: ["road"] for k in item["value"] if k.endswith("labels")})
        tasks[3]["annotations"].append(other)

    studio(root, change)


@fault("labelstudio", "two tasks of one picture", "several-annotations repeated-id duplicate-stem", remedy=None)
def _(root, made):
    studio(root, lambda tasks: tasks.append({**tasks[0], "id": 99}))


@fault("labelstudio", "a picture turned in the tool", "bad-shape exif-orientation", remedy=None)
def _(root, made):
    def change(tasks):
        for item in tasks[1]["annotations"][0]["result"]:
            item["image_rotation"] = 90

    studio(root, change)


@fault("labelstudio", "a polygon with two points", "bad-shape no-area", remedy=None)
def _(root, made):
    def change(tasks):
        results(tasks, "polygon")[0]["value"]["points"] = [[1, 1], [50, 50]]

    studio(root, change)


@fault("labelstudio", "a label that data.toml does not name", "unknown-class", remedy=None)
def _(root, made):
    (root / "data.toml").write_text('classes = ["background", "road", "car"]\n')


@fault("labelstudio", "a CVAT file beside", "unusable", remedy=None)
def _(root, made):
    (root / "annotations.xml").write_text(
        '<?xml version="1.0"?><annotations><version>1.1</version><meta/><image id="0" name="a.jpg" width="10" height="10">'
        '<polygon label="car" points="1,1;9,1;9,9" z_order="0"/></image></annotations>'
    )


@fault("supervisely", "a class that meta.json does not list", "unknown-class", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "polygon").update(classTitle="bus"))


@fault("supervisely", "meta.json lost", "unusable", remedy=None)
def _(root, made):
    (root / "meta.json").unlink()


@fault("supervisely", "meta.json cut short", "unusable unreadable", remedy=None)
def _(root, made):
    cut(root / "meta.json")


@fault("supervisely", "bitmap that is no base64", "bad-shape", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "bitmap")["bitmap"].update(data="!!!not base64!!!"))


@fault("supervisely", "bitmap that is no PNG", "bad-shape", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "bitmap")["bitmap"].update(data=base64.b64encode(zlib.compress(b"hello")).decode()))


@fault("supervisely", "bitmap of 2 GB of zeros", "bad-shape", remedy=None)
def _(root, made):
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(2048)) + packer.flush()
    sly(root, lambda d: first(d, "bitmap")["bitmap"].update(data=base64.b64encode(data).decode()))


@fault("supervisely", "bitmap wholly outside", "bad-shape no-area outside-picture", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "bitmap")["bitmap"].update(origin=[5000, 5000]))


@fault("supervisely", "NaN among the points", "bad-shape", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "polygon")["points"]["exterior"].__setitem__(0, [float("nan"), 2]))


@fault("supervisely", "an annotation cut short", "unreadable truncated", remedy=None)
def _(root, made):
    cut(sorted(root.rglob("*.jpg.json"))[1])


@fault("supervisely", "an annotation of 0 bytes", "empty-file unreadable", remedy=None)
def _(root, made):
    sorted(root.rglob("*.jpg.json"))[1].write_bytes(b"")


@fault("supervisely", "objects missing", "bad-shape unreadable", remedy=None)
def _(root, made):
    sly(root, lambda d: d.pop("objects"))


@fault("supervisely", "no objects", "constant-mask", remedy=None)
def _(root, made):
    sly(root, lambda d: d["objects"].clear())


@fault("supervisely", "a list where an object belongs", "bad-shape unreadable", remedy=None)
def _(root, made):
    sorted(root.rglob("*.jpg.json"))[1].write_text("[1, 2, 3]")


@fault("supervisely", "a polygon with two points", "bad-shape no-area", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "polygon")["points"].update(exterior=[[1, 1], [50, 50]]))


@fault("supervisely", "points and lines among polygons", "no-area", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "polygon").update(geometryType="line"))


@fault("supervisely", "classes that differ in case only", "similar-classes", remedy=None)
def _(root, made):
    meta = json.loads((root / "meta.json").read_text())
    meta["classes"].append({**meta["classes"][2], "title": "Car", "id": 9})
    (root / "meta.json").write_text(json.dumps(meta))
    for index in range(12):
        sly(
            root,
            lambda d: [o.update(classTitle="Car") for o in d["objects"] if o["classTitle"] == "car"][:0],
            index if index % 2 else 0,
        )


@fault("supervisely", "a geometry nobody knows", "bad-shape no-area", remedy=None)
def _(root, made):
    sly(root, lambda d: first(d, "polygon").update(geometryType="hologram"))
