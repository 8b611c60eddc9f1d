"""Does `fullconv rank` choose better than chance? mIoU after labeling the same number of synthetic images.

A pool as people have it: many frames of a few scenes, and some single images. A first model learns from
a few random labels; then as many again are added once by its ranking and once at random, and both are trained anew
with the same number of steps and scored on single images only.

    python benchmarks/rank.py [--seeds 5] [--first 8] [--more 16] [--steps 250]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from harness import keep
from PIL import Image

import fullconv
from fullconv.cli.synthetic import draw
from fullconv.ranking import rank, summarize_images

SIZE = (96, 128)
SCENES, FRAMES, SINGLES, TEST = 4, 30, 40, 40


def pool(folder: Path, seed: int) -> list[str]:
    """Write images and masks of a pool and a test set; return the pool's names."""
    names = []
    for kind in ("images", "masks", "test/images", "test/masks"):
        (folder / kind).mkdir(parents=True)

    def write(name: str, image: np.ndarray, mask: np.ndarray, where: str = "") -> None:
        Image.fromarray(image).save(folder / where / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / where / "masks" / f"{name}.png")

    for scene in range(SCENES):
        image, mask = draw(np.random.default_rng([seed, 1, scene]), (SIZE[0] + 32, SIZE[1] + 32))
        for frame in range(FRAMES):  # the camera moves by a pixel a frame, and there is noise
            noise = np.random.default_rng([seed, 2, scene, frame]).normal(0, 4, (*SIZE, 3))
            cut = (slice(frame, frame + SIZE[0]), slice(frame, frame + SIZE[1]))
            names.append(f"scene{scene}_{frame:02}")
            write(names[-1], (image[cut] + noise).clip(0, 255).astype(np.uint8), mask[cut])
    for number in range(SINGLES):
        names.append(f"single{number:02}")
        write(names[-1], *draw(np.random.default_rng([seed, 3, number]), SIZE))
    for number in range(TEST):
        write(f"{number:02}", *draw(np.random.default_rng([seed, 4, number]), SIZE), "test")
    return names


def score(folder: Path, chosen: list[str], steps: int, seed: int, out: Path) -> tuple[fullconv.Segmenter, float]:
    """Train on chosen images of the pool; return the model and its mIoU on the test set."""
    shutil.rmtree(out, ignore_errors=True)
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (out / "data" / split / kind).mkdir(parents=True)
        for name in chosen:
            shutil.copy(folder / kind / f"{name}.png", out / "data" / "train" / kind)
        shutil.copytree(folder / "test" / kind, out / "data" / "val" / kind, dirs_exist_ok=True)
    names = '", "'.join(("ground", "disc", "box", "triangle"))
    (out / "data" / "data.toml").write_text(f'classes = ["{names}"]\n')
    epochs = max(1, round(steps / 50))  # an epoch is at least 50 steps
    segmenter = fullconv.train(
        out / "data", out=out / "run", backbone="tiny", weights="none", epochs=epochs, seed=seed, batch_size=4,
        crop="96x128", validate_every=epochs, precision="fp32",
    )  # fmt: skip
    return segmenter, fullconv.evaluate(segmenter, out / "data", split="val").mean_iou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=8)
    parser.add_argument("--more", type=int, default=16)
    parser.add_argument("--steps", type=int, default=250)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            names = pool(folder, seed)
            shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
            first, rest = shuffled[: options.first], shuffled[options.first :]
            model, start = score(folder, first, options.steps, seed, folder / "first")
            known = summarize_images(model, [str(folder / "images" / f"{name}.png") for name in first])
            unlabeled = summarize_images(model, [str(folder / "images" / f"{name}.png") for name in rest])
            ranked = [Path(row.image).stem for row in rank(unlabeled, options.more, known)][: options.more]
            chance = rest[: options.more]
            _, by_rank = score(folder, first + ranked, options.steps, seed, folder / "rank")
            _, by_chance = score(folder, first + chance, options.steps, seed, folder / "chance")
        rows.append({"seed": seed, "first": start, "rank": by_rank, "chance": by_chance,
                     "singles_by_rank": sum(n.startswith("single") for n in ranked),
                     "singles_by_chance": sum(n.startswith("single") for n in chance)})  # fmt: skip
        print(rows[-1], flush=True)
    gains = [row["rank"] - row["chance"] for row in rows]
    spread = stdev(gains) if len(gains) > 1 else float("nan")
    print(f"rank - chance: {mean(gains):+.4f} (standard deviation {spread:.4f}), better in {sum(g > 0 for g in gains)}")
    keep("rank", {"rows": rows, "gain_mean": mean(gains), "gain_stdev": spread, **vars(options)})


if __name__ == "__main__":
    main()
