"""What one does from Python: build, predict, tile, train, load, evaluate.

Everything that the command line does is one of these calls.

Run it: python examples/python_api.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

import fullconv
from fullconv.cli.synthetic import make_shapes


def a_network() -> dict[str, object]:
    """Build a network by name; it takes any size, and its two halves are its whole."""
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone="resnet18", num_classes=21)
    x = torch.randn(1, 3, 97, 130)
    with torch.inference_mode():
        logits = network(x)  # (1, 21, 97, 130)
        scores = network.scores(x)  # (1, 21, 16, 20): the stride of the scores is 8, and 97x130 is padded to 128x160
        strip = network.upsample(scores, size=(97, 130), rows=(40, 60))  # (1, 21, 20, 130)
    print(f"stride {network.stride}, receptive field {network.receptive_field}, halo {network.halo}")
    return {"logits": logits.shape, "scores": scores.shape, "equal": torch.equal(strip, logits[..., 40:60, :])}


def tiles() -> dict[str, object]:
    """Give the whole image's answer in tiles; any module from images to logits of the same size will do."""
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone="tiny", num_classes=3)
    segmenter = fullconv.Segmenter.from_network(network, classes=["sky", "road", "car"])
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    whole, tiled = segmenter.logits(image, tile="none"), segmenter.logits(image, tile=64)
    difference = float(np.abs(whole - tiled).max() / np.abs(whole).max())
    print(f"tiles of 64 and the whole image differ by {difference:.1g} of the largest logit")
    same = segmenter.predict(image, tile="none").label_map == segmenter.predict(image, tile=64).label_map
    return {"difference": difference, "same": bool(same.all())}


def a_run(epochs: int) -> dict[str, object]:
    """Train on synthetic images, load the file that came of it, and score that."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        make_shapes(data, size=(48, 64))
        fullconv.train(data, out=run, variant="fcn8s", backbone="tiny", weights="none", epochs=epochs, batch_size=4)

        segmenter = fullconv.load(run / "model.safetensors")  # nothing else is needed, and nothing in it is run
        print(segmenter.card.classes, segmenter.card.scores["val"]["mean_iou"])
        report = fullconv.evaluate(segmenter, data, split="val")
        print(f"mIoU {report.mean_iou:.4f}, 95 % interval {report.mean_iou_interval}")

        dataset = fullconv.open_dataset(data)
        prediction = segmenter.predict(dataset.read_image(dataset.splits["test"][0]), probabilities=True)
        prediction.save(Path(folder) / "labels.png")
        prediction.overlay().save(Path(folder) / "overlay.png")
        print(prediction, f"least confidence {prediction.confidence.min():.2f}")
        return {
            "mean_iou": report.mean_iou,
            "in_card": segmenter.card.scores["val"]["mean_iou"],
            "probabilities": prediction.probabilities.shape,
        }


def main(epochs: int = 1) -> dict[str, dict[str, object]]:
    """Run all parts."""
    return {"network": a_network(), "tiles": tiles(), "run": a_run(epochs)}


if __name__ == "__main__":
    main()
