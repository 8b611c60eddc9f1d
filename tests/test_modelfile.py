"""Model files: what is written, what a damaged or foreign file is told, and that a failure leaves the old one."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from fullconv.card import Card
from fullconv.errors import FullconvError, ModelFileError, OutputError
from fullconv.modelfile import (
    CHECKSUM_KEY,
    CHECKSUM_MARK,
    card_excess,
    read_card,
    read_header,
    read_model,
    read_tensors,
    weights_sha256,
    write_model,
    write_tensors,
)
from fullconv.nn import build
from model_files import flipped, header_of, unsealed

CARD = Card(variant="fcn8s", backbone="tiny", classes=("ground", "Straße", "物"), scores={"val": {"mean_iou": 0.5}})
TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor(3), "c": torch.zeros(0, 4),
    "d": torch.ones(3, dtype=torch.bfloat16), "e": torch.tensor([True, False]),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    write_model(path, CARD, TENSORS)
    return path


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(start: int, stop: int, dtype: str = "F32", shape: object = None) -> dict:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


# --- what is written -------------------------------------------------------------------------------------------------


def test_what_was_written_comes_back_bit_by_bit(written):
    card, tensors = read_model(written)
    assert card == CARD.model_copy(update={"weights_sha256": card.weights_sha256})
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_the_card_is_json_under_one_key_of_a_plain_safetensors_file(written):
    with safe_open(written, "pt") as file:
        card = json.loads(file.metadata()["fullconv"])
    assert card["classes"] == ["ground", "Straße", "物"]
    assert {"format", "variant", "backbone", "palette", "ignore_index", "mean", "std", "range", "scale"} <= set(card)


def test_the_library_reads_every_type_as_it_was_written(tmp_path):
    types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {dtype: (torch.randn(3, 5) * 9).to(getattr(torch, dtype)) for dtype in types}
    tensors |= {"none": torch.zeros(2, 0), "one": torch.ones(())}
    write_tensors(tmp_path / "t", tensors, {"a": 'ä\n"', "b": ""})
    with safe_open(tmp_path / "t", "pt") as file:
        assert {**file.metadata(), CHECKSUM_KEY: None} == {"a": 'ä\n"', "b": "", CHECKSUM_KEY: None}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    with pytest.raises(TypeError, match=r"c is torch\.complex64, which a model file cannot store"):
        write_tensors(tmp_path / "t", {"c": torch.zeros(1, dtype=torch.complex64)}, {})


def test_the_hash_sees_every_bit_name_shape_and_type():
    base = {"a": torch.zeros(2, 2), "b": torch.zeros(1)}
    others = [
        {"a": torch.zeros(4), "b": torch.zeros(1)}, {"a": torch.zeros(2, 2), "c": torch.zeros(1)},
        {"a": torch.zeros(2, 2), "b": -torch.zeros(1)}, {"a": torch.zeros(2, 2), "b": torch.zeros(1, dtype=torch.int32)},
    ]  # fmt: skip
    assert len({weights_sha256(tensors) for tensors in [base, *others]}) == 5
    assert weights_sha256(dict(reversed(base.items()))) == weights_sha256(base)


def test_the_memory_format_of_weights_changes_neither_file_nor_hash(tmp_path):
    weight = torch.randn(4, 3, 2, 2)
    for name, value in (("a", weight), ("b", weight.to(memory_format=torch.channels_last))):
        write_model(tmp_path / name, CARD, {"w": value})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- damaged ---------------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_named_as_damaged(written, tmp_path):
    data = written.read_bytes()
    for cut in sorted({0, 1, 7, 8, 9, 50, len(data) // 2, *range(len(data) - 40, len(data))}):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(data[:cut])
        with pytest.raises(ModelFileError, match=r"cut\.safetensors: (not a model file|damaged)"):
            read_model(path)


def regions(whole: bytes) -> dict[str, range]:
    """Where each kind of thing lies in a file: its bytes' places."""
    header = header_of(whole)
    table, end = json.loads(header), 8 + len(header)

    def of(text: str) -> range:
        start = 8 + header.index(text.encode())
        return range(start, start + len(text.encode()))

    card = json.dumps(table["__metadata__"]["fullconv"], ensure_ascii=False)[1:-1]
    return {
        "length": range(8), "metadata's name": of("__metadata__"), "checksum's name": of(CHECKSUM_KEY),
        "checksum's word": of(CHECKSUM_MARK), "checksum": of(table["__metadata__"][CHECKSUM_KEY][len(CHECKSUM_MARK) :]),
        "card's name": of('"fullconv":"'), "card": of(card), "class": of("Straße"), "tensor's name": of("b.weight"),
        "dtype": of('"BF16"'), "shape": of('"shape":[2,3]'), "offsets": of('"data_offsets":[8,32]'),
        "blanks": range(8 + len(header.rstrip(b" ")), end), "data": range(end, len(whole)),
    }  # fmt: skip


def assert_noticed(path: Path, data: bytes) -> str:
    """What is said of a damaged file; it is never read, and never a traceback."""
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_flipped_bit_is_noticed_in_every_region(written, tmp_path):
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    said = {}
    for name, places in regions(whole).items():
        assert len(places) > 0, name
        for _ in range(4):
            place, bit = int(rng.choice(places)), int(rng.integers(8))
            said[name] = assert_noticed(tmp_path / "flipped", flipped(whole, place, 1 << bit))
    for name in ("checksum's name", "checksum's word", "checksum", "class"):
        assert "damaged: its header was changed. Copy or train it again." in said[name], name
    assert "its weights do not match its card" in said["data"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), mask=st.integers(1, 255))
def test_a_changed_byte_is_noticed_wherever_it_is(written, tmp_path, place, mask):
    whole = written.read_bytes()
    assert_noticed(tmp_path / "changed", flipped(whole, place % len(whole), mask))


@pytest.mark.slow
def test_each_bit_of_a_file_is_covered(written, tmp_path):
    whole = written.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            assert_noticed(tmp_path / "flipped", flipped(whole, place, 1 << bit))
    print(f"{8 * len(whole)} of {8 * len(whole)} flipped bits noticed")


def test_a_file_from_before_headers_had_a_checksum_is_read(written, tmp_path):
    """Such a file covers its weights only; so does one that the library wrote."""
    path = tmp_path / "old.safetensors"
    path.write_bytes(unsealed(written.read_bytes()))
    assert b"header-sha256" not in path.read_bytes()
    assert read_model(path)[0] == read_card(written)
    card = CARD.model_copy(update={"weights_sha256": weights_sha256(TENSORS)})
    path.write_bytes(save(TENSORS, {"fullconv": card.to_json(), "format": "pt"}))
    assert read_model(path)[0] == card
    assert "its weights do not match its card" in assert_noticed(
        path, flipped(path.read_bytes(), -1 % path.stat().st_size, 1)
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a model file: it does not begin as a safetensors file does, or is truncated \\(0 bytes\\)"),
        (b"PK\x03\x04" + bytes(200), "not a model file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a model file"),
        (struct.pack("<Q", 40 * 2**20) + bytes(50), "not a model file"),
        (raw(b"{} {"), "its header is not valid JSON"),
        (raw(b"\xff\xfe{}"), "its header is not valid JSON"),
        (raw(b"[" * 100_000), "its header is not valid JSON"),
        (raw(b'{"a": ' + b"1" * 5000 + b"}"), "its header is not valid JSON"),
        (raw([1]), "its header is not a table"),
        (raw({"__metadata__": {"fullconv": 3}}), "its metadata is not a table of strings"),
        (raw({"__metadata__": None}), "its metadata is not a table of strings"),
        (raw({"w": 3}), "tensor 'w' has no valid dtype, shape or offsets"),
        (raw({"w": tensor(0, 4, "F31")}, bytes(4)), "tensor 'w' has no valid"),
        (raw({"w": tensor(0, 4, ["F32"])}, bytes(4)), "tensor 'w' has no valid"),
        (raw({"w": tensor(0, 4, shape=[-1])}, bytes(4)), "tensor 'w' has no valid"),
        (raw({"w": tensor(0, 4, shape=[True])}, bytes(4)), "tensor 'w' has no valid"),
        (raw({"w": tensor(0, 4, shape=[1.0])}, bytes(4)), "tensor 'w' has no valid"),
        (raw({"w": {**tensor(0, 4), "data_offsets": [0, 4, 8]}}, bytes(4)), "tensor 'w' has no valid"),
        (raw({"w": {**tensor(0, 4), "data_offsets": ["0", "4"]}}, bytes(4)), "tensor 'w' does not match its size"),
        (raw({"w": tensor(0, 4, shape=[2**40, 2**40])}, bytes(4)), "tensor 'w' does not match its size"),
        (raw({"w": {**tensor(0, 4), "data_offsets": [-4, 0]}}, bytes(4)), "tensor 'w' does not match its size"),
        (raw({"w": tensor(0, 8)}, bytes(4)), "the file is truncated: tensor 'w' ends 4 bytes after its end"),
        (raw({"v": tensor(0, 8), "w": tensor(4, 12)}, bytes(12)), "its tensors overlap or leave gaps"),
        (raw({"v": tensor(0, 4), "w": tensor(8, 12)}, bytes(12)), "its tensors overlap or leave gaps"),
        (raw({"w": tensor(0, 4)}, bytes(9)), "it has 5 bytes after its last tensor"),
        (raw({f"t{i}": 0 for i in range(100_001)}), "it lists 100001 tensors, more than 100000"),
    ],
)  # fmt: skip
def test_a_damaged_header_is_named(tmp_path, content, words):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"bad\.safetensors: .*{words}"):
        read_header(path)


def test_an_honest_header_of_our_own_making_is_accepted(tmp_path):
    """The damages above are of this file."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(raw({"w": tensor(0, 4)}, struct.pack("<f", 2.5)))
    assert read_tensors(path)["w"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("shape", "words"),
    [([2**63] * 65, "no valid dtype"), ([1] * 65, "no valid dtype"), ([10**4000] * 64, "does not match its size")],
)
def test_the_product_of_a_shape_is_bounded_work(tmp_path, shape, words):
    """Of a million sides it took minutes: each multiplication is as long as the number so far."""
    path = tmp_path / "long.safetensors"
    path.write_bytes(raw({"w": tensor(0, 4, shape=shape)}, bytes(4)))
    with pytest.raises(ModelFileError, match=words):
        read_header(path)
    path.write_bytes(raw({"w": tensor(0, 4, shape=[1] * 64)}, bytes(4)))
    assert read_header(path)[0]["w"]["shape"] == [1] * 64


def test_a_header_of_empty_lists_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    """They take thirty times their text in memory: 32 MB became a gigabyte."""
    path = tmp_path / "lists.safetensors"
    path.write_bytes(raw({"w": [[]] * 200_000 + [{}] * 200_001}))
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ModelFileError, match="damaged: its header has more than 400000 tables and lists"):
        read_header(path)


def test_a_header_that_nothing_could_read_is_never_written(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match=r"m\.safetensors: cannot be written: its header has more than 400000 tables"):
        write_tensors(tmp_path / "m.safetensors", {"w": torch.zeros(1)}, {"names": "[" * 400_000})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("fullconv.modelfile.MAX_HEADER_BYTES", 2_000_000)
    long = CARD.model_copy(update={"data": {"splits": {"train": ["x" * 2**15] * 100}}})
    assert card_excess(long) == "takes 4 MB, more than 2"
    assert card_excess(CARD) is None


def test_a_damaged_model_is_no_start_for_another(tmp_path):
    network = build("fcn8s", backbone="tiny", num_classes=3, width=0.25)
    path = tmp_path / "start.safetensors"
    write_model(path, Card(variant="fcn8s", backbone="tiny", classes=("a", "b", "c")), network.state_dict())
    assert not build("fcn8s", backbone="tiny", num_classes=3, width=0.25, weights=str(path)).missing_keys
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 9, 4))
    with pytest.raises(ModelFileError, match=r"start\.safetensors: damaged: its weights do not match its card"):
        build("fcn8s", backbone="tiny", num_classes=3, width=0.25, weights=str(path))


def test_a_missing_file_a_folder_and_a_foreign_file_are_told_apart(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.safetensors: there is no such model file") as caught:
        read_model(tmp_path / "none.safetensors")
    assert isinstance(caught.value, (FullconvError, ValueError))
    assert caught.value.exit_code == 2
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_model(tmp_path)
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelFileError, match=r"without a fullconv card: .*`fullconv import` reads foreign"):
        read_model(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format: this file has card format 2, this program reads up to 1: update fullconv"),
        ({"format": 7, "later": True}, "card format 7, this program reads up to 1: update fullconv"),
        ({"format": "x"}, "format: "),
        ({"classes": 3}, "classes: "),
        ({"classes": None}, "classes: "),
        ({"classes": 3, "palette": []}, "classes: "),
        ({"classes": None, "palette": None}, "classes: "),
        ({"classes": []}, "a head has 1 to 255 classes, not 0"),
        ({"classes": ["a", "a", "b"]}, "class 'a' is listed twice"),
        ({"classes": [f"c{i}" for i in range(256)], "palette": []}, "a head has 1 to 255 classes, not 256"),
        ({"palette": [[0, 0, 0]]}, "the palette has 1 colours for 3 classes"),
        ({"palette": [[0, 0, 300]] * 3}, "palette colours are three numbers from 0 to 255"),
        ({"mean": [0.5]}, "mean has 1 numbers for 3 channels"),
        ({"std": [1, 1, 0]}, "std must be above 0"),
        ({"range": [255, 0]}, "range must rise, not go from 255.0 to 0.0"),
        ({"scale": 0}, "scale: "),
        ({"nonsense": 1}, "nonsense: "),
        ({"mean": ["x"] * 2**17}, "it has more than 131072 entries."),  # each would be an error of its own
        ({"heads": {f"h{i}": ["x"] * 1000 for i in range(131)}}, "it has more than 131072 entries."),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_card_that_cannot_be_is_named_by_key_in_one_line(tmp_path, change, words):
    card = {**json.loads(CARD.to_json()), **change}
    path = tmp_path / "card.safetensors"
    path.write_bytes(save({"w": torch.zeros(1)}, {"fullconv": json.dumps(card)}))
    with pytest.raises(ModelFileError) as caught:
        read_card(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: not a valid model card: ")
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("text", ["", "null", "3", "[1]", '{"variant": ', "[" * 5000, '{"variant": "x"}'])
def test_what_is_no_card_at_all_is_no_traceback(text):
    with pytest.raises(ModelFileError, match="model card: not a valid model card"):
        Card.from_json(text)


# --- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file/model.safetensors", "x" * 300])
def test_a_path_that_cannot_be_written_is_reported(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_model(tmp_path / name, CARD, {"w": torch.zeros(1)})


def test_the_hash_is_the_one_that_the_documentation_computes(tmp_path, monkeypatch):
    tensors = {**TENSORS, "ü": torch.randn(2, 3), "a.weight": torch.randn(4, 3, 2, 2)}
    tensors["f"] = tensors["a.weight"].to(memory_format=torch.channels_last)
    del tensors["d"]  # NumPy has no bfloat16
    card = write_model(tmp_path / "model.safetensors", CARD, tensors)
    assert card.weights_sha256 == weights_sha256(tensors) == read_card(tmp_path / "model.safetensors").weights_sha256
    page = (Path(__file__).parents[1] / "docs" / "reference" / "model-file.md").read_text(encoding="utf-8")
    program = page[page.index("import hashlib") :].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(program, names)
    assert names["digest"].hexdigest() == card.weights_sha256
