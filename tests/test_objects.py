"""Public objects pickle, copy, and cross into a spawned process with the same answers; their reprs fit a line."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from engine_nets import NETS, net
from fullconv.data import Dataset, open_dataset
from fullconv.evaluation import Comparison, Report, compare, evaluate
from fullconv.exports import export_model
from fullconv.nn import Network, scores_by_head
from fullconv.prediction import Prediction
from fullconv.segmenter import Segmenter, load
from model_files import small_segmenter, two_headed_segmenter
from synthetic.exports import FORMATS, Scene
from synthetic.shapes import draw, make_shapes, names

IMAGE = draw(np.random.default_rng(0), (50, 61), 3)[0]
CLASSES = tuple(names(4))
MAX_REPR = 160
"""Characters of a repr, besides a path's."""


class TimmUnet(nn.Module):
    """A user's network on a backbone of timm."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.encoder = timm.create_model(backbone, features_only=True, pretrained=False, out_indices=(1, 2))
        self.score = nn.ModuleList(nn.Conv2d(count, 4, 1) for count in self.encoder.feature_info.channels())

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        maps = [score(feature) for score, feature in zip(self.score, features, strict=True)]
        return sum(nn.functional.interpolate(each, x.shape[-2:], mode="bilinear") for each in maps)


class TorchvisionFCN(nn.Module):
    """torchvision's FCN, whose logits are in a dict."""

    def __init__(self) -> None:
        super().__init__()
        build = torchvision.models.segmentation.fcn_resnet50
        self.body = build(weights=None, weights_backbone=None, num_classes=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)["out"]


def wrapped(module: nn.Module) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter.from_network(module, CLASSES, device="cpu", precision="fp32")


def exported(folder: Path, kind: str, suffix: str) -> Segmenter:
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch"}[kind])
    export_model(small_segmenter(CLASSES), folder / f"model{suffix}", kind)
    return load(folder / f"model{suffix}")


SEGMENTERS: dict[str, Callable[[Path], Segmenter]] = {
    "one head": lambda folder: small_segmenter(CLASSES),
    "two heads": lambda folder: two_headed_segmenter(),
    "options": lambda folder: small_segmenter(CLASSES).with_options(tta="flip,0.5", memory=10**9, scale=0.5),
    "a sequential module": lambda folder: wrapped(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())),
    "timm's resnet": lambda folder: wrapped(TimmUnet("resnet18")),
    "timm's gates": lambda folder: wrapped(TimmUnet("mobilenetv3_small_050")),
    "torchvision's": lambda folder: wrapped(TorchvisionFCN()),
    "onnx": lambda folder: exported(folder, "onnx", ".onnx"),
    "openvino": lambda folder: exported(folder, "openvino", ".xml"),
    "pt2": lambda folder: exported(folder, "pt2", ".pt2"),
}


def describe(thing: Any) -> Any:
    """What an object answers, as plain values; called in this process and in a spawned one."""
    if isinstance(thing, Segmenter):
        return describe(thing.predict(IMAGE, probabilities=True))
    if isinstance(thing, Prediction):
        maps = [thing.label_maps[head].tolist() for head in thing.label_maps]
        return maps, thing.confidence.round(4).tolist(), thing.classes, [one.code for one in thing.notices]
    if isinstance(thing, Report):
        return thing.to_dict(), thing.scores_by_image(), thing.notes
    if isinstance(thing, Comparison):
        return thing.to_dict()
    if isinstance(thing, Dataset):
        read = {
            s.stem: [part.tolist() for part in (thing.read_image(s), thing.read_mask(s))] for s in thing.samples("all")
        }
        return read, thing.classes, thing.fingerprint()
    assert isinstance(thing, Network)
    x = torch.linspace(-1, 1, thing.in_channels * 33 * 41).reshape(1, thing.in_channels, 33, 41)
    with torch.inference_mode():
        return {head: logits.argmax(1).tolist() for head, logits in scores_by_head(thing(x)).items()}, thing.halo


@pytest.fixture(scope="module")
def spawned() -> Iterator[Callable[[Any], Any]]:
    """Calls `describe` with a copy of an object in a spawned process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield lambda thing: pool.submit(describe, thing).result()


def check_copies(thing: Any, spawned: Callable[[Any], Any]) -> None:
    expected = describe(thing)
    for again in (pickle.loads(pickle.dumps(thing)), copy.deepcopy(thing)):
        assert type(again) is type(thing)
        assert describe(again) == expected
        assert repr(again) == repr(thing)
    assert spawned(thing) == expected


def check_repr(thing: Any) -> str:
    text = repr(thing)
    assert "\n" not in text
    assert len(text) <= MAX_REPR
    assert text.startswith(type(thing).__name__ + "(")
    return text


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_a_segmenter_and_its_predictions_cross_a_process_boundary(kind, spawned, tmp_path):
    segmenter = SEGMENTERS[kind](tmp_path)
    check_copies(segmenter, spawned)
    prediction = segmenter.predict(IMAGE)
    check_copies(prediction, spawned)
    _ = prediction.confidence  # cached values do not stand in the way
    check_copies(prediction, spawned)
    check_repr(segmenter)
    check_repr(prediction)
    check_repr(segmenter.card)


@pytest.mark.parametrize("kind", NETS)
def test_a_network_crosses_a_process_boundary(kind, spawned):
    expected = describe(network := net(kind)[0])
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert describe(again) == expected
    assert spawned(network) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_a_data_set_of_any_format_crosses_a_process_boundary(kind, spawned, tmp_path):
    FORMATS[kind](Scene.make(0, 5, 24, 30), tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    check_copies(dataset, spawned)
    assert len(repr(dataset)) <= MAX_REPR + len(str(tmp_path))
    for sample in dataset.samples("all"):
        assert "\n" not in repr(sample)
        assert len(repr(sample)) <= 5 * (MAX_REPR + len(str(tmp_path)))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Segmenter, Dataset, Report]:
    folder = tmp_path_factory.mktemp("scored") / "data"
    segmenter = small_segmenter(CLASSES)
    dataset = open_dataset(make_shapes(folder, "camvid", images=8, size=(32, 40), classes=4))
    return segmenter, dataset, evaluate(segmenter, dataset)


def test_reports_and_comparisons_cross_a_process_boundary(results, spawned):
    segmenter, dataset, report = results
    check_copies(report, spawned)
    comparison = compare(segmenter, small_segmenter(CLASSES, seed=1), dataset)
    check_copies(comparison, spawned)
    check_repr(report)
    assert "\n" not in repr(comparison)


def test_reprs_state_what_one_wants_to_know(results):
    segmenter, dataset, report = results
    assert check_repr(segmenter) == f"Segmenter(fcn8s on tiny, 4 classes; torch {segmenter.engine.precision} on cpu)"
    assert check_repr(segmenter.card) == "Card(fcn8s on tiny, 4 classes, 3 channels)"
    assert repr(dataset) == f"Dataset('{dataset.root}': camvid, 4 classes; 6 train, 2 val)"
    assert check_repr(report) == f"Report(val: 2 images, mIoU {report.mean_iou:.4f})"
    assert check_repr(two_headed_segmenter().card) == "Card(fcn8s on tiny, sort 3, state 2 classes, 3 channels)"
    many = small_segmenter([f"class number {index}" for index in range(150)])
    prediction = many.predict(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))
    prediction.label_maps[""][:] = np.arange(6400).reshape(80, 80) % 150
    assert repr(prediction).endswith(", 144 more)")
    assert len(repr(prediction)) < 250


@pytest.mark.slow  # mypy reads the whole package
def test_a_network_s_call_is_typed(tmp_path):
    """A type checker knows what a network returns, also of one that a segmenter wraps."""
    code = """
import torch
import fullconv
from fullconv.nn import ModuleWrapper

network = fullconv.build("fcn8s", num_classes=3)
reveal_type(network(torch.zeros(1, 3, 8, 8)))
reveal_type(network.scores(torch.zeros(1, 3, 8, 8)))
reveal_type(ModuleWrapper(torch.nn.Identity(), 3, 3)(torch.zeros(1, 3, 8, 8)))
reveal_type(fullconv.load("model.safetensors").predict("a.png").label_map)
reveal_type(fullconv.evaluate("model.safetensors", "data").mean_iou)
reveal_type(fullconv.open_dataset("data").splits)
"""
    (tmp_path / "snippet.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", str(tmp_path / "snippet.py")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    revealed = [line.split('Revealed type is "')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert len(revealed) == 6, done.stdout
    for line in revealed[:3]:
        assert "Tensor" in line
        assert "dict[" in line
        assert "Any" not in line
    assert not [line for line in revealed if line == 'Any"'], revealed
