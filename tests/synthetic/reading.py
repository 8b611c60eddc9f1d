"""Open and check a data set, for the assertions of tests."""

from __future__ import annotations

import json
import re
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


def apply_remedy(root: Path, remedy: str) -> None:
    """Edit data.toml as a remedy prints it: remove keys, replace lines that are there, add lines that are not."""
    path = root / "data.toml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    action = "add"
    for row in remedy.splitlines():
        for words in re.findall(r"Remove ([\w ]+) from data.toml", row):
            gone = words.split(" and ")
            lines = [line for line in lines if line.split(" = ")[0] not in gone]
        if "data.toml:" in row:
            action = "replace" if "replace in data.toml" in row.lower() else "add"
        key = row.split(" = ")[0]
        if " = " not in row or not key.isidentifier():
            continue
        present = [line for line in lines if line.split(" = ")[0] == key]
        assert bool(present) == (action == "replace"), f"the remedy would {action} {key}: {remedy}"
        lines = [row, *(line for line in lines if line not in present)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
