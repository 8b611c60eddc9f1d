"""Sets as tools and people leave them, and what to demand of the reading of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from doctor.sets import CLASSES, NAMES, make_scene, save

from fullconv.data import examine

HEIGHT, WIDTH = 64, 80
STEMS = [f"scene_{letter}" for letter in "abcdef"]


def scene(stem: str):
    return make_scene(100 + "abcdefghijkl".index(re.search(r"scene_(\w)", stem)[1]), HEIGHT, WIDTH)


def pairs(root: Path, images: str = "images", masks: str = "masks", named: bool = True, stems=STEMS) -> Path:
    """Pictures and grey masks of four classes."""
    for stem in stems:
        save(scene(stem).picture, root / images / f"{stem}.jpg")
        save(scene(stem).labels, root / masks / f"{stem}.png")
    if named:
        (root / "data.toml").write_text(CLASSES, encoding="utf-8")
    return root


def assert_read(root: Path, codes: str = "", splits: dict[str, int] | None = None):
    """Examine a set, compare all its masks with the truth, and return its problems by code."""
    found = examine(root)
    told = found.summary()
    assert found.dataset is not None, told["problems"]
    assert told["ok"], told["problems"]
    by_code = {problem.code: problem for problem in found.problems}
    assert set(by_code) == set(codes.split()), told["problems"]
    if splits is not None:
        assert told["splits"] == splits
    for sample in found.dataset.samples("all"):
        names = np.array([*found.dataset.classes, *["void"] * (256 - len(found.dataset.classes))])
        np.testing.assert_array_equal(
            names[found.dataset.read_mask(sample)], np.array(NAMES)[scene(sample.image.name).labels]
        )
    return by_code


def assert_refused(root: Path, *words: str) -> str:
    """Examine a set that must not pass; each of the words must be said."""
    problems = [problem for problem in examine(root).problems if problem.severity == "error"]
    said = "\n".join(f"[{problem.code}] {problem}" for problem in problems)
    assert problems
    for word in words:
        assert word in said, said
    return said
