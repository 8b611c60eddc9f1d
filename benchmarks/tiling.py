"""Memory and speed of `predict_raster`, and what the margins of tiles cost.

Memory: rasters of several sizes (3 bands, uint8, tiled) are made on disc and labelled, each in its own process, whose
peak is read at its end. It should hardly grow with the raster. Tiles: one raster with cores of several sides; the time
a pixel over that of the whole at once, beside what (core + halo)^2 / core^2 predicts.

    python benchmarks/tiling.py [--gigapixels 0.02 0.1] [--cores 256 512 1024] [--precision bf16] [--memory 600000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from harness import alternate, keep, summarize
from rasterio.windows import Window

import fullconv
from fullconv.segmenter import Segmenter
from fullconv.tiling import band_scores, plan

CLASSES = ("ground", "water", "roof")


def make_raster(path: Path, gigapixels: float) -> int:
    """Write a square raster of noise around slow waves; returns its side."""
    side = round((gigapixels * 1e9) ** 0.5)
    draw = np.random.default_rng(0)
    place = rasterio.Affine(0.2, 0, 440720, 0, -0.2, 5100000)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "tiled": True,
               "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1, "crs": "EPSG:32632",
               "transform": place, "BIGTIFF": "IF_SAFER"}  # fmt: skip
    across = np.arange(side) / 90
    with rasterio.open(path, "w", **profile) as file:
        for row in range(0, side, 512):
            rows = min(512, side - row)
            waves = np.sin(across)[None] * np.cos(np.arange(row, row + rows) / 70)[:, None] * 60 + 120
            noise = draw.integers(0, 32, (3, rows, side), np.uint8)
            file.write((waves.astype(np.uint8)[None] + noise), window=Window(0, row, side, rows))
    return side


def model(variant: str, backbone: str, precision: str) -> Segmenter:
    torch.manual_seed(0)
    network = fullconv.build(variant, backbone=backbone, num_classes=len(CLASSES))
    return Segmenter.from_network(network, CLASSES, precision=precision)


def resident(key: str) -> int:
    """Return the bytes of memory that this process holds (VmRSS), or held at most since the last reset (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def one(options: argparse.Namespace) -> None:
    """Label one raster in this process, and print what it took beside the loaded program."""
    from fullconv.rasters import predict_raster

    segmenter = model(options.variant, options.backbone, options.precision)
    segmenter.predict(np.zeros((70, 70, 3), np.uint8))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start, used = time.perf_counter(), time.process_time()
    tile = int(options.tile) if options.tile.isdigit() else options.tile
    out = Path(options.one).with_name("labels.tif")
    predict_raster(segmenter, options.one, out, memory=options.memory, tile=tile)
    print(json.dumps({
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used,
        "loaded_bytes": before, "peak_bytes": resident("VmHWM"),
    }))  # fmt: skip


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for gigapixels in options.gigapixels:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "raster.tif"
            side = make_raster(path, gigapixels)
            command = [sys.executable, __file__, "--one", str(path), "--variant", options.variant, "--backbone",
                       options.backbone, "--precision", options.precision, "--memory", str(options.memory), "--tile",
                       options.tile]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {"gigapixels": gigapixels, "side_px": side, **json.loads(done.stdout)}
        row["pixels_per_second"] = side * side / row["seconds"]
        row["pixels_per_cpu_second"] = side * side / row["cpu_seconds"]
        rows.append(row)
        peak, own = row["peak_bytes"] / 1e9, (row["peak_bytes"] - row["loaded_bytes"]) / 1e6
        speed, steady = row["pixels_per_second"] / 1e6, row["pixels_per_cpu_second"] / 1e6
        print(
            f"{gigapixels:5.2f} gigapixels  peak {peak:.2f} GB, {own:.0f} MB of it for the job; {speed:.2f} megapixels/s,"
            f" {steady:.2f} a second of one core",
            flush=True,
        )
    return rows


def measure_cores(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the scores of one picture by tiles of several cores, and of the whole at once, in turn."""
    segmenter = model(options.variant, options.backbone, options.precision)
    network, side = segmenter.network, options.side
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=generator)

    def tiled(core: int) -> None:
        rows, columns = plan(network, side, side, core)
        for row in rows:
            band_scores(
                segmenter.engine.scores, lambda r, c: image[:, r.start : r.stop, c.start : c.stop], row, columns
            )

    runs = {str(core): (lambda core=core: tiled(core)) for core in options.cores if core < side}
    runs["whole"] = lambda: segmenter.engine.scores(image)
    found = summarize(alternate(runs, options.rounds))
    left, top, right, bottom = network.halo
    rows = []
    for core in (int(name) for name in runs if name != "whole"):
        spans = plan(network, side, side, core)
        inside = [sum(span.stop - span.start for span in part) / side for part in spans]
        ratio = found[str(core)]["median_s"] / found["whole"]["median_s"]
        rows.append({
            "core_px": core, **found[str(core)], "over_whole": ratio, "pixels_computed_over_whole": inside[0] * inside[1],
            "predicted_inside": (core + left + right) * (core + top + bottom) / core**2,
        })  # fmt: skip
        print(f"core {core}: {ratio:.3f} x the whole's time, {inside[0] * inside[1]:.3f} x its pixels", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="fcn8s")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--gigapixels", type=float, nargs="*", default=(0.02, 0.1))
    parser.add_argument("--memory", type=int, default=600_000_000, help="bytes that a job may take")
    parser.add_argument("--tile", default="auto", help="of the rasters: auto (rows), or the side of tiles")
    parser.add_argument("--cores", type=int, nargs="*", default=(256, 512, 1024))
    parser.add_argument("--side", type=int, default=2048, help="of the picture on which cores are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options)
        return
    settings = {key: value for key, value in vars(options).items() if key != "one"}
    found: dict[str, Any] = {"settings": settings}
    if options.gigapixels:
        found["memory"] = measure_memory(options)
    if options.cores:
        found["cores"] = measure_cores(options)
    print(f"kept in {keep('tiling', found).name}")


if __name__ == "__main__":
    main()
