"""Sources: what they list, and how their images are loaded, without Ray."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fullconv.errors import InputError, OutputError

pyarrow = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

from pyarrow import parquet  # noqa: E402

from fullconv.scale.sources import list_source, load_item  # noqa: E402
from fullconv.scale.storage import ResultFolder  # noqa: E402


def encoded(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def names(items):
    return {item.output: item.input for item in items}


def test_a_folder_is_mirrored_and_colliding_names_keep_their_suffix(images):
    found = names(list_source(str(images), "elsewhere"))
    assert len(found) == 30
    assert found["inner/01"] == (images / "inner" / "01.png").as_posix()
    assert {"00.jpg", "00.png"} <= set(found)
    assert not any("notes" in name for name in found)


def test_results_inside_the_folder_are_skipped(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(encoded())
    assert list(names(list_source(str(tmp_path), str(tmp_path / "out")))) == ["a"]


def test_a_list_yields_each_file_and_url_once(tmp_path):
    (tmp_path / "list.txt").write_text("x/a.jpg\n\nmemory://shelf/b.png\nx/a.jpg\nx/a.png\n")
    found = [(item.input, item.output) for item in list_source(str(tmp_path / "list.txt"), "out")]
    assert found == [("x/a.jpg", "x/a.jpg"), ("memory://shelf/b.png", "shelf/b"), ("x/a.png", "x/a.png")]


def test_other_file_systems_are_read_and_written():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/shelf/deep/a.png", encoded(3))
    (item,) = list_source("memory://shelf", "memory://results")
    assert (item.input, item.output) == ("memory:///shelf/deep/a.png", "deep/a")
    (loaded,) = load_item(vars(item))
    assert loaded["content"] == encoded(3)
    folder = ResultFolder("memory://results")
    assert folder.write("deep/a.png", b"1") == "memory://results/deep/a.png"
    assert folder.read("deep/a.png") == b"1"
    assert folder.read("deep/b.png") is None


@pytest.mark.parametrize("as_struct", [False, True])
def test_parquet_rows_of_encoded_images_are_loaded_group_by_group(tmp_path, as_struct):
    contents = [encoded(n) for n in range(5)] + [None]
    values = [{"bytes": c, "path": None} for c in contents] if as_struct else contents
    path = tmp_path / "shard.parquet"
    parquet.write_table(pyarrow.table({"label": list(range(6)), "image": values}), path, row_group_size=4)
    items = list(list_source(str(path), "out"))
    assert [(item.group, item.first) for item in items] == [(0, 0), (1, 4)]
    rows = [row for item in items for row in load_item(vars(item), frozenset({f"{path}#1"}))]
    assert [row["input"] for row in rows] == [f"{path}#{n}" for n in (0, 2, 3, 4, 5)]
    assert rows[0]["output"] == "shard/00000000"
    assert [row["content"] for row in rows] == [contents[0], *contents[2:5], b""]
    assert "no image" in rows[-1]["reason"]


def test_parquet_files_of_paths_are_lists(tmp_path):
    parquet.write_table(pyarrow.table({"path": ["p/a.jpg", "p/b.jpg"], "n": [1, 2]}), tmp_path / "paths.parquet")
    assert names(list_source(str(tmp_path), "out")) == {"p/a": "p/a.jpg", "p/b": "p/b.jpg"}


def test_a_missing_file_is_a_row_with_a_reason(tmp_path):
    (tmp_path / "list.txt").write_text(str(tmp_path / "gone.png"))
    (item,) = list_source(str(tmp_path / "list.txt"), "out")
    (row,) = load_item(vars(item))
    assert "no such file" in row["reason"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p / "a.docx", "is not a folder, a list"),
        (lambda p: p / "x.parquet", "no column of images"),
        (lambda p: p / "bad.parquet", "cannot be read as Parquet"),
        (lambda p: "nope://x", "cannot be opened"),
    ],
)
def test_an_unusable_source_is_refused(tmp_path, make, message):
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "bad.parquet").write_text("x")
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        list(list_source(str(make(tmp_path)), "out"))


def test_a_result_folder_below_a_file_is_empty_and_unwritable(tmp_path):
    (tmp_path / "notes").write_text("mine")
    folder = ResultFolder(str(tmp_path / "notes" / "out"))
    assert folder.read("batch.json") is None
    assert list(folder.list_files("manifest", ".parquet")) == []
    with pytest.raises(OutputError, match="cannot be written"):
        folder.write("batch.json", b"{}")
