"""Images of one's own, from folders as CVAT or labelme leave them, to a model and its answers.

An export has a folder of images and one of masks with the same names. The masks of a two-class project often hold 0 and
255; but 255 means "does not count" in most data sets, and here, too. So a `data.toml` beside the folders says what the
numbers mean:

    classes = ["background", "crack"]
    values = { 0 = "background", 255 = "crack" }

Without a folder this script makes such an export (images with a bright line) in a temporary folder, and shows what is
reported before `data.toml` is there.

Run it: python examples/own_data.py [DATA] [--epochs N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import fullconv
from fullconv.data import summary

SETTINGS = 'classes = ["background", "crack"]\nvalues = { 0 = "background", 255 = "crack" }\n'


def make_export(root: Path, count: int = 24, size: tuple[int, int] = (72, 96)) -> Path:
    """Make images of a bright line on noisy ground, and masks of 0 and 255, as an annotation tool exports them."""
    rng = np.random.default_rng(0)
    height, width = size
    for number in range(count):
        mask = Image.new("L", (width, height))
        ends = [(0, int(rng.integers(height))), (width, int(rng.integers(height)))]
        ImageDraw.Draw(mask).line(ends, fill=255, width=int(rng.integers(6, 12)))
        ground = rng.uniform(60, 120) + 60 * (np.asarray(mask)[..., None] > 0)
        image = Image.fromarray((ground + rng.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8))
        for folder, name, array in (("images", f"{number:03d}.jpg", image), ("masks", f"{number:03d}.png", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            array.save(root / folder / name)
    return root


def problems(data: Path) -> list[str]:
    """Return what is wrong with a data set, as `fullconv check DATA` finds it."""
    return [f"[{found['code']}] {found['cause']}. {found['remedy']}" for found in summary(data)["problems"]]


def main(data: Path | None = None, epochs: int = 2) -> dict[str, object]:
    """Check, train, evaluate, predict."""
    with tempfile.TemporaryDirectory() as folder:
        reported: list[str] = []
        if data is None:
            data = make_export(Path(folder) / "export")
            reported = problems(data)
            print("Without data.toml:", *reported, sep="\n  ")
            (data / "data.toml").write_text(SETTINGS, encoding="utf-8")
        print("Now:", *problems(data) or ["nothing is wrong"], sep="\n  ")

        run = Path(folder) / "run"
        small = {"crop": (64, 64), "batch_size": 4}  # settings for seconds, not for scores; leave them away for those
        segmenter = fullconv.train(data, run, backbone="tiny", weights="none", epochs=epochs, **small)
        report = fullconv.evaluate(segmenter, data)
        print(report)

        image = next(path for path in sorted((data / "images").iterdir()) if path.suffix == ".jpg")
        prediction = segmenter.predict(image)
        prediction.save(Path(folder) / "labels.png")  # indexed, with the model's colours
        prediction.overlay().save(Path(folder) / "overlay.png")
        print(prediction)
        return {
            "reported": reported,
            "mean_iou": report.mean_iou,
            "share": prediction.counts(),
            "files": len(list(run.iterdir())),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    main(**vars(parser.parse_args()))
