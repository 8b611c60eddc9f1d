from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fullconv.cli import main
from fullconv.data import convert_dataset, inspect, open_dataset
from fullconv.errors import DataError, OutputError
from synthetic.shapes import make_shapes


def content(root):
    data = open_dataset(root)
    return data, {
        (split, sample.stem): (data.read_image(sample), data.read_mask(sample), sample.group)
        for split, members in data.splits.items()
        for sample in members
    }


def same(first, second):
    (a, ours), (b, theirs) = content(first), content(second)
    assert a.classes == b.classes
    assert a.labels[""].palette == b.labels[""].palette
    assert a.labels[""].mirror_pairs == b.labels[""].mirror_pairs
    assert ours.keys() == theirs.keys()
    for key, (image, mask, group) in ours.items():
        np.testing.assert_array_equal(image, theirs[key][0])
        np.testing.assert_array_equal(mask, theirs[key][1])
        assert group == theirs[key][2]


@pytest.mark.parametrize("to", ["pairs", "voc", "coco"])
@pytest.mark.parametrize("encoding", ["palette", "rgb"])
def test_a_round_trip_loses_nothing(tmp_path, to, encoding):
    source = make_shapes(tmp_path / "in put ä", "camvid", images=5, test=1, encoding=encoding,
                         toml="palette = [[9, 9, 9], [1, 2, 3], [4, 5, 6], [7, 8, 9]]\ngroups = '\\d$'\n"
                              'mirror_pairs = [["disc", "box"]]\n')  # fmt: skip
    done = convert_dataset(source, tmp_path / "out", to)
    assert (done.written, done.failed, done.problems) == (6, [], [])
    same(source, tmp_path / "out")
    assert open_dataset(tmp_path / "out").format == to
    assert {p.severity for p in inspect(tmp_path / "out")} <= {"note"}
    assert convert_dataset(tmp_path / "out", tmp_path / "back").written == 6
    same(source, tmp_path / "back")


def test_masks_are_indexed_pngs_of_class_numbers(tmp_path):
    make_shapes(tmp_path / "in", "flat", images=4, encoding="binary255")
    convert_dataset(tmp_path / "in", tmp_path / "out")
    paths = sorted((tmp_path / "out").rglob("masks/*.png"))
    assert len(paths) == 4
    with Image.open(paths[0]) as image:
        assert image.mode == "P"
        assert set(np.unique(np.asarray(image))) <= {0, 1}


def test_bad_samples_are_reported_and_the_others_are_converted(tmp_path):
    make_shapes(tmp_path / "in", "flat", images=6)
    (tmp_path / "in/images/shape000.png").write_bytes(b"")
    Image.new("L", (9, 9)).save(tmp_path / "in/masks/shape001.png")
    (tmp_path / "in/masks/shape002.png").unlink()
    done = convert_dataset(tmp_path / "in", tmp_path / "out")
    assert done.written == 3
    assert sorted(name for name, _ in done.failed) == ["images/shape000.png", "images/shape001.png"]
    assert [p.code for p in done.problems] == ["missing-mask"]
    assert len(open_dataset(tmp_path / "out").samples("all")) == 3


def test_an_output_never_touches_what_is_there(tmp_path):
    make_shapes(tmp_path / "in", "flat", images=4)
    with pytest.raises(OutputError, match="lies in the data folder"):
        convert_dataset(tmp_path / "in", tmp_path / "in" / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(OutputError, match="is not empty"):
        convert_dataset(tmp_path / "in", tmp_path / "full")
    with pytest.raises(DataError, match="there is no format 'coca' to write"):
        convert_dataset(tmp_path / "in", tmp_path / "out", "coca")
    assert not (tmp_path / "out").exists()


def test_the_command_exits_with_3_where_a_part_failed(tmp_path, capsys):
    make_shapes(tmp_path / "in", "flat", images=4)
    (tmp_path / "in/images/shape000.png").write_bytes(b"")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["written"] == 3
    assert "shape000.png: is empty" in printed.err
