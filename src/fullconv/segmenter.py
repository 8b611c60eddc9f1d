"""A model in use: a network or an exported file, its card, and the engines that compute its scores."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fullconv._version import __version__
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card, adapt_statistics, describe
from fullconv.engines import Engine, choose_engine, exported_engine, is_exported, read_exported, read_layout
from fullconv.errors import FullconvError, InputError, ModelFileError, NetworkError, RecipeError
from fullconv.images import check_pixels
from fullconv.interpolation import ScoreLayout, argmax, softmax, to_numpy
from fullconv.labels import VOID, left_right_pairs
from fullconv.modelfile import read_model, verify_weights, write_model
from fullconv.notices import Notice, NoticeCollector
from fullconv.prediction import ImageLogits, Prediction
from fullconv.preprocess import NetworkInput, read_input, rescale, working_size
from fullconv.profiling import NETWORK, RESIZING, UPSAMPLING, timed
from fullconv.recipe import parse_recipe
from fullconv.system import is_importable
from fullconv.tiling import (
    choose_tile_size,
    default_budget,
    estimate_bytes,
    fits,
    memory_warning,
    plan,
    sliding_window,
    tiled_scores,
)
from fullconv.tta import TTAView, ViewScores, parse_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fullconv.nn import Network

LOG = logging.getLogger("fullconv")
NETWORK_SETTINGS = {"norm", "width", "head", "phase"}
"""Keywords of `build` that a card may hold besides those with a key of their own."""

Tile = int | Literal["auto", "none"]


@dataclass(frozen=True)
class PredictOptions:
    """How a segmenter predicts, whatever the image."""

    memory: int | None = None
    """Bytes that a prediction may take; None allows a quarter of the available memory."""
    blend: bool = False
    """Average overlapping tiles where exact tiles are impossible, instead of refusing them."""
    tta: str = ""
    """Test-time augmentation: "flip", factors of size, or both ("flip,0.75,1.25"); probabilities are averaged."""
    scale: float | None = None
    """Working resolution instead of the card's `scale` or `short_side`; 1 is as stored."""

    @property
    def views(self) -> tuple[TTAView, ...]:
        """The views of `tta`."""
        return parse_views(self.tta)

    @property
    def budget(self) -> int:
        """Bytes that a prediction may take now."""
        return default_budget() if self.memory is None else self.memory


@dataclass(frozen=True)
class CpuDevice:
    """The CPU, where torch and its devices are not installed."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


class Segmenter:
    """A network, what it needs to know about images and classes, and the engines that compute it.

    One image: `images.read_image` -> `preprocess.rescale` to the working size -> `Engine.scores`, which normalizes and pads,
    tile by tile if memory requires it (`tiling.tiled_scores`) -> `prediction.ImageLogits` upsamples strips of rows
    (`Network.upsample`) -> argmax -> `Prediction`.

    Args:
        network: In two halves, `scores` and `upsample`; or the layout of an exported file's scores.
        card: Preprocessing, classes and origin.
        device: "auto", "cpu", "cuda" or "cuda:0".
        precision: "auto", "fp32" or "bf16".
        engine: "auto", "torch", "openvino" or "onnxruntime"; or an existing engine, or several whose probabilities are
            averaged. An engine takes the weights as they are when it is created.
        options: How to predict.
    """

    def __init__(
        self,
        network: Network | ScoreLayout,
        card: Card,
        device: str = "auto",
        precision: str = "auto",
        engine: str | Engine | Sequence[Engine] = "auto",
        options: PredictOptions | None = None,
    ) -> None:
        self.network: Any = network if isinstance(network, ScoreLayout) else network.eval()
        self.card, self.options = card, options or PredictOptions()
        self.device = choose_device("cpu" if device == "auto" and engine in ("openvino", "onnxruntime") else device)
        runs: Any = engine
        if isinstance(engine, str):
            runs = choose_engine(cast(Any, network), card, self.device, engine, precision)
        self.engines: tuple[Engine, ...] = tuple(runs) if isinstance(runs, Sequence) else (runs,)
        self._logged = NoticeCollector()

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        classes: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        palette: Sequence[tuple[int, int, int]] = (),
        in_channels: int | None = None,
        range: tuple[float, float] = (0.0, 255.0),  # noqa: A002  (the card's key)
        pad_to: int = 1,
        device: str = "auto",
        precision: str = "auto",
    ) -> Segmenter:
        """Wrap any module from (N, C, H, W) to (N, K, H, W) logits.

        The module is copied, with weights in float32, and stays as it is; only a `Network` is taken itself. Where tiles can be
        exact, some of a random image are compared with the whole; else, and where they differ, tiles are refused, and the
        layer is named.

        Args:
            network: The module: a `Network`, or any other with the same input and output size; of a dict, "out" is taken.
            classes: Names of the K classes.
            mean: Per channel, after ``range`` was mapped to 0..1; ImageNet's by default.
            std: Likewise.
            palette: Colours; VOC's by default.
            in_channels: C, where it cannot be read from the first convolution.
            range: Image values that become 0 and 1.
            pad_to: Pixels: the module gets images that are padded right and bottom to multiples of it, with the mean; the
                result has the image's size. Many encoders and decoders are exact in tiles only with their stride here,
                mostly 32.
            device: Where to run.
            precision: "auto", "fp32" or "bf16".

        Raises:
            NetworkError: ``network`` is not a module or cannot be copied, a `Network` has another number of classes than there
                are names, or classes, palette, mean, std or pad_to are not valid.
        """
        from torch import nn

        from fullconv.nn import ModuleWrapper, Network
        from fullconv.tiling import prove_tiles

        if not isinstance(network, nn.Module):
            raise NetworkError(f"the network must be a torch.nn.Module, not {type(network).__name__}.")
        if isinstance(classes, str):
            raise NetworkError(f"classes must be a list of names, not the string {classes!r}.")
        if not isinstance(classes, Sequence):
            raise NetworkError(f"classes must be a list of names, not {classes!r}.")
        if isinstance(pad_to, bool) or not isinstance(pad_to, int) or pad_to < 1:
            raise NetworkError(f"pad_to must be a number of pixels from 1, not {pad_to!r}.")
        own = isinstance(network, Network)
        if own and pad_to != 1:
            raise NetworkError("pad_to is for modules from elsewhere: this network pads images to its own sizes.")
        if own and network.num_classes != len(classes):
            raise NetworkError(f"the network has {network.num_classes} classes, {len(classes)} names were given.")
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        channels = in_channels or getattr(network, "in_channels", None) or (3 if first is None else first.in_channels)
        body: Any = network if own else ModuleWrapper(network, channels, len(classes), pad_to)
        if not own:
            body.float()
            if body.halo is not None and (layer := prove_tiles(body)) is not None:
                body.refuse(layer)
        statistics = adapt_statistics(IMAGENET_MEAN, IMAGENET_STD, channels)
        try:
            card = Card(
                variant=body.variant, backbone=body.settings.get("backbone"), network=build_settings(body),
                in_channels=channels, classes=tuple(classes), palette=tuple(palette),
                mean=tuple(mean) if mean is not None else statistics["mean"],
                std=tuple(std) if std is not None else statistics["std"], range=range,
                stride=body.stride, receptive_field=body.receptive_field,
            )  # fmt: skip
        except ValidationError as error:
            raise NetworkError(describe(error)) from None
        return cls(body, card, device=device, precision=precision)

    @property
    def engine(self) -> Engine:
        """The engine; the first of several."""
        return self.engines[0]

    def __repr__(self) -> str:
        engines = ", ".join(f"{engine.name} {engine.precision}" for engine in self.engines)
        return f"Segmenter({self.card.describe()}; {engines} on {self.device})"

    def with_options(self, **changes: Any) -> Segmenter:
        """Return a segmenter with other fields of `PredictOptions` that shares network and engines."""
        other = copy.copy(self)
        other.options = replace(self.options, **changes)
        return other

    def predict(
        self, image: Any, tile: Tile = "auto", probabilities: bool = False, head: str | None = None
    ) -> Prediction:
        """Label every pixel of an image.

        Args:
            image: Path, PIL image, array (H, W) or (H, W, C), or torch tensor (C, H, W), in the card's bands and value
                range, any size.
            tile: Side of a tile's core in pixels, rounded up to the stride; the result does not depend on it.
                "none" computes the whole image at once, "auto" does so where the memory allows it.
            probabilities: Keep class probabilities (K, H, W) float32.
            head: Only this head of several.

        Returns:
            Label map (H, W) uint8 at the image's own size, indices into the card's classes.

        Raises:
            InputError: The image cannot be read, or has other bands than the card.
            NetworkError: Tiles were asked for and cannot be exact.
        """
        return self.predict_many([image], tile, probabilities, head)[0]

    def predict_many(
        self, images: Sequence[Any], tile: Tile = "auto", probabilities: bool = False, head: str | None = None
    ) -> list[Prediction]:
        """Label several images; consecutive ones of one size and type go through the network together.

        Arguments and errors are those of `predict`.

        Returns:
            Predictions in the order of the images.
        """
        pixels = [self.read(image) for image in images]
        done: list[Prediction] = []
        for _, group in groupby(pixels, key=lambda image: (image.values.shape, image.values.dtype)):
            inputs, notices = list(group), list[Notice]()
            batch = [each.values for each in inputs]
            if len(batch) > 1 and self._fits_batch(tile, batch):
                views = self.scores(np.stack(batch), "none", notices)
                for index, image in enumerate(inputs):
                    single = [
                        replace(view, scores={name: s[index : index + 1] for name, s in view.scores.items()})
                        for view in views
                    ]
                    done.append(self._prediction(image, single, probabilities, head, ()))
                continue
            for image in inputs:
                notices = []
                views = self.scores(image.values[None], tile, notices)
                done.append(self._prediction(image, views, probabilities, head, notices))
        if (mirrored := self.mirror_notice(head)) is not None:
            for prediction in done:
                prediction.notices = (mirrored, *prediction.notices)
        return done

    def logits(self, image: Any, tile: Tile = "none", head: str | None = None) -> NDArray[np.float32]:
        """Return the logits of an image at its own size, (K, H, W) float32; for checks and small images."""
        pixels = self.read(image)
        height, width = pixels.values.shape[:2]
        views = self.scores(pixels.values[None], tile, [])
        if self.card.heads is not None:
            self.card.labels(head)
        name = head or next(iter(views[0].scores))
        return to_numpy(self._image_logits(views, (height, width), name).rows(0, height))

    def save(self, path: str | Path) -> None:
        """Write the model file: weights and card.

        Raises:
            ModelFileError: `load` could not build the network again.
            OutputError: The file cannot be written.
        """
        if self.card.variant == "custom":
            raise ModelFileError(
                "custom networks cannot be saved as fullconv model files; save their state_dict with torch.save."
            )
        if isinstance(self.network, ScoreLayout) or any(p.is_meta for p in self.network.parameters()):
            raise ModelFileError("cannot save a model that was loaded from an export; copy the original model file.")
        card = self.card.model_copy(update={"fullconv": __version__})
        self.card = write_model(path, card, self.network.state_dict())

    def read(self, image: Any, name: str = "") -> NetworkInput:
        """Read an image as `predict` does: in the card's bands, with the mean colour where it has no data.

        Args:
            image: Path, bytes of a file or PIL image, whose bands are selected by the card; or an array, (H, W) or (H, W, C),
                taken as already selected where it has the card's number of bands; or the result of `read`.
            name: The file of an array, for messages.

        Raises:
            InputError: The image cannot be read, or has other bands than the card.
        """
        pixels = read_input(image, self.card, str(image) if isinstance(image, (str, Path)) else name)
        for notice in pixels.notices:
            self.log(notice)
        return pixels

    def mirror_notice(self, head: str | None) -> Notice | None:
        """Return a notice where mirror images are averaged, and log it, if classes called left and right have no pairs."""
        labels = self.card.labels(head)
        pairs = left_right_pairs(labels.classes) if labels.mirror_pairs is None else []
        if not pairs or not any(view.hflip for view in self.options.views):
            return None
        notice = Notice(
            "mirror-pairs",
            f"in a mirror image '{pairs[0][0]}' is '{pairs[0][1]}', but the model's data set no mirror_pairs, so --tta"
            f" {self.options.tta} mixes them. Omit flip, or set mirror_pairs in data.toml and train again.",
        )
        self.log(notice)
        return notice

    def log(self, notice: Notice) -> None:
        """Log a notice, unless one of its code was logged before."""
        if self._logged.add(notice):
            LOG.warning(notice.message)

    @property
    def short_side(self) -> int | None:
        """Length to which the shorter side of an image is resized; None where all are resized by one factor."""
        return self.card.short_side if self.options.scale is None else None

    @property
    def scale(self) -> float:
        """Working resolution of all images; 1 where `short_side` defines it."""
        return self.card.scale if self.options.scale is None else self.options.scale

    def working_size(self, height: int, width: int, factor: float = 1.0) -> tuple[int, int]:
        """Return the size at which an image is computed, times a factor.

        Raises:
            ImageError: `short_side` would enlarge it beyond the limit of an image's pixels.
        """
        size = working_size(height, width, self.scale * factor, self.short_side)
        if self.short_side is not None:
            check_pixels(*size, f"an image of {width}x{height}, resized to a shorter side of {self.short_side}")
        return size

    def scores(self, images: NDArray[Any], tile: Tile, notices: list[Notice]) -> list[ViewScores]:
        """Compute the scores of images (N, H, W, C) as stored, of each engine and view; notices are appended."""
        found = []
        for view in self.options.views:
            size = images.shape[1], images.shape[2]
            working = self.working_size(*size, view.scale)
            with timed(RESIZING):
                x = images[:, :, ::-1] if view.hflip else images
                if working != size:
                    x = rescale(x.astype(np.float32) if x.dtype == np.uint16 else x, working)
            for each in self.engines:
                engine = each.for_size(*working)
                tile_size = self._tile_size(tile, *working, engine, notices)
                with timed(NETWORK):
                    if tile_size is None:
                        scores = engine.scores(x)
                    elif self.options.blend and self.network.halo is None:
                        scores = sliding_window(engine.scores, x, self.network, tile_size)
                    else:
                        scores = tiled_scores(engine.scores, x, *plan(self.network, *working, tile_size))
                found.append(ViewScores(view, working, scores))
        return found

    def _prediction(
        self,
        image: NetworkInput,
        views: Sequence[ViewScores],
        probabilities: bool,
        head: str | None,
        notices: Sequence[Notice],
    ) -> Prediction:
        """Upsample the scores of one image to labels, strip by strip."""
        size = image.values.shape[0], image.values.shape[1]
        labels = self.card.labels(head)
        heads = [head or ""] if head is not None or self.card.heads is None else list(self.card.heads)
        maps: dict[str, NDArray[np.uint8]] = {}
        kept = np.empty((len(labels.classes), *size), np.float32) if probabilities else None
        sources = [self._image_logits(views, size, name) for name in heads]
        with timed(UPSAMPLING):
            for source in sources:
                maps[source.head] = label_map = np.empty(size, np.uint8)
                for a, b, logits in source.strips():
                    label_map[a:b] = argmax(logits)
                    if kept is not None and source is sources[0]:
                        kept[:, a:b] = to_numpy(softmax(logits))
        if image.nodata is not None:
            for label_map in maps.values():
                label_map[image.nodata] = VOID
            if kept is not None:
                kept[:, image.nodata] = np.nan
        return Prediction(maps, labels, kept, image.values, sources[0], (*image.notices, *notices))

    def _image_logits(self, views: Sequence[ViewScores], size: tuple[int, int], head: str) -> ImageLogits:
        labels = self.card.labels(head or None)
        order = labels.mirror_order if labels.mirror_pairs else ()
        return ImageLogits(self.network, tuple(views), size, head, self.device, order)

    def _fits_batch(self, tile: Tile, images: Sequence[NDArray[Any]]) -> bool:
        """Return whether images of one size go through the network whole and together."""
        if self.options.tta or len(self.engines) > 1:
            return False
        working = self.working_size(images[0].shape[0], images[0].shape[1])
        engine = self.engine.for_size(*working)
        if tile != "auto":
            return self._tile_size(tile, *working, engine, []) is None
        needed = len(images) * estimate_bytes(self.network, *working, item_bytes(engine))
        return fits(needed, self.options.budget)

    def _tile_size(self, tile: Tile, height: int, width: int, engine: Engine, notices: list[Notice]) -> int | None:
        """Return the side of a tile's core; None for the whole image."""
        check_tile(tile)
        if tile == "none" or isinstance(tile, int):
            return None if tile == "none" else int(tile)
        target, item, budget = (self.network, height, width), item_bytes(engine), self.options.budget
        size = None
        if not fits(estimate_bytes(*target, item), budget):
            size = choose_tile_size(*target, budget, item, self.options.blend)
        if self.options.memory is not None and (text := memory_warning(*target, size, budget, item)) is not None:
            notices.append(Notice("memory", text))
            self.log(notices[-1])
        return size


def item_bytes(engine: Engine) -> int:
    """Return the bytes of an activation's value."""
    return 2 if engine.precision == "bf16" else 4


def check_tile(tile: Tile) -> None:
    """Raise InputError unless a tile is "auto", "none", or a number of pixels."""
    if tile not in ("auto", "none") and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise InputError(f'tile must be "auto", "none" or a number of pixels from 1, not {tile!r}.')


def build_settings(network: Any) -> dict[str, Any]:
    """Return the keywords of `build` that the card stores besides variant, backbone and classes."""
    kept = {k: v for k, v in network.settings.items() if k in ("norm", "width", "head")}
    phase = network.settings.get("phase")
    return kept if phase is None else {**kept, "phase": phase}


def choose_device(device: str) -> Any:
    """Return the ``torch.device`` of "auto", "cpu", "cuda" or "cuda:i"; without torch, the CPU."""
    if not is_importable("torch"):
        if device not in ("auto", "cpu"):
            raise RecipeError(f"device {device} needs PyTorch, which is not installed. Use cpu.")
        return CpuDevice()
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise RecipeError(f"there is no device '{device}': use auto, cpu, cuda or cuda:0.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"device {device} is not available: PyTorch finds {torch.cuda.device_count()} CUDA devices. Use cpu."
        )
    if chosen.type not in ("cpu", "cuda"):
        raise RecipeError(f"device {device} is not supported: use auto, cpu, cuda or cuda:0.")
    return chosen


def load(path: str | Path, precision: str = "auto", engine: str = "auto", device: str = "auto") -> Segmenter:
    """Load a model file, or the model of a run folder.

    Args:
        path: A `.safetensors` of this program, a run folder, an exported file (`.onnx`, `.xml`, `.pt2`), or a published
            name ("torchvision:fcn_resnet50").
        precision: "auto", "fp32" or "bf16". "auto" uses a lower one where it is faster and the card allows it.
        engine: "auto", "torch", "openvino" or "onnxruntime". "auto" benchmarks what is installed, once per size class.
        device: "auto", "cpu", "cuda" or "cuda:i".

    Raises:
        ModelFileError: The file is missing, damaged or foreign.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ModelFileError(f"expected the path of a model file or run folder, not {path!r}.")
    if ":" in str(path) and not Path(path).exists():
        from fullconv.hub import published_model

        network, card = published_model(str(path))
        return Segmenter(network, card, device=device, precision=precision, engine=engine)
    path = Path(path)
    if path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        raise ModelFileError(f"{path}: holds only the weights of {path.with_suffix('.xml')}. Use that file.")
    if not is_exported(path):
        file = path / "model.safetensors" if path.is_dir() else path
        card, tensors = read_model(file, verify=False)
        with ThreadPoolExecutor(1) as pool:  # hashing takes as long as building
            verified = pool.submit(verify_weights, file, card, tensors)
            network = build_from_card(card, tensors, file)
            verified.result()
        return Segmenter(network, card, device=device, precision=precision, engine=engine)
    card, about = read_exported(path)
    if device != "auto" and choose_device(device).type != "cpu":
        raise RecipeError(f"{path}: an exported file computes on the CPU here: use --device cpu.")
    layout: Any = read_layout(path) if not is_importable("torch") else build_from_card(card, None, path)
    if layout is None:
        raise ModelFileError(
            f"{path}: was exported by fullconv 0.1.0 and needs PyTorch. Install it, or export it again."
        )
    runner = exported_engine(path, card, about, engine, precision, layout.min_size)
    return Segmenter(layout, card, device="cpu", engine=runner)


def build_from_card(card: Card, tensors: dict[str, Tensor] | None, file: Path) -> Network:
    """Build the network of a card and load its weights; without any on the meta device, enough to stitch and upsample."""
    from fullconv.nn import VARIANTS
    from fullconv.nn.build import build_meta, build_with_weights

    if card.variant not in VARIANTS:
        raise ModelFileError(f"{file}: its network '{card.variant}' is not known here: update fullconv.")
    settings = set(card.network)
    if not settings <= NETWORK_SETTINGS:  # above all no "weights", which would be downloaded
        raise ModelFileError(f"{file}: its card has unknown network settings: {settings - NETWORK_SETTINGS}.")
    try:
        parse_recipe({key: card.network[key] for key in ("norm", "width", "head") if key in settings}, "its card")
        return build_meta(card) if tensors is None else build_with_weights(card, tensors)
    except FullconvError as error:
        raise ModelFileError(f"{file}: its network cannot be built: {error}") from error
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or ["too large"])[-1].strip()[:200]
        raise ModelFileError(f"{file}: damaged: its weights do not fit its network ({reason}).") from error
