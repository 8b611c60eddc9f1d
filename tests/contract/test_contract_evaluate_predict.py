"""Sections 5 and 6 of the interface: honest numbers and label maps, and that the two agree to the pixel."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import contract_tools as tools
import numpy as np
import pytest
from contract_tools import CLASSES, assert_user_error, call, pairs, read, save, scene, spawn, toml
from PIL import Image


@pytest.fixture(scope="module")
def evaluated(model, shapes, tmp_path_factory) -> tuple[dict, list[dict]]:
    """evaluate --json on val, and the rows of --per-image."""
    table = tmp_path_factory.mktemp("evaluated") / "images.csv"
    answer = call("evaluate", model, shapes, "--split", "val", "--json", "--per-image", table, "--precision", "fp32")
    assert answer.rc == 0, str(answer)
    with table.open(encoding="utf-8", newline="") as lines:
        return answer.json(), list(csv.DictReader(lines))


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text("utf-8").splitlines()]


def maps_in(out: Path) -> set[str]:
    return {file.relative_to(out).as_posix() for file in out.rglob("*.png") if not file.name.endswith(".overlay.png")}


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_the_scores_of_evaluate_are_those_of_the_label_maps(evaluated, predicted, shapes):
    counted = [(read(mask), read(predicted / mask.name)) for mask in sorted((shapes / "val/masks").glob("*.png"))]
    assert len(counted) == 4
    matrix = tools.confusion_from(counted, len(CLASSES))
    assert (matrix.sum(axis=0) > 0).sum() >= 2, "the test needs a network that finds something"
    found, _ = evaluated
    assert found["confusion"] == matrix.tolist()
    assert found["pixels"] == int(matrix.sum())
    assert found["images"] == 4


def test_evaluate_json_has_all_keys_and_they_follow_from_the_confusion(evaluated):
    found, _ = evaluated
    assert set(found) >= tools.EVALUATE_KEYS
    matrix = np.array(found["confusion"], dtype=float)
    hit, target, guess = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    union = target + guess - hit
    iou = [hit[i] / union[i] if union[i] else None for i in range(3)]
    accuracy = [hit[i] / target[i] if target[i] else None for i in range(3)]
    dice = [2 * hit[i] / (target[i] + guess[i]) if union[i] else None for i in range(3)]

    def mean(values: list) -> float:
        kept = [v for v in values if v is not None]
        return sum(kept) / len(kept)

    assert found["pixel_accuracy"] == pytest.approx(hit.sum() / target.sum(), abs=1e-9)
    assert found["mean_accuracy"] == pytest.approx(mean(accuracy), abs=1e-9)
    assert found["mean_iou"] == pytest.approx(mean(iou), abs=1e-9)
    weighted = sum(target[i] * iou[i] for i in range(3) if target[i]) / target.sum()
    assert found["freq_weighted_iou"] == pytest.approx(weighted, abs=1e-9)
    for i, entry in enumerate(found["classes"]):
        assert set(entry) >= {"index", "name", "iou", "dice", "accuracy", "pixels"}
        assert (entry["index"], entry["name"], entry["pixels"]) == (i, CLASSES[i], int(target[i]))
        assert entry["iou"] == (pytest.approx(iou[i], abs=1e-9) if iou[i] is not None else None)
        assert entry["dice"] == (pytest.approx(dice[i], abs=1e-9) if dice[i] is not None else None)
        assert entry["accuracy"] == (pytest.approx(accuracy[i], abs=1e-9) if accuracy[i] is not None else None)
    assert found["mean_iou_interval"] is None  # of four images
    assert found["baseline"]["pixel_accuracy"] == pytest.approx(target.max() / target.sum(), abs=1e-9)
    assert found["baseline"]["mean_iou"] == pytest.approx(target.max() / target.sum() / (target > 0).sum(), abs=1e-9)
    assert found["failed"] in ([], 0)
    assert found["seconds"] > 0
    assert found["precision"] == "fp32"
    assert isinstance(found["policy"], str)
    assert isinstance(found["engine"], str)


def test_classes_that_differ_are_reported(model, shapes, tmp_path):
    data = pairs(tmp_path / "data", 6, 'classes = ["background", "disc", "lorry"]\n')
    assert_user_error(call("evaluate", model, data), "lorry", "box")
    toml(data, 'classes = ["background", "disc", "box", "lorry"]\n')
    assert_user_error(call("evaluate", model, data), "lorry")


def test_training_images_are_never_scored_as_val(tmp_path):
    data, run = pairs(tmp_path / "data", 10), tmp_path / "run"
    assert call("train", data, "-o", run, *tools.QUICK).rc == 0
    model, table = run / "model.safetensors", tmp_path / "table.csv"

    def scored(split: str) -> set[str]:
        answer = call("evaluate", model, data, "--split", split, "--per-image", table)
        assert answer.rc == 0, str(answer)
        with table.open(encoding="utf-8", newline="") as file:
            return {Path(row["image"]).stem for row in csv.DictReader(file)}

    train, val = scored("train"), scored("val")
    assert train
    assert val
    assert not train & val
    (data / f"images/{sorted(val)[0]}.png").unlink()
    (data / f"masks/{sorted(val)[0]}.png").unlink()
    for i in range(10, 30):
        image, mask = scene(i)
        save(image, data / f"images/p{i}.png")
        save(mask, data / f"masks/p{i}.png")
    assert not scored("val") & train


# --- predict ---------------------------------------------------------------------------------------------------------


def test_label_maps_are_indexed_pngs_of_the_image_s_size_with_the_model_s_palette(predicted, shapes):
    assert maps_in(predicted) == {"odd.png", "p00.png", "p01.png", "turned.png"}
    for name, size in (("p00", (64, 48)), ("odd", (47, 33)), ("turned", (40, 64))):
        with Image.open(predicted / f"{name}.png") as image:
            assert image.mode == "P"
            assert image.size == size
            assert image.getpalette()[:9] == [value for color in tools.PALETTE for value in color]
            assert set(np.unique(np.asarray(image))) <= {0, 1, 2}


def test_summary_and_predictions_list_the_results(predicted, shapes):
    with (predicted / "summary.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = ("odd", "p00", "p01", "turned")
    assert sorted((Path(row["image"]).stem, CLASSES.index(row["class"])) for row in rows) == [
        (name, index) for name in names for index in range(3)
    ]
    for row in rows:
        labels = read(predicted / f"{Path(row['image']).stem}.png")
        count = int((labels == CLASSES.index(row["class"])).sum())
        assert int(row["pixels"]) == count
        assert float(row["share"]) == pytest.approx(count / labels.size, abs=1e-4)
    records = lines_of(predicted)
    assert len(records) == 4
    for record in records:
        assert set(record) >= {"input", "output", "status", "reason"}
        assert "\\" not in record["input"] + record["output"]
        assert Path(record["output"]).name in maps_in(predicted)
    assert len({record["status"] for record in records}) == 1


def nested(folder: Path) -> Path:
    for i, name in enumerate(("x/a.png", "x/b.jpg", "y/z/a.png")):
        save(scene(i)[0], folder / name)
    (folder / "x/notes.txt").write_text("not an image", "utf-8")
    return folder


def test_paths_are_mirrored_from_the_folder_the_glob_or_the_file(model, tmp_path):
    photos = nested(tmp_path / "photos")
    for arguments, expected in (
        ([photos], {"x/a.png", "x/b.png", "y/z/a.png"}),
        ([f"{photos}/*/*.png"], {"x/a.png"}),
        ([f"{photos}/**/*.png"], {"x/a.png", "y/z/a.png"}),
        ([f"{photos}/x/*"], {"a.png", "b.png"}),
        ([photos / "y/z/a.png"], {"a.png"}),
        ([photos / "x", photos / "y"], {"a.png", "b.png", "z/a.png"}),
    ):
        out = tmp_path / "out"
        answer = call("predict", model, *arguments, "-o", out)
        assert answer.rc == 0, str(answer)  # a glob skips files that are not images
        assert maps_in(out) == expected, arguments
        shutil.rmtree(out)


@pytest.mark.parametrize("given", ["folder", "file"])
def test_an_output_never_overwrites_an_input(model, tmp_path, given):
    photos = nested(tmp_path / "photos")
    before = tools.snapshot(photos)
    what, out = (photos, photos) if given == "folder" else (photos / "x/a.png", photos / "x")
    assert_user_error(call("predict", model, what, "-o", out), r"a\.png")
    assert tools.snapshot(photos) == before


def test_overlays_and_probabilities_come_beside_the_label_map(model, shapes, tmp_path):
    out = tmp_path / "out"
    answer = call("predict", model, shapes / "val/images", "-o", out, "--overlay", "--probabilities")
    assert answer.rc == 0, str(answer)
    for name, (width, height) in (("odd", (47, 33)), ("turned", (40, 64))):
        with Image.open(out / f"{name}.overlay.png") as image:
            assert image.height > height  # the legend is below
            assert image.width >= width
        with np.load(out / f"{name}.npz") as archive:
            p = archive["probabilities"]
        assert p.dtype == np.float16
        assert p.shape == (3, height, width)
        np.testing.assert_allclose(p.astype(float).sum(axis=0), 1, atol=3e-3)
        labels = read(out / f"{name}.png")
        picked = np.take_along_axis(p, labels[None].astype(int), axis=0)[0]
        assert (picked >= p.max(axis=0) - np.float16(2e-3)).all()


def test_a_list_of_paths_is_read_from_stdin(model, shapes, tmp_path):
    paths = [(shapes / f"val/images/{name}").as_posix() for name in ("odd.png", "turned.jpg")]
    text = "\n".join(paths) + "\n"
    answer = call("predict", model, "--list", "-", "-o", tmp_path / "out", stdin=text.encode())
    assert answer.rc == 0, str(answer)
    assert {Path(name).name for name in maps_in(tmp_path / "out")} == {"odd.png", "turned.png"}


def test_tiles_give_the_label_map_of_the_whole_image(model, tmp_path):
    image = scene(9, 200, 150)[0]
    save(image, tmp_path / "large.png")
    maps = {}
    for tile in ("none", "auto", "32", "40"):
        out = tmp_path / f"tile-{tile}"
        answer = call("predict", model, tmp_path / "large.png", "-o", out, "--tile", tile, "--precision", "fp32")
        assert answer.rc == 0, str(answer)
        maps[tile] = read(out / "large.png")
    for tile, labels in maps.items():
        assert labels.shape == (200, 150)
        assert (labels != maps["none"]).mean() <= 1e-3, tile


@pytest.mark.parametrize("where", ["a-file", "below-a-file"])
def test_an_output_folder_that_cannot_be_created_is_reported_before_any_work(model, shapes, tmp_path, where):
    (tmp_path / "taken").write_text("here", "utf-8")
    out = tmp_path / ("taken" if where == "a-file" else "taken/out")
    assert_user_error(call("predict", model, shapes / "val/images", "-o", out), "taken")
    assert_user_error(call("train", shapes, "-o", out, *tools.QUICK), "taken")
    assert (tmp_path / "taken").read_text("utf-8") == "here"


def test_a_full_disk_leaves_no_partial_files(model, shapes, tmp_path):
    limited = tools.file_size_limit()
    out = tmp_path / "out"
    answer = spawn("predict", model, shapes / "val/images", "-o", out, limit=limited(60))
    assert answer.rc == 2, str(answer)
    assert "Traceback" not in answer.text
    for file in out.rglob("*.png"):
        read(file)  # whole, or not there
    assert not list(out.rglob("*.png"))
    assert any(word in answer.text.lower() for word in ("too large", "space", "written", "write")), str(answer)
