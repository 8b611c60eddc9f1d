"""Speed of `fullconv check` beside bare decoding by Pillow of the same files, in one run, and its memory.

    python benchmarks/doctor.py DATA [--rounds 5] [--threads 1]

DATA is any data set; without it 200 pictures of 480x360 are made. Each round decodes all masks, then scans them; decodes
all files, then examines the data set; with an empty cache each time. Ratios are bare seconds by ours: 1 is as fast.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from harness import alternate, keep, summarize
from PIL import Image

from fullconv.data import examine, open_dataset
from fullconv.data.scan import Scanner


def make(root: Path, pictures: int = 200) -> Path:
    """Make street-like pictures: smooth ground, grain, 11 classes in bands and boxes."""
    rng = np.random.default_rng(0)
    for number in range(pictures):
        split = "val" if number % 5 == 0 else "train"
        mask = np.zeros((360, 480), np.uint8)
        for _ in range(60):
            y, x, h, w = (int(v) for v in rng.integers((0, 0, 4, 4), (350, 470, 120, 120)))
            mask[y : y + h, x : x + w] = rng.integers(0, 11)
        colors = rng.integers(0, 256, (11, 3))
        picture = colors[mask] + rng.normal(0, 6, (360, 480, 1)) + np.linspace(-20, 20, 480)[None, :, None]
        for folder, array in ((split, picture.clip(0, 255).astype(np.uint8)), (f"{split}annot", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number:04d}.png")
    return root


def load(path: Path) -> None:
    """Decode one file as Pillow does it."""
    with Image.open(path) as image:
        image.load()


def measure(data: Path, rounds: int, threads: int) -> dict[str, object]:
    """Time bare decoding and ours, in turn."""
    dataset = open_dataset(data)
    samples = dataset.samples("all")
    sources = [sample.masks[""] for sample in samples]
    masks = sorted({sample.mask for sample in samples})
    files = [*masks, *(sample.image for sample in samples)]

    def decode(paths: list[Path]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(load, paths))

    def scan() -> None:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FULLCONV_CACHE"] = cache
            for _ in Scanner(data, threads).masks(sources):
                pass

    def doctor() -> None:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FULLCONV_CACHE"] = cache
            opened = open_dataset(data)
            opened.__dict__["scanner"] = Scanner(data, threads)
            examine(opened)

    seconds = summarize(
        alternate(
            {
                "pillow, masks": lambda: decode(masks),
                "label scan": scan,
                "pillow, all": lambda: decode(files),
                "doctor": doctor,
            },
            rounds,
        )
    )
    middle = {name: row["median_s"] for name, row in seconds.items()}
    return {
        "data": data.name,
        "pictures": len(samples),
        "threads": threads,
        "seconds": seconds,
        "label_scan_share_of_bare_decoding": middle["pillow, masks"] / middle["label scan"],
        "doctor_share_of_bare_decoding": middle["pillow, all"] / middle["doctor"],
    }


def memory(data: Path) -> dict[str, float]:
    """Peak of Python's and numpy's memory in MB while a data set is examined, once whole and once a quarter of it."""
    peaks = {}
    dataset = open_dataset(data)
    for name, step in (("quarter", 4), ("whole", 1)):
        dataset.splits = {split: members[::step] for split, members in dataset.splits.items()}
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FULLCONV_CACHE"] = cache
            part = open_dataset(data)
            part.splits = {split: members[::step] for split, members in part.splits.items()}
            tracemalloc.start()
            examine(part)
            peaks[name] = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
    return peaks


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        data = arguments.data or make(Path(made) / "made")
        found = {**measure(data, arguments.rounds, arguments.threads), "peak_memory_mb": memory(data)}
    for key, value in found.items():
        print(f"{key}: {value}")
    print(keep("doctor", found))


if __name__ == "__main__":
    main()
