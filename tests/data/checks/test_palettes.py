from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fullconv.data import inspect
from fullconv.data.problems import Problem
from synthetic.shapes import COLORS, make_shapes


def told(root: Path) -> dict[str, Problem]:
    return {one.code: one for one in inspect(root)}


def masks(root: Path, split: str = "*") -> list[Path]:
    return sorted(root.glob(f"{split}annot/*.png"))


def test_palettes_without_an_order_that_most_share_are_all_named(tmp_path):
    root = make_shapes(tmp_path, images=8, void=False)
    for i, path in enumerate(masks(root)):
        order = np.random.default_rng(i).permutation(4)
        image = Image.fromarray(np.argsort(order)[np.asarray(Image.open(path))].astype(np.uint8))
        image.putpalette([v for place in order for v in COLORS[place]])
        image.save(path)
    found = told(root)["palette-permuted"]
    assert (found.severity, found.count) == ("error", 8)
