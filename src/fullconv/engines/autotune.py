"""Classes of picture sizes, and what a network computes for a pixel.

What a trial found on this machine, kept for whoever comes next.

Which engine and precision: what the user says, or what a trial on this machine says, once for all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import fullconv
from fullconv.card import Card
from fullconv.engines._optional import ENGINES, is_installed, runtime, threads, versions
from fullconv.engines.engine import Engine
from fullconv.engines.graph import kept, translated
from fullconv.engines.onnxruntime import OnnxRuntimeEngine
from fullconv.engines.openvino import OpenVinoEngine, read_file, read_onnx
from fullconv.engines.torch import TorchEngine
from fullconv.errors import FullconvError, RecipeError, first_line, nearest
from fullconv.modelfile import weights_sha256
from fullconv.nn import ModuleWrapper, Network, Scores
from fullconv.profiling import CHOOSING, PREPARING, timed
from fullconv.storage import cache_folder

SIDES = (64, 128, 256, 512)
"""Classes of picture sizes, by the side of a square of as many pixels; larger pictures are tried as the last."""


def size_class(height: int, width: int) -> int:
    """Return the side of the square that stands for pictures of a size.

    >>> size_class(360, 480), size_class(20, 700), size_class(3000, 4000)
    (512, 128, 512)
    """
    return next((side for side in SIDES if height * width <= side**2), SIDES[-1])


def told(side: int) -> str:
    """Return a class of sizes in words.

    >>> told(64), told(512)
    ('up to 64x64 pixels', '512x512 pixels and more')
    """
    return f"{side}x{side} pixels and more" if side == SIDES[-1] else f"up to {side}x{side} pixels"


def multiplications(network: Network) -> float:
    """Return the multiplications of a network's convolutions for a pixel of a picture, roughly."""
    height, width, total = 64, 96, 0

    def add(layer: nn.Module, _: Any, result: Tensor) -> None:
        nonlocal total
        weight = cast(Tensor, layer.weight)
        cells = result.shape[-2] * result.shape[-1]
        total += weight.numel() * cells

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.inference_mode():
            parameter = next(network.parameters())
            network.scores(torch.zeros(1, network.in_channels, height, width).to(parameter))
    finally:
        for hook in hooks:
            hook.remove()
    return total / (height * width)


LOG = logging.getLogger("fullconv.engines")

Choice = tuple[str, str]
"""Engine and precision."""


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a trial's result depends on besides the model and the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": device.type, "name": name, "threads": threads(), "system": platform.system()}


def _processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and abilities, so that a virtual machine that moves is another machine."""
    try:
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = {
            line.split(":")[0].strip(): line for line in lines if line.startswith(("model name", "flags", "Features"))
        }
        return hashlib.sha256("".join(kept.values()).encode()).hexdigest()[:16] if kept else platform.processor()
    except OSError:
        return platform.processor()


class Memory:
    """The answer to one question, in a file of the user's cache folder.

    Args:
        question: All that the answer depends on; among it `candidates`, one of which it is.
    """

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        self.path = cache_folder() / "engines" / f"{digest[:40]}.json"

    def read(self) -> Choice | None:
        """Return the choice that was made before, if there is one."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            choice = str(found["engine"]), str(found["precision"])
            return choice if list(choice) in self.question["candidates"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def can_write(self) -> bool:
        """Say whether an answer can be kept."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self._part()
            probe.touch()
            probe.unlink()
        except OSError:
            return False
        return True

    def keep(self, choice: Choice, seconds: dict[Choice, float]) -> Choice:
        """Write a choice, unless another process was first; returns the one that holds."""
        times = {" ".join(tried): round(taken, 4) for tried, taken in seconds.items()}
        text = json.dumps({"engine": choice[0], "precision": choice[1], "seconds": times, **self.question}, indent=1)
        part = self._part()
        try:
            part.write_text(text, encoding="utf-8")
            try:
                self.path.hardlink_to(part)  # whole from the start, and only where nothing has the name yet
            except FileExistsError:
                if self.read() is None:  # what cannot be read answers nothing
                    part.replace(self.path)
            except OSError:  # a file system without links
                part.replace(self.path)
        except OSError as error:
            LOG.info("engine: the choice could not be kept (%s)", error.strerror or error)
        finally:
            part.unlink(missing_ok=True)
        return self.read() or choice

    def _part(self) -> Path:
        return self.path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")


LOG = logging.getLogger("fullconv.engines")
WORTH_A_TRIAL = 2e9
"""Multiplications for a picture below which nothing is tried: it takes some hundredths of a second, and translating
the network for another runtime takes seconds."""
TRIAL_SECONDS = 0.3
"""Spent on an engine after its first picture."""
PATIENCE = 20.0
"""Seconds that a first picture, with what is compiled for it, may take for there to be a second one."""
TRANSLATION_SECONDS = 10.0
"""For turning a network into a graph, roughly: 5 for a ResNet-18 on an idle core."""
CLEARLY = 0.9
"""Another engine is taken where it needs at most this share of the time."""
LABELS_EQUAL, MEAN_IOU_APART = 0.995, 0.002
"""A card allows a lower precision whose labels agree with fp32's at least so far on validation pictures."""


def choose_engine(network: Network, card: Card, device: torch.device, engine: str, precision: str) -> Engine:
    """Return the engine that was asked for; "auto" decides when it knows the size of a picture.

    Args:
        network: In eval mode.
        card: The preprocessing, and what is known about lower precisions.
        device: Where to compute; only torch serves other devices than the CPU.
        engine: "auto", "torch", "openvino" or "onnxruntime".
        precision: "auto", "fp32" or "bf16".

    Raises:
        RecipeError: There is no such engine or precision here.
        MissingExtraError: The engine is not installed.
    """
    if engine not in ("auto", *ENGINES):
        hint = nearest(engine, ENGINES)
        raise RecipeError(f"there is no engine '{engine}' here: use torch, openvino, onnxruntime or auto.{hint}")
    if precision == "int8":
        raise RecipeError(
            "precision int8 needs pictures to calibrate with: make a file by `fullconv export MODEL --format openvino"
            " --precision int8 --data DATA -o FILE.xml`, and use that as MODEL."
        )
    if precision not in ("auto", "fp32", "bf16"):
        raise RecipeError(f"there is no precision '{precision}' here: use auto, fp32, bf16 or int8.")
    if engine in ("openvino", "onnxruntime") and device.type != "cpu":
        raise RecipeError(f"engine {engine} computes on the CPU here: use --device cpu, or --engine torch.")
    if engine == "onnxruntime" and precision == "bf16":
        raise RecipeError("ONNX Runtime has no bf16 convolutions for CPUs: use fp32, or engine openvino or torch.")
    maker = Maker(network, card, device)
    candidates = allowed(maker, engine, precision)
    return maker.engine(candidates[0]) if len(candidates) == 1 else AutoEngine(maker, candidates)


def allowed(maker: Maker, engine: str, precision: str) -> list[Choice]:
    """Return what may be chosen, the plainest first."""
    names = [engine]
    if engine == "auto":
        ours = not isinstance(maker.network, ModuleWrapper)  # who knows what a module from outside does
        others = [name for name in ENGINES[1:] if ours and maker.device.type == "cpu" and is_installed(name)]
        names = ["torch", *others]
    precisions = [precision]
    if precision == "auto":
        precisions = ["fp32", "bf16"] if agrees(maker.card, "bf16") else ["fp32"]
    return [(n, p) for p in precisions for n in names if (n, p) != ("onnxruntime", "bf16")]


def agrees(card: Card, precision: str) -> bool:
    """Say whether the card's measurement allows a lower precision.

    >>> agrees(Card(variant="fcn8s", classes=["a", "b"]), "bf16")
    False
    """
    found = card.agreement.get(precision) or {}
    labels, apart = found.get("labels"), found.get("mean_iou_difference")
    return labels is not None and apart is not None and labels >= LABELS_EQUAL and abs(apart) <= MEAN_IOU_APART


class Maker:
    """Makes the engines of one network, each once; the network is translated for all of them once."""

    def __init__(self, network: Network, card: Card, device: torch.device) -> None:
        self.network, self.card, self.device = network, card, device
        self._made: dict[Choice, Engine] = {}
        self._onnx: Any = None
        self._identity = ""

    def engine(self, choice: Choice) -> Engine:
        """Return the engine of a choice.

        Raises:
            NetworkError: The network cannot be translated for it.
            MissingExtraError: It is not installed.
        """
        if choice not in self._made:
            with timed(PREPARING):
                self._made[choice] = self._make(*choice)
        return self._made[choice]

    def _make(self, name: str, precision: str) -> Engine:
        if name == "torch":
            return TorchEngine(cast(nn.Module, self.network), self.card, self.device, precision)
        runtime(name, f"--engine {name}")
        if name == "openvino":
            return OpenVinoEngine(self._openvino_model(), self.card, precision, self.network.min_size)
        return OnnxRuntimeEngine(self.onnx(), self.card, precision)

    def onnx(self) -> Any:
        """Return the network with its preprocessing as an ``onnx.ModelProto``."""
        if self._onnx is None:
            self._onnx = translated(self.network, self.card, self.identity() if self._is_ours() else None)
        return self._onnx

    def _is_ours(self) -> bool:
        return not isinstance(self.network, ModuleWrapper)  # what another does, its weights do not tell

    def _openvino_model(self) -> Any:
        """Return the network as an ``openvino.Model``, straight from the file where it was translated before."""
        if self._onnx is None and self._is_ours() and (path := kept(self.identity())) is not None:
            with suppress(RuntimeError):  # a damaged file is written anew
                return read_file(path)
        return read_onnx(self.onnx())

    def identity(self) -> str:
        """Return a hash of all that the scores of a picture depend on but the machine and its libraries."""
        if not self._identity:
            keys = {"variant", "backbone", "network", "in_channels", "heads", "mean", "std", "range", "channel_order"}
            card = json.dumps(self.card.model_dump(mode="json", include=keys), sort_keys=True)
            hashed = weights_sha256(self.network.state_dict())
            layers = repr(self.network)  # somebody may have replaced one
            self._identity = hashlib.sha256((hashed + card + layers).encode()).hexdigest()
        return self._identity


class AutoEngine:
    """Chooses an engine for each class of picture sizes, and remembers it.

    A trial takes about a second. Its result is kept in the user's cache folder, under a hash of model, machine, library
    versions, candidates and size class; whoever comes second takes what the first one wrote. So all commands compute a
    picture in the same way, now and later. Where nothing can be kept, nothing is tried: the plainest candidate computes.

    Args:
        maker: Makes the engines.
        candidates: What may be chosen, the plainest first.
    """

    def __init__(self, maker: Maker, candidates: Sequence[Choice]) -> None:
        self.maker, self.candidates = maker, list(candidates)
        self._chosen: dict[int, Choice] = {}
        self._used: list[Choice] = []
        self._lock = threading.Lock()
        self._work: float | None = None

    @property
    def name(self) -> str:
        """The engines used so far, "auto" before the first picture."""
        return ", ".join(dict.fromkeys(name for name, _ in self._used)) or "auto"

    @property
    def precision(self) -> str:
        """The precisions used so far, "auto" before the first picture."""
        return ", ".join(dict.fromkeys(precision for _, precision in self._used)) or "auto"

    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C), none of which is a tile of a larger one, to scores."""
        return self.at(images.shape[1], images.shape[2]).scores(images)

    def at(self, height: int, width: int) -> Engine:
        """Return the engine for pictures of a size, of which tiles are parts."""
        side = size_class(height, width)
        with self._lock:
            if side not in self._chosen:
                self._chosen[side] = self._choose(side)
            choice = self._chosen[side]
            if choice not in self._used:
                self._used.append(choice)
            return self.maker.engine(choice)

    def decided(self) -> dict[int, Choice]:
        """Choose for all sizes now; returns the choice by the side of `SIDES` that stands for a class."""
        with self._lock:
            for side in SIDES:
                if side not in self._chosen:
                    self._chosen[side] = self._choose(side)
            return dict(self._chosen)

    def hold(self, choices: Mapping[int, Choice]) -> None:
        """Take what another process has decided, whatever the cache folder says now.

        Raises:
            RecipeError: It is no candidate here.
        """
        for name, precision in choices.values():
            if (name, precision) not in self.candidates:
                known = ", ".join(" ".join(choice) for choice in self.candidates)
                raise RecipeError(f"engine {name} in {precision} cannot be used here, there are {known}.")
        with self._lock:
            self._chosen.update(choices)

    def _choose(self, side: int) -> Choice:
        plainest = self.candidates[0]
        if len(self.candidates) == 1 or self.work() * side**2 < WORTH_A_TRIAL:
            return plainest
        memory = Memory(self._question(side))
        answer = memory.read()
        if answer is not None:
            return answer
        if not memory.can_write():
            LOG.info("engine: %s %s; nothing is tried, as %s cannot be written", *plainest, memory.path.parent)
            return plainest
        with timed(CHOOSING):
            seconds = self._try_all(side)
        answer = memory.keep(fastest(seconds, plainest), seconds)
        tried = ", ".join(f"{name} {precision} {1000 * took:.0f} ms" for (name, precision), took in seconds.items())
        LOG.info("engine: %s %s for pictures of %s (%s)", *answer, told(side), tried)
        return answer

    def work(self) -> float:
        """Return the multiplications of the network for a pixel of a picture."""
        if self._work is None:
            self._work = multiplications(self.maker.network)
        return self._work

    def seconds_to_choose(self, picture: float) -> float:
        """Estimate what the choice takes for large pictures, where one takes so many seconds in fp32."""
        if self.work() * SIDES[-1] ** 2 < WORTH_A_TRIAL:
            return 0.0
        return TRANSLATION_SECONDS + len(self.candidates) * (2 * picture + TRIAL_SECONDS)

    def _question(self, side: int) -> dict[str, Any]:
        return {
            "model": self.maker.identity(), "side": side, "candidates": [list(choice) for choice in self.candidates],
            "machine": machine(self.maker.device), "versions": versions(), "fullconv": fullconv.__version__,
        }  # fmt: skip

    def _try_all(self, side: int) -> dict[Choice, float]:
        """Return the seconds that each candidate takes for a picture; those that cannot serve are left out."""
        draw = torch.Generator().manual_seed(0)
        picture = torch.randint(0, 256, (1, side, side, self.maker.card.in_channels), dtype=torch.uint8, generator=draw)
        found: dict[Choice, float] = {}
        for choice in self.candidates:
            try:
                engine = self.maker.engine(choice)
                found[choice] = seconds_for(lambda: engine.scores(picture))  # noqa: B023  (called at once)
            except (FullconvError, RuntimeError) as error:
                if choice == self.candidates[0]:
                    raise
                LOG.info("engine: %s %s is left out: %s", *choice, first_line(error))
        return found


def seconds_for(compute: Callable[[], object]) -> float:
    """Return the least time of a few calls after the first, which compiles; that one's where it takes very long."""
    start = time.perf_counter()
    compute()
    first = time.perf_counter() - start
    if first > PATIENCE:
        return first
    best, begin = math.inf, time.perf_counter()
    while best == math.inf or time.perf_counter() - begin < TRIAL_SECONDS:
        start = time.perf_counter()
        compute()
        best = min(best, time.perf_counter() - start)
    return best


def fastest(seconds: dict[Choice, float], plainest: Choice) -> Choice:
    """Return the fastest choice, or the plainest where nothing is clearly faster.

    >>> fastest({("torch", "fp32"): 1.0, ("openvino", "fp32"): 0.95}, ("torch", "fp32"))
    ('torch', 'fp32')
    >>> fastest({("torch", "fp32"): 1.0, ("openvino", "bf16"): 0.2}, ("torch", "fp32"))
    ('openvino', 'bf16')
    """
    best = min(seconds, key=lambda choice: seconds[choice])
    return best if seconds[best] <= CLEARLY * seconds[plainest] else plainest
