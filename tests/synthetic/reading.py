"""Open and check a data set, for the assertions of tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data import Problem, inspect, open_dataset

Array = NDArray[Any]
_SMALL = {"class-missing-in-train", "class-unused"}
"""Codes that sets of a few images always have."""


def problems(root: Path) -> dict[str, Problem]:
    """Return the problems of a data set by code."""
    return {problem.code: problem for problem in inspect(root)}


def codes(root: Path) -> set[str]:
    """Return the codes of the problems, except those of any small set."""
    return problems(root).keys() - _SMALL


def read_masks(root: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the masks of a data set by stem."""
    data = open_dataset(root)
    return {sample.stem: data.read_mask(sample) for sample in data.samples("all")}


def read_mask(root: Path, stem: str) -> NDArray[np.uint8]:
    """Return the mask of the one sample whose stem ends so."""
    (mask,) = [mask for name, mask in read_masks(root).items() if name.endswith(stem)]
    return mask


def split_sizes(root: Path) -> dict[str, int]:
    """Return the number of samples by split."""
    return {split: len(members) for split, members in open_dataset(root).splits.items()}


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    table = json.loads(path.read_text(encoding="utf-8"))
    edit(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def rewrite_masks(paths: Iterable[Path], change: Callable[[Array], Array]) -> None:
    """Replace the pixels of mask files."""
    for path in paths:
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def camvid_masks(root: Path, split: str = "*") -> list[Path]:
    """Return the mask files of a data set in CamVid's layout."""
    return sorted(root.glob(f"{split}annot/*.png"))


def relative(paths: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Return names as problems report them."""
    return tuple(path.relative_to(root).as_posix() for path in paths)
