"""False alarms of `fullconv check` in healthy sets: every alarm printed here is one too many.

    python benchmarks/doctor/healthy.py [--camvid DIR] [--nuclei DIR] [--subsets 300] [--drawn 5] [--first 0]
        [--save NAME]

CamVid is scanned once. Its 11 one-against-rest sets (void apart, and void as rest) and random subsets of 20 to 60 images are
given to the checks of likeness as `check` gives them: a thumbnail per image and mask. Whole data sets, and the drawn ones,
are examined from files, and every error and warning counts as an alarm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import keep

from fullconv.data import examine
from fullconv.data.checks.aggregates import Aggregates, Thumbnails, make_thumbnails
from fullconv.data.checks.alignment import alignment
from fullconv.data.checks.appearance import exchanged_classes

HEIGHT, WIDTH, IMAGES = 96, 128, 24
VOID = 255


class Part:
    """Some pairs of a scan with labels and classes of their own: what the checks of likeness read."""

    def __init__(self, scan: Aggregates, pairs: dict[str, list[Thumbnails]], names: tuple[str, ...]) -> None:
        self.pairs, self.names = pairs, names
        self.oriented: dict[int, list[Thumbnails]] = {}
        self.display, self.report_path = scan.display, scan.report_path

    def alarms(self) -> list[str]:
        """Return the codes that the checks of likeness report."""
        found = [*alignment(self), *exchanged_classes(self)]  # type: ignore[arg-type]
        return sorted({one.code for one in found})


def one_against_rest(scan: Aggregates, index: int, void: int) -> Part:
    """Return a set of two classes: `index` and the rest; void pixels become `void` (0: of the rest)."""
    table = np.zeros(256, np.uint8)
    table[[index, 11]] = 1, void
    classes = np.full(256, VOID, np.uint8)
    classes[:2] = 0, 1
    pairs = {}
    for split, members in scan.pairs.items():
        found = []
        for pair in members:
            again = make_thumbnails(
                pair.sample, (pair.image * 50 + 128).clip(0, 255).astype(np.uint8), table[pair.mask]
            )
            found += [] if again is None else [replace(again, classes=classes)]
        pairs[split] = found
    return Part(scan, pairs, ("rest", scan.names[index]))


def subset(scan: Aggregates, seed: int) -> Part:
    """Return 20 to 60 random images, a fifth of them in val."""
    draw = np.random.default_rng(seed)
    everyone = [pair for members in scan.pairs.values() for pair in members]
    chosen = sorted(draw.choice(len(everyone), int(draw.integers(20, 61)), replace=False))
    members = [everyone[i] for i in chosen]
    is_val = draw.permutation(len(members)) < len(members) // 5
    pairs = {
        "train": [pair for pair, val in zip(members, is_val, strict=True) if not val],
        "val": [pair for pair, val in zip(members, is_val, strict=True) if val],
    }
    return Part(scan, pairs, scan.names)


def field(draw: np.random.Generator, cells: int) -> np.ndarray:
    """Return a smooth random field (HEIGHT, WIDTH) with `cells` bumps along each side."""
    coarse = Image.fromarray(draw.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def painted(labels: np.ndarray, colors: np.ndarray, draw: np.random.Generator, grain: float = 8) -> np.ndarray:
    """Return an image (HEIGHT, WIDTH, 3) of labels in their colours, with shade and grain."""
    shade = field(draw, 4)[..., None] * 12 + draw.normal(0, grain, (HEIGHT, WIDTH, 3))
    return np.asarray((colors[labels] + shade).clip(0, 255).astype(np.uint8))


def shapes(classes: int) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """Ellipses and boxes of `classes - 1` classes on plain ground, in colours of the class."""
    paint = np.random.default_rng(classes).integers(30, 226, (classes, 3))

    def make(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        mask = Image.new("L", (WIDTH, HEIGHT))
        for number in range(int(draw.integers(2, 7))):
            x, y, side = draw.integers(0, WIDTH - 20), draw.integers(0, HEIGHT - 20), int(draw.integers(10, 40))
            box = (int(x), int(y), int(x) + side, int(y) + side * 2 // 3)
            kind = 1 + int(draw.integers(classes - 1))
            (ImageDraw.Draw(mask).ellipse if number % 2 else ImageDraw.Draw(mask).rectangle)(box, fill=kind)
        labels = np.array(mask)
        return painted(labels, paint + draw.normal(0, 10, (classes, 3)), draw), labels

    return make


def textures(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of one mean colour that differ in grain only."""
    labels = (field(draw, 4) > 0).astype(np.uint8)
    noise = draw.normal(0, 1, (HEIGHT, WIDTH, 1)) * np.array([6, 30])[labels][..., None]
    return (128 + noise + np.zeros(3)).clip(0, 255).astype(np.uint8), labels


def thresholds(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that are the levels of a smooth field."""
    values = field(draw, 6)
    labels = np.digitize(values, (-0.5, 0.5)).astype(np.uint8)
    image = 128 + 30 * values[..., None] + draw.normal(0, 6, (HEIGHT, WIDTH, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def facades(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of windows and a door on a wall: repeated, nearly symmetric scenes."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    rows, columns = int(draw.integers(2, 5)), int(draw.integers(3, 7))
    for i in range(rows):
        for j in range(columns):
            y, x = 6 + i * (HEIGHT - 12) // rows, 6 + j * (WIDTH - 12) // columns
            labels[y : y + 50 // rows, x : x + 60 // columns] = 1
    x = int(draw.integers(20, WIDTH - 40))
    labels[-26:, x : x + 18] = 2
    paint = np.array([[170, 120, 90], [70, 80, 100], [90, 60, 40]]) + draw.normal(0, 14, (3, 3))
    return painted(labels, paint, draw), labels


DRAWN: dict[str, tuple[int, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]]] = {
    "two classes": (2, shapes(2)),
    "many classes": (12, shapes(12)),
    "textures": (2, textures),
    "thresholds": (3, thresholds),
    "facades": (3, facades),
}


def save_drawn(root: Path, name: str, seed: int) -> Path:
    """Write a drawn set as images and masks with data.toml."""
    classes, make = DRAWN[name]
    draw = np.random.default_rng(seed)
    for number in range(IMAGES):
        split = "val" if number % 4 == 0 else "train"
        image, labels = make(draw)
        for folder, array in ((split, image), (f"{split}annot", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number:03d}.png")
    names = ", ".join(f'"class {chr(97 + i)}"' for i in range(classes))
    (root / "data.toml").write_text(f"classes = [{names}]\n", encoding="utf-8")
    return root


def alarms_of(root: Path) -> list[str]:
    """Return the codes of errors and warnings of a data set."""
    return sorted({one.code for one in examine(root).problems if one.severity != "note"})


def main() -> None:
    """Look at all healthy sets, and print the alarms by check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--nuclei", type=Path)
    parser.add_argument("--subsets", type=int, default=300)
    parser.add_argument("--drawn", type=int, default=5)
    parser.add_argument(
        "--first", type=int, default=0, help="first seed: others than those the limits were chosen with"
    )
    parser.add_argument("--save", default="", metavar="NAME")
    arguments = parser.parse_args()
    alarms: dict[str, list[str]] = {}
    if arguments.camvid:
        found = examine(arguments.camvid)
        scan = found.first
        assert scan is not None
        alarms["camvid"] = sorted({one.code for one in found.problems if one.severity != "note"})
        for index, name in enumerate(scan.names):
            for words, void in (("void apart", VOID), ("void as rest", 0)):
                alarms[f"camvid: {name} against rest, {words}"] = one_against_rest(scan, index, void).alarms()
        for seed in range(arguments.first, arguments.first + arguments.subsets):
            alarms[f"camvid: subset {seed}"] = subset(scan, seed).alarms()
    if arguments.nuclei:
        alarms["nuclei"] = alarms_of(arguments.nuclei)
    for name in DRAWN:
        for seed in range(arguments.first, arguments.first + arguments.drawn):
            with tempfile.TemporaryDirectory() as folder:
                alarms[f"{name} {seed}"] = alarms_of(save_drawn(Path(folder), name, seed))
    by_check = Counter(code for codes in alarms.values() for code in codes)
    summary = {
        "healthy_sets": len(alarms),
        "sets_with_alarms": sum(map(bool, alarms.values())),
        "alarms_by_check": dict(by_check),
        "alarms": {name: codes for name, codes in alarms.items() if codes},
    }
    print(
        f"{summary['healthy_sets']} healthy sets, {summary['sets_with_alarms']} with alarms; by check: {dict(by_check)}"
    )
    for name, codes in summary["alarms"].items():  # type: ignore[attr-defined]
        print(f"  {name}: {', '.join(codes)}")
    if arguments.save:
        print(keep(arguments.save, summary))


if __name__ == "__main__":
    main()
