"""The images that a command line names."""

from __future__ import annotations

import io
import sys

import pytest

from fullconv.errors import InputError
from fullconv.predict import expand, read_list
from synthetic.images import write_noise


def test_a_folder_yields_its_images_in_order(tmp_path):
    for name in ("b/z.JPG", "b/a.png", "c.tif", "notes.txt", "a.json", ".hidden.png", ".git/x.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [relative for _, relative in expand(str(tmp_path), tmp_path / "out")]
    assert found == ["c.tif", "b/a.png", "b/z.JPG"]


def test_a_glob_yields_names_relative_to_its_fixed_part(tmp_path):
    for name in ("x/a.png", "x/deep/b.jpg", "y/a.png", "x/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    out = tmp_path / "out"

    def found(pattern: str) -> list[str]:
        return [relative for _, relative in expand(f"{tmp_path}/{pattern}", out)]

    assert found("*/a.png") == ["x/a.png", "y/a.png"]
    assert found("x/*.png") == ["a.png"]
    assert found("x/**/*.jpg") == ["deep/b.jpg"]
    assert sorted(found("x/**")) == ["a.png", "deep/b.jpg"]
    assert sorted(found("?/")) == ["x/a.png", "x/deep/b.jpg", "y/a.png"]  # folders that match yield their images
    assert found("z*") == []


def test_a_name_that_exists_is_taken_literally(tmp_path):
    write_noise(tmp_path / "a[1].png")
    write_noise(tmp_path / "a1.png")
    write_noise(tmp_path / "photos [1]/a [x].png")
    for given, expected in (
        ("a[1].png", "a[1].png"),
        ("photos [1]", "a [x].png"),
        ("photos [1]/a [x].png", "a [x].png"),
    ):
        assert [relative for _, relative in expand(f"{tmp_path}/{given}", tmp_path)] == [expected]


@pytest.mark.parametrize("link", [False, True])
def test_an_output_folder_within_the_input_is_skipped(tmp_path, link):
    write_noise(tmp_path / "photos/a.png")
    write_noise(tmp_path / "photos/labels/old.png")
    given = tmp_path / "photos"
    if link:
        given = tmp_path / "linked"
        given.symlink_to(tmp_path / "photos")
    out = tmp_path / "photos/labels"
    assert [relative for _, relative in expand(str(given), out)] == ["a.png"]
    assert [relative for _, relative in expand(f"{given}/**/*.png", out)] == ["a.png"]
    assert [relative for _, relative in expand(str(out), out)] == ["old.png"]  # unless it is what was given


def test_a_list_may_have_a_bom_crlf_and_empty_lines(tmp_path, monkeypatch):
    text = "\ufeffx/a.png\r\n\r\n/y/ü b.jpg\n  \nlast.png"
    (tmp_path / "list.txt").write_text(text, "utf-8", newline="")
    expected = [("x/a.png", "a.png"), ("/y/ü b.jpg", "ü b.jpg"), ("last.png", "last.png")]
    assert list(read_list(str(tmp_path / "list.txt"))) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))
    assert list(read_list("-")) == expected


def test_a_missing_list_is_reported_with_the_nearest_name(tmp_path):
    (tmp_path / "images.txt").write_text("")
    with pytest.raises(InputError, match=r"--list .*imags\.txt: no such file\. Did you mean 'images\.txt'\?"):
        list(read_list(str(tmp_path / "imags.txt")))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_list(str(tmp_path)))
