from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data.samples import MaskFile
from fullconv.data.scan import analyze
from fullconv.data.scan.analyze import analyze_image, analyze_mask
from fullconv.data.scan.stats import decode_thumbnail


def test_large_files_are_decoded_from_disk_with_the_same_stats(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(20, 30)).save(path)
    expected = analyze_image(path)
    monkeypatch.setattr(analyze, "_MAX_BUFFERED_BYTES", 100)
    assert analyze_image(path) == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("turned", [False, True])
def test_quick_counts_equal_those_of_the_decoded_image(tmp_path, mode, turned, monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 250, (7, 9, 3), dtype=np.uint8))
    image = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9)) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[274] = 6 if turned else 1
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image.save(path, exif=exif)
    quick = analyze_image(path)
    monkeypatch.setattr(analyze, "has_foreign_profile", lambda image: True)  # decodes and converts
    slow = analyze_image(path)
    thumbnails = [decode_thumbnail(stats.thumbnail).astype(int) for stats in (quick, slow)]
    assert abs(thumbnails[0] - thumbnails[1]).max() <= 1
    quick.thumbnail = slow.thumbnail = ""
    assert quick == slow
    assert quick.size == ((9, 7) if turned else (7, 9))


def test_masks_with_more_colours_than_any_mask_are_marked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    stats = analyze_mask(MaskFile(tmp_path / "a.png"))
    assert stats.overflowed
    assert len(stats.counts) == analyze.MAX_COUNTED


def test_the_palette_of_an_indexed_mask_is_recorded(tmp_path):
    image = Image.fromarray(np.array([[0, 2]], np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    image.save(tmp_path / "a.png")
    stats = analyze_mask(MaskFile(tmp_path / "a.png"))
    assert stats.palette == {0: 0x010203, 2: 0x070809}
    assert stats.counts == {0: 1, 2: 1}
