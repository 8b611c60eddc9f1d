from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data.samples import MaskFile
from fullconv.data.scan import analyze
from fullconv.data.scan import scanner as scanner_module
from fullconv.data.scan.analyze import examine_mask, examine_picture
from fullconv.data.scan.edges import from_text
from fullconv.data.scan.scanner import Scanner
from fullconv.storage import cache_folder
from synthetic.shapes import make_shapes


@pytest.fixture
def folder(tmp_path):
    return make_shapes(tmp_path / "data", "flat", images=6)


def files(folder: Path, kind: str = "images") -> list[Path]:
    return sorted((folder / kind).iterdir())


def counting(monkeypatch, name: str) -> list[Path]:
    seen = []
    original = getattr(scanner_module, name)

    def examine(item):
        seen.append(item)
        return original(item)

    monkeypatch.setattr(scanner_module, name, examine)
    return seen


def test_facts_come_in_order_and_with_the_digest_of_the_file(folder):
    facts = list(Scanner(folder, threads=3).pictures(files(folder)))
    assert [f.digest for f in facts] == [hashlib.sha256(p.read_bytes()).hexdigest() for p in files(folder)]


def test_a_file_is_decoded_once_and_again_when_it_changes(folder, monkeypatch):
    seen = counting(monkeypatch, "examine_picture")
    first = list(Scanner(folder).pictures(files(folder)))
    assert len(seen) == 6
    assert list(Scanner(folder).pictures(files(folder))) == first
    assert len(seen) == 6
    Image.new("RGB", (9, 5)).save(files(folder)[2])
    assert list(Scanner(folder).pictures(files(folder)))[2].size == (5, 9)
    assert len(seen) == 7


def test_masks_are_remembered_with_their_counts(folder, monkeypatch):
    seen = counting(monkeypatch, "examine_mask")
    sources = [MaskFile(path) for path in files(folder, "masks")]
    first = list(Scanner(folder).masks(sources))
    assert list(Scanner(folder).masks(sources)) == first
    assert len(seen) == 6
    values, counts = np.unique(np.asarray(Image.open(sources[0].path)), return_counts=True)
    assert first[0].counts == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_broken_files_are_looked_at_again(folder, monkeypatch):
    seen = counting(monkeypatch, "examine_picture")
    files(folder)[0].write_bytes(b"")
    for _ in range(2):
        assert next(iter(Scanner(folder).pictures(files(folder)))).code == "empty-file"
    assert seen.count(files(folder)[0]) == 2


def test_two_scans_at_a_time_do_not_wait_for_each_other(folder):
    scanner = Scanner(folder)
    started = time.monotonic()
    many = files(folder) * 100
    both = zip(scanner.pictures(many), scanner.masks([MaskFile(p) for p in files(folder, "masks")] * 100), strict=True)
    assert sum(1 for _ in both) == 600
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("fault", ["a file in the way", "damaged"])
def test_without_a_cache_everything_is_examined_anew(folder, monkeypatch, tmp_path, fault):
    if fault == "damaged":
        list(Scanner(folder).pictures(files(folder)))
        for path in (cache_folder() / "scans").iterdir():
            path.write_bytes(b"no database at all" * 99)
    else:
        (tmp_path / "cache").write_text("x")
        monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    seen = counting(monkeypatch, "examine_picture")
    assert len(list(Scanner(folder).pictures(files(folder)))) == 6
    assert len(seen) == 6
    list(Scanner(folder).pictures(files(folder)))
    assert len(seen) == (6 if fault == "damaged" else 12)  # a damaged one is replaced


def test_facts_of_an_older_version_are_forgotten(folder, monkeypatch):
    list(Scanner(folder).pictures(files(folder)))
    (base,) = (cache_folder() / "scans").glob("*.sqlite")
    with sqlite3.connect(base) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    seen = counting(monkeypatch, "examine_picture")
    list(Scanner(folder).pictures(files(folder)))
    assert len(seen) == 6


@pytest.mark.skipif(os.name != "posix", reason="names are text on Windows")
def test_names_that_are_no_text_are_remembered_too(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"\xff\xfe.png")
    Image.new("L", (3, 2)).save(path)
    seen = counting(monkeypatch, "examine_picture")
    for _ in range(2):
        assert [f.size for f in Scanner(tmp_path).pictures([path])] == [(2, 3)]
    assert len(seen) == 1


def test_large_files_are_not_held_in_memory_for_their_digest(folder, monkeypatch):
    expected = examine_picture(files(folder)[0])
    monkeypatch.setattr(analyze, "_WHOLE", 100)
    assert examine_picture(files(folder)[0]) == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("turned", [False, True])
def test_quick_counts_equal_those_of_the_decoded_picture(tmp_path, mode, turned, monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 250, (7, 9, 3), dtype=np.uint8))
    image = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9)) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[274] = 6 if turned else 1
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image.save(path, exif=exif)
    quick = examine_picture(path)
    monkeypatch.setattr(analyze, "_count_histogram", lambda facts, image: None)
    monkeypatch.setattr(analyze, "_is_plain", lambda image: False)
    slow = examine_picture(path)
    looks = [from_text(facts.look).astype(int) for facts in (quick, slow)]
    assert abs(looks[0] - looks[1]).max() <= 1
    quick.look = slow.look = ""
    assert quick == slow
    assert quick.size == ((9, 7) if turned else (7, 9))


def test_masks_with_more_colours_than_any_mask_has_are_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    facts = examine_mask(MaskFile(tmp_path / "a.png"))
    assert facts.many
    assert len(facts.counts) == analyze.MANY


def test_an_indexed_mask_tells_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 2]], np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    image.save(tmp_path / "a.png")
    facts = examine_mask(MaskFile(tmp_path / "a.png"))
    assert facts.palette == {0: 0x010203, 2: 0x070809}
    assert facts.counts == {0: 1, 2: 1}
