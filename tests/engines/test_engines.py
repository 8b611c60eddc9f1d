"""Every engine gives the scores that PyTorch gives in fp32, whatever the network and the size of the picture."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from engine_nets import NETS, QUICK, flat, maker, net, noise
from fullconv.engines._optional import _quota, cores, threads
from fullconv.engines.autotune import EngineFactory
from fullconv.engines.engine import MIN_BF16_SIDE
from fullconv.errors import NetworkError, RecipeError
from fullconv.segmenter import Segmenter
from fullconv.storage import cache_folder
from model_files import small_segmenter

SIZES = [(1, 1, 1), (1, 31, 33), (2, 70, 20), (1, 64, 64), (1, 130, 97)]
FP32 = 1e-5
BF16 = 5e-2
"""Of the largest score: bf16 keeps 8 bits, and a network is some tens of layers."""
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in NETS]
OTHERS = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("torch", "bf16")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", OTHERS, ids=" ".join)
def test_an_engine_gives_the_scores_of_pytorch(kind, choice):
    network, card = net(kind)
    plain, other = maker(kind).engine(("torch", "fp32")), maker(kind).engine(choice)
    assert (other.name, other.precision) == choice
    for size in SIZES:
        images = noise(*size, card.in_channels)
        wanted, got = plain.scores(images), other.scores(images)
        assert list(got) == list(wanted)
        wanted, got = flat(wanted), flat(got)
        assert got.dtype == np.float32
        assert got.shape == wanted.shape
        apart = np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-9)  # a pixel may score nothing
        # bf16 is kept from pictures whose maps would be one cell wide; networks that pad to 64 have none
        exact = choice[1] == "fp32" or max(min(size[1:]), network.min_size) < MIN_BF16_SIDE
        assert apart < (FP32 if exact else BF16), (size, apart)
        assert exact or apart > FP32, "this is not bf16"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_pictures_of_floats_and_of_bytes_are_the_same_pictures(name):
    engine = maker("skip").engine((name, "fp32"))
    images = noise(1, 40, 50, 3)
    assert np.array_equal(flat(engine.scores(images)), flat(engine.scores(images.astype(np.float32))))


@pytest.mark.parametrize("choice", OTHERS, ids=" ".join)
def test_a_batch_changes_no_bit_outside_pytorch(choice):
    engine, images = maker("skip").engine(choice), noise(3, 40, 50, 3)
    alone = np.concatenate([flat(engine.scores(image[None])) for image in images])
    together = flat(engine.scores(images))
    if choice[0] == "torch":
        assert np.abs(alone - together).max() / np.abs(alone).max() < BF16
    else:
        assert np.array_equal(alone, together)


def segmenter(kind: str, engine: str, precision: str = "fp32") -> Segmenter:
    """A segmenter on an existing engine."""
    return Segmenter(*net(kind), device="cpu", engine=maker(kind).engine((engine, precision)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", QUICK)
def test_tiles_are_the_whole_and_the_labels_are_pytorchs(kind, name):
    picture = noise(1, 150, 170, 3)[0]
    plain, other = segmenter(kind, "torch"), segmenter(kind, name)
    whole, tiles = other.logits(picture), other.logits(picture, tile=64)
    np.testing.assert_allclose(tiles, whole, atol=FP32 * np.abs(whole).max())
    np.testing.assert_allclose(whole, plain.logits(picture), atol=FP32 * np.abs(whole).max())
    assert (other.predict(picture).label_map != plain.predict(picture).label_map).mean() < 1e-3


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
def test_segmenters_and_predictions_pickle_and_copy(name, duplicate):
    image, first = noise(1, 40, 50, 3)[0], segmenter("skip", name)
    prediction = first.predict(image)
    assert np.array_equal(duplicate(first).predict(image).label_map, prediction.label_map)
    again = duplicate(prediction)
    assert np.array_equal(again.label_map, prediction.label_map)
    np.testing.assert_allclose(again.confidence, prediction.confidence, atol=1e-5)
    assert len(pickle.dumps(prediction)) < len(pickle.dumps(first)) / 2, "a prediction carries no weights"


def test_probabilities_of_several_engines_are_averaged():
    image, engine = noise(1, 40, 50, 3)[0], maker("skip").engine(("torch", "fp32"))

    class Sharper:
        name, precision = "torch", "fp32"

        def for_size(self, height, width):
            return self

        def scores(self, images):
            return {head: 3 * values for head, values in engine.scores(images).items()}

    single = [Segmenter(*net("skip"), device="cpu", engine=each) for each in (engine, Sharper())]
    both = Segmenter(*net("skip"), device="cpu", engine=[engine, Sharper()])
    expected = np.mean([each.predict(image, probabilities=True).probabilities for each in single], axis=0)
    for tile in ("none", 32):
        found = both.predict(image, probabilities=True, tile=tile)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("engine", "precision", "words"),
    [
        ("tensorrt", "auto", "there is no engine 'tensorrt' here: use torch, openvino, onnxruntime or auto"),
        ("opnvino", "auto", "Did you mean 'openvino'"),
        ("auto", "fp8", "there is no precision 'fp8' here: use auto, fp32, bf16 or int8"),
        ("auto", "int8", "precision int8 needs images for calibration: write a file with `fullconv export"),
        ("onnxruntime", "bf16", "ONNX Runtime has no bf16 convolutions for CPUs: use fp32"),
    ],
)
def test_what_cannot_be_asked_for_is_told(engine, precision, words):
    with pytest.raises(RecipeError, match=words):
        Segmenter(*net("skip"), device="cpu", precision=precision, engine=engine)


class Undecided(torch.nn.Module):
    """What it computes depends on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.layer(x) if x.mean() > 0 else self.layer(-x)


def test_a_network_that_no_graph_can_hold_is_told_so():
    made = Segmenter.from_network(Undecided(), ["a", "b"], device="cpu")
    assert made.engine.name == "torch"
    with pytest.raises(NetworkError, match=r"custom cannot be turned into a graph: .* Use --engine torch"):
        Segmenter(made.network, made.card, device="cpu", precision="fp32", engine="onnxruntime")


def test_a_network_from_outside_of_any_number_of_channels_can_use_another_engine():
    module = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
    plain = Segmenter.from_network(module, ["a", "b"], device="cpu")
    other = Segmenter(plain.network, plain.card, device="auto", precision="fp32", engine="onnxruntime")
    assert (other.engine.name, other.engine.precision, other.device.type) == ("onnxruntime", "fp32", "cpu")
    assert other.engine.for_size(10, 10) is other.engine
    image = noise(1, 13, 1, 5)[0]
    np.testing.assert_allclose(other.logits(image), plain.logits(image), atol=1e-5)


def test_threads_are_no_more_than_the_cores_that_one_has(tmp_path):
    limit = tmp_path / "cpu.max"
    for text, count in (("150000 100000\n", 2), ("400000 100000\n", 4), ("50000 100000\n", 1)):
        limit.write_text(text)
        assert _quota(limit) == count
    limit.write_text("max 100000\n")
    assert _quota(limit) == _quota(tmp_path / "none") > 1000
    assert 1 <= threads() <= cores()


@pytest.mark.slow
def test_openvino_reports_nothing_to_anybody():
    code = """
import socket, sys
def never(*a, **k): raise SystemExit("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = never
from fullconv.engines._optional import import_optional
import_optional("openvino", "this"), import_optional("nncf", "this")
assert sys.modules["openvino_telemetry"] is None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_what_was_compiled_is_imported_by_later_engines_with_equal_bits_and_a_damaged_file_is_written_anew():
    pytest.importorskip("openvino")
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)

    def scores() -> np.ndarray:
        model = small_segmenter(precision="fp32")
        return (
            EngineFactory(model.network, model.card, torch.device("cpu"))
            .engine(("openvino", "fp32"))
            .scores(image[None])[""]
        )

    first = scores()
    (path,) = (cache_folder() / "engines").glob("*.openvino")
    whole = path.read_bytes()
    written = path.stat().st_mtime_ns
    for onnx in (cache_folder() / "engines").glob("*.onnx"):
        onnx.unlink()  # nothing else is needed
    assert np.array_equal(scores(), first)
    assert not list((cache_folder() / "engines").glob("*.onnx"))
    assert path.read_bytes() == whole
    for damaged in (whole[: len(whole) // 2], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], b"", b"xxxxxxxx"):
        path.write_bytes(damaged)
        assert np.array_equal(scores(), first)
        assert path.read_bytes()[:-4] != damaged[:-4]
    assert path.stat().st_mtime_ns > written
