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
from fullconv.data.scan import scanner as scanner_module
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

    def analyze(item):
        seen.append(item)
        return original(item)

    monkeypatch.setattr(scanner_module, name, analyze)
    return seen


def test_stats_come_in_order_and_with_the_digest_of_the_file(folder):
    stats = list(Scanner(folder, threads=3).images(files(folder)))
    assert [f.digest for f in stats] == [hashlib.sha256(p.read_bytes()).hexdigest() for p in files(folder)]


def test_a_file_is_decoded_once_and_again_when_it_changes(folder, monkeypatch):
    seen = counting(monkeypatch, "analyze_image")
    first = list(Scanner(folder).images(files(folder)))
    assert len(seen) == 6
    assert list(Scanner(folder).images(files(folder))) == first
    assert len(seen) == 6
    Image.new("RGB", (9, 5)).save(files(folder)[2])
    assert list(Scanner(folder).images(files(folder)))[2].size == (5, 9)
    assert len(seen) == 7


def test_masks_are_cached_with_their_counts(folder, monkeypatch):
    seen = counting(monkeypatch, "analyze_mask")
    sources = [MaskFile(path) for path in files(folder, "masks")]
    first = list(Scanner(folder).masks(sources))
    assert list(Scanner(folder).masks(sources)) == first
    assert len(seen) == 6
    values, counts = np.unique(np.asarray(Image.open(sources[0].path)), return_counts=True)
    assert first[0].counts == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_broken_files_are_analyzed_again(folder, monkeypatch):
    seen = counting(monkeypatch, "analyze_image")
    files(folder)[0].write_bytes(b"")
    for _ in range(2):
        assert next(iter(Scanner(folder).images(files(folder)))).code == "empty-file"
    assert seen.count(files(folder)[0]) == 2


def test_two_scans_at_a_time_do_not_wait_for_each_other(folder):
    scanner = Scanner(folder)
    started = time.monotonic()
    many = files(folder) * 100
    both = zip(scanner.images(many), scanner.masks([MaskFile(p) for p in files(folder, "masks")] * 100), strict=True)
    assert sum(1 for _ in both) == 600
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("fault", ["a file in the way", "damaged"])
def test_without_a_cache_every_file_is_analyzed_again(folder, monkeypatch, tmp_path, fault):
    if fault == "damaged":
        list(Scanner(folder).images(files(folder)))
        for path in (cache_folder() / "scans").iterdir():
            path.write_bytes(b"no database at all" * 99)
    else:
        (tmp_path / "cache").write_text("x")
        monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    seen = counting(monkeypatch, "analyze_image")
    assert len(list(Scanner(folder).images(files(folder)))) == 6
    assert len(seen) == 6
    list(Scanner(folder).images(files(folder)))
    assert len(seen) == (6 if fault == "damaged" else 12)  # a damaged one is replaced


def test_stats_of_another_version_are_dropped(folder, monkeypatch):
    list(Scanner(folder).images(files(folder)))
    (base,) = (cache_folder() / "scans").glob("*.sqlite")
    with sqlite3.connect(base) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    seen = counting(monkeypatch, "analyze_image")
    list(Scanner(folder).images(files(folder)))
    assert len(seen) == 6


@pytest.mark.skipif(os.name != "posix", reason="names are text on Windows")
def test_names_that_are_no_text_are_cached_too(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"\xff\xfe.png")
    Image.new("L", (3, 2)).save(path)
    seen = counting(monkeypatch, "analyze_image")
    for _ in range(2):
        assert [f.size for f in Scanner(tmp_path).images([path])] == [(2, 3)]
    assert len(seen) == 1
