"""An exported file answers as the model does, in its own runtime and in ours; one that does not is not written."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from engine_nets import NETS, card_for, flat, net, noise
from fullconv.cli import main
from fullconv.data import open_dataset
from fullconv.engines._optional import import_optional
from fullconv.engines.engine import BLANK, CHECKSUM_KEY, add_checksum, verify_checksum
from fullconv.engines.exported import read_exported
from fullconv.errors import (
    DataError,
    InputError,
    MissingExtraError,
    ModelFileError,
    NetworkError,
    OutputError,
    RecipeError,
)
from fullconv.evaluation import evaluate
from fullconv.exports import FORMATS, export_model
from fullconv.exports.formats import LabelGraph, OpenVinoExport
from fullconv.exports.parity import Parity, crop, measure_parity, synthetic_images, validation_images
from fullconv.images import read_image
from fullconv.labels import read_label_map
from fullconv.nn import build
from fullconv.segmenter import Segmenter, load
from synthetic.shapes import make_shapes, names

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
SIZES = [(1, 1), (1, 31), (33, 1), (31, 33), (70, 20), (64, 97)]
COMBINATIONS = [(name, precision) for name, (_, _, precisions) in FORMATS.items() for precision in precisions]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(*words: object) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def made(kind: str = "skip", **card) -> Segmenter:
    network, plain = net(kind)
    return Segmenter(network, plain.model_copy(update=card), device="cpu", precision="fp32", engine="torch")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("export") / "data", images=12, size=(48, 64), classes=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    made(classes=tuple(names(5))).save(path)
    return path


@pytest.fixture(scope="module")
def exported(model, data) -> tuple[Path, Ran]:
    path = model.with_name("model.onnx")
    return path, run("export", model, "--format", "onnx", "-o", path, "--data", data, "--json")


# --- the graph --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
def test_the_graph_upsamples_as_the_network_does(kind):
    """Labels may differ only where two classes are as good as equal."""
    segmenter = made(kind)
    graph = LabelGraph(*net(kind), probabilities=True).eval()
    for size in SIZES:
        images = noise(1, *size, segmenter.card.in_channels)
        found = dict(zip(graph.names, graph(torch.from_numpy(images)), strict=True))
        prediction = segmenter.predict(images[0], tile="none", probabilities=True)
        for head, label_map in prediction.label_maps.items():
            labels = found[f"labels_{head}" if head else "labels"]
            assert labels.dtype == torch.uint8
            assert labels.shape == (1, *size)
            assert (labels[0].numpy() != label_map).mean() <= 1e-3
        first = next(value for name, value in found.items() if name.startswith("probabilities"))
        np.testing.assert_allclose(first[0].detach().numpy(), prediction.probabilities, atol=1e-5)
        scores = torch.cat([value for name, value in found.items() if name.startswith("scores")], 1)
        np.testing.assert_allclose(scores.detach(), flat(segmenter.engine.scores(images)), atol=1e-5)


# --- the file -----------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_measured(exported):
    path, done = exported
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["format"], found["precision"], found["made"]) == ("onnx", "fp32", False)
    assert found["pictures"] == 3
    assert found["labels"] >= 0.9999
    assert abs(found["mean_iou_difference"]) < 1e-3
    assert set(found["sizes"]) == {"1x1", "31x31", "33x33", "700x20"}
    assert found["reasons"] == []
    card, about = read_exported(path)
    assert about["parity"] == {key: found[key] for key in about["parity"]}
    assert card.classes == tuple(names(5))


def test_any_runtime_gives_labels_of_any_batch_and_size(exported, model):
    session = onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])
    assert [(value.name, value.type) for value in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [(value.name, value.type) for value in session.get_outputs()] == [("labels", "tensor(uint8)")]
    assert json.loads(session.get_modelmeta().custom_metadata_map["fullconv"])["classes"] == names(5)
    segmenter = load(model, device="cpu", engine="torch", precision="fp32")
    for size in ((1, 1, 1), (2, 31, 33), (3, 70, 20), (1, 96, 130)):
        images = noise(*size, 3)
        (labels,) = session.run(None, {"images": images})
        wanted = np.stack([segmenter.predict(image).label_map for image in images])
        assert labels.shape == wanted.shape
        assert (labels != wanted).mean() < 1e-3


def test_an_exported_file_is_a_model_like_any(exported, model, data, tmp_path):
    file = exported[0]
    for source, out in ((model, "a"), (file, "b"), (file, "c")):
        tile = ["--tile", "32"] if out == "c" else []
        assert run("predict", source, data / "val", "-o", tmp_path / out, *tile).code == 0
    for path in (tmp_path / "a").glob("*.png"):
        maps = [read_label_map(tmp_path / folder / path.name) for folder in "abc"]
        assert all((maps[0] != other).mean() < 1e-3 for other in maps[1:])
    done = run("evaluate", file, data, "--json")
    found = json.loads(done.out)
    assert (found["engine"], found["precision"]) == ("onnxruntime", "fp32")
    plain = evaluate(load(model, device="cpu"), data, "val")
    assert found["mean_iou"] == pytest.approx(plain.mean_iou, abs=1e-3)


def test_info_tells_what_it_is(exported):
    told = json.loads(run("info", exported[0], "--json").out)
    assert told["variant"] == "fcn8s"
    assert told["export"]["precision"] == "fp32"
    assert "onnx, fp32" in run("info", exported[0]).out


def test_what_an_exported_file_cannot_do_is_reported(exported, tmp_path):
    for options, words in (
        ({"engine": "torch"}, "engine torch does not run it: use onnxruntime or openvino"),
        (
            {"precision": "bf16"},
            "in fp32, not in bf16: `fullconv export --format openvino --precision bf16` writes a file",
        ),
        ({"precision": "int8"}, "in fp32, not in int8: `fullconv export --format onnx --precision int8` writes a file"),
        ({"precision": "fp61"}, r"not in fp61: there is no such precision. Did you mean 'fp16'\? Omit --precision"),
    ):
        with pytest.raises(RecipeError, match=words):
            load(exported[0], **options)
    segmenter = load(exported[0])
    with pytest.raises(ModelFileError, match="cannot save a model that was loaded from an export"):
        segmenter.save(tmp_path / "m.safetensors")
    with pytest.raises(NetworkError, match="this model is already an export"):
        export_model(segmenter, tmp_path / "m.onnx", "onnx")


def test_onnx_files_run_in_openvino_too(exported):
    picture = noise(1, 45, 33, 3)[0]
    logits, other = load(exported[0]).logits(picture), load(exported[0], engine="openvino")
    assert other.engine.name == "openvino"
    np.testing.assert_allclose(other.logits(picture), logits, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.pt2"])
def test_files_that_are_none_are_told_so(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ModelFileError, match="there is no such model file"):
        load(path)
    path.write_bytes(b"\x00nothing of the kind")
    with pytest.raises(ModelFileError, match=r"damaged, or not an .* Export it again") as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_foreign_file_is_told_so(tmp_path):
    (tmp_path / "a.xml").write_text("<net><rt_info/></net>")
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/extra/other", "x")
    for name in ("a.xml", "a.pt2"):
        with pytest.raises(ModelFileError, match="not exported by this program: it has no fullconv card"):
            load(tmp_path / name)


def flipped(path: Path, place: int) -> bytes:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    return bytes(content)


def test_a_bit_that_changed_is_noticed(exported, tmp_path):
    path = tmp_path / "a.onnx"
    for place in np.random.default_rng(0).integers(0, exported[0].stat().st_size, 12):
        path.write_bytes(flipped(exported[0], int(place)))
        with pytest.raises(ModelFileError, match=r"a.onnx: damaged, or .* Export it again"):
            load(path)
    shutil.copy(exported[0], path)
    assert load(path).card.classes == tuple(names(5))


def test_weights_beside_an_openvino_file_belong_to_it(tmp_path, model):
    path, weights = tmp_path / "a.xml", tmp_path / "a.bin"
    root = ElementTree.Element("net")
    about = ElementTree.SubElement(root, "rt_info")
    texts = {"fullconv": load(model).card.to_json(), "fullconv_export": '{"precision": "fp32"}', CHECKSUM_KEY: BLANK}
    for key, text in texts.items():
        ElementTree.SubElement(about, key, value=text)
    path.write_bytes(add_checksum(ElementTree.tostring(root), b"weights"))
    with pytest.raises(ModelFileError, match=r"a.xml: its weights, a.bin, are not beside it. Copy both files"):
        read_exported(path)
    weights.write_bytes(b"weights")
    assert read_exported(path)[0].classes == tuple(names(5))
    with pytest.raises(ModelFileError, match=r"a.bin: holds only the weights of .*a.xml. Use that file"):
        load(weights)
    for file in (weights, path):
        whole = file.read_bytes()
        file.write_bytes(flipped(file, 5 if file == weights else whole.index(b"tiny")))
        with pytest.raises(ModelFileError, match=r"a.xml: damaged, or changed after it was exported"):
            read_exported(path)
        file.write_bytes(whole)


class Written(NamedTuple):
    """An OpenVINO model on its way to a file, small enough to be written in no time."""

    size: int

    def export(self) -> OpenVinoExport:
        ov = import_optional("openvino", "the test")
        ops = ov.opset13
        images = ops.parameter([1, self.size], ov.Type.f32, name="images")
        weights = np.random.default_rng(0).normal(size=(self.size,)).astype(np.float32)
        made = OpenVinoExport.__new__(OpenVinoExport)
        made.model = ov.Model([ops.result(ops.add(images, ops.constant(weights)))], [images], "small")
        made.precision = "fp32"
        return made


@pytest.mark.parametrize("name", ["a.xml", "A.XML", "ü a%b#.xml", "n" * 245 + ".xml"])
def test_an_openvino_file_may_have_any_name(tmp_path, name):
    path = tmp_path / "new" / name
    Written(8).export().write(path, {"fullconv": "card"})
    assert sorted(found.name for found in path.parent.iterdir()) == sorted({name, path.with_suffix(".bin").name})
    assert path.with_suffix(".bin").stat().st_size == 32
    content = path.read_bytes()
    told = ElementTree.fromstring(content).find(f"./rt_info/{CHECKSUM_KEY}").get("value")
    verify_checksum(path, told, content, path.with_suffix(".bin").read_bytes())


@pytest.mark.parametrize("limit", [1, 1000, 8192])
def test_on_a_full_disk_an_openvino_file_stays_what_it_was(tmp_path, limit):
    """The weights have 8,192 bytes, the graph more than its card of 20,000."""
    resource = pytest.importorskip("resource", reason="limits of file sizes")
    (tmp_path / "a.xml").write_bytes(b"graph")
    (tmp_path / "a.bin").write_bytes(b"weights")
    made = Written(2048).export()
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[0][1]))
    try:
        message = r"a.xml: (OpenVINO cannot write it. Check the free disk space|cannot be)"
        with pytest.raises(OutputError, match=message):
            made.write(tmp_path / "a.xml", {"fullconv": "card" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {"a.xml": b"graph", "a.bin": b"weights"}


# --- the documentation --------------------------------------------------------------------------------------------------


def code(language: str, word: str) -> str:
    (found,) = [
        text for text in re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
        if word in text
    ]  # fmt: skip
    assert len([line for line in found.splitlines() if line.strip()]) <= 12
    return found


@pytest.mark.parametrize(
    ("format_", "word"),
    [("onnx", "onnxruntime"), pytest.param("openvino", "openvino", marks=pytest.mark.slow),
     pytest.param("pt2", "torch.export", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_python_of_the_page_runs(request, model, tmp_path, monkeypatch, format_, word):
    image = noise(1, 50, 61, 3)[0]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image).save("street.png")
    if format_ == "onnx":
        shutil.copy(request.getfixturevalue("exported")[0], "model.onnx")
    else:
        assert run("export", model, "--format", format_, "-o", f"model{FORMATS[format_][1]}").code == 0
    found: dict = {}
    exec(compile(code("python", word), "export.md", "exec"), found)
    assert (found["labels"] != load(model, device="cpu").predict(image).label_map).mean() < 1e-3
    assert format_ != "onnx" or json.loads(found["card"])["variant"] == "fcn8s"


PROGRAM = """#include <cstdint>
#include <fstream>
#include <iterator>
#include <vector>
{includes}
int main() {{
  int height = 50, width = 61;
  std::ifstream file("rgb", std::ios::binary);
  std::vector<uint8_t> rgb((std::istreambuf_iterator<char>(file)), {{}});
{body}
  std::ofstream("labels", std::ios::binary).write(reinterpret_cast<const char*>(labels), height * width);
}}
"""


@pytest.mark.slow
def test_the_openvino_cpp_of_the_page_runs(model, tmp_path, monkeypatch):
    package = Path(import_optional("openvino", "the test").__file__).parent
    libraries = sorted((package / "libs").glob("libopenvino.so*"))
    if shutil.which("g++") is None or not libraries or not (package / "include").is_dir():
        pytest.skip("no g++, or no headers of OpenVINO")
    picture = noise(1, 50, 61, 3)[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rgb").write_bytes(picture.tobytes())
    export_model(load(model, device="cpu"), tmp_path / "model.xml", "openvino")
    lines = code("cpp", "openvino/").splitlines()
    parts = {
        "includes": "\n".join(line for line in lines if line.startswith("#")),
        "body": "\n".join(line for line in lines if not line.startswith("#")),
    }
    (tmp_path / "a.cpp").write_text(PROGRAM.format(**parts))
    words = ["g++", "-std=c++17", f"-I{package / 'include'}", "a.cpp", str(libraries[0]), "-o", "a"]
    words += [f"-Wl,-rpath,{package / 'libs'}", "-Wl,--allow-shlib-undefined"]
    built = subprocess.run(words, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    subprocess.run(["./a"], check=True)
    labels = np.fromfile("labels", np.uint8).reshape(50, 61)
    assert (labels != load(model, device="cpu").predict(picture).label_map).mean() < 1e-3


def onnxruntime_web() -> str:
    """Return why onnxruntime-web cannot be tried, or nothing."""
    if shutil.which("node") is None:
        return "node is not installed"
    asked = subprocess.run(["node", "-e", "require.resolve('onnxruntime-web')"], capture_output=True, check=False)
    return "" if asked.returncode == 0 else "onnxruntime-web is not installed for node (npm install, NODE_PATH)"


def test_the_javascript_of_the_page_runs(exported, model, tmp_path, monkeypatch):
    if why := onnxruntime_web():
        pytest.skip(why)
    picture = noise(1, 30, 41, 3)[0]
    rgba = np.concatenate([picture, np.full((30, 41, 1), 255, np.uint8)], axis=-1)
    (tmp_path / "rgba").write_bytes(rgba.tobytes())
    (tmp_path / "a.js").write_text(
        code("js", "onnxruntime-web")
        + f"""
ort.env.wasm.numThreads = 1;
const fs = require("fs");
label(fs.readFileSync({json.dumps(str(exported[0]))}), new Uint8Array(fs.readFileSync("rgba")), 30, 41)
  .then((labels) => fs.writeFileSync("labels", labels));
"""
    )
    done = subprocess.run(["node", "a.js"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    labels = np.frombuffer((tmp_path / "labels").read_bytes(), np.uint8).reshape(30, 41)
    assert (labels != load(model, device="cpu").predict(picture).label_map).mean() < 1e-3


# --- the gate -----------------------------------------------------------------------------------------------------------


def wrong(segmenter: Segmenter, share: float, side: int = 0):
    """The model's own labels, a share of which is another class; only up to a side, where one is given."""
    draw = np.random.default_rng(0)

    def answer(image):
        labels = segmenter.predict(image).label_map.copy()
        if not side or max(image.shape[:2]) <= side:
            picked = draw.random(labels.shape) < share
            labels[picked] = (labels[picked] + 1) % 5
        return {"": labels}

    return answer


@pytest.mark.parametrize(
    ("precision", "share", "side", "reason"),
    [
        ("fp32", 0.0, 0, ""),
        ("fp32", 0.001, 0, r"only 99\.\d+ % of the labels agree with fp32, 99\.99 % are required"),
        ("fp32", 0.5, 33, r"on images of 1x1, \d+ of 16 labels differ from fp32"),
        ("bf16", 0.002, 0, ""),
        ("bf16", 0.02, 0, r"only 9[78]\.\d+ % of the labels agree with fp32, 99\.5 % are required"),
        ("int8", 0.02, 0, ""),
    ],
)
def test_the_gate_opens_for_what_agrees(precision, share, side, reason):
    segmenter = made()
    parity = measure_parity(wrong(segmenter, share, side), segmenter, precision, synthetic_images(3, 16), made=True)
    assert parity.pictures == 16
    assert parity.mean_iou_difference is None
    assert bool(parity.reasons) is bool(reason), parity
    assert re.search(reason, "; ".join(parity.reasons))
    assert "Synthetic images test the wiring, not the parity on real ones: use --data" in str(parity)


def test_mean_iou_is_compared_on_masks():
    segmenter = made()
    pictures = [(image, segmenter.predict(image).label_maps) for image, _ in synthetic_images(3, 4)]
    parity = measure_parity(wrong(segmenter, 0.1), segmenter, "int8", pictures, made=False)
    assert parity.mean_iou_difference < -0.05
    assert re.search(r"mIoU differs by -0\.\d+, 0\.01 is allowed", parity.reasons[0])
    assert measure_parity(wrong(segmenter, 0.0), segmenter, "int8", pictures, made=False).reasons == []
    with pytest.raises(DataError, match="there is no image to compare the export on"):
        measure_parity(wrong(segmenter, 0.0), segmenter, "int8", [], made=False)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_masks_of_void_alone_prove_nothing(precision):
    segmenter = made()
    pictures = [(image, {"": np.full(image.shape[:2], 255, np.uint8)}) for image, _ in synthetic_images(3, 4)]
    parity = measure_parity(wrong(segmenter, 0.0), segmenter, precision, pictures, made=False)
    assert parity.reasons == ["mIoU cannot be compared, as the masks of the validation images are all void"]
    assert measure_parity(wrong(segmenter, 0.0), segmenter, "fp32", pictures, made=False).reasons == []


def test_the_mean_iou_of_every_head_counts():
    segmenter = made("two heads")
    pictures = [(image, dict(segmenter.predict(image).label_maps)) for image, _ in synthetic_images(3, 2)]
    last = list(pictures[0][1])[-1]

    def answer(image):
        found = dict(segmenter.predict(image).label_maps)
        return {**found, last: np.zeros_like(found[last])}

    parity = measure_parity(answer, segmenter, "int8", pictures, made=False)
    assert parity.mean_iou_difference < -0.05
    assert parity.reasons


def test_validation_pictures_are_those_that_evaluate_scores(data):
    """Also of a model that was trained on another split of the data than the data set's own."""
    dataset = open_dataset(data)
    stems = {split: [sample.stem for sample in samples] for split, samples in dataset.splits.items()}
    swapped = {"train": stems["val"], "val": stems["train"]}
    segmenter = made(classes=tuple(names(5)), data={"splits": swapped})
    found = [masks[""].tobytes() for _, masks in validation_images(dataset, segmenter)]
    assert found == [dataset.read_mask(s, "").tobytes() for s in sorted(dataset.splits["train"], key=lambda s: s.stem)]


def test_a_mask_that_cannot_be_used_is_told(data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "data")
    mask = sorted((broken / "valannot").iterdir())[0]
    segmenter = made(classes=tuple(names(5)))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(mask)
    with pytest.raises(DataError, match=r"\.png: its mask has another size. `fullconv check`"):
        list(validation_images(open_dataset(broken), segmenter))
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(InputError, match=mask.name):
        list(validation_images(open_dataset(broken), segmenter))


def test_a_crop_may_be_larger_than_its_picture():
    image = noise(1, 5, 4, 3)[0]
    found = crop(image, (700, 20), np.random.default_rng(0))
    assert found.shape == (700, 20, 3)
    assert np.array_equal(found[:5], found[5:10])
    assert str(Parity("fp32", 1, labels=1.0, sizes={"1x1": 1.0})).startswith("fp32: 100.000 % of the labels of 1 ")


@pytest.mark.parametrize(
    ("card", "options", "kind", "words"),
    [
        ({"scale": 0.5}, {}, NetworkError, "this model works at 0.5 of the images' size"),
        ({"range": (0.0, 1.0)}, {}, NetworkError, "takes values from 0 to 1; an exported file takes 8-bit images"),
        ({}, {"precision": "bf16"}, RecipeError, "--precision bf16: onnx has fp32, fp16 and int8 here"),
        ({}, {"precision": "int8"}, RecipeError, "--precision int8 needs images for calibration: use --data DATA"),
        ({}, {"path": "a.xml"}, OutputError, "a.xml: use a name that ends in .onnx for --format onnx"),
        ({}, {"path": "a file/a.onnx"}, OutputError, r"a file.a.onnx: cannot be written \(Not a directory\)"),
        ({}, {"path": "folder.onnx"}, OutputError, r"folder.onnx: cannot be written \(Is a directory\)"),
        ({}, {"path": "b.xml", "format": "openvino"}, OutputError, r"b.bin: cannot be written \(Is a directory\)"),
        ({}, {"format": "onx"}, RecipeError, "--format onx: choose onnx, openvino or pt2. Did you mean 'onnx'"),
    ],
)
def test_what_cannot_be_exported_is_told(tmp_path, monkeypatch, card, options, kind, words):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "b.bin").mkdir()
    (tmp_path / "a file").touch()
    full = {"path": "b.onnx", "format": "onnx", "precision": "fp32", **options}
    monkeypatch.setattr("fullconv.exports.formats.capture", None)  # no work is done
    with pytest.raises(kind, match=words):
        export_model(made(**card), tmp_path / full["path"], full["format"], precision=full["precision"])
    assert {path.name for path in tmp_path.iterdir()} == {"a file", "folder.onnx", "b.bin"}


@pytest.mark.parametrize(
    ("format_", "precision", "package"),
    [
        ("onnx", "fp32", "onnxruntime"), ("onnx", "int8", "onnxscript"), ("openvino", "bf16", "openvino"),
        ("openvino", "int8", "nncf"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_is_told_before_any_work(tmp_path, data, monkeypatch, format_, precision, package):
    class Without:
        """Keeps a package from being found, as where it is not installed."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("fullconv.exports.formats.capture", None)
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    segmenter = made(classes=tuple(names(5)))
    path, dataset = tmp_path / f"a{FORMATS[format_][1]}", open_dataset(data)
    message = rf"^export --\S+ {format_ if package != 'nncf' else precision} needs {package}"
    with pytest.raises(MissingExtraError, match=message):
        export_model(segmenter, path, format_, precision=precision, dataset=dataset)


def test_pictures_of_another_kind_are_named_before_any_work(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fullconv.exports.formats.capture", None)
    network = build("fcn8s", backbone="tiny", num_classes=5, in_channels=5, width=0.25)
    segmenter = Segmenter.from_network(network, names(5), device="cpu")
    with pytest.raises(InputError, match=r"val/\w+\.png: has 3 bands, the model expects 5"):
        export_model(segmenter, tmp_path / "a.onnx", "onnx", dataset=open_dataset(data))


def test_other_classes_than_the_datas_are_told(data, tmp_path):
    with pytest.raises(DataError, match="classes"):
        export_model(made(), tmp_path / "a.onnx", "onnx", dataset=open_dataset(data))


@pytest.mark.slow
def test_a_file_that_differs_is_refused_and_its_layer_named(tmp_path):
    """Weights too large for fp16: what they multiply becomes infinite."""
    network = build("fcn8s", backbone="tiny", num_classes=3, width=0.25)
    bad = next(name for name, layer in network.named_modules() if name.endswith("score.8"))
    with torch.no_grad():
        network.get_submodule(bad).weight.mul_(1e7)
    segmenter = Segmenter(network, card_for(network), device="cpu", precision="fp32", engine="torch")
    with pytest.raises(NetworkError, match=rf"a.onnx is not written: .* is {re.escape(bad)}: .* --force writes it"):
        export_model(segmenter, tmp_path / "a.onnx", "onnx", precision="fp16")
    assert list(tmp_path.glob("*.onnx")) == []
    done = export_model(segmenter, tmp_path / "a.onnx", "onnx", precision="fp16", force=True)
    assert bad in done.layer
    assert read_exported(tmp_path / "a.onnx")[1]["parity"]["reasons"] == done.parity.reasons != []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in NETS if kind != "skip"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_kind_of_network_exports_and_comes_back(kind, name, tmp_path):
    segmenter = made(kind)
    path = tmp_path / f"a{FORMATS[name][1]}"
    done = export_model(segmenter, path, name, probabilities=True)
    assert done.parity.labels >= 0.9999
    again = load(path)
    picture = noise(1, 70, 53, segmenter.card.in_channels)[0]
    for head in segmenter.card.heads or [None]:
        wanted = segmenter.logits(picture, head=head)
        for tile in ("none", 32) if again.network.halo is not None else ("none",):
            got = again.logits(picture, tile=tile, head=head)
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [pair for pair in COMBINATIONS if pair[1] != "fp32"])
def test_every_precision_is_written_and_comes_back(model, data, tmp_path, name, precision):
    path = tmp_path / f"a{FORMATS[name][1]}"
    segmenter = load(model, device="cpu", engine="torch", precision="fp32")
    done = export_model(segmenter, path, name, precision=precision, dataset=open_dataset(data), force=True)
    assert done.parity.labels > 0.9, done
    again = load(path)
    assert again.engine.precision == precision
    picture = read_image(next((data / "val").glob("*.png")))
    wanted, got = segmenter.logits(picture), again.logits(picture)
    apart = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert 1e-6 < apart < {"fp16": 0.02, "bf16": 0.1, "int8": 0.5}[precision], "this is another precision"
    assert path.stat().st_size < (0.9 if precision == "int8" else 1.1) * model.stat().st_size or name != "onnx"
    assert "calibrated" not in str(done.parity)


@pytest.mark.slow
def test_8_bits_that_are_judged_on_the_pictures_of_their_calibration_say_so(model, data, tmp_path):
    dataset, segmenter = open_dataset(data), load(model, device="cpu")
    only = replace(dataset, splits={"val": dataset.splits["val"]})
    done = export_model(segmenter, tmp_path / "a.onnx", "onnx", precision="int8", dataset=only, force=True)
    assert "calibrated with pictures of the same split" in str(done.parity)
    assert read_exported(tmp_path / "a.onnx")[1]["parity"]["calibrated_on"] is True
