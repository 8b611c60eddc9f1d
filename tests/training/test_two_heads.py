"""A net of two heads from data to label maps, through every command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from fullconv.cli import main
from fullconv.data.loader import Batch
from fullconv.labels import VOID, read_label_map
from fullconv.metrics import confusion_matrix
from fullconv.modelfile import read_card
from fullconv.recipe import parse_recipe
from fullconv.training import train
from fullconv.training.setup import build_criteria
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep
from synthetic.shapes import draw, save_image, save_mask

HEADS = ("semantic", "geometric")
TOML = """
[heads.semantic]
classes = ["ground", "disc", "box"]
[heads.geometric]
classes = ["flat", "solid"]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Data and a short run of the narrow SIFT Flow net; not to be changed."""
    root = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(1)
    for number in range(6):
        image, mask = draw(rng, (30, 40), 3)
        folder = root / "data" / ("train" if number < 4 else "val")
        save_image(image, folder / "images" / f"p{number}.png")
        save_mask(mask, folder / "masks_semantic" / f"p{number}.png")
        solid = np.where(mask == VOID, VOID, mask > 0).astype(np.uint8)
        save_mask(solid, folder / "masks_geometric" / f"p{number}.png")
    (root / "data" / "data.toml").write_text(TOML, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_CACHE", str(root / "cache"))
        train(root / "data", root / "run", variant="siftflow-fcn16s", weights="none", width=1 / 32, steps=4, crop="whole",
              batch_size=2, lr=1e-3, precision="fp32", workers=0, augment="none")  # fmt: skip
    return root / "data", root / "run"


def test_card_has_both_heads_and_their_scores(trained):
    card = read_card(trained[1] / "model.safetensors")
    assert card.heads is not None
    assert {head: labels.classes for head, labels in card.heads.items()} == {
        "semantic": ("ground", "disc", "box"), "geometric": ("flat", "solid"),
    }  # fmt: skip
    assert card.classes == ("ground", "disc", "box")
    assert {head: len(scores["classes"]) for head, scores in card.scores["val"]["heads"].items()} == {
        "semantic": 3, "geometric": 2
    }  # fmt: skip


def test_log_has_the_scores_of_all_heads(trained):
    line = json.loads((trained[1] / "metrics.jsonl").read_text().splitlines()[-1])
    val = line["val"]
    assert val["head"] == "semantic"
    assert set(val["heads"]) == set(HEADS)
    mean = sum(val["heads"][head]["mean_iou"] for head in HEADS) / 2
    assert val["mean_iou_over_heads"] == pytest.approx(mean)
    page = (trained[1] / "report.html").read_text(encoding="utf-8")
    assert '<section id="heads">' in page
    assert "<h3>geometric</h3>" in page


def test_label_maps_have_the_scores_of_evaluate(trained, tmp_path, capsys):
    data, run = trained
    assert main(["evaluate", str(run), str(data), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert (both["head"], set(both["heads"])) == ("semantic", set(HEADS))
    assert main(["predict", str(run), str(data / "val" / "images"), "-o", str(tmp_path), "--overlay"]) == 0
    capsys.readouterr()
    for head in HEADS:
        assert main(["evaluate", str(run), str(data), "--head", head, "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert alone["head"] == head
        assert alone["confusion"] == both["heads"][head]["confusion"]
        pairs = [(path, tmp_path / f"{path.stem}.{head}.png") for path in (data / "val" / f"masks_{head}").iterdir()]
        counted = sum(confusion_matrix(*map(read_label_map, pair), len(alone["classes"])) for pair in pairs)
        assert counted.tolist() == alone["confusion"]


def test_predict_one_head(trained, tmp_path, capsys):
    data, run = trained
    command = ["predict", str(run), str(data / "val/images"), "-o"]
    assert main([*command, str(tmp_path / "one"), "--head", "geometric"]) == 0
    assert main([*command, str(tmp_path / "both")]) == 0
    one, both = (np.asarray(Image.open(tmp_path / name)) for name in ("one/p4.png", "both/p4.geometric.png"))
    assert (one == both).all()
    assert main([*command, str(tmp_path / "no"), "--head", "geo"]) == 2
    assert "this model has no head 'geo', it has semantic, geometric" in capsys.readouterr().err


def test_per_image_rows_have_the_head(trained, tmp_path):
    data, run = trained
    assert main(["evaluate", str(run), str(data), "--per-image", str(tmp_path / "rows.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert list(rows[0]) == ["image", "head", "class", "tp", "fp", "fn"]
    assert len(rows) == 2 * (3 + 2)


def test_void_in_one_head_trains_the_other(trained, tmp_path):
    """With the first head's masks all void, its score layer gets no gradient; the other's does."""
    data, run = trained
    segmenter, dataset = fullconv.load(run), fullconv.open_dataset(data)
    recipe = parse_recipe({
        "loss": "cross_entropy", "optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0,
        "class_weights": "none",
    })  # fmt: skip
    train_step = TrainStep(recipe, segmenter.card, build_criteria(recipe, dataset)[0], torch.device("cpu"), "fp32")
    state = new_state(segmenter.network, recipe)
    before = {name: value.clone() for name, value in segmenter.network.state_dict().items()}
    images = torch.from_numpy(dataset.read_image(dataset.samples("train")[0]))[None]
    masks = {"semantic": torch.full((1, 30, 40), VOID, dtype=torch.uint8), "geometric": torch.ones(1, 30, 40).byte()}
    assert train_step.step(state, [Batch(images, masks, ["p0"], 0)], 10) > 0
    after = segmenter.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("head.semantic") for name in moved)
    assert {"head.geometric.score.32.weight", "head.geometric.score.16.weight"} <= moved
    assert any(name.startswith("backbone") for name in moved)


def test_python_label_maps_by_head(trained):
    data, run = trained
    maps = fullconv.load(run).predict(data / "val" / "images" / "p4.png").label_maps
    assert {head: label_map.shape for head, label_map in maps.items()} == dict.fromkeys(HEADS, (30, 40))
    report = fullconv.evaluate(fullconv.load(run), data, head="geometric")
    assert (report.head, report.names) == ("geometric", ("flat", "solid"))
