"""Draw docs/images/fcn8s.svg: FCN-8s as released, from the layer table of the code.

Every number in the image (sizes, strides, receptive fields, crops) is read from the network; nothing is typed in.

python docs/images/architecture.py [--variant voc-fcn8s] [--size 375x500] [-o FILE]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch

import fullconv
from fullconv.cli.models import layers
from fullconv.cli.options import parse_size
from fullconv.nn.heads import final_crop

WIDTH, HEIGHT = 1240, 535
TOP, LOW = 145, 400
"""Middle of the upper lane (features) and of the lower one (scores)."""
COLUMNS = {"image": 70, "pool1": 205, "pool2": 325, "pool3": 445, "pool4": 590, "pool5": 735, "fc6": 880, "fc7": 1010}
"""Middle of each column in the upper lane."""
END = 1140
"""Middle of the column of the coarsest scores."""
INK, SOFT = "#1f2933", "#5b6770"
FILL = {"image": "#e4e7eb", "conv": "#9fc3e8", "fc": "#f3c18a", "score": "#a8d8a0"}


@dataclass
class Box:
    """A map in the image."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        """Middle of the left side."""
        return self.x - self.width / 2, self.y

    @property
    def right(self) -> tuple[float, float]:
        """Middle of the right side."""
        return self.x + self.width / 2, self.y

    @property
    def below(self) -> tuple[float, float]:
        """Middle of the lower side."""
        return self.x, self.y + self.height / 2

    @property
    def above(self) -> tuple[float, float]:
        """Middle of the upper side."""
        return self.x, self.y - self.height / 2


class Drawing:
    """Lines of an SVG file."""

    def __init__(self) -> None:
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            ' font-family="Helvetica, Arial, sans-serif">',
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            f' orient="auto"><path d="M0 1 L9 5 L0 9 z" fill="{INK}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        ]

    def text(self, x: float, y: float, text: str, size: int = 13, color: str = INK, bold: bool = False) -> None:
        """Write text, centered."""
        weight = ' font-weight="bold"' if bold else ""
        self.lines.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="middle"{weight}>{escape(text)}</text>'
        )

    def slab(self, x: float, y: float, cells: int, channels: int, kind: str) -> Box:
        """Draw a map: its height grows with the root of its size, its width with the logarithm of its channels."""
        box = Box(x, y, 8 + 4 * math.log2(max(channels, 1)), 6 * math.sqrt(cells))
        left, top = box.x - box.width / 2, box.y - box.height / 2
        self.lines.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="2"'
            f' fill="{FILL[kind]}" stroke="{INK}" stroke-width="1"/>'
        )
        return box

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw an arrow along points."""
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.lines.append(
            f'<path d="M{path}" fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#head)"{dash}/>'
        )

    def plus(self, x: float, y: float) -> Box:
        """Draw a sum."""
        self.lines.append(
            f'<circle cx="{x}" cy="{y}" r="13" fill="white" stroke="{INK}" stroke-width="1.4"/>'
            f'<path d="M{x - 7} {y} H{x + 7} M{x} {y - 7} V{y + 7}" stroke="{INK}" stroke-width="1.8"/>'
        )
        return Box(x, y, 26, 26)


def described(variant: str, size: tuple[int, int]) -> tuple[dict[str, dict[str, Any]], dict[int, int], int]:
    """Return the layer table by layer, the crops of the skips by stride, and the last crop."""
    rows = {}
    for row in layers(variant, None, size)["layers"]:
        rows[row["name"].removeprefix("backbone.layers.")] = row
    with torch.device("meta"):
        network = fullconv.build(variant)
    crops = {int(stride): crop.offset for stride, crop in network.head.crop.items()}
    release = network.spec.caffe
    assert release is not None
    return rows, crops, final_crop(network.geometry, network.score_stride, release.kernel)


def shape(row: dict[str, Any]) -> str:
    """Return channels and size of a layer's map in words."""
    channels, height, width = row["shape"][1:]
    return f"{channels} x {height}x{width}"


def backbone(drawing: Drawing, rows: dict[str, dict[str, Any]], size: tuple[int, int]) -> dict[str, Box]:
    """Draw the upper lane: the image, five pools, fc6 and fc7."""
    boxes = {"image": drawing.slab(COLUMNS["image"], TOP, size[0], 3, "image")}
    drawing.text(COLUMNS["image"], 40, "image", bold=True)
    drawing.text(COLUMNS["image"], 58, f"3 x {size[0]}x{size[1]}", 12, SOFT)
    for name, x in list(COLUMNS.items())[1:]:
        row = rows[name]
        kind = "fc" if name.startswith("fc") else "conv"
        boxes[name] = drawing.slab(x, TOP, row["shape"][2], row["shape"][1], kind)
        block = name.removeprefix("pool")
        count = sum(1 for layer in rows if layer.startswith(f"conv{block}_"))
        title = name if kind == "fc" else f"{count} x conv3, {name}"
        drawing.text(x, 40, title, bold=True)
        drawing.text(x, 58, shape(row), 12, SOFT)
        drawing.text(x, 226, f"stride {row['stride']:g}", 12, SOFT)
        drawing.text(x, 242, f"sees {row['receptive_field']}", 12, SOFT)
    drawing.text(COLUMNS["fc6"], 258, "7x7, no padding", 12, SOFT)
    drawing.text(COLUMNS["fc7"], 258, "1x1", 12, SOFT)
    order = list(boxes.values())
    for left, right in pairwise(order):
        drawing.arrow(left.right, right.left)
    drawing.text((COLUMNS["image"] + COLUMNS["pool1"]) / 2, TOP - 8, "pad 100", 12)
    return boxes


def scored(
    drawing: Drawing, boxes: dict[str, Box], rows: dict[str, dict[str, Any]], crops: dict[int, int], last: int,
    size: tuple[int, int],
) -> None:  # fmt: skip
    """Draw the lower lane, from the coarsest scores on the right to the answer on the left."""
    coarse = rows["head.score.32"]
    classes = coarse["shape"][1]
    score = drawing.slab(END, LOW, coarse["shape"][2], classes, "score")
    drawing.arrow(boxes["fc7"].right, (END, TOP), score.above)
    label(drawing, END, "score_fr, 1x1", shape(coarse))
    before = score
    for stride, pool, grow in ((16, "pool4", "upscore2"), (8, "pool3", "upscore_pool4")):
        skip = rows[f"head.score.{stride}"]
        x = COLUMNS[pool]
        plus = drawing.plus(x, LOW)
        drawing.arrow((x, 250), plus.above, dashed=True)
        drawing.text(x + 62, 310, f"score_{pool}, 1x1", 12)
        drawing.text(x + 62, 326, f"crop at {crops[stride]}", 12)
        drawing.arrow(before.left, plus.right)
        height = 2 * before_height(rows, stride) + 2
        drawing.text((before.x + x) / 2, LOW - 12, f"{grow}: 4/2", 12)
        drawing.text((before.x + x) / 2, LOW + 22, f"{before_height(rows, stride)} -> {height} rows", 12, SOFT)
        drawing.text(x, LOW + 42, f"scores at stride {stride}", 12, SOFT)
        assert skip["shape"][1] == classes
        before = plus
    answer = drawing.slab(COLUMNS["image"], LOW, size[0], classes, "score")
    drawing.arrow(before.left, answer.right)
    middle = (before.x + COLUMNS["image"]) / 2
    drawing.text(middle, LOW - 12, "upscore8: 16/8, bilinear and fixed", 12)
    drawing.text(middle, LOW + 22, f"crop at {last}", 12, SOFT)
    label(drawing, COLUMNS["image"], "logits", f"{classes} x {size[0]}x{size[1]}")


def before_height(rows: dict[str, dict[str, Any]], stride: int) -> int:
    """Return the rows of the map that grows onto a stride."""
    coarse: int = rows["head.score.32"]["shape"][2]
    return coarse if stride == 16 else 2 * coarse + 2


def label(drawing: Drawing, x: float, name: str, shape_: str) -> None:
    """Name a map of the lower lane."""
    drawing.text(x, LOW + 84, name, bold=True)
    drawing.text(x, LOW + 102, shape_, 12, SOFT)


def draw(variant: str = "voc-fcn8s", size: tuple[int, int] = (375, 500)) -> str:
    """Return the image of a net with two skips."""
    rows, crops, last = described(variant, size)
    drawing = Drawing()
    boxes = backbone(drawing, rows, size)
    scored(drawing, boxes, rows, crops, last, size)
    drawing.text(
        WIDTH / 2, HEIGHT - 12, f"{variant}, from `fullconv models {variant} --size {size[0]}x{size[1]}`", 12, SOFT
    )
    return "\n".join([*drawing.lines, "</svg>", ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="voc-fcn8s")
    parser.add_argument("--size", default="375x500")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("fcn8s.svg"))
    given = parser.parse_args()
    given.out.write_text(draw(given.variant, parse_size(given.size)), encoding="utf-8")
