from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from fullconv.data.files import Folder, open_root, walk
from fullconv.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_images_are_found_in_inner_folders_in_sorted_order(tmp_path):
    touch(tmp_path, "images/b/2.PNG", "images/a.jpg", "images/b/1.tif", "images/notes.txt", "images/.hidden.png")
    found = Folder(tmp_path).images("images")
    assert list(found.files) == ["a", "b/1", "b/2"]
    assert [path.name for path in found.other_files] == ["notes.txt"]


def test_two_files_of_one_stem_are_reported(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/a.png")
    found = Folder(tmp_path).images("images")
    assert list(found.files) == ["a"]
    assert [second.name for _, second in found.duplicates] == ["a.png"]


@pytest.mark.parametrize(
    ("pattern", "keys", "stems"),
    [
        ("photos/*.jpg", ["a", "b"], ["a", "b"]),
        ("*/rgb.png", ["s1", "s2"], ["s1/rgb", "s2/rgb"]),
        ("deep/**/*.png", ["m/n/c", "m/d"], ["m/n/c", "m/d"]),
        ("photos/?.jpg", ["a", "b"], ["a", "b"]),
        ("photos/[!b].jpg", ["a"], ["a"]),
        ("photos/*", ["a", "b"], ["a", "b"]),
    ],
)
def test_globs_pair_by_what_their_wildcards_match(tmp_path, pattern, keys, stems):
    touch(
        tmp_path,
        "photos/a.jpg",
        "photos/b.jpg",
        "photos/x.txt",
        "s1/rgb.png",
        "s2/rgb.png",
        "deep/m/n/c.png",
        "deep/m/d.png",
    )
    found = Folder(tmp_path).images(pattern)
    assert sorted(found.files) == sorted(keys)
    assert sorted(found.stems.values()) == sorted(stems)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_are_followed_but_never_in_a_circle(tmp_path):
    touch(tmp_path, "real/a.png", "images/b.png")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "real")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    assert [path.name for path in walk(tmp_path / "images")] == ["b.png", "a.png"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nowhere", "nowhere: no such folder"),
        (lambda p: p / "pictureS", r"no such folder\. Did you mean 'pictures'\?"),
        (lambda p: p / "pictures", r"pictures: the folder is empty\. Put images in images/ and masks in masks/"),
        (lambda p: p / "file.txt", r"file\.txt: is a file\. A data set is a folder, or a \.zip"),
    ],
)
def test_what_is_no_data_folder_is_named(tmp_path, make, words):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=words):
        open_root(make(tmp_path))


def make_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def test_a_zip_is_unpacked_once_outside_of_the_data_and_its_only_folder_entered(tmp_path):
    archive = make_zip(tmp_path / "d.zip", "camp/images/a.png", "camp/masks/a.png", "__MACOSX/x")
    root = open_root(archive)
    assert root.name == "camp"
    assert (root / "images" / "a.png").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["d.zip"]
    assert open_root(archive) == root


def test_a_changed_zip_is_unpacked_again(tmp_path):
    first = open_root(make_zip(tmp_path / "d.zip", "images/a.png", "masks/a.png"))
    second = open_root(make_zip(tmp_path / "d.zip", "images/abc.png", "masks/abc.png"))
    assert first != second
    assert (second / "images" / "abc.png").is_file()


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_a_zip_that_leaves_its_folder_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"d\.zip: holds '.*evil\.png', which leaves the folder"):
        open_root(make_zip(tmp_path / "d.zip", name))
    assert not list(tmp_path.rglob("evil.png"))


def test_a_damaged_zip_and_a_bomb_are_refused(tmp_path, monkeypatch):
    (tmp_path / "d.zip").write_bytes(b"no zip at all")
    with pytest.raises(DataError, match=r"d\.zip: cannot be unpacked \(File is not a zip file\)"):
        open_root(tmp_path / "d.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(3_000_000))
    monkeypatch.setattr("fullconv.data.files._MIN_ZIP_LIMIT_BYTES", 1_000_000)
    with pytest.raises(DataError, match=r"bomb\.zip: would grow to 3,000,000 bytes"):
        open_root(tmp_path / "bomb.zip")


def test_a_zip_needs_room_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the cache should be")
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        DataError, match=r"d\.zip: cannot be unpacked into .*Set FULLCONV_CACHE to a folder with free space"
    ):
        open_root(make_zip(tmp_path / "d.zip", "images/a.png"))
