"""What of an annotation could not be drawn, or was drawn in a way that its author may not have meant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fullconv.data.config import Boxes, DataSettings
from fullconv.data.formats.shapes import Shape
from fullconv.data.problems import Problem, problem
from fullconv.labels import VOID

_BOX_WORDS = {
    "fill": "are boxes, and are filled as such",
    "void": "are boxes without an outline, so what is in them is void where nothing else is drawn",
    "skip": "are boxes without an outline, and are left out",
}


class Remarks:
    """Collects the stems of pictures by what has to be said about their shapes.

    Args:
        settings: What the user says: boxes.
        boxes: What happens to boxes where the user says nothing.
    """

    def __init__(self, settings: DataSettings, boxes: Boxes) -> None:
        self.boxes: Boxes = settings.boxes or boxes
        self.asked = settings.boxes is not None
        """Whether the user said it."""
        self._boxes: list[str] = []
        self._bad: list[str] = []
        self._kinds: dict[str, None] = {}
        self._flat: list[str] = []
        self._flat_kinds: dict[str, None] = {}
        self._twofold: dict[str, str] = {}
        self._outlines, self._farthest = 0, 0.0

    def box(self, stem: str, shape: Shape) -> list[Shape]:
        """Return what a box draws: its class, or void, where nothing else is drawn; or nothing."""
        self._boxes.append(stem)
        if self.boxes == "void":
            return [replace(shape, label=VOID, below=True)]
        return [shape] if self.boxes == "fill" else []

    def bad(self, stem: str, kind: object) -> None:
        """Remember a shape that cannot be drawn."""
        self._bad.append(stem)
        self._kinds[str(kind)[:40] or "no kind"] = None

    def flat(self, stem: str, kind: str) -> None:
        """Remember a shape that has no area: points, lines."""
        self._flat.append(stem)
        self._flat_kinds[kind] = None

    def twofold(self, stem: str, names: str) -> None:
        """Remember a shape with several labels, of which the first counts."""
        self._twofold.setdefault(stem, names)

    def extent(self, shape: Shape) -> None:
        """Note how far the points of an outline go."""
        if shape.kind in ("coco-polygon", "polygon"):
            farthest = max((abs(value) for ring in shape.points for value in np.ravel(ring).tolist()), default=2.0)
            self._outlines += 1
            self._farthest = max(self._farthest, farthest)

    def problems(self) -> list[Problem]:
        """Say all of it, each with the pictures that it concerns."""
        found = []
        if self._outlines > 1 and self._farthest <= 1:
            words = (
                "all points of all outlines lie between 0 and 1, so they are fractions of the picture and not pixels"
            )
            remedy = "Export them in pixels: x times the width, y times the height."
            found.append(problem("bad-shape", "error", [], words, remedy))
        if bad := list(dict.fromkeys(self._bad)):
            kinds = ", ".join(self._kinds)
            words = f"shapes cannot be drawn ({kinds}): too few points, no numbers, wrong sizes, or a kind not known"
            found.append(problem("bad-shape", "error", bad, words, "Draw them again, or remove them.", bad))
        if flat := list(dict.fromkeys(self._flat)):
            words = f"shapes have no area ({', '.join(self._flat_kinds)}), and are left out"
            found.append(problem("no-area", "warning", flat, words, "Draw outlines where they should count."))
        if self._twofold:
            words = f"shapes have several labels, as {next(iter(self._twofold.values()))}; the first counts"
            remedy = "Leave each shape one label: a pixel has one class."
            found.append(problem("several-labels", "warning", list(self._twofold), words, remedy))
        if boxes := list(dict.fromkeys(self._boxes)):
            words = f"shapes {_BOX_WORDS[self.boxes]}"
            remedy = 'Draw outlines, or say in data.toml what boxes are: boxes = "fill", "void" or "skip".'
            severity = "note" if self.asked or self.boxes == "fill" else "warning"
            found.append(problem("box-only", severity, boxes, words, "" if self.asked else remedy))  # type: ignore[arg-type]
        return found
