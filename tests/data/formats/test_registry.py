from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from doctor.sets import CLASSES, save
from PIL import Image

from fullconv.data import examine, open_dataset
from fullconv.data.formats import drawn as drawn_formats
from fullconv.data.formats import registry
from fullconv.data.formats.annotation_files import read_object
from fullconv.data.formats.rasterize import Shape
from synthetic.reading import problems, read_mask
from synthetic.scenes import assert_read, assert_refused, pairs


def write_zip(root: Path, rename) -> Path:
    pairs(root / "in")
    archive = root / "export.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted((root / "in").rglob("*")):
            if path.is_file():
                member = zipfile.ZipInfo("x")
                member.filename = rename(path.relative_to(root / "in").as_posix())
                content.writestr(member, path.read_bytes())
                content.writestr(f"__MACOSX/._{path.name}", b"\0\5\x16\7")
    return archive


@pytest.mark.parametrize("rename", [lambda name: name.replace("/", "\\"), lambda name: f"export/{name}"])
def test_a_zip_of_windows_or_with_one_folder_at_the_top_is_read(tmp_path, rename):
    assert_read(write_zip(tmp_path, rename))


def test_a_zip_without_a_data_set_is_reported_by_its_own_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr("README.txt", "x")
    assert_refused(tmp_path / "a.zip", f"{tmp_path / 'a.zip'}: unrecognized data set layout")


def test_other_archives_must_be_unpacked(tmp_path):
    (tmp_path / "data.tar.gz").write_bytes(b"\x1f\x8b")
    assert_refused(tmp_path / "data.tar.gz", "Unpack it")


@pytest.mark.parametrize("inner", ["my set", "a/b c/d"])
def test_the_only_folder_is_entered(tmp_path, inner):
    pairs(tmp_path / inner)
    (tmp_path / "README.dataset.txt").write_text("From the archive.", encoding="utf-8")
    (tmp_path / "__MACOSX").mkdir()
    assert_read(tmp_path)
    assert examine(tmp_path).root == tmp_path / inner


def test_no_folder_is_entered_if_there_are_several_or_none(tmp_path):
    pairs(tmp_path / "two/a")
    pairs(tmp_path / "two/b")
    assert_refused(tmp_path / "two", "unusable", "a/, b/ look like data sets")
    (tmp_path / "bare/x/y").mkdir(parents=True)
    assert_refused(tmp_path / "bare", "unusable", str(tmp_path / "bare"))
    (tmp_path / "round").mkdir()
    (tmp_path / "round/again").symlink_to(tmp_path / "round")
    assert_refused(tmp_path / "round", "unusable")


def test_data_toml_may_lie_where_the_user_points(tmp_path):
    pairs(tmp_path / "a/b", named=False)
    for path in (tmp_path / "a/b/masks").iterdir():
        save(np.asarray(Image.open(path)) + np.uint8(1), path)
    remedy = problems(tmp_path)["off-by-one"].remedy
    for place in ("", "a", "a/b"):  # all three are the folder of the set, and agree however it is opened
        where = tmp_path / place / "data.toml"
        where.write_text(remedy.partition("data.toml:\n")[2], encoding="utf-8")
        assert [len(open_dataset(tmp_path / opened).classes) for opened in ("", "a", "a/b")] == [4] * 3
        where.unlink()
    where = tmp_path / "data.toml"
    where.write_text("clases = 3", encoding="utf-8")
    assert_refused(tmp_path, "unusable", "classes")
    (tmp_path / "other").mkdir()
    where.write_text(CLASSES, encoding="utf-8")
    assert "off-by-one" in problems(tmp_path / "a/b")  # beside another folder it does not count for this set


def test_the_format_of_contributing_md_is_read(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(def find_files.*?)```", text, re.DOTALL)
    names = {**vars(drawn_formats), "Shape": Shape, "read_object": read_object}
    exec("from __future__ import annotations\n" + code, names)
    row = drawn_formats.drawn("shapes", names["find_files"], names["parse"])
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, row))
    table = {
        f"{i}.jpg": [{"class": name, "points": [[1, 2], [9, 2], [9, 8]]}] for i, name in enumerate(("car", "road"))
    }
    for name in table:
        save(np.zeros((12, 16, 3), np.uint8), tmp_path / name)
    (tmp_path / "all.shapes.json").write_text(json.dumps(table))
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("shapes", ("background", "car", "road"))
    assert read_mask(tmp_path, "1")[3, 8] == 2
