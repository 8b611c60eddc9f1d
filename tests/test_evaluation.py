"""Evaluation with a stand-in that labels by the image, against loops over pixels."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fullconv.card import Card
from fullconv.data import inspect, open_dataset
from fullconv.data.dataset import choose_samples
from fullconv.data.problems import errors
from fullconv.errors import DataError, InputError, OutputError
from fullconv.evaluation import Report, evaluate
from fullconv.intervals import bootstrap_interval, paired_difference
from fullconv.metrics import confusion_matrix, mean_iou

CLASSES = ("ground", "disc", "box", "never")
SIZES = [(9, 14), (12, 8), (7, 7)]


class Stand:
    """A model whose label of a pixel is its first channel, divided by 10."""

    def __init__(self, classes=CLASSES, **card):
        self.card = Card(variant="custom", classes=classes, **card)
        self.engine = SimpleNamespace(name="stand-in", precision="fp32")
        self.seen = []

    def read(self, image, name):
        return image

    def predict(self, image, *, head=None):
        pixels = getattr(image, "values", image)
        self.seen.append((pixels.shape, head))
        return SimpleNamespace(notices=(), label_map=pixels[..., 0] // 10)


def mask_and_prediction(number, seed=0):
    random = np.random.default_rng(seed + number)
    size = SIZES[number % len(SIZES)]
    mask = random.choice(np.array([0, 0, 1, 1, 2, 255], np.uint8), size)
    prediction = np.where(random.random(size) < 0.8, mask % 255, random.integers(0, 3, size)).astype(np.uint8)
    return mask, prediction


def write_data(root: Path, number=5, classes=CLASSES, splits=("train", "val")):
    for split in splits:
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for n in range(number):
            mask, prediction = mask_and_prediction(n, seed=100 * splits.index(split))
            image = np.dstack([prediction * 10, prediction * 0, prediction * 0 + 7])
            Image.fromarray(image).save(root / split / "images" / f"{split}{n}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{split}{n}.png")
    (root / "data.toml").write_text(f"classes = {json.dumps(classes)}\n", encoding="utf-8")
    return root


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


def expected_confusion(number=5, seed=100):
    return sum(confusion_matrix(*mask_and_prediction(n, seed), len(CLASSES)) for n in range(number))


# values


def test_confusion_of_all_images_at_their_own_sizes(data):
    segmenter = Stand()
    report = evaluate(segmenter, data)
    np.testing.assert_array_equal(report.confusion, expected_confusion())
    assert [shape for shape, _ in segmenter.seen] == [(*SIZES[n % 3], 3) for n in range(5)]
    assert report.images == 5
    assert report.pixels == sum((mask_and_prediction(n, 100)[0] != 255).sum() for n in range(5))
    assert report.mean_iou == mean_iou(expected_confusion())
    assert (report.engine, report.precision, report.split, report.policy) == ("stand-in", "fp32", "val", "nan")
    assert report.seconds > 0


def test_splits(data):
    assert evaluate(Stand(), data, "all").images == 10
    np.testing.assert_array_equal(evaluate(Stand(), data, split="train").confusion, expected_confusion(seed=0))


def test_samples(data):
    dataset = open_dataset(data)
    report = evaluate(Stand(), dataset, samples=dataset.splits["val"][:2])
    np.testing.assert_array_equal(report.confusion, expected_confusion(2))
    assert list(report.per_image) == [sample.stem for sample in dataset.splits["val"][:2]]


def test_order_of_images_does_not_change_scores(data):
    dataset = open_dataset(data)
    ways = [dataset.splits["val"], dataset.splits["val"][::-1]]
    one, other = (evaluate(Stand(), dataset, samples=way) for way in ways)
    np.testing.assert_array_equal(one.confusion, other.confusion)


def test_json_keys_and_nulls(data):
    table = json.loads(json.dumps(evaluate(Stand(), data).to_dict(), allow_nan=False))
    assert list(table) == [
        "images", "pixels", "pixel_accuracy", "mean_accuracy", "mean_iou", "freq_weighted_iou", "classes",
        "mean_iou_interval", "baseline", "confusion", "policy", "engine", "precision", "warnings", "failed", "seconds",
    ]  # fmt: skip
    assert list(table["classes"][0]) == ["index", "name", "iou", "dice", "accuracy", "pixels"]
    assert [row["name"] for row in table["classes"]] == list(CLASSES)
    matrix = expected_confusion()
    both, hits = matrix.sum(0) + matrix.sum(1), matrix.diagonal()
    assert [row["pixels"] for row in table["classes"]] == matrix.sum(1).tolist()
    for k, row in enumerate(table["classes"][:3]):
        scores = [hits[k] / (both[k] - hits[k]), 2 * hits[k] / both[k], hits[k] / matrix[k].sum()]
        np.testing.assert_allclose([row["iou"], row["dice"], row["accuracy"]], scores)
    assert list(table["classes"][3].values()) == [3, "never", None, None, None, 0]
    assert table["mean_iou_interval"] is None  # of five images
    assert table["warnings"] == []
    assert table["confusion"] == expected_confusion().tolist()
    assert table["failed"] == []


def test_class_that_is_only_predicted(data):
    path = data / "val" / "images" / "val0.png"
    image = np.asarray(Image.open(path)).copy()
    image[mask_and_prediction(0, 100)[0] != 255] = 30  # the class "never"
    Image.fromarray(image).save(path)
    report, present = (evaluate(Stand(), data, policy=policy) for policy in ("nan", "present_only"))
    row = report.to_dict()["classes"][3]
    assert (row["iou"], row["dice"], row["accuracy"], row["pixels"]) == (0, 0, None, 0)
    np.testing.assert_allclose(4 * report.mean_iou, 3 * present.mean_iou)
    assert present.to_dict()["policy"] == "present_only"


def test_interval_is_the_bootstrap_over_images(data):
    report = evaluate(Stand(), data)
    matrices = np.stack([confusion_matrix(*mask_and_prediction(n, 100), len(CLASSES)) for n in range(5)])
    assert report.mean_iou_interval is None
    assert report.no_interval == "a 95 % interval needs 20 images or more, these are 5"
    many = Report(
        CLASSES, 6 * report.confusion, {f"{stem}{n}": c for stem, c in report.per_image.items() for n in range(6)}
    )
    assert many.mean_iou_interval == bootstrap_interval(
        np.concatenate([matrices[i : i + 1].repeat(6, 0) for i in range(5)])
    )
    assert many.no_interval is None
    assert f"{many.mean_iou:.4f}" in str(many)
    assert "(95 % interval" in str(many)
    assert report.class_intervals().shape == (4, 2)
    assert paired_difference(report.counts, matrices) == (0, 0, 0)


def test_one_image_has_no_interval(data):
    dataset = open_dataset(data)
    report = evaluate(Stand(), dataset, samples=dataset.splits["val"][:1])
    assert report.mean_iou_interval is None
    assert report.to_dict()["mean_iou_interval"] is None
    assert "(a 95 % interval needs 20 images or more, these are 1)" in str(report)


def test_the_baseline_is_the_best_constant_prediction(data):
    report = evaluate(Stand(), data)
    matrix = expected_confusion()
    target = matrix.sum(1)
    scores = []
    for k in range(len(CLASSES)):  # every constant prediction, by hand
        constant = np.zeros_like(matrix)
        constant[:, k] = target
        scores.append((mean_iou(constant), target[k] / target.sum()))
    best = max(range(len(CLASSES)), key=lambda k: scores[k])
    assert report.baseline["class"] == CLASSES[best]
    np.testing.assert_allclose([report.baseline["mean_iou"], report.baseline["pixel_accuracy"]], scores[best])
    assert report.below_baseline is None
    lines = str(report).splitlines()
    assert lines[0].startswith("5 images of val, ")
    assert lines[1].startswith(f"mIoU               {report.mean_iou:.4f}  (constant {scores[best][0]:.4f})")


def test_a_model_that_is_no_better_than_a_constant_is_said_to_be():
    confusion = np.array([[80, 10], [10, 0]])
    report = Report(("sky", "road"), confusion, {}, split="test")
    assert report.below_baseline == (
        "The model is no better than a constant: its mIoU on test is 0.4000, and labelling every pixel 'sky' gives 0.4500."
    )
    assert [warning["code"] for warning in report.to_dict()["warnings"]] == ["below-baseline"]
    assert Report(("sky", "road"), np.array([[80, 10], [4, 6]]), {}).below_baseline is None


def test_void_only_is_null():
    report = Report(CLASSES, np.zeros((4, 4), np.int64), {})
    table = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [table[key] for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "freq_weighted_iou")] == [None] * 4
    assert (table["images"], table["pixels"], table["mean_iou_interval"]) == (0, 0, None)
    assert report.counts.hits.shape == (0, 4)
    assert math.isnan(report.mean_iou)
    assert str(report).splitlines()[1].startswith("mIoU                    -  (constant      -)")


def test_scores_by_image(data):
    for stem, score in evaluate(Stand(), data).scores_by_image().items():
        mask, prediction = mask_and_prediction(int(stem[-1]), 100)
        assert score == mean_iou(confusion_matrix(mask, prediction, len(CLASSES)))


def test_report_as_text(data):
    report = evaluate(Stand(), data)
    assert f"mIoU               {report.mean_iou:.4f}  (constant" in str(report)
    row = report.classes[1]
    figures = [f"{row[key]:.4f}" for key in ("iou", "dice", "accuracy")]
    assert str(report).splitlines()[-3].split() == ["disc", *figures, str(row["pixels"])]
    assert str(report).splitlines()[-1].split() == ["never", "-", "-", "-", "0"]


def test_band_counts_pixels_near_edges(data, tmp_path):
    blocks = np.kron(np.array([[0, 1], [2, 0]], np.uint8), np.ones((10, 10), np.uint8))
    Image.fromarray(blocks).save(data / "val" / "masks" / "val0.png")
    Image.fromarray(np.dstack([blocks * 10] * 3)).save(data / "val" / "images" / "val0.png")
    dataset = open_dataset(data)
    report = evaluate(Stand(), dataset, samples=dataset.splits["val"][:1], band=2)
    assert report.pixels == 20 * 20 - 4 * 8 * 8


def test_progress_after_every_image(data):
    calls = []
    evaluate(Stand(), data, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]


def test_head_is_checked_against_its_classes(data):
    heads = {"semantic": {"classes": CLASSES}, "other": {"classes": ("a", "b")}}
    segmenter = Stand(heads=heads)
    evaluate(segmenter, data, head="semantic")
    assert {head for _, head in segmenter.seen} == {"semantic"}
    with pytest.raises(DataError, match=r"only in the model: a, b; only in the data: ground"):
        evaluate(segmenter, data, head="other")


# files


def test_csv_rows_add_up(data, tmp_path):
    report = evaluate(Stand(), data)
    report.save_per_image(tmp_path / "scores" / "all.csv")
    with (tmp_path / "scores" / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "class", "tp", "fp", "fn"]
    assert len(rows) == 5 * 4
    mask, prediction = mask_and_prediction(1, 100)
    (row,) = (r for r in rows if r["image"] == "val1" and r["class"] == "disc")
    valid = mask != 255
    is_disc, predicted_disc = valid & (mask == 1), valid & (prediction == 1)
    expected = [(is_disc & predicted_disc).sum(), (predicted_disc & ~is_disc).sum(), (is_disc & ~predicted_disc).sum()]
    assert expected[1] != expected[2]
    assert [int(row[key]) for key in ("tp", "fp", "fn")] == expected
    total = {key: sum(int(r[key]) for r in rows if r["class"] == "disc") for key in ("tp", "fp", "fn")}
    assert total["tp"] / sum(total.values()) == report.classes[1]["iou"]
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["all.csv"]


def test_unwritable_csv_is_reported(data, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"folder\.csv: cannot be written"):
        evaluate(Stand(), data).save_per_image(tmp_path / "folder.csv")


# what goes wrong


# classes are names


def store_classes(root: Path, order, stored: str):
    """Store the masks of `write_data` with the classes in another order; returns the folder."""
    number = [order.index(name) for name in CLASSES]
    table = np.arange(256, dtype=np.uint8)
    table[: len(CLASSES)] = number
    lines = [f"classes = {json.dumps(order)}"]
    if stored == "values":
        table[: len(CLASSES)] = [10 + 3 * k for k in number]
        lines.append("values = {" + ", ".join(f'{10 + 3 * k} = "{name}"' for k, name in enumerate(order)) + "}")
    colors = {name: (40 * k, 200 - 40 * k, 7) for k, name in enumerate(CLASSES)}
    for path in root.glob("*/masks/*.png"):
        mask = np.asarray(Image.open(path))
        if stored == "colors":
            painted = np.full((*mask.shape, 3), 255, np.uint8)
            for k, name in enumerate(CLASSES):
                painted[mask == k] = colors[name]
            Image.fromarray(painted).save(path)
        else:
            Image.fromarray(table[mask]).save(path)
    if stored == "colors":
        pairs = [f'"#{r:02x}{g:02x}{b:02x}" = "{name}"' for name, (r, g, b) in colors.items()]
        lines.append("colors = {" + ", ".join([*pairs, '"#ffffff" = "void"']) + "}")
    (root / "data.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("stored", ["index", "values", "colors"])
@pytest.mark.parametrize("order", [("never", "box", "disc", "ground"), ("disc", "ground", "never", "box")])
def test_classes_in_another_order_are_matched_by_name(data, tmp_path, order, stored):
    right = evaluate(Stand(), data)
    assert right.notes == []
    other = store_classes(write_data(tmp_path / "other"), order, stored)
    report = evaluate(Stand(), other)
    assert report.names == CLASSES
    np.testing.assert_array_equal(report.confusion, right.confusion)
    assert report.classes == right.classes
    assert report.notes == [f"classes are matched by name: the data have them in another order ({', '.join(order)})"]


def test_a_bad_label_of_reordered_classes_is_explained_by_the_data_s_own_settings(data):
    store_classes(data, ("box", "ground", "disc", "never"), "index")
    Image.fromarray(np.full((9, 14), 9, np.uint8)).save(data / "val" / "masks" / "val0.png")
    with pytest.raises(DataError, match=r"val0\.png: label 9 is neither a class \(0 to 3\) nor void"):
        evaluate(Stand(), data)


def test_names_of_classes_that_differ_are_listed_for_both_sides(data):
    with pytest.raises(DataError, match=r"differ: only in the model: road; only in the data: never\."):
        evaluate(Stand(classes=("ground", "disc", "box", "road")), data)
    with pytest.raises(DataError, match=r"differ: only in the model: none; only in the data: never\."):
        evaluate(Stand(classes=CLASSES[:3]), data)


def apply_fix(root: Path, message: str):
    """Edit data.toml exactly as a message says."""
    before = (root / "data.toml").read_text(encoding="utf-8").splitlines()
    edits = [line for line in message.splitlines()[1:] if " = " in line]
    keys = [line.split(" = ")[0] for line in edits]
    kept = [line for line in before if line.split(" = ")[0] not in keys]
    (root / "data.toml").write_text("\n".join([*kept, *edits]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("stored", ["index", "values", "colors"])
@pytest.mark.parametrize("order", [CLASSES, ("box", "never", "ground", "disc")])
def test_the_printed_lines_match_the_classes_that_both_have(data, order, stored):
    store_classes(data, order, stored)
    model = ("ground", "sea", "disc", "box")  # without "never", which no pixel has
    with pytest.raises(DataError) as caught:
        evaluate(Stand(classes=model), data)
    assert "With these lines, never is void and not scored." in str(caught.value)
    apply_fix(data, str(caught.value))
    assert not errors(inspect(data))
    dataset = open_dataset(data)
    assert dataset.classes == model
    for sample in dataset.samples("val"):
        expected, _ = mask_and_prediction(int(sample.stem[3:]), 100)
        named = np.array([model.index(name) if name in model else 255 for name in CLASSES] + [255] * 252, np.uint8)
        np.testing.assert_array_equal(dataset.read_mask(sample), named[expected])


def test_names_that_differ_in_case_only_are_matched_by_the_printed_lines(data):
    right = evaluate(Stand(), data)
    (data / "data.toml").write_text('classes = ["Ground", "Disc", "Box", "Never"]\n', encoding="utf-8")
    with pytest.raises(DataError, match="only in the data: Ground, Disc, Box, Never") as caught:
        evaluate(Stand(), data)
    apply_fix(data, str(caught.value))
    np.testing.assert_array_equal(evaluate(Stand(), data).confusion, right.confusion)


def test_no_line_is_printed_where_names_say_nothing(data):
    for text in ('classes = ["a", "b", "c", "d"]\n', ""):
        (data / "data.toml").write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            evaluate(Stand(), data)
        assert "\n" not in str(caught.value)
        assert " = " not in str(caught.value)


@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_the_order_of_a_tool_makes_no_difference(tmp_path, tool):
    (tmp_path / "data").mkdir()
    names = ("zebra", "ape") if tool == "labelme" else ("ape", "zebra")  # by the alphabet, by ids
    boxes = {"zebra": (1, 1, 3, 9), "ape": (5, 2, 12, 9)}
    images = []
    for n in range(4):
        Image.fromarray(np.full((12, 14, 3), 10 * (n % 2), np.uint8)).save(tmp_path / "data" / f"a{n}.png")
        images.append({"id": n, "file_name": f"a{n}.png", "height": 12, "width": 14})
        shapes = [
            {"label": name, "shape_type": "polygon", "points": [[x, y], [u, y], [u, v], [x, v]], "group_id": None}
            for name, (x, y, u, v) in boxes.items()
        ]
        if tool == "labelme":
            about = {"shapes": shapes, "imagePath": f"a{n}.png", "imageHeight": 12, "imageWidth": 14, "imageData": None}
            (tmp_path / "data" / f"a{n}.json").write_text(json.dumps(about), encoding="utf-8")
    if tool == "coco":
        rows = [
            {"id": len(boxes) * n + k, "image_id": n, "category_id": 4 + k, "iscrowd": 0, "bbox": [x, y, u - x, v - y],
             "area": (u - x) * (v - y), "segmentation": [[x, y, u, y, u, v, x, v]]}
            for n in range(4) for k, (x, y, u, v) in enumerate(boxes.values())
        ]  # fmt: skip
        table = [{"id": 4 + k, "name": name} for k, name in enumerate(boxes)]
        text = json.dumps({"images": images, "annotations": rows, "categories": table})
        (tmp_path / "data" / "annotations.json").write_text(text, encoding="utf-8")
    dataset = open_dataset(tmp_path / "data")
    model = ("background", *names)
    assert dataset.classes == ("background", *names[::-1])
    report = evaluate(Stand(classes=model), dataset, "all")
    rows = {row["name"]: row["pixels"] for row in report.classes}
    for name, (x, y, u, v) in boxes.items():  # LabelMe's outlines count
        assert (v - y) * (u - x) <= rows[name] / 4 <= (v - y + 1) * (u - x + 1)
    with pytest.raises(DataError, match="only in the model: fish; only in the data: none") as caught:
        evaluate(Stand(classes=(*model, "fish")), dataset, "all")
    (tmp_path / "data" / "data.toml").write_text("", encoding="utf-8")
    apply_fix(tmp_path / "data", str(caught.value))
    again = evaluate(Stand(classes=(*model, "fish")), tmp_path / "data", "all")
    assert {row["name"]: row["pixels"] for row in again.classes} == {**rows, "fish": 0}


def test_size_mismatch_is_reported(data):
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(data / "val" / "masks" / "val1.png")
    message = r"val1\.png: mask and prediction of 'val1' differ in size: 5x3 and 8x12 pixels"
    with pytest.raises(DataError, match=message):
        evaluate(Stand(), data)


def test_bad_image_raises_or_is_recorded(data):
    (data / "val" / "images" / "val3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"val3\.png"):
        evaluate(Stand(), data)
    report = evaluate(Stand(), data, on_error="record")
    assert report.images == 4
    assert [Path(row["input"]).name for row in report.failed] == ["val3.png"]
    assert "val3.png" in report.to_dict()["failed"][0]["reason"]
    others = sum(confusion_matrix(*mask_and_prediction(n, 100), len(CLASSES)) for n in (0, 1, 2, 4))
    np.testing.assert_array_equal(report.confusion, others)


def test_all_images_failed(data):
    for path in (data / "val" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 5 images could be scored\. The first: .*val0\.png"):
        evaluate(Stand(), data, on_error="record")


def test_bug_in_the_model_propagates(data):
    segmenter = Stand()
    segmenter.predict = lambda image, *, head=None: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(segmenter, data, on_error="record")


def test_unknown_split_or_policy(data):
    with pytest.raises(DataError, match=r"no split 'vall'"):
        evaluate(Stand(), data, split="vall")
    with pytest.raises(InputError, match=r"no policy 'nann'.*Did you mean 'nan'"):
        evaluate(Stand(), data, policy="nann")


# whose split


def test_training_images_are_not_scored_as_val(data):
    dataset = open_dataset(data)
    stems = [sample.stem for sample in dataset.samples("all")]
    folds = {"train": stems[::2], "val": stems[1::2]}
    report = evaluate(Stand(data={"splits": folds}), dataset)
    assert sorted(report.per_image) == sorted(folds["val"])
    (note,) = report.notes
    assert note.startswith("split 'val' is that of the model's training (5 ")
    assert evaluate(Stand(data={"splits": folds}), dataset, split="all").images == 10


def test_a_model_of_the_same_split_or_of_other_data_uses_the_split_of_the_data(data):
    dataset = open_dataset(data)
    own = {split: [s.stem for s in members] for split, members in dataset.splits.items()}
    elsewhere = {"train": [*own["val"], "elsewhere"], "val": own["train"]}
    few = {"train": ["val0", "val1"], "val": ["train0"]}
    for splits in (own, elsewhere, few, None):
        card = Card(variant="custom", classes=CLASSES, data={"splits": splits} if splits else {})
        assert choose_samples(dataset, card, "val") == (dataset.splits["val"], [])


def test_a_picture_added_since_the_training_stays_in_the_split_of_the_data(tmp_path):
    dataset = open_dataset(write_data(tmp_path / "data", number=10))
    stems = [sample.stem for sample in dataset.samples("all")]
    folds = {"train": stems[0:20:2], "val": stems[1:19:2]}  # val9 is new
    card = Card(variant="custom", classes=CLASSES, data={"splits": folds})
    chosen, _ = choose_samples(dataset, card, "val")
    assert {sample.stem for sample in chosen} == {*folds["val"], "val9"}
