"""Label maps as annotations: painted back exactly, or within the tolerance, through our own readers of the tools' files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fullconv import open_dataset
from fullconv.cli import main
from fullconv.data.formats.rasterize import rasterize_polygon
from fullconv.labels import VOID
from model_files import small_segmenter

pytest.importorskip("rasterio")

from fullconv.annotations import TOOLS, outlines, simplify, write_annotations
from fullconv.card import Labels
from synthetic.images import write_noise

LABELS = Labels(classes=("ground", "disc & co", "böx"), palette=((0, 0, 0), (200, 30, 30), (30, 30, 200)))

maps = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


def painted(found, shape, background=0):
    label_map = np.full(shape, background, np.uint8)
    for outline in found:
        top, left, inside = rasterize_polygon([outline.points], *shape)
        label_map[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = outline.index
    return label_map


def scene(height=90, width=120):
    """Discs, a ring with an island in it, a diagonal stripe, specks, and something at each border."""
    y, x = np.mgrid[:height, :width]
    label_map = np.zeros((height, width), np.uint8)
    label_map[(y - 40) ** 2 + (x - 45) ** 2 < 33**2] = 1
    label_map[(y - 40) ** 2 + (x - 45) ** 2 < 22**2] = 0
    label_map[(y - 40) ** 2 + (x - 45) ** 2 < 10**2] = 2
    label_map[np.abs(y - x + 40) < 4] = 2
    label_map[80:, :30] = 1
    label_map[3:6, 110:] = 1
    label_map[60, 100] = 2
    return label_map


def near_a_border(label_map, radius):
    """Pixels within a distance of another class."""
    near = np.zeros(label_map.shape, bool)
    padded = np.pad(label_map.astype(int), radius, mode="edge")
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            moved = padded[radius + dy :, radius + dx :][: label_map.shape[0], : label_map.shape[1]]
            near |= moved != label_map
    return near


@settings(max_examples=80)
@given(maps, st.sampled_from([0, None]))
def test_without_tolerance_the_outlines_paint_the_label_map_itself(label_map, background):
    found = outlines(label_map, 0, background)
    assert np.array_equal(painted(found, label_map.shape), label_map)


def test_within_a_tolerance_only_pixels_at_borders_may_change():
    label_map = scene()
    exact = outlines(label_map, 0)
    for tolerance in (1.0, 2.0):
        found = outlines(label_map, tolerance)
        changed = painted(found, label_map.shape) != label_map
        assert not changed[~near_a_border(label_map, int(tolerance) + 1)].any()
        assert sum(len(o.points) for o in found) < 0.5 * sum(len(o.points) for o in exact)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=20, unique=True), st.floats(0, 4)
)
def test_no_point_of_a_line_is_farther_than_the_tolerance_from_the_simple_one(points, tolerance):
    ring = np.array(points, float)
    simple = simplify(ring, tolerance)
    assert {tuple(p) for p in simple} <= {tuple(p) for p in ring}
    starts, ends = simple, np.roll(simple, -1, axis=0)
    for point in ring:
        along = ends - starts
        share = np.clip(((point - starts) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12), 0, 1)
        assert np.linalg.norm(point - (starts + share[:, None] * along), axis=1).min() <= tolerance + 1e-9


def test_void_is_left_unlabelled():
    label_map = np.full((6, 6), VOID, np.uint8)
    label_map[2:4, 2:4] = 1
    assert [o.index for o in outlines(label_map)] == [1]


def results(folder, maps_by_name, labels=LABELS):
    """A folder of results as `predict` leaves it, and the pictures."""
    (folder / "photos" / "inner").mkdir(parents=True)
    (folder / "out" / "inner").mkdir(parents=True)
    rows = []
    for name, label_map in maps_by_name.items():
        picture = folder / "photos" / f"{name}.jpg"
        Image.new("RGB", label_map.shape[::-1], (90, 120, 50)).save(picture)
        image = Image.fromarray(label_map)
        image.save(folder / "out" / f"{name}.png")
        rows.append({"input": str(picture), "output": (folder / "out" / f"{name}.png").as_posix(), "status": "done"})
    rows.append({"input": "bad.jpg", "output": None, "status": "failed", "reason": "x"})
    log = folder / "out" / "predictions.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "out", log


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("tolerance", "first"), [(0, "background"), (1, "background"), (0, "ground")])
def test_our_readers_read_back_what_was_predicted(tool, tolerance, first, tmp_path):
    given_maps = {"a": scene(), "inner/b c": scene()[::-1, ::-1].copy(), "plain": np.zeros((20, 30), np.uint8)}
    given_maps["a"][0, 0], given_maps["plain"][5:9, 4:20] = 1, 2
    out, log = results(tmp_path, given_maps)
    written = write_annotations(
        tool, out, log, LABELS.model_copy(update={"classes": (first, *LABELS.classes[1:])}), tolerance
    )
    data = tmp_path / "data"
    shutil.copytree(tmp_path / "photos", data)
    if tool == "labelme":
        for path in out.rglob("*.json"):
            shutil.copy(path, data / path.relative_to(out))
    elif tool == "labelstudio":  # as it exports them once somebody has accepted the predictions
        tasks = json.loads(written.read_text(encoding="utf-8"))
        for number, task in enumerate(tasks):
            task |= {"id": number, "annotations": [{"result": task.pop("predictions")[0]["result"]}]}
        (data / written.name).write_text(json.dumps(tasks))
    else:
        shutil.copy(written, data)
    shutil.copy(out / "data.toml", data)
    dataset = open_dataset(data)
    assert list(dataset.classes) == [first, "disc & co", "böx"]  # as the model has them
    assert not [problem for problem in dataset.problems if problem.code == "path-mended"]
    samples = [sample for split in dataset.splits.values() for sample in split]
    assert len(samples) == 3
    for sample in samples:
        wanted = given_maps[next(name for name in given_maps if sample.image.as_posix().endswith(f"{name}.jpg"))]
        found = dataset.read_mask(sample)
        # CVAT and Label Studio count from edges, COCO's rasteriser and LabelMe's draw the outline too.
        slack = tolerance if tool in ("cvat", "labelstudio") else tolerance + 1
        allowed = near_a_border(wanted, slack + 1) if slack else np.zeros(wanted.shape, bool)
        assert not (found != wanted)[~allowed].any()
        assert (found == wanted).mean() > 0.9


def test_an_existing_data_toml_is_left_alone(tmp_path):
    out, log = results(tmp_path, {"a": scene()})
    (out / "data.toml").write_text("unlabeled = 'void'\n")
    write_annotations("coco", out, log, LABELS, 1)
    assert (out / "data.toml").read_text() == "unlabeled = 'void'\n"


def test_tasks_that_were_not_submitted_are_no_labels(tmp_path, capsys):
    out, log = results(tmp_path, {"a": scene()})
    shutil.copy(write_annotations("labelstudio", out, log, LABELS, 1), tmp_path / "photos")
    assert main(["check", str(tmp_path / "photos")]) == 2
    assert "no task has a submitted annotation" in " ".join(capsys.readouterr().out.split())


def test_the_command_writes_annotations_for_a_tool(tmp_path, capsys):
    model = tmp_path / "model.safetensors"
    small_segmenter(LABELS.classes).save(model)
    for n in range(2):
        write_noise(tmp_path / "in" / f"{n}.png", (40, 50))
    out = tmp_path / "out"
    assert (
        main(["predict", str(model), str(tmp_path / "in"), "-o", str(out), "--to", "coco", "--tolerance", "0.5"]) == 0
    )
    table = json.loads((out / "annotations.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in table["images"]] == ["0.png", "1.png"]
    assert [category["name"] for category in table["categories"]] == list(LABELS.classes)
    assert all(len(a["segmentation"][0]) >= 6 for a in table["annotations"])
    assert "within 0.5 px" in capsys.readouterr().err
    other = ["predict", str(model), str(tmp_path / "in"), "-o", str(tmp_path / "o2")]
    assert main([*other, "--to", "cvta"]) == 2
    assert "Did you mean 'cvat'" in capsys.readouterr().err
    assert not (tmp_path / "o2").exists()
    assert main([*other, "--to", "cvat", "--format", "grey"]) == 2
    assert "omit --format grey" in capsys.readouterr().err


def test_images_of_one_stem_keep_a_labelme_file_each(tmp_path):
    out, log = results(tmp_path, {"a": scene(), "b": scene()})
    Image.fromarray(np.full((9, 8), 2, np.uint8)).save(out / "a.png.png")
    row = {"input": "photos/a.png", "output": (out / "a.png.png").as_posix(), "status": "done"}
    (out / "a.png").rename(out / "a.jpg.png")
    log.write_text(log.read_text().replace("out/a.png", "out/a.jpg.png") + json.dumps(row) + "\n")
    write_annotations("labelme", out, log, LABELS, 0)
    shown = {path.name: json.loads(path.read_text(encoding="utf-8"))["imagePath"] for path in out.glob("*.json")}
    assert shown == {"a.jpg.json": "a.jpg", "a.png.json": "a.png", "b.json": "b.jpg"}
