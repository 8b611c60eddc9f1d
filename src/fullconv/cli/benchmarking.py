"""Speed and memory of a model on this machine, by engine and precision.

`Segmenter.predict_many` is timed from decoded images to label maps, on random images. Candidates take turns, so that other
load on the machine affects all alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.card import Card, Labels
from fullconv.engines import ENGINES, cores, is_exported, is_installed, versions
from fullconv.errors import FullconvError, InputError, RecipeError, nearest
from fullconv.nn import VARIANTS, Network, build
from fullconv.segmenter import Segmenter, build_settings, choose_device, load
from fullconv.system import available_memory, peak_rss
from fullconv.training import machine_info

SIZES = ((360, 480), (512, 512))
"""Default heights and widths of images."""
COMBINATIONS = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("onnxruntime", "fp32"),
)
"""Engines and precisions for any model; int8 needs an exported file."""
PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Benchmark:
    """The model to measure, and how."""

    model: str
    """A model as `load` takes it, or a variant, with random weights."""
    backbone: str | None = None
    classes: int = 21
    """Of a variant without a published number."""
    device: str = "auto"
    rounds: int = 7
    """Timed calls of each engine and precision."""
    batch_size: int = 1
    """Images per call."""
    workers: int = 1
    """Concurrent calls."""
    memory: bool = True
    """Whether peak memory is measured, in a process of its own each."""

    def open(self, engine: str, precision: str) -> Segmenter:
        """Load it with an engine and a precision."""
        if self.model in VARIANTS:
            row = VARIANTS[self.model]
            count = row.num_classes or self.classes
            torch.manual_seed(0)
            network = build(self.model, backbone=self.backbone, num_classes=count)
            return Segmenter(network, _make_card(network, count), self.device, precision, engine)
        if self.backbone is not None:
            raise RecipeError(f"--backbone {self.backbone} is for variants; {self.model} has its own. Omit it.")
        loaded = load(self.model, precision=precision, engine=engine, device=self.device)
        return loaded if loaded.short_side is None else loaded.with_options(scale=1.0)


def _make_card(network: Network, count: int | Mapping[str, int]) -> Card:
    """Return a card with numbered classes, by head where there are several."""
    labels = {
        head: Labels(classes=tuple(f"class{k}" for k in range(number)))
        for head, number in (count.items() if isinstance(count, Mapping) else [("", count)])
    }
    return Card(
        variant=network.variant, backbone=network.settings.get("backbone"), network=build_settings(network),
        in_channels=network.in_channels, classes=next(iter(labels.values())).classes,
        heads=labels if isinstance(count, Mapping) else None, stride=network.stride,
        receptive_field=network.receptive_field,
    )  # fmt: skip


def candidates(job: Benchmark, engine: str, precision: str) -> list[tuple[str, str]]:
    """Return the engines and precisions to measure: all that are installed, or those requested."""
    name = job.model
    if name not in VARIANTS and ":" not in name and not Path(name).exists():
        hint = nearest(name, VARIANTS)
        raise InputError(f"{name}: is neither a model file nor a variant.{hint} `fullconv models` lists variants.")
    on_gpu = choose_device(job.device).type != "cpu"
    if precision not in ("auto", *PRECISIONS):
        raise RecipeError(
            f"unknown precision '{precision}': use auto, {', '.join(PRECISIONS)}.{nearest(precision, PRECISIONS)}"
        )
    if engine != "auto" and engine not in ENGINES:
        raise RecipeError(f"unknown engine '{engine}'.{nearest(engine, ENGINES)} Use {', '.join(ENGINES)}.")
    if is_exported(name):
        return [(engine, precision)]  # the file has its own
    found = [
        (name, kind)
        for name, kind in COMBINATIONS
        if engine in ("auto", name) and precision in ("auto", kind)
        if engine == name or (is_installed(name) and not (on_gpu and name != "torch"))
    ]
    if not found:
        raise RecipeError(
            f"--engine {engine} --precision {precision}: no such combination is available."
            + " int8 needs a file written by `fullconv export`." * (precision == "int8")
        )
    return found


def random_image(size: tuple[int, int], channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a random image (H, W, C) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


def bench(
    job: Benchmark,
    sizes: Sequence[tuple[int, int]],
    engine: str,
    precision: str,
    on_status: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a model; "auto" takes all engines and precisions that are installed.

    `on_status` gets a sentence on each combination that is skipped.

    Returns:
        ``model``, ``device``, ``machine``, ``versions``, ``threads``, and ``rows``: ``engine``, ``precision``, ``size``,
        ``median_s`` and quartiles of a call, ``pictures_per_s``, ``peak_mb`` above the loaded program (None where unknown),
        ``labels_equal`` to fp32 in torch (None for that one).
    """
    segmenters: dict[tuple[str, str], Segmenter] = {}
    failed: dict[tuple[str, str], FullconvError] = {}
    for choice in candidates(job, engine, precision):
        try:
            segmenters[choice] = job.open(*choice)
        except FullconvError as error:
            failed[choice] = error
    if not segmenters and len({str(error) for error in failed.values()}) == 1:  # it is the model
        raise next(iter(failed.values()))
    for choice, why in failed.items():
        on_status(f"{choice[0]} {choice[1]} is skipped: {why}")
    if not segmenters:
        raise InputError(f"{job.model}: no installed engine supports it.")
    rows: list[dict[str, Any]] = []
    for size in sizes:
        rows += _bench_size(job, segmenters, size)
    return {
        "model": job.model, "backbone": job.backbone,
        "device": str(next(iter(segmenters.values())).device), "machine": machine_info() | {"cores": str(cores())},
        "versions": versions(), "threads": torch.get_num_threads(), "batch_size": job.batch_size,
        "workers": job.workers, "rounds": job.rounds, "rows": rows,
    }  # fmt: skip


def _bench_size(
    job: Benchmark, segmenters: dict[tuple[str, str], Segmenter], size: tuple[int, int]
) -> list[dict[str, Any]]:
    channels = next(iter(segmenters.values())).card.in_channels
    needed = job.batch_size * size[0] * size[1] * (channels + 2)  # the image, a working copy and the label map at least
    if needed > (available := available_memory()):
        raise InputError(
            f"--size {size[0]}x{size[1]}: images of this size take {needed / 1e9:.0f} GB, and {available / 1e9:.0f} GB"
            " are available. Choose a smaller size."
        )
    images = [random_image(size, channels, seed) for seed in range(job.batch_size)]
    times: dict[tuple[str, str], list[float]] = {choice: [] for choice in segmenters}
    maps: dict[tuple[str, str], NDArray[np.uint8]] = {}
    with ThreadPoolExecutor(job.workers) as pool:
        for turn in range(job.rounds + 1):  # the first warms up
            for choice, segmenter in segmenters.items():
                start = time.perf_counter()
                calls = [pool.submit(segmenter.predict_many, images) for _ in range(job.workers)]
                answers = [call.result() for call in calls]
                if turn:
                    times[choice].append(time.perf_counter() - start)
                maps[choice] = answers[0][0].label_map
    exact = maps.get(("torch", "fp32"))
    if exact is None and ("auto", "auto") not in segmenters:
        exact = job.open("torch", "fp32").predict(images[0]).label_map if not is_exported(job.model) else None
    rows = []
    for choice, seconds in times.items():
        low, middle, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
        used = segmenters[choice].engine
        equal = None if exact is None or choice == ("torch", "fp32") else float((maps[choice] == exact).mean())
        rows.append({
            "engine": used.name, "precision": used.precision, "size": list(size), "median_s": middle,
            "quartile_1_s": low, "quartile_3_s": high, "pictures_per_s": job.workers * job.batch_size / middle,
            "peak_mb": _peak(job, choice, size) if job.memory else None, "labels_equal": equal,
        })  # fmt: skip
    return rows


def _peak(job: Benchmark, choice: tuple[str, str], size: tuple[int, int]) -> float | None:
    """Return the peak memory of concurrent predictions above that of the loaded program, in MB, in a process of its own."""
    if peak_rss() is None:
        return None
    request = json.dumps({**vars(job), "choice": choice, "size": size})
    code = "import sys; from fullconv.cli.benchmarking import print_peak; print_peak(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, request], capture_output=True, text=True, check=False)
    return None if done.returncode else float(done.stdout.split()[-1])


def print_peak(request: str) -> None:
    """Predict twice and print the peak memory in MB above that of the loaded program; run in the process of `_peak`."""
    given = json.loads(request)
    choice, size = given.pop("choice"), given.pop("size")
    job, before = Benchmark(**given), cast(int, peak_rss())
    segmenter = job.open(*choice)
    images = [random_image(tuple(size), segmenter.card.in_channels, seed) for seed in range(job.batch_size)]
    with ThreadPoolExecutor(job.workers) as pool:
        for _ in range(2):
            list(pool.map(segmenter.predict_many, [images] * job.workers))
    print((cast(int, peak_rss()) - before) / 2**20)
