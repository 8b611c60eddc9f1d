"""Memory and speed of `predict_raster`, what tiles and rows cost, and how others' tiles differ from the whole image.

Memory: rasters of several sizes (3 bands, uint8, tiled) are generated on disk and labelled, each in its own process, whose
peak is read at its end. It should hardly grow with the raster.

Cores: one image by tiles with cores of several sides, by rows (every cell computed once), and at once; time a pixel
over that of the whole, beside what (core + halo)^2 / core^2 predicts.

Peers: one image at once, by rows, by our tiles, by MONAI's `sliding_window_inference` and by averaged tiles as
recipes around segmentation libraries have them; time, memory, and how far each is from the whole image's logits.

Time is the process's CPU time on one thread, so that what else the machine does counts little.

    python benchmarks/tiling.py [--gigapixels 0.02 0.1] [--cores 512 1024 2048] [--peers 2048] [--precision bf16]
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
from fullconv.engines import TorchEngine
from fullconv.preprocess import normalize
from fullconv.segmenter import Segmenter
from fullconv.system import malloc_trim
from fullconv.tiling import RowExecutor, RowGraph, estimate_bytes, plan, tile_row_scores, tiled_scores

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


def by_rows(program: RowGraph, image: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the scores of an image (1, C, H, W), chunk by chunk."""
    stream = RowExecutor(program, *image.shape[-2:])
    parts = [stream.push(image[:, :, row : row + rows]) for row in range(0, image.shape[-2], rows)]
    return torch.cat([part for part in parts if isinstance(part, torch.Tensor)], dim=-2)


@torch.inference_mode()
def measure_cores(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the scores of one image by tiles of several cores, by rows, and of the whole at once, in turn."""
    segmenter = model(options.variant, options.backbone, options.precision)
    side = options.side
    engine = segmenter.engine.for_size(side, side)
    assert isinstance(engine, TorchEngine), "only PyTorch has a form by rows"
    network = engine.net_for(side, side)
    weight = next(network.parameters())
    whole_gb = estimate_bytes(network, side, side, weight.element_size()) / 1e9
    print(f"{side} px, the whole takes some {whole_gb:.1f} GB", flush=True)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=generator)
    pixels = image.numpy()
    graph = RowGraph(network)

    def tiled(core: int) -> None:
        rows, columns = plan(network, side, side, core)
        for row in rows:
            tile_row_scores(engine.scores, lambda r, c: pixels[:, r, c], row, columns)

    def streamed(rows: int) -> None:
        executor = RowExecutor(graph, side, side)
        for row in range(0, side, rows):
            executor.push(normalize(image[:, row : row + rows], segmenter.card).to(weight.dtype))

    runs = {str(core): (lambda core=core: tiled(core)) for core in options.cores if core < side}
    for rows in options.rows:
        runs[f"rows {rows}"] = lambda rows=rows: streamed(rows)
    whole = options.whole_side or side  # what is too large for the memory is compared with what is not, pixel for pixel
    runs["whole"] = lambda: engine.scores(pixels[:, :whole, :whole])
    found = summarize(alternate(runs, options.rounds, clock=time.process_time))
    left, top, right, bottom = network.halo
    rows = []
    for name in runs:
        area = whole**2 if name == "whole" else side**2
        ratio = found[name]["median_s"] / area / (found["whole"]["median_s"] / whole**2)
        row = {"name": name, **found[name], "over_whole": ratio, "side_px": round(area**0.5),
               "pixels_per_second": area / found[name]["median_s"]}  # fmt: skip
        if name.isdigit():
            core = int(name)
            inside = [sum(span.stop - span.start for span in part) / side for part in plan(network, side, side, core)]
            row["pixels_computed_over_whole"] = inside[0] * inside[1]
            row["predicted_inside"] = (core + left + right) * (core + top + bottom) / core**2
        rows.append(row)
        print(
            f"{name}: {ratio:.3f} x the whole's time, {row.get('pixels_computed_over_whole', 1):.3f} x its pixels",
            flush=True,
        )
    return rows


def averaged(network: Any, x: torch.Tensor, side: int, overlap: float) -> torch.Tensor:
    """Return logits averaged over overlapping tiles, all weighing the same."""
    step = int(side * (1 - overlap))
    starts = [[*range(0, max(n - side, 0), step), max(n - side, 0)] for n in x.shape[-2:]]
    total, count = None, torch.zeros(x.shape[-2:])
    for top in starts[0]:
        for left in starts[1]:
            logits = network(x[..., top : top + side, left : left + side])
            if total is None:
                total = torch.zeros(1, logits.shape[1], *x.shape[-2:])
            total[..., top : top + side, left : left + side] += logits
            count[top : top + side, left : left + side] += 1
    return total / count


def reset_peak() -> int:
    """Begin to measure the peak of this process's memory anew, and return what it holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def largest_difference(logits: torch.Tensor, whole: torch.Tensor) -> float:
    """Return it as a share of the largest logit, strip by strip: an image's logits may take gigabytes."""
    pairs = zip(logits.split(256, 2), whole.split(256, 2), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs) / float(whole.abs().max())


@torch.inference_mode()
def measure_peers(options: argparse.Namespace, side: int) -> list[dict[str, Any]]:
    """Compare ways to get the logits of an image in single precision with those of the whole."""
    from monai.inferers import sliding_window_inference

    segmenter = model(options.variant, options.backbone, "fp32")
    network, program = segmenter.network, RowGraph(segmenter.network)
    waves = torch.outer(torch.sin(torch.arange(side) / 90), torch.cos(torch.arange(side) / 70))
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    x = (waves + noise / 2).contiguous(memory_format=torch.channels_last)
    size, window = (side, side), options.window
    image = x.permute(0, 2, 3, 1)

    def tiles() -> torch.Tensor:
        spans = plan(network, side, side, window)
        return network.upsample(
            tiled_scores(lambda part: network.scores(part.permute(0, 3, 1, 2)), image, *spans), size
        )

    def monai(mode: str, overlap: float) -> torch.Tensor:
        return sliding_window_inference(x, (window, window), 1, network, overlap=overlap, mode=mode)

    runs = {
        "whole": lambda: network(x),
        "ours, rows of 256": lambda: network.upsample(by_rows(program, x, 256), size),
        f"ours, tiles of {window}": tiles,
        "MONAI, Gaussian, 50 %": lambda: monai("gaussian", 0.5),
        "MONAI, Gaussian, 25 %": lambda: monai("gaussian", 0.25),
        "averaged tiles, 50 %": lambda: averaged(network, x, window, 0.5),
    }
    whole, rows = torch.empty(0), []
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, dict[str, float]] = {}
    for turn in range(
        options.rounds
    ):  # an image of 9000 pixels a side takes minutes, so nothing is run but to be timed
        for name, run in runs.items():
            malloc_trim()
            before, start = reset_peak(), time.process_time()
            logits = run()
            seconds[name].append(time.process_time() - start)
            if turn:
                continue
            found[name] = {"peak_bytes": resident("VmHWM") - before}
            if name == "whole":
                whole = logits
            found[name]["largest_difference"] = largest_difference(logits, whole)
            found[name]["labels_that_differ"] = float((logits.argmax(1) != whole.argmax(1)).double().mean())
            del logits
    summary = summarize(seconds)
    for name, row in found.items():
        row |= {"name": name, "side_px": side, **summary[name],
                "over_whole": summary[name]["median_s"] / summary["whole"]["median_s"]}  # fmt: skip
        rows.append(row)
        print(
            f"{side} px, {name}: {row['over_whole']:.2f} x the whole's time, {row['peak_bytes'] / 1e6:.0f} MB, logits off by"
            f" {row['largest_difference']:.1e} of the largest, {row['labels_that_differ']:.3%} of the labels differ",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="fcn8s")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--gigapixels", type=float, nargs="*", default=(0.02, 0.1))
    parser.add_argument("--memory", type=int, default=600_000_000, help="bytes that a job may take")
    parser.add_argument("--tile", default="auto", help="of the rasters: auto (rows), or the side of tiles")
    parser.add_argument("--cores", type=int, nargs="*", default=(512, 1024, 2048))
    parser.add_argument("--rows", type=int, nargs="*", default=(64, 256, 1024), help="of the bands beside the cores")
    parser.add_argument("--side", type=int, default=4096, help="of the image on which cores are compared")
    parser.add_argument(
        "--whole-side", type=int, help="of the image at once beside them, where --side is too large for it"
    )
    parser.add_argument("--peers", type=int, nargs="*", default=(2048,), help="sides of images; needs MONAI")
    parser.add_argument(
        "--window", type=int, default=512, help="side of the peers' tiles, and of our cores beside them"
    )
    parser.add_argument("--name", default="tiling", help="of the file of results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        one(options)
        return
    settings = {key: value for key, value in vars(options).items() if key != "one"}
    found: dict[str, Any] = {"settings": settings}
    if options.gigapixels:
        found["memory"] = measure_memory(options)
    if options.cores:
        found["cores"] = measure_cores(options)
    if options.peers:
        found["peers"] = [row for side in options.peers for row in measure_peers(options, side)]
    print(f"kept in {keep(options.name, found).name}")


if __name__ == "__main__":
    main()
