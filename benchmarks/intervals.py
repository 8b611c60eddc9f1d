"""Coverage of the 95 % interval of mIoU: how often it holds the true value, in simulated data sets.

A world says how often each class occurs, how large it is and how well it is found. An image has a difficulty that all its
classes share, classes that occur together, and errors that go to few other classes, so pixels of one image are alike.
The true value is the mIoU of 200,000 images. Compared are percentiles of the bootstrap, and what `evaluate` reports.

    python benchmarks/intervals.py [--sets 1000] [--images 20 50 100] [--worlds street rare]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import NormalDist

import numpy as np
from harness import keep

from fullconv.intervals import RESAMPLES, bootstrap_interval, class_intervals, resample
from fullconv.metrics import Counts, count, iou, mean_iou, mean_ious, total

PIXELS = 100_000  # of an image


@dataclass(frozen=True)
class World:
    """A population of images and how a model labels them; a number per class."""

    share: tuple[float, ...]
    """Share of images that a class occurs in."""
    size: tuple[float, ...]
    """Typical size where it does, relative to the others."""
    found: tuple[float, ...]
    """Log odds that a pixel of it is labelled correctly, in a typical image."""
    difficulty: float = 0.7
    """Standard deviation of an image's difficulty, in log odds."""
    variety: float = 0.7
    """The same for one class in one image."""
    sizes: float = 0.8
    """Standard deviation of the logarithm of sizes."""
    failures: float = 0.0
    """Share of images in which nearly everything is wrong."""


WORLDS = {
    "binary": World((1, 1), (1, 0.3), (3.5, 1.5), difficulty=0.8, variety=0.5),
    "lesion": World((1, 0.5), (1, 0.05), (5, 1.2), difficulty=1.0, sizes=1.2),
    "organs": World((1, 0.9, 0.8, 0.7), (1, 0.1, 0.05, 0.03), (5, 3, 2.5, 2), difficulty=0.9, sizes=0.5),
    "damage": World((1, 0.6, 0.3, 0.15), (1, 0.1, 0.08, 0.05), (4, 1, 0.5, 0), variety=1.0, sizes=1.0),
    "tiles": World((0.9, 0.7, 0.5, 0.5, 0.3), (1, 0.6, 0.6, 0.4, 0.1), (2, 1.5, 1, 1, 0.3), difficulty=0.9),
    "rare": World((1, 1, 0.6, 0.15, 0.1), (1, 0.5, 0.2, 0.05, 0.05), (3, 2, 1, 0.5, 0)),
    "street": World(
        (1, 1, 1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.25),
        (1, 0.8, 0.5, 0.3, 0.15, 0.1, 0.08, 0.05, 0.03, 0.02, 0.02),
        (3, 3.2, 2.5, 2, 1.5, 1, 1.2, 0.6, 0.5, 0.2, 0.3),
    ),
    "excellent": World((1, 1, 0.8), (1, 0.4, 0.2), (6, 5, 4.5), variety=0.5),
    "objects": World((1, *[0.08] * 20), (1, *[0.3] * 20), (3.5, *np.linspace(0, 2.5, 20)), variety=1.0),
    "failures": World((1, 1, 0.7), (1, 0.4, 0.2), (4, 3, 2.5), difficulty=0.4, failures=0.08),
}
BEYOND = {
    "objects": "20 classes, each in 8 % of the images: at 20 images most are in one or two",
    "failures": "everything goes wrong in 8 % of the images: of 20 images, every fifth set holds none of these",
}
"""Worlds that no method can know from so few images; they are measured, too."""


def draw(world: World, number: int, random: np.random.Generator) -> Counts:
    """Draw images of a world: the counts (number, K) of a model on them."""
    classes = len(world.share)
    fixed = np.random.default_rng(7)  # of the world: which classes go together, and what is mistaken for what
    together = fixed.uniform(-0.6, 0.6, classes)
    mistaken = fixed.dirichlet(np.full(classes, 0.5), classes) * 0.9 + 0.1 / classes
    scene = together * random.normal(size=(number, 1)) + np.sqrt(1 - together**2) * random.normal(
        size=(number, classes)
    )
    bounds = [NormalDist().inv_cdf(share) if share < 1 else np.inf for share in world.share]
    area = np.exp(np.log(world.size) + world.sizes * random.normal(size=(number, classes))) * (scene < bounds)
    area[area.sum(axis=1) == 0, 0] = 1
    area /= area.sum(axis=1, keepdims=True)
    odds = np.array(world.found) + world.difficulty * random.normal(size=(number, 1))
    odds = (
        odds + world.variety * random.normal(size=(number, classes)) - 5 * (random.random((number, 1)) < world.failures)
    )
    right = 1 / (1 + np.exp(-odds))
    # Errors go to what the image holds, rarely to what it does not.
    errors = mistaken * np.where(area > 0, 1, 0.05)[:, None] * random.gamma(1, size=(number, classes, classes))
    errors[:, np.arange(classes), np.arange(classes)] = 0
    errors *= (area * (1 - right) / errors.sum(axis=2))[:, :, None]
    errors[:, np.arange(classes), np.arange(classes)] = area * right
    return count(np.rint(errors * PIXELS).astype(np.int64))


def percentiles(images: Counts, seed: int) -> tuple[float, float]:
    """Return the plain percentile interval."""
    low, high = np.nanpercentile(mean_ious(resample(images, RESAMPLES, seed)), [2.5, 97.5])
    return float(low), float(high)


METHODS = {"percentile": percentiles, "reported": lambda images, seed: bootstrap_interval(images, seed=seed)}


def measure(job: tuple[str, int], sets: int) -> dict:
    """Return the coverage and mean width of each method in a world's data sets of one size."""
    name, number = job
    world = WORLDS[name]
    random = np.random.default_rng(2025)
    whole = total(Counts(*map(np.concatenate, zip(*(draw(world, 10_000, random) for _ in range(20)), strict=True))))
    truth, class_truth = mean_iou(whole), iou(whole)
    random = np.random.default_rng(number)
    ends: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    seconds, of_classes = 0.0, []
    for seed in range(sets):
        images = draw(world, number, random)
        for method, interval in METHODS.items():
            start = time.perf_counter()
            ends[method].append(interval(images, seed))
            seconds += (time.perf_counter() - start) * (method == "reported")
        for (low, high), value in zip(class_intervals(images, seed=seed), class_truth, strict=True):
            of_classes += [] if np.isnan(low) else [low <= value <= high]
    row = {"world": name, "images": number, "sets": sets, "mean_iou": round(truth, 4)}
    for method, found in ends.items():
        given = [(low, high) for low, high in found if not np.isnan(low)]
        row[method] = {"given": len(given) / sets}
        if given:
            held = [low <= truth <= high for low, high in given]
            row[method] |= {
                "coverage": round(float(np.mean(held)), 3),
                "width": round(float(np.mean([high - low for low, high in given])), 4),
            }
    row["classes"] = round(float(np.mean(of_classes)), 3) if of_classes else None
    return {**row, "milliseconds": round(1000 * seconds / sets, 1), "beyond": BEYOND.get(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", default=(20, 50, 100))
    parser.add_argument("--worlds", nargs="+", default=tuple(WORLDS))
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    jobs = [(name, number) for name in options.worlds for number in options.images]
    rows = []
    with get_context("spawn").Pool(options.processes) as pool:
        for row in pool.imap(partial(measure, sets=options.sets), jobs):
            rows.append(row)
            print(row, flush=True)
    keep("intervals", {"resamples": RESAMPLES, "confidence": 0.95, "rows": rows})


if __name__ == "__main__":
    main()
