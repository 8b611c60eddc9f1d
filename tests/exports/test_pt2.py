"""A `.pt2` is data: parts that PyTorch would unpickle, evaluate or look up are refused before it reads them."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import fullconv
from fullconv.engines.pt2_safety import read_program
from fullconv.errors import ModelFileError, NetworkError
from fullconv.exports import export_model
from model_files import small_segmenter


class Trap:
    """What a foreign file may hold instead of numbers."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, bytes]:
    """The parts of an exported tiny network, by name."""
    segmenter = small_segmenter()
    folder = tmp_path_factory.mktemp("program")
    export_model(segmenter, folder / "model.pt2", "pt2")
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(parts: dict[str, bytes], path: Path) -> Path:
    """Write parts as an archive, as PyTorch does."""
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, part in parts.items():
        if name not in ("version", "byteorder", ".data/version", ".data/serialization_id"):
            writer.write_record(name, part, len(part))
    writer.write_end_of_file()
    return path


def graph(parts: dict[str, bytes], change) -> dict[str, bytes]:
    """Change the graph."""
    model = json.loads(parts["models/model.json"])
    change(model)
    return {**parts, "models/model.json": json.dumps(model).encode()}


def config(parts: dict[str, bytes], kind: str, change) -> dict[str, bytes]:
    name = f"data/{kind}/model_{kind}_config.json"
    found = json.loads(parts[name])
    change(found["config"])
    return {**parts, name: json.dumps(found).encode()}


def test_what_is_packed_again_without_a_change_is_read(parts, tmp_path):
    program = read_program(pack(parts, tmp_path / "a.pt2"))
    picture = torch.randint(0, 256, (1, 40, 50, 3), dtype=torch.uint8)
    assert program.module()(picture).shape == (1, 40, 50)


def test_pictures_of_16_bits_and_resized_ones_are_computed_too(parts, tmp_path):
    network = fullconv.load(pack(parts, tmp_path / "a.pt2"))
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    wanted = network.logits(picture)
    for dtype in (np.uint16, np.float32):
        np.testing.assert_allclose(network.logits(picture.astype(dtype)), wanted, atol=1e-5 * np.abs(wanted).max())
    assert network.with_options(tta="0.75").predict(picture).label_map.shape == (40, 50)


def test_a_weight_that_changed_is_noticed(parts, tmp_path):
    path = pack(parts, tmp_path / "a.pt2")
    content = bytearray(path.read_bytes())
    weight = next(part for name, part in parts.items() if name.startswith("data/weights/weight_") and len(part) > 100)
    content[content.index(weight) + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"a.pt2: damaged, or changed after it was exported: .*weight"):
        fullconv.load(path)


def test_nothing_of_the_machine_that_wrote_it_is_in_a_file(parts):
    model = parts["models/model.json"].decode()
    assert "stack_trace" not in model
    assert str(Path(fullconv.__file__).parent) not in model


def first_expression(model) -> dict:
    waiting = [model]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "expr_str" in each:
                return each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    raise AssertionError("no expression")


def nodes(model) -> list[dict]:
    return model["graph_module"]["graph"]["nodes"]


SIZE = "an expression of a size"
BOMB = "__import__('os').mkdir('sprung')"
GRAPHS = {
    "guards": (lambda m: m.update(guards_code=[BOMB]), "Python code for its sizes"),
    "expression": (lambda m: first_expression(m).update(expr_str=BOMB), SIZE),
    "attribute": (lambda m: first_expression(m).update(expr_str="Symbol('s1').func"), SIZE),
    "power": (lambda m: first_expression(m).update(expr_str="Pow(Integer(9),Integer(999999999))"), SIZE),
    "powers": (lambda m: first_expression(m).update(expr_str="Pow(Pow(Integer(9),Integer(9)),Integer(9))"), SIZE),
    "long": (lambda m: first_expression(m).update(expr_str="Add(" * 70 + ")" * 70), "too deep"),
    "loader": (lambda m: nodes(m)[3].update(target="torch.load"), "'torch.load'"),
    "shell": (lambda m: nodes(m)[3].update(target="torch.os.system"), "'torch.os.system'"),
    "file": (lambda m: nodes(m)[3].update(target="torch.ops.aten.from_file.default"), "from_file"),
    "name": (lambda m: nodes(m)[3].update(name="a'); import os; os.mkdir('sprung'"), "that could be code"),
    "input": (
        lambda m: m["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name="x=__import__('os').mkdir('sprung')"),
        "that could be code",
    ),
    "layer": (
        lambda m: m["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name='w"+print()+"'),
        "that could be code",
    ),
    "object": (lambda m: nodes(m)[3]["inputs"][0].update(arg={"as_custom_obj": {"name": "a"}}), "as_custom_obj"),
    "graph": (lambda m: nodes(m)[3]["inputs"][0].update(arg={"as_graph": {"name": "a"}}), "as_graph"),
    "notes": (lambda m: nodes(m)[3].update(metadata={"source_fn_stack": "a,torch.load"}), "metadata of another"),
    "tree": (
        lambda m: m["graph_module"]["module_call_graph"][0]["signature"].update(in_spec='[1, {"type": "os.mkdir"}]'),
        "arguments of types",
    ),
    "types": (lambda m: m["graph_module"].update(treespec_namedtuple_fields={"os.system": ["a"]}), "custom types"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_that_hides_code_is_not_loaded(kind, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, words = GRAPHS[kind]
    path = pack(graph(parts, change), tmp_path / "a.pt2")
    with pytest.raises(ModelFileError, match="not loaded, as it contains ") as caught:
        fullconv.load(path).predict(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())
    assert words in str(caught.value)
    assert not Path("sprung").exists()


def pickled(parts):
    def change(config):
        next(iter(config.values()))["use_pickle"] = True

    return {**config(parts, "weights", change), "data/weights/weight_0": pickle.dumps(Trap())}


ARCHIVES = {
    "sample": (
        lambda p: {**p, "data/sample_inputs/model.pt": pickle.dumps(Trap())},
        "pickled objects among its examples",
    ),
    "weights": (pickled, "pickled weights"),
    "old weights": (lambda p: {**p, "data/weights/model.pt": pickle.dumps(Trap())}, "'data/weights/model.pt'"),
    "object": (lambda p: {**p, "data/constants/opaque_obj_0": pickle.dumps(Trap())}, "opaque_obj_0"),
    "library": (lambda p: {**p, "data/aotinductor/model/a.so": b"\x7fELF"}, "aotinductor"),
    "second": (lambda p: {**p, "models/other.json": b"{}"}, "models/other.json"),
    "no json": (lambda p: {**p, "models/model.json": b"[" * 100_000}, "not JSON|damaged"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_parts_that_hide_code_are_not_loaded(kind, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, words = ARCHIVES[kind]
    with pytest.raises(Exception, match=words):
        read_program(pack(change(parts), tmp_path / "a.pt2"))
    with pytest.raises(ModelFileError):
        fullconv.load(tmp_path / "a.pt2").predict(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())
    assert not Path("sprung").exists()


@pytest.mark.slow
def test_a_network_that_the_file_could_not_hold_is_refused_when_it_is_written(tmp_path):
    network = fullconv.build("fcn8s", backbone="efficientvit_b0", num_classes=2)
    segmenter = fullconv.Segmenter.from_network(network, ("a", "b"))
    with pytest.raises(NetworkError, match=r"wrap_with_autocast.*so it is not written as pt2. Use --format onnx"):
        export_model(segmenter, tmp_path / "model.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []
