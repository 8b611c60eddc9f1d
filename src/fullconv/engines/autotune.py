"""Which engine and precision compute an image: the ones asked for, or the fastest of a benchmark on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv._version import __version__
from fullconv.card import Card
from fullconv.engines._optional import ENGINES, import_optional, is_installed, threads, versions
from fullconv.engines.engine import Engine, Scores
from fullconv.engines.onnxruntime import OnnxRuntimeEngine
from fullconv.engines.openvino import OpenVinoEngine, read_file, read_onnx
from fullconv.errors import FullconvError, OutputError, RecipeError, first_line, nearest
from fullconv.modelfile import weights_sha256
from fullconv.profiling import CHOOSING, PREPARING, timed
from fullconv.storage import DiskCache, check_writable

if TYPE_CHECKING:
    import torch

    from fullconv.nn import Network

LOG = logging.getLogger("fullconv.engines")
Choice = tuple[str, str]
"""Engine and precision."""
SIDES = (64, 128, 256, 512)
"""Size classes, by the side of a square of as many pixels; larger images belong to the last."""
MIN_MACS = 2e9
"""Multiply-accumulates of an image below which nothing is benchmarked: it takes some hundredths of a second, and
translating the network for another runtime takes seconds."""
BENCHMARK_S = 0.3
"""Spent on an engine after its first image."""
MAX_FIRST_IMAGE_S = 20.0
"""Longest time of a first image, compilation included, after which a second one is timed."""
TRANSLATION_S = 10.0
"""Rough time to turn a network into a graph: 5 for a ResNet-18 on an idle core."""
MIN_SPEEDUP = 1 / 0.9
"""Another engine is chosen where it is at least this much faster."""
MIN_LABELS_EQUAL, MAX_MEAN_IOU_DIFFERENCE = 0.995, 0.002
"""A card allows a lower precision whose agreement with fp32 on validation images is within these limits."""


def size_class(height: int, width: int) -> int:
    """Return the size class of an image.

    >>> size_class(360, 480), size_class(20, 700), size_class(3000, 4000)
    (512, 128, 512)
    """
    return next((side for side in SIDES if height * width <= side**2), SIDES[-1])


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a benchmark's result depends on besides the model and the libraries."""
    if device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    else:  # a hash of the processor's name and features, so that a migrated virtual machine is another machine
        lines: list[str] = []
        with suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        kept = {
            line.split(":")[0].strip(): line for line in lines if line.startswith(("model name", "flags", "Features"))
        }
        name = hashlib.sha256("".join(kept.values()).encode()).hexdigest()[:16] if kept else platform.processor()
    return {"device": device.type, "name": name, "threads": threads(), "system": platform.system()}


class TuningCache:
    """The result of one benchmark, one of the key's `candidates`, in a file of the user's cache folder."""

    def __init__(self, key: dict[str, Any]) -> None:
        self.key, self._text = key, json.dumps(key, sort_keys=True)
        self._files = DiskCache("engines", ".json")
        self.path = self._files.path(self._text)

    def read(self) -> Choice | None:
        """Return the stored choice; None without a valid one."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            choice = str(found["engine"]), str(found["precision"])
            return choice if list(choice) in self.key["candidates"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def can_write(self) -> bool:
        """Return whether a choice can be stored."""
        try:
            check_writable(self.path)
        except OutputError:
            return False
        return True

    def store(self, choice: Choice, seconds: Mapping[Choice, float]) -> Choice:
        """Store a choice unless another process was first; returns the stored one."""
        times = {" ".join(tried): round(taken, 4) for tried, taken in seconds.items()}
        content = json.dumps({"engine": choice[0], "precision": choice[1], "seconds": times, **self.key}, indent=1)
        try:
            self._files.put(self._text, [content.encode()], overwrite=False)
            if self.read() is None:  # a damaged file
                self._files.put(self._text, [content.encode()])
        except OutputError as error:
            LOG.info("engine: the choice could not be stored (%s)", error)
        return self.read() or choice


def choose_engine(network: Network, card: Card, device: torch.device, engine: str, precision: str) -> Engine:
    """Return the engine that was asked for; "auto" chooses when it knows the size of an image."""
    if engine not in ("auto", *ENGINES):
        hint = nearest(engine, ENGINES)
        raise RecipeError(f"there is no engine '{engine}' here: use torch, openvino, onnxruntime or auto.{hint}")
    if precision == "int8":
        raise RecipeError(
            "precision int8 needs images for calibration: write a file with `fullconv export MODEL --format openvino"
            " --precision int8 --data DATA -o FILE.xml`, and use it as MODEL."
        )
    if precision not in ("auto", "fp32", "bf16"):
        raise RecipeError(f"there is no precision '{precision}' here: use auto, fp32, bf16 or int8.")
    if engine in ("openvino", "onnxruntime") and device.type != "cpu":
        raise RecipeError(f"engine {engine} computes on the CPU here: use --device cpu, or --engine torch.")
    if engine == "onnxruntime" and precision == "bf16":
        raise RecipeError("ONNX Runtime has no bf16 convolutions for CPUs: use fp32, or engine openvino or torch.")
    factory = EngineFactory(network, card, device)
    names = [engine]
    if engine == "auto":
        tuned = factory.has_identity and device.type == "cpu"
        names = ["torch", *(name for name in ENGINES[1:] if tuned and is_installed(name))]
    automatic = ["fp32", "bf16"] if precision_allowed(card, "bf16") else ["fp32"]
    precisions = automatic if precision == "auto" else [precision]
    candidates = [(n, p) for p in precisions for n in names if (n, p) != ("onnxruntime", "bf16")]
    return factory.engine(candidates[0]) if len(candidates) == 1 else AutoEngine(factory, candidates)


def precision_allowed(card: Card, precision: str) -> bool:
    """Return whether the card's measured agreement allows a lower precision.

    >>> precision_allowed(Card(variant="fcn8s", classes=["a", "b"]), "bf16")
    False
    """
    found = card.agreement.get(precision) or {}
    labels, difference = found.get("labels"), found.get("mean_iou_difference")
    if labels is None or difference is None:
        return False
    return bool(labels >= MIN_LABELS_EQUAL and abs(difference) <= MAX_MEAN_IOU_DIFFERENCE)


class EngineFactory:
    """Creates the engines of one network, each once; the network is translated once for all of them."""

    def __init__(self, network: Network, card: Card, device: torch.device) -> None:
        self.network, self.card, self.device = network, card, device
        self._engines: dict[Choice, Engine] = {}
        self._onnx: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engines": {}, "_onnx": None}

    @property
    def has_identity(self) -> bool:
        """Whether variant and weights determine the scores; not for modules from outside, whose code is unknown."""
        return self.network.variant != "custom"

    def engine(self, choice: Choice) -> Engine:
        """Return the engine of a choice."""
        if choice not in self._engines:
            with timed(PREPARING):
                self._engines[choice] = self._create(*choice)
        return self._engines[choice]

    def _create(self, name: str, precision: str) -> Engine:
        if name == "torch":
            from fullconv.engines.torch import TorchEngine

            return TorchEngine(self.network, self.card, self.device, precision)
        import_optional(name, f"--engine {name}")
        if name == "onnxruntime":
            return OnnxRuntimeEngine(self.onnx(), self.card, precision)
        identity = None
        if self.has_identity:
            parts = {
                "model": self.identity,
                "machine": describe_machine(self.device),
                "fullconv": __version__,
                "by": versions(),
            }
            identity = json.dumps(parts, sort_keys=True)
        return OpenVinoEngine(self._read_openvino, self.card, precision, self.network.min_size, identity)

    def _read_openvino(self) -> Any:
        """Return the network with its preprocessing as an ``openvino.Model``."""
        from fullconv.engines.graph import cached_onnx

        if self._onnx is None and self.has_identity and (path := cached_onnx(self.identity)) is not None:
            with suppress(RuntimeError):  # a damaged file is written anew
                return read_file(path)
        return read_onnx(self.onnx())

    def onnx(self) -> Any:
        """Return the network with its preprocessing as an ``onnx.ModelProto``."""
        from fullconv.engines.graph import export_cached

        if self._onnx is None:
            self._onnx = export_cached(self.network, self.card, self.identity if self.has_identity else None)
        return self._onnx

    @cached_property
    def identity(self) -> str:
        """A hash of all that the scores of an image depend on, except the machine and its libraries."""
        keys = {"variant", "backbone", "network", "in_channels", "heads", "mean", "std", "range", "channel_order"}
        card = json.dumps(self.card.model_dump(mode="json", include=keys), sort_keys=True)
        layers = repr(self.network)  # one may have been replaced
        return hashlib.sha256((weights_sha256(self.network.state_dict()) + card + layers).encode()).hexdigest()


class AutoEngine(Engine):
    """Chooses an engine for each size class, and remembers it.

    A benchmark takes about a second. Its result is stored in the user's cache folder, under a hash of model, machine,
    library versions, candidates and size class, so that all commands compute an image in the same way, now and later.
    Where nothing can be stored, nothing is benchmarked: the first candidate, the default, computes.
    """

    def __init__(self, factory: EngineFactory, candidates: Sequence[Choice]) -> None:
        self.factory, self.candidates = factory, list(candidates)
        self.name = self.precision = "auto"
        """Of the engines used so far."""
        self._chosen: dict[int, Choice] = {}
        self._used: list[Choice] = []
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def scores(self, images: NDArray[Any]) -> Scores:
        """Map images (N, H, W, C), none of which is a tile of a larger one, to scores."""
        return self.for_size(*images.shape[1:3]).scores(images)

    def for_size(self, height: int, width: int) -> Engine:
        """Return the engine for images of a size and their tiles."""
        side = size_class(height, width)
        with self._lock:
            choice = self._choose(side)
            if choice not in self._used:
                self._used.append(choice)
                self.name, self.precision = (", ".join(dict.fromkeys(used)) for used in zip(*self._used, strict=True))
            return self.factory.engine(choice)

    def resolve_all(self) -> dict[int, Choice]:
        """Choose for all size classes now; returns the choice by class."""
        with self._lock:
            return {side: self._choose(side) for side in SIDES}

    def pin(self, choices: Mapping[int, Choice]) -> None:
        """Use what another process has chosen, whatever the cache holds now."""
        for name, precision in choices.values():
            if (name, precision) not in self.candidates:
                known = ", ".join(" ".join(choice) for choice in self.candidates)
                raise RecipeError(f"engine {name} in {precision} cannot be used here, only {known}.")
        with self._lock:
            self._chosen.update(choices)

    def macs(self) -> float:
        """Return the multiply-accumulates of the network for a pixel of an image."""
        trace = self.factory.network.trace
        return 0.0 if trace is None else trace.macs_per_pixel

    def estimate_seconds(self, seconds_per_image: float) -> float:
        """Estimate the duration of the benchmark for large images."""
        if self.macs() * SIDES[-1] ** 2 < MIN_MACS:
            return 0.0
        return TRANSLATION_S + len(self.candidates) * (2 * seconds_per_image + BENCHMARK_S)

    def _choose(self, side: int) -> Choice:
        if side not in self._chosen:
            small = len(self.candidates) == 1 or self.macs() * side**2 < MIN_MACS
            self._chosen[side] = self.candidates[0] if small else self._look_up(side)
        return self._chosen[side]

    def _look_up(self, side: int) -> Choice:
        """Return the stored choice for a size class, or benchmark the candidates and store theirs."""
        cache = TuningCache(
            {
                "model": self.factory.identity,
                "side": side,
                "candidates": [list(choice) for choice in self.candidates],
                "machine": describe_machine(self.factory.device),
                "versions": versions(),
                "fullconv": __version__,
            }
        )
        default = self.candidates[0]
        if (choice := cache.read()) is not None:
            return choice
        if not cache.can_write():
            LOG.info("engine: %s %s; nothing is benchmarked, as %s cannot be written", *default, cache.path.parent)
            return default
        image = np.random.default_rng(0).integers(
            0, 256, (1, side, side, self.factory.card.in_channels), dtype=np.uint8
        )
        seconds: dict[Choice, float] = {}
        with timed(CHOOSING):
            for tried in self.candidates:
                try:
                    engine = self.factory.engine(tried)
                    seconds[tried] = time_calls(lambda: engine.scores(image))  # noqa: B023  (called at once)
                except (FullconvError, RuntimeError) as error:
                    if tried == default:
                        raise
                    LOG.info("engine: %s %s is omitted: %s", *tried, first_line(error))
        choice = cache.store(fastest(seconds, default), seconds)
        times = ", ".join(f"{name} {precision} {1000 * took:.0f} ms" for (name, precision), took in seconds.items())
        size = f"{side}x{side} pixels and more" if side == SIDES[-1] else f"up to {side}x{side} pixels"
        LOG.info("engine: %s %s for images of %s (%s)", *choice, size, times)
        return choice


def time_calls(compute: Callable[[], object]) -> float:
    """Return the shortest time of a few calls after the first, which compiles; of the first where it takes very long."""
    start = time.perf_counter()
    compute()
    first = time.perf_counter() - start
    if first > MAX_FIRST_IMAGE_S:
        return first
    best, begin = math.inf, time.perf_counter()
    while best == math.inf or time.perf_counter() - begin < BENCHMARK_S:
        start = time.perf_counter()
        compute()
        best = min(best, time.perf_counter() - start)
    return best


def fastest(seconds: Mapping[Choice, float], default: Choice) -> Choice:
    """Return the fastest choice, or the default where none is clearly faster.

    >>> fastest({("torch", "fp32"): 1.0, ("openvino", "fp32"): 0.95}, ("torch", "fp32"))
    ('torch', 'fp32')
    >>> fastest({("torch", "fp32"): 1.0, ("openvino", "bf16"): 0.2}, ("torch", "fp32"))
    ('openvino', 'bf16')
    """
    best = min(seconds, key=lambda choice: seconds[choice])
    return best if seconds[best] * MIN_SPEEDUP <= seconds[default] else default
