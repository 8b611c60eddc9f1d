"""What "auto" chooses: once, the same for every command, and a lower precision only where the card allows it."""

from __future__ import annotations

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from engine_nets import flat, maker, net, noise
from fullconv.data import open_dataset
from fullconv.engines import AutoEngine, autotune, graph
from fullconv.engines.autotune import SIDES, TuningCache, fastest, precision_allowed, size_class
from fullconv.errors import RecipeError
from fullconv.evaluation import evaluate
from fullconv.labels import read_label_map
from fullconv.metrics import confusion_matrix
from fullconv.nn import build
from fullconv.predict import PredictJob, predict_files
from fullconv.segmenter import Segmenter
from synthetic.shapes import make_shapes, names

ALLOWED = {"bf16": {"labels": 0.998, "mean_iou_difference": -0.0007, "pictures": 32}}


@pytest.fixture
def trials(monkeypatch):
    """Every picture is worth a trial."""
    monkeypatch.setattr(autotune, "MIN_MACS", 0)
    monkeypatch.setattr(autotune, "BENCHMARK_S", 0.01)


def cache() -> Path:
    """The folder of the test that runs."""
    return Path(os.environ["FULLCONV_CACHE"])


def made(precision: str = "auto", engine: str = "auto", **card) -> Segmenter:
    network, plain = net("skip")
    segmenter = Segmenter(network, plain.model_copy(update=card), device="cpu", precision=precision, engine=engine)
    if isinstance(segmenter.engine, AutoEngine):
        segmenter.engine.factory._onnx = maker("skip").onnx()  # translated once for all tests
    return segmenter


def answers() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((cache() / "engines").glob("*.json"))]


@pytest.mark.parametrize(
    ("labels", "apart", "allowed"),
    [(0.995, 0.002, True), (0.995, -0.002, True), (0.9949, 0, False), (1, 0.0021, False), (1, None, False)],
)
def test_a_card_allows_bf16_from_a_measured_agreement_on(labels, apart, allowed):
    card = net("skip")[1].model_copy(update={"agreement": {"bf16": {"labels": labels, "mean_iou_difference": apart}}})
    assert precision_allowed(card, "bf16") is allowed
    assert precision_allowed(net("skip")[1], "bf16") is False


@pytest.mark.slow
def test_without_a_measured_agreement_only_fp32_is_tried():
    for agreement, precisions in (({}, {"fp32"}), (ALLOWED, {"fp32", "bf16"})):
        engine = made(agreement=agreement).engine
        assert isinstance(engine, AutoEngine)
        assert {precision for _, precision in engine.candidates} == precisions
        assert engine.candidates[0] == ("torch", "fp32")
    assert {name for name, _ in made("bf16").engine.candidates} == {"torch", "openvino"}
    assert made(engine="openvino", agreement=ALLOWED).engine.candidates == [("openvino", "fp32"), ("openvino", "bf16")]


def test_what_is_quick_is_not_tried(tmp_path):
    engine = made(agreement=ALLOWED).engine
    assert (engine.name, engine.precision) == ("auto", "auto")
    assert (engine.for_size(64, 96).name, engine.for_size(64, 96).precision) == ("torch", "fp32")
    assert (engine.name, engine.precision) == ("torch", "fp32")
    assert answers() == []


def test_multiplications_are_those_of_the_convolutions():
    network = build("fcn32s", backbone="tiny", num_classes=2, width=0.25)
    with FlopCounterMode(display=False) as counter:
        network.scores(torch.zeros(1, 3, 64, 96))
    assert network.trace.macs_per_pixel == pytest.approx(counter.get_total_flops() / 2 / (64 * 96))


def test_a_trial_is_remembered_and_told(trials, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "fullconv"):
        first = made(agreement=ALLOWED)
        chosen = first.engine.for_size(40, 50)
    (answer,) = answers()
    assert (answer["engine"], answer["precision"]) == (chosen.name, chosen.precision)
    tried = {"torch fp32", "torch bf16", "openvino fp32", "openvino bf16", "onnxruntime fp32"}
    assert set(answer["seconds"]) == tried
    assert answer["side"] == 64
    assert f"engine: {chosen.name} {chosen.precision} for images of up to 64x64 pixels" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "fullconv"):
        again = made(agreement=ALLOWED).engine.for_size(64, 64)
    assert (again.name, again.precision) == (chosen.name, chosen.precision)
    assert caplog.text == ""


def rewrite(tmp_path, engine: str, precision: str) -> None:
    """Let the trial have ended otherwise."""
    for path in (cache() / "engines").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "engine": engine, "precision": precision}))


def test_what_was_chosen_before_holds(trials, tmp_path):
    made(agreement=ALLOWED).engine.for_size(40, 50)
    for choice in (("onnxruntime", "fp32"), ("openvino", "bf16")):
        rewrite(tmp_path, *choice)
        engine = made(agreement=ALLOWED).engine.for_size(50, 40)
        assert (engine.name, engine.precision) == choice


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"engine": "cuda", "precision": "fp4"}'])
def test_an_answer_that_cannot_be_is_asked_for_again(trials, tmp_path, text):
    made("bf16").engine.for_size(40, 50)
    (path,) = (cache() / "engines").glob("*.json")
    path.write_text(text)
    again = made("bf16").engine.for_size(40, 50)
    assert again.precision == "bf16"
    assert json.loads(path.read_text())["engine"] in ("torch", "openvino")


def test_the_question_names_all_that_the_answer_depends_on(trials, tmp_path):
    made("bf16").engine.for_size(40, 50)
    made("bf16").engine.for_size(100, 100)  # another class of sizes
    made("bf16", mean=(0.1, 0.2, 0.3)).engine.for_size(40, 50)  # another model
    found = answers()
    assert len(found) == 3
    assert {answer["side"] for answer in found} == {64, 128}
    assert len({answer["model"] for answer in found}) == 2
    assert all(answer["versions"]["torch"] == torch.__version__.split("+")[0] or answer["versions"] for answer in found)
    assert all(answer["machine"]["threads"] == 1 for answer in found)


def store(monkeypatch, identity: str) -> Path:
    """Put the translation of the network "skip" into the cache; returns its file."""
    model = maker("skip").onnx()
    with monkeypatch.context() as patch:
        patch.setattr(graph, "capture", lambda *_: None)
        patch.setattr(graph, "to_onnx", lambda *_: model)
        assert graph.export_cached(*net("skip"), identity) is model
    path = graph.cached_onnx(identity)
    assert path is not None
    return path


def test_a_translated_network_is_cached_and_a_damaged_one_translated_again(monkeypatch):
    path = store(monkeypatch, "one")
    size, network, card = path.stat().st_size, *net("skip")
    monkeypatch.setattr(graph, "capture", lambda *_: pytest.fail("it is cached"))
    assert graph.export_cached(network, card, "one").graph == maker("skip").onnx().graph
    path.write_bytes(b"cut")
    store(monkeypatch, "one")
    assert path.stat().st_size == size


def test_openvino_reads_a_translated_network_from_its_file(monkeypatch):
    network, card = net("skip")
    fresh = autotune.EngineFactory(network, card, torch.device("cpu"))
    path = store(monkeypatch, fresh.identity)
    os.utime(path, (1000, 1000))
    image = noise(1, 45, 70, 3)
    scores = fresh.engine(("openvino", "fp32")).scores(image)
    assert np.array_equal(flat(scores), flat(maker("skip").engine(("openvino", "fp32")).scores(image)))
    assert fresh._onnx is None
    assert path.stat().st_mtime > 1000, "a used file is young"


def test_a_cached_network_that_changed_is_not_used(monkeypatch):
    """A changed bit of its weights would change the labels, and nothing else."""
    path = store(monkeypatch, "bits")
    content = path.read_bytes()
    for place in (0, *np.random.default_rng(0).integers(0, len(content), 5), len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert graph.cached_onnx("bits") is None
    for changed in (b"", content[:-1], content[:20], content + b"0", maker("skip").onnx().SerializeToString()):
        path.write_bytes(changed)
        assert graph.cached_onnx("bits") is None
    path.unlink()
    assert graph.cached_onnx("bits") is None


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [lambda content: content[:-5000], lambda content: bytes(100)])
def test_openvino_writes_a_damaged_file_anew(damaged, monkeypatch, capfd):
    network, card = net("skip")
    fresh = autotune.EngineFactory(network, card, torch.device("cpu"))
    path = store(monkeypatch, fresh.identity)
    path.write_bytes(damaged(path.read_bytes()))
    image = noise(1, 45, 70, 3)
    scores = flat(fresh.engine(("openvino", "fp32")).scores(image))
    np.testing.assert_allclose(scores, flat(maker("skip").engine(("openvino", "fp32")).scores(image)), atol=1e-5)
    assert path.stat().st_size > 5000
    assert graph.cached_onnx(fresh.identity) == path
    assert capfd.readouterr().err == "", "no reader of other formats tries it"


def test_the_first_of_two_processes_decides(tmp_path):
    asked = {"what": "ever", "candidates": [["openvino", "fp32"], ["torch", "fp32"]]}
    memory = TuningCache(asked)
    assert memory.can_write()
    assert memory.store(("openvino", "fp32"), {("openvino", "fp32"): 1.0}) == ("openvino", "fp32")
    assert TuningCache(asked).store(("torch", "fp32"), {}) == ("openvino", "fp32")
    assert TuningCache({**asked, "what": "else"}).read() is None
    assert [path.suffix for path in memory.path.parent.iterdir()] == [".json"]


def test_of_many_that_try_at_the_same_time_all_go_by_one_answer(tmp_path):
    choices = [(f"engine{n}", "fp32") for n in range(8)]
    for turn in range(15):
        asked = {"turn": turn, "candidates": [list(choice) for choice in choices]}
        together = Barrier(len(choices))

        def keep(choice, asked=asked, together=together):
            memory = TuningCache(asked)
            together.wait()
            return memory.store(choice, {})

        TuningCache(asked).can_write()
        with ThreadPoolExecutor(len(choices)) as pool:
            found = set(pool.map(keep, choices))
        assert found == {TuningCache(asked).read()}


def test_what_was_decided_is_held_whatever_the_cache_says_later(trials, tmp_path):
    first = made(agreement=ALLOWED).engine
    decided = first.resolve_all()
    assert set(decided) == set(SIDES)
    chosen = [first.for_size(side, side) for side in SIDES]
    assert {(engine.name, engine.precision) for engine in chosen} == set(decided.values())
    held = made(agreement=ALLOWED).engine
    held.pin(dict.fromkeys(SIDES, ("torch", "bf16")))
    assert held.resolve_all() == dict.fromkeys(SIDES, ("torch", "bf16"))
    assert held.for_size(700, 700).precision == "bf16"
    with pytest.raises(RecipeError, match=r"engine torch in bf16 cannot be used here, only torch fp32, openvino fp32"):
        made().engine.pin({64: ("torch", "bf16")})


def test_where_nothing_can_be_kept_nothing_is_tried(trials, tmp_path, caplog):
    cache().write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO, "fullconv"):
        engine = made(agreement=ALLOWED).engine.for_size(40, 50)
    assert (engine.name, engine.precision) == ("torch", "fp32")
    assert "nothing is benchmarked" in caplog.text


def test_the_plainest_is_left_only_for_what_is_clearly_faster():
    plain = ("torch", "fp32")
    assert fastest({plain: 1.0, ("openvino", "fp32"): 0.91}, plain) == plain
    assert fastest({plain: 1.0, ("openvino", "fp32"): 0.89, ("torch", "bf16"): 0.7}, plain) == ("torch", "bf16")


def test_classes_of_sizes():
    sizes = ((1, 1), (64, 64), (64, 65), (20, 700), (360, 480), (4000, 6000))
    assert [size_class(*size) for size in sizes] == [64, 64, 128, 128, 512, 512]


@pytest.mark.parametrize("choice", [("openvino", "bf16"), ("onnxruntime", "fp32")])
def test_the_score_is_that_of_the_files_whatever_was_chosen(trials, tmp_path, choice):
    data = make_shapes(tmp_path / "data", images=8, size=(40, 50), classes=5)
    card = {"agreement": ALLOWED, "classes": tuple(names(5))}
    made(**card).engine.for_size(40, 50)
    rewrite(tmp_path, *choice)
    dataset = open_dataset(data)
    report = evaluate(made(**card), dataset, "val")
    assert (report.engine, report.precision) == choice
    job = PredictJob([str(data / "val")], tmp_path / "out", tile=32 if choice[1] == "fp32" else "auto", batch_size=2)
    predict_files(made(**card), job)
    pairs = [(s.stem, dataset.read_mask(s), tmp_path / "out" / f"{s.stem}.png") for s in dataset.splits["val"]]
    counted = sum(confusion_matrix(mask, read_label_map(path), 5) for _, mask, path in pairs)
    assert np.array_equal(counted, report.confusion)


def test_all_tiles_of_a_picture_have_its_engine(trials, tmp_path):
    """A tile of a large picture is small, and would be of another class."""
    segmenter = made(agreement=ALLOWED)
    segmenter.engine.for_size(64, 64), segmenter.engine.for_size(200, 200)
    rewrite(tmp_path, "torch", "bf16")
    for path in (cache() / "engines").glob("*.json"):
        if json.loads(path.read_text())["side"] == 256:
            path.write_text(json.dumps({**json.loads(path.read_text()), "engine": "torch", "precision": "fp32"}))
    again = made(agreement=ALLOWED)
    picture = noise(1, 200, 200, 3)[0]
    whole, tiles = again.logits(picture), again.logits(picture, tile=32)
    np.testing.assert_allclose(tiles, whole, atol=1e-5 * np.abs(whole).max())
    assert (again.engine.name, again.engine.precision) == ("torch", "fp32")


@pytest.mark.slow
def test_a_command_tells_the_choice_once(trials, tmp_path, capsys):
    from fullconv.cli import main

    network, card = net("skip")
    model = tmp_path / "m.safetensors"
    Segmenter(network, card, device="cpu").save(model)
    Image.fromarray(noise(1, 40, 50, 3)[0]).save(tmp_path / "a.png")
    for out, times in (("one", 1), ("two", 0)):
        assert main(["predict", str(model), str(tmp_path / "a.png"), "-o", str(tmp_path / out)]) == 0
        assert capsys.readouterr().err.count("engine: ") == times
    assert (tmp_path / "one" / "a.png").read_bytes() == (tmp_path / "two" / "a.png").read_bytes()


def test_what_compiles_at_its_first_picture_is_judged_by_the_next(monkeypatch):
    monkeypatch.setattr(autotune, "BENCHMARK_S", 0.01)
    calls = iter([0.3])
    assert autotune.time_calls(lambda: time.sleep(next(calls, 0.002))) < 0.1
    monkeypatch.setattr(autotune, "MAX_FIRST_IMAGE_S", 0.05)
    calls = iter([0.1, 1000.0])  # it is not waited for
    assert autotune.time_calls(lambda: time.sleep(next(calls))) >= 0.1
