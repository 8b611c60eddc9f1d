"""The pictures that a problem names, beside their masks and under them, as small as they are told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data import Dataset, Sample
from fullconv.errors import FullconvError
from fullconv.images import read_image
from fullconv.labels import VOID, colorize, voc_palette
from fullconv.prediction import display
from fullconv.report.html import data_uri, text

SIDE = 300
"""Longest side of a thumbnail in pixels."""


@dataclass(frozen=True)
class Offenders:
    """Finds the pictures and masks behind the names in a problem.

    Args:
        root: The data folder.
        dataset: As opened; None where it could not be.
    """

    root: Path
    dataset: Dataset | None

    def by_name(self) -> Mapping[str, Sample]:
        """Return samples by the names of their pictures and masks, as problems call them, and by their stems."""
        found: dict[str, Sample] = {}
        for sample in self.dataset.samples("all") if self.dataset is not None else ():
            for path in (sample.image, sample.judged()):
                found.setdefault(
                    path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path), sample
                )
            found.setdefault(sample.stem, sample)
        return found

    def rows(self, names: Iterable[str], samples: Mapping[str, Sample], most: int) -> str:
        """Return the first of the named files as rows of thumbnails; empty where none is a picture."""
        seen: set[str] = set()
        rows: list[str] = []
        for name in names:
            sample = samples.get(name)
            key = sample.stem if sample is not None else name
            if key in seen or len(rows) == most:
                continue
            seen.add(key)
            row = self.pair(sample) if sample is not None else self._alone(name)
            if row:
                rows.append(f'<figure class="offender"><figcaption>{text(name)}</figcaption>{row}</figure>')
        return f'<div class="offenders">{"".join(rows)}</div>' if rows else ""

    def pair(self, sample: Sample) -> str:
        """Return picture, mask, and mask over picture."""
        picture, why = _picture(sample.image)
        mask, why_not = self._mask(sample)
        parts = [_frame(picture, "picture", why), _frame(mask, "mask", why_not)]
        if picture is not None and mask is not None:
            over = mask if mask.size == picture.size else mask.resize(picture.size, Image.Resampling.NEAREST)
            parts.append(_frame(Image.blend(picture, over, 0.55), "mask over picture", ""))
        return f'<div class="three">{"".join(parts)}</div>'

    def _alone(self, name: str) -> str:
        path = self.root / name
        if not path.is_file():
            return ""
        picture, why = _picture(path)
        return f'<div class="three">{_frame(picture, "picture", why)}</div>'

    def _mask(self, sample: Sample) -> tuple[Image.Image | None, str]:
        """Paint a mask with the classes' colours; where it cannot be decoded, with colours by number."""
        assert self.dataset is not None
        try:
            labels = self.dataset.labels[self.dataset.heads[0]]
            return _small(colorize(self.dataset.read_mask(sample), labels.palette)), ""
        except FullconvError:
            pass
        try:
            raw = sample.masks[self.dataset.heads[0]].raw("rgb")
        except FullconvError as error:
            return None, str(error)
        return _small(_by_number(raw)), ""


def _by_number(raw: NDArray[Any]) -> NDArray[np.uint8]:
    if raw.ndim == 3:
        return np.ascontiguousarray(raw[..., :3], dtype=np.uint8)
    colors = np.array(voc_palette(), np.uint8)
    colors[VOID] = 255
    painted: NDArray[np.uint8] = colors[raw & 255]
    return painted


def _picture(path: Path) -> tuple[Image.Image | None, str]:
    try:
        return _small(display(read_image(path))), ""
    except FullconvError as error:
        return None, str(error).removeprefix(f"{path}: ")


def _small(rgb: NDArray[np.uint8]) -> Image.Image:
    """Shrink to a thumbnail by its nearest pixels: what is wrong with a mask must not be averaged away."""
    factor = max(1.0, max(rgb.shape[:2]) / SIDE)
    height, width = (max(1, round(side / factor)) for side in rgb.shape[:2])
    return Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), Image.Resampling.NEAREST)


def _frame(image: Image.Image | None, what: str, why: str) -> str:
    if image is None:
        return f'<div class="none">{text(what)}: {text(why.partition(". ")[0])}</div>'
    kind = "PNG" if what == "mask" else "JPEG"
    flat = ' class="flat"' if what == "mask" or max(image.size) < 200 else ""
    return (
        f'<div class="frame"><img src="{data_uri(image, kind)}" width="{image.width}" height="{image.height}"'  # type: ignore[arg-type]
        f' alt="{text(what)}"{flat} loading="lazy"></div>'
    )
