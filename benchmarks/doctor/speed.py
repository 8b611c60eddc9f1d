"""Speed of `fullconv check` beside bare decoding by Pillow of the same files, in one run, and its memory.

    python benchmarks/doctor/speed.py [DATA ...] [--rounds 5] [--threads 1]

DATA are any data sets; a last one of 200 pictures of 480x360 with masks of two numbers is made. Each round decodes all masks,
then scans them; decodes all files, then examines the data set; with an empty cache each time. Ratios are bare seconds by
ours: 1 is as fast. With one thread the bare decoding is a plain loop and seconds are those of the
processor, so that other work on the machine counts little; with more it is spread over a pool, and seconds are those that pass.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import alternate, keep, summarize
from PIL import Image

from fullconv.data import examine, open_dataset
from fullconv.data.scan.scanner import Scanner


def make(root: Path, pictures: int = 200) -> Path:
    """Make street-like pictures as JPEG, smooth ground and grain, with masks of 0 and 1 that are smooth blobs."""
    rng = np.random.default_rng(0)
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("ground\nthing\n")
    for number in range(pictures):
        split = "val" if number % 5 == 0 else "train"
        coarse = Image.fromarray(rng.normal(0, 1, (12, 16)).astype(np.float32))
        mask = (np.asarray(coarse.resize((480, 360), Image.Resampling.BICUBIC)) > 0.5).astype(np.uint8)
        colors = rng.integers(0, 256, (2, 3))
        picture = colors[mask] + rng.normal(0, 6, (360, 480, 1)) + np.linspace(-20, 20, 480)[None, :, None]
        for folder, suffix, array in (
            (split, "jpg", picture.clip(0, 255).astype(np.uint8)),
            (f"{split}annot", "png", mask),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number:04d}.{suffix}")
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
        if threads == 1:
            for path in paths:
                load(path)
            return
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
            clock=time.process_time if threads == 1 else time.perf_counter,
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
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        sets = [*arguments.data, make(Path(made) / "made")]
        found = [
            {**measure(data, arguments.rounds, arguments.threads), "peak_memory_mb": memory(data)} for data in sets
        ]
    for one in found:
        for key, value in one.items():
            print(f"{key}: {value}")
    print(keep("doctor" if arguments.threads == 1 else f"doctor_{arguments.threads}_threads", {"sets": found}))


if __name__ == "__main__":
    main()
