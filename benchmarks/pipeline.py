"""Pictures a second of `fullconv predict`, files in and files out, beside those of its engine alone on decoded images.

Two kinds of files: PNGs of 360x480, and JPEGs of 12 megapixels with a camera's noise. The engine alone turns pixels in
memory into coarse scores: no file, no upsampling, no labels. Both take turns; `--timing`'s figures of the last round are
kept beside them.

    python benchmarks/pipeline.py [--engine openvino] [--precision bf16] [--rounds 5] [--pngs 48] [--jpegs 4]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import alternate, keep, summarize
from PIL import Image

import fullconv
from fullconv.cli.synthetic import draw
from fullconv.engines._optional import cores
from fullconv.predict import PredictJob, predict_files
from fullconv.profiling import profile
from fullconv.segmenter import Segmenter

KINDS = {"png": (360, 480), "jpeg": (3000, 4000)}
"""Height and width."""
AIM = 0.85


def make(folder: Path, kind: str, count: int) -> None:
    """Write images: the demo's scenes with noise as of a sensor."""
    folder.mkdir()
    height, width = KINDS[kind]
    for index in range(count):
        rng = np.random.default_rng([7, index])
        scene, _ = draw(rng, KINDS["png"])
        pixels = np.asarray(Image.fromarray(scene).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        noisy = Image.fromarray((pixels + rng.normal(0, 3, pixels.shape)).clip(0, 255).astype(np.uint8))
        noisy.save(folder / f"{index:03}.{kind}", **({"quality": 92} if kind == "jpeg" else {}))


def measure(segmenter: Segmenter, kind: str, count: int, rounds: int) -> dict[str, Any]:
    """Compare both on one kind of files."""
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "in", Path(temporary) / "out"
        make(source, kind, count)
        decoded = [segmenter.read(path)[None] for path in sorted(source.iterdir())]
        found: dict[str, Any] = {}

        def engine() -> None:
            for pixels in decoded:
                segmenter.engine.scores(pixels)

        def predict() -> None:
            found["rounds"] = found.get("rounds", 0) + 1
            with profile() as times:
                tally = predict_files(segmenter, PredictJob([str(source)], out / str(found["rounds"])))
            assert tally.done == count, tally
            found.update(main=times.main, beside=times.beside)

        seconds = summarize(alternate({"engine": engine, "predict": predict}, rounds))
    rates = {name: count / row["median_s"] for name, row in seconds.items()}
    share = rates["predict"] / rates["engine"]
    print(f"{kind} {KINDS[kind][0]}x{KINDS[kind][1]}: engine {rates['engine']:.2f}, predict {rates['predict']:.2f} images/s:"
          f" {100 * share:.1f} % ({'at least' if share >= AIM else 'BELOW'} {100 * AIM:.0f} %)")  # fmt: skip
    found.pop("rounds")
    for place, parts in found.items():
        words = ", ".join(f"{name} {1000 * s / count:.1f} ms" for name, s in parts.items())
        print(f"  {place}: {words}", flush=True)
    return {
        "size": list(KINDS[kind]),
        "images": count,
        "seconds": seconds,
        "images_per_s": rates,
        "share": share,
        "parts_s": found,
    }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pngs", type=int, default=48)
    parser.add_argument("--jpegs", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone="resnet18", num_classes=11, weights=None)
    for module in network.head.modules():
        if isinstance(module, torch.nn.Conv2d):  # score layers start at 0, and one class would win everywhere
            torch.nn.init.normal_(module.weight, std=0.05)
    card = Segmenter.from_network(network, [f"class{k}" for k in range(11)], device="cpu", precision="fp32").card
    segmenter = Segmenter(network, card, "cpu", given.precision, given.engine)
    counts = {"png": given.pngs, "jpeg": given.jpegs}
    found = {kind: measure(segmenter, kind, count, given.rounds) for kind, count in counts.items() if count}
    keep("pipeline", {
        "engine": given.engine, "precision": given.precision, "threads": cores(), "rounds": given.rounds, "aim": AIM,
        "kinds": found,
    })  # fmt: skip


if __name__ == "__main__":
    main()
