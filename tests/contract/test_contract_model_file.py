"""Section 7 of the interface: one file that holds all a model needs, and words for files that are none."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from pathlib import Path

import contract_tools as tools
import pytest
from contract_tools import CLASSES, assert_user_error, call

import fullconv


def numbers(value) -> list[float]:
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, float) else []


def test_the_card_in_the_header_has_every_key(model):
    card = tools.card_of(model)
    assert set(card) >= tools.CARD_KEYS
    assert (card["variant"], card["backbone"], card["in_channels"]) == ("fcn8s", "tiny", 3)
    assert [c if isinstance(c, str) else c["name"] for c in card["classes"]] == list(CLASSES)
    assert card["palette"][:3] == [list(colour) for colour in tools.PALETTE]
    assert card["ignore_index"] in (255, [255])
    assert len(card["mean"]) == len(card["std"]) == 3
    assert card["scale"] == 1
    assert card["stride"] == 32
    assert card["fullconv"] == fullconv.__version__
    assert len(card["weights_sha256"]) == 64
    assert int(card["weights_sha256"], 16)
    assert len(numbers(card["mean"])) == 3


def test_the_card_keeps_recipe_scores_splits_and_where_the_weights_are_from(model, run, shapes):
    card = tools.card_of(model)
    assert card["recipe"]["backbone"] == "tiny"
    assert card["recipe"]["seed"] == 7
    assert {"train", "val"} <= set(card["data"]["splits"])
    assert any("fingerprint" in key for key in card["data"])
    found = call("evaluate", model, shapes, "--json", "--precision", "fp32").json()
    assert any(abs(n - found["mean_iou"]) < 2e-3 for n in numbers(card["scores"]))
    assert card["weights_origin"] is None or isinstance(card["weights_origin"], str)


def test_no_path_of_the_machine_is_in_the_card(model, shapes):
    assert Path.home().as_posix() + "/" not in json.dumps(tools.card_of(model))
    assert str(shapes.parent) not in json.dumps(tools.card_of(model)["data"])


def test_info_json_is_the_card(model):
    answer = call("info", model, "--json")
    assert answer.rc == 0, str(answer)
    assert answer.json() == tools.card_of(model)


def test_info_prints_the_card(model):
    answer = call("info", model)
    assert answer.rc == 0, str(answer)
    for word in ("fcn8s", "tiny", *CLASSES):
        assert word in answer.out


def test_the_file_needs_nothing_beside_it_and_may_have_any_name(model, shapes, tmp_path):
    alone = tmp_path / "ünter wegs/my net.safetensors"
    alone.parent.mkdir()
    shutil.copy(model, alone)
    answer = call("predict", alone, shapes / "val/images/odd.png", "-o", tmp_path / "out")
    assert answer.rc == 0, str(answer)
    assert (tmp_path / "out/odd.png").exists()


def test_safetensors_reads_the_file(model):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(model, "np") as file:
        assert set(file.keys()) == set(tools.tensors_of(model))
        assert all(isinstance(value, str) for value in file.metadata().values())


def file_of(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def png() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return tools.save(tools.scene(1)[0], Path(folder) / "image.png").read_bytes()


BAD = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut in the header": lambda whole: whole[:100],
    "empty": lambda whole: b"",
    "an image": lambda whole: png(),
    "without a card": lambda whole: file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a huge header": lambda whole: (2**62).to_bytes(8, "little") + b"{}",
    "a card that is no JSON": lambda whole: file_of({"__metadata__": {"fullconv": "{"}}),
    "missing": None,
    "a folder": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_or_foreign_file_is_named_by_every_command(model, shapes, tmp_path, what):
    bad = tmp_path / "bad.safetensors"
    if change := BAD[what]:
        bad.write_bytes(change(model.read_bytes()))
    elif what == "a folder":
        bad.mkdir()
    assert_user_error(call("predict", bad, shapes / "val/images", "-o", tmp_path / "out"), r"bad\.safetensors")
    assert_user_error(call("evaluate", bad, shapes), r"bad\.safetensors")
    assert_user_error(call("info", bad), r"bad\.safetensors")
    assert not list((tmp_path / "out").rglob("*.png"))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["bomb.safetensors", "bomb.pth", "bomb.pt"])
def test_nothing_in_a_file_is_executed(tmp_path, shapes, name):
    bomb = tmp_path / name
    bomb.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert_user_error(call("info", bomb), "bomb")
    assert_user_error(call("predict", bomb, shapes / "val/images", "-o", tmp_path / "out"), "bomb")
    assert not (tmp_path / "exploded").exists()
