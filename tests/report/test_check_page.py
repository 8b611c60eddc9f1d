"""The page of a check: problems with their images, histograms, samples of each split."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pages import Page, decoded
from PIL import Image

from fullconv.data import examine
from fullconv.report import write_check_page


@pytest.fixture
def data(tmp_path):
    """Six pairs; one image is truncated, one mask holds an unknown value, a class is named in markup."""
    root = tmp_path / "set"
    for n in range(6):
        stem = f"{n}.png"
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            shape = (40, 60, 3) if folder == "images" else (40, 60)
            array = np.random.default_rng(n).integers(0, 2, shape, dtype=np.uint8) * (200 if folder == "images" else 1)
            array[0, 0] = 77 if n == 1 and folder == "masks" else 0
            Image.fromarray(array).save(root / folder / stem)
    broken = root / "images" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (root / "data.toml").write_text('classes = ["ground", "<b>"]\n')
    return root


def test_the_page_shows_problems_with_thumbnails_and_the_text_of_unreadable_files(data, path):
    found = examine(str(data))
    write_check_page(path, found, "path/to/set")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.text.startswith("set pairs · 2 classes")
    assert "Training would not start" in page.text
    for problem in found.problems:
        assert problem.code in page.text
        for line in problem.remedy.splitlines():
            assert " ".join(line.split()) in page.text
    assert "image: is truncated" in page.text
    assert "40" in page.text.partition("Sizes")[2]
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    images = [decoded(attrs["src"]) for attrs in page.all("img")]
    assert {image.format for image in images} == {"JPEG", "PNG"}
    assert {image.size for image in images} == {(60, 40)}
    assert [attrs["href"][1:] for attrs in page.all("a")] == [attrs["id"] for attrs in page.all("section")]


def test_a_folder_that_is_no_data_set_is_a_page_too(tmp_path, path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    write_check_page(path, examine(str(tmp_path / "notes")), "notes")
    assert "Training would not start" in Page(path.read_text(encoding="utf-8")).text


def test_jinja2_is_loaded_with_the_first_page_only():
    code = "import sys, fullconv, fullconv.cli, fullconv.report; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
