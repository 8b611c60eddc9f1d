"""Eight bits beside bf16 and fp32: a trained model exported to OpenVINO or ONNX Runtime in each, on the pictures of its own data.

Every file has passed the parity gate of `fullconv export` on DATA's validation pictures, or the reason why not is printed. The
files that were written label the same pictures in turn, from a decoded picture to its label map.

    python benchmarks/int8.py MODEL DATA [--format openvino] [--pictures 12] [--rounds 9]
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from harness import alternate, keep, summarize

import fullconv
from fullconv.data import open_dataset
from fullconv.errors import NetworkError
from fullconv.exports import export_model
from fullconv.exports.parity import validation_images

PRECISIONS = {"openvino": ("fp32", "bf16", "int8"), "onnx": ("fp32", "int8")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="openvino", choices=list(PRECISIONS))
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    exact = fullconv.load(options.model, device="cpu", precision="fp32", engine="torch")
    dataset = open_dataset(options.data)
    pictures = [image for image, _ in islice(validation_images(dataset, exact), options.pictures)]
    parity: dict[str, Any] = {}
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS[options.format]:
            ending = ".xml" if options.format == "openvino" else ".onnx"
            path = Path(folder) / f"{precision}{ending}"
            try:
                done = export_model(exact, path, options.format, precision=precision, dataset=dataset)
            except NetworkError as error:
                print(f"{precision}: {error}")
                parity[precision] = {"refused": str(error).split(": ", 1)[1]}
                continue
            parity[precision] = done.parity.to_dict()
            print(f"{precision}: {parity[precision]}")
            segmenter = fullconv.load(path)

            def run(segmenter: Any = segmenter) -> None:
                for picture in pictures:
                    segmenter.predict(picture)

            runs[precision] = run
        seconds = summarize(alternate(runs, options.rounds, warm_up=2)) if len(runs) > 1 else {}
    for name, row in seconds.items():
        middle, low, high = (row[key] * 1000 / len(pictures) for key in ("median_s", "quartile_1_s", "quartile_3_s"))
        print(f"{name:5} {middle:.1f} ms a picture ({low:.1f} to {high:.1f})")
    card = exact.card
    keep(
        f"int8_{options.format}_{card.variant}_{card.backbone}",
        {"variant": card.variant, "backbone": card.backbone, "pictures": len(pictures), "size": list(pictures[0].shape[:2]),
         "parity": parity, "seconds": seconds},
    )  # fmt: skip


if __name__ == "__main__":
    main()
