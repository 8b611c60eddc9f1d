"""How faults get into the sets of `export_sets.py`, and the list of all of them."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from doctor.export_sets import EXPORTS, Scene, save
from doctor.faults import Fault

Seed = Callable[[Path, list[Scene]], None]

NOTES = frozenset(["class-unused", "other-file", "unlisted", "constant-mask", "grey-among-color", "several-frames"])
LINES = frozenset(["binary-mask", "off-by-one", "scaled-labels", "label-gaps", "void-as-class"])
"""Codes whose remedy is printed as lines."""

FAULTS: list[Fault] = []


@lru_cache
def _scenes_of(base: str) -> list[Scene]:
    with tempfile.TemporaryDirectory() as name:
        return EXPORTS[base](Path(name))


def fault(base: str, kind: str, codes: str, remedy: str | None = "restore") -> Callable[[Seed], Seed]:
    """Note a fault with the codes of which one is right; without any, nothing may come of it but notes."""
    named = frozenset(codes.split())
    if remedy == "restore":
        remedy = "lines" if named & LINES else None if named <= NOTES else "restore"

    def keep(seed: Seed) -> Seed:
        FAULTS.append(Fault(kind, base, named, lambda root: seed(root, _scenes_of(base)), remedy))
        return seed

    return keep


def cut(path: Path, part: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def swap(root: Path, old: str, new: str, name: str = "annotations.xml", count: int = 1) -> None:
    path = root / name
    text = path.read_text(encoding="utf-8")
    assert re.search(old, text), old
    path.write_text(re.sub(old, lambda m: m.expand(new), text, count=count), encoding="utf-8")


def studio(root: Path, change: Callable[[list], object]) -> None:
    path = next(root.glob("*.json"))
    tasks = json.loads(path.read_text())
    tasks = change(tasks) or tasks
    path.write_text(json.dumps(tasks))


def results(tasks: list, kind: str = "") -> list[dict]:
    return [r for t in tasks for a in t["annotations"] for r in a["result"] if r["type"].startswith(kind)]


def masks_of(root: Path) -> list[Path]:
    """Mask files of a set with mask files."""
    patterns = (
        "SegmentationClass/*.png",
        "gtFine/**/*_labelIds.png",
        "t*/*_mask.png",
        "v*/*_mask.png",
        "annotations/**/*.png",
    )
    return sorted(p for pattern in patterns for p in root.glob(pattern))


def pictures_of(root: Path) -> list[Path]:
    found = [
        p for p in root.rglob("*") if p.suffix in (".jpg", ".png") and p.is_file() and not p.stem.endswith("_mask")
    ]
    found = [
        p for p in found if not {"SegmentationClass", "SegmentationObject", "gtFine", "annotations"} & set(p.parts)
    ]
    return sorted(found)


def edit_masks(
    root: Path, change: Callable[[np.ndarray], np.ndarray], only: int | None = None, suffix: str = ".png"
) -> None:
    for path in masks_of(root)[slice(None) if only is None else slice(only, only + 1)]:
        array = change(np.asarray(Image.open(path)))
        path.unlink()
        save(path.with_suffix(suffix), array)


def jpeg(array: np.ndarray, quality: int = 75) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(array: np.ndarray, size: tuple[int, int], how: int = Image.BILINEAR) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize(size, how))
