"""Data sets of drawn scenes, and assertions about how they are read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from doctor.sets import CLASSES, NAMES, make_scene, save

from fullconv.data import examine

STEMS = [f"scene_{letter}" for letter in "abcdef"]


def scene(stem: str):
    return make_scene(100 + "abcdefghijkl".index(re.search(r"scene_(\w)", stem)[1]), 64, 80)


def pairs(root: Path, images: str = "images", masks: str = "masks", named: bool = True, stems=STEMS) -> Path:
    """Write images and gray masks of four classes."""
    for stem in stems:
        save(scene(stem).picture, root / images / f"{stem}.jpg")
        save(scene(stem).labels, root / masks / f"{stem}.png")
    if named:
        (root / "data.toml").write_text(CLASSES, encoding="utf-8")
    return root


def assert_read(root: Path, codes: str = "", splits: dict[str, int] | None = None):
    """Check a data set, compare all its masks with the ground truth, and return its problems by code."""
    found = examine(root)
    summary = found.summary()
    assert found.dataset is not None, summary["problems"]
    assert summary["ok"], summary["problems"]
    by_code = {problem.code: problem for problem in found.problems}
    assert set(by_code) == set(codes.split()), summary["problems"]
    if splits is not None:
        assert summary["splits"] == splits
    for sample in found.dataset.samples("all"):
        names = np.array([*found.dataset.classes, *["void"] * (256 - len(found.dataset.classes))])
        np.testing.assert_array_equal(
            names[found.dataset.read_mask(sample)], np.array(NAMES)[scene(sample.image.name).labels]
        )
    return by_code


def assert_refused(root: Path, *words: str) -> str:
    """Check a data set that must be refused with messages that contain some words; return all messages."""
    problems = [problem for problem in examine(root).problems if problem.severity == "error"]
    text = "\n".join(f"[{problem.code}] {problem}" for problem in problems)
    assert problems
    for word in words:
        assert word in text, text
    return text
