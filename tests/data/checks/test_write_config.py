from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fullconv.cli.main import main
from fullconv.data import inspect, open_dataset
from fullconv.data.config import read_table
from synthetic.shapes import make_shapes, save_mask


def test_write_creates_data_toml_from_the_counts(tmp_path, capsys):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False)
    assert main(["check", str(root), "--write"]) == 0
    assert "Wrote" in capsys.readouterr().err
    assert read_table(root) == {"format": "pairs", "classes": ["class0", "class1", "class2", "class3"]}
    assert main(["check", str(root), "--write"]) == 0
    assert "is up to date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "classes"), [("binary255", ["background", "foreground"]), ("rgb", [f"class{i}" for i in range(5)])]
)
def test_write_fixes_masks_that_data_toml_can_fix(tmp_path, encoding, classes, capsys):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False, encoding=encoding)
    assert main(["check", str(root)]) == 2
    assert main(["check", str(root), "--write", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert [row["name"] for row in report["classes"]] == classes
    assert inspect(root) == []
    assert open_dataset(root).classes == tuple(classes)


def test_write_never_overwrites_a_different_data_toml(tmp_path, capsys):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False, encoding="binary255")
    (root / "data.toml").write_text('classes = ["wall", "crack"]\n')
    assert main(["check", str(root), "--write"]) == 2
    err = capsys.readouterr().err
    assert "is not overwritten" in err
    assert 'values = { 0 = "wall", 255 = "crack" }' in err
    assert (root / "data.toml").read_text() == 'classes = ["wall", "crack"]\n'


def test_write_reports_why_it_cannot(tmp_path, capsys):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False)
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", root)
    assert main(["check", archive, "--write"]) == 2
    assert "Unpack it" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nowhere"), "--write"]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty" / "images").mkdir(parents=True)
    assert main(["check", str(tmp_path / "empty"), "--write"]) == 2
    assert "nothing could be inferred" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_write_names_the_lines_where_the_folder_is_read_only(tmp_path, capsys):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False)
    root.chmod(0o555)
    try:
        assert main(["check", str(root), "--write"]) == 2
    finally:
        root.chmod(0o755)
    assert re.search(r"cannot be written[\s\S]*classes = \[", capsys.readouterr().err)


def test_check_writes_a_page_that_loads_nothing(tmp_path):
    root = make_shapes(tmp_path / "data <b>", "camvid", images=8)
    (root / "train" / "shape001.png").write_bytes(b"")
    page = tmp_path / "page.html"
    assert main(["check", str(root), "--html", str(page)]) == 2
    html = page.read_text(encoding="utf-8")
    assert "data &lt;b&gt;" in html
    assert re.findall(r"<code>([a-z-]+)</code>", html) == [p.code for p in inspect(root)]
    assert "default-src 'none'; img-src data:" in html
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)
    assert "is empty (0 bytes)" in html


def test_the_page_shows_masks_with_their_own_labels(tmp_path):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False)
    for path in (root / "masks").iterdir():  # labels 0, 10, 20, 30: not classes yet
        mask = np.asarray(Image.open(path))
        save_mask(np.where(mask == 255, 255, mask * 11 % 23).astype(np.uint8), path)
    page = tmp_path / "page.html"
    assert main(["check", str(root), "--html", str(page)]) == 2
    assert page.read_text(encoding="utf-8").count("data:image/png") >= 4


def test_write_adds_mirror_pairs(tmp_path):
    root = make_shapes(tmp_path / "data", "flat", images=6, toml=False, classes=3)
    (root / "classes.txt").write_text("background\nleft hand\nright hand\n")
    assert main(["check", str(root), "--write"]) == 0
    assert read_table(root)["mirror_pairs"] == [["left hand", "right hand"]]
    assert inspect(root) == []
