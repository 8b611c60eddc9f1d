"""The artefact in use: network or engine, and card; whole and tiled prediction."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from fullconv import modelfile
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card, single_channel_statistics
from fullconv.engines import Engine, choose_engine
from fullconv.engines.exported import exported_engine, is_exported, read_exported
from fullconv.errors import FullconvError, InputError, ModelFileError, NetworkError, RecipeError
from fullconv.hub import published_model
from fullconv.images import read_image
from fullconv.nn import VARIANTS, ModuleWrapper, Network, Scores, tree_map
from fullconv.nn.build import build_meta, build_with_weights
from fullconv.prediction import Prediction
from fullconv.preprocess import Remarks, as_tensor, range_remark, rescale, select_bands, working_size
from fullconv.profiling import NETWORK, RESIZING, UPSAMPLING, is_profiling, timed
from fullconv.recipe import parse_recipe
from fullconv.tiling import (
    choose_tile_size,
    default_budget,
    estimate_bytes,
    fits,
    memory_warning,
    plan,
    row_chunks,
    sliding_window,
    tiled_scores,
)
from fullconv.tta import Seen, View, grow, parse_views

NETWORK_SETTINGS = {"norm", "width", "head", "phase"}
"""Keywords of `build` that a card may hold beside those that have a place of their own."""

AT_ONCE = 2**16
"""Pixels whose largest logits are sought together: these, their places and a class's logits stay in a core's cache."""

Tile = int | Literal["auto", "none"]


class Segmenter:
    """A network, what it needs to know about pictures and classes, and where it runs.

    Args:
        network: In two halves, `scores` and `upsample`.
        card: Preprocessing, classes and origin.
        device: "auto", "cpu", "cuda" or "cuda:0".
        precision: "auto", "fp32" or "bf16".
        engine: "auto", "torch", "openvino" or "onnxruntime", or one that is made already. It takes the weights as they
            are when it is made.
    """

    def __init__(
        self,
        network: Network,
        card: Card,
        device: str = "auto",
        precision: str = "auto",
        engine: str | Engine = "auto",
    ) -> None:
        self.network = network.eval()
        self.card = card
        self.device = choose_device(device)
        if device == "auto" and engine in ("openvino", "onnxruntime"):
            self.device = torch.device("cpu")
        self.engine: Engine = (
            choose_engine(self.network, card, self.device, engine, precision) if isinstance(engine, str) else engine
        )
        self.memory: int | None = None
        """Bytes that a prediction may take; None allows a quarter of what is free."""
        self.blend = False
        """Whether tiles that cannot be exact are averaged instead of refused; exact ones stay as they are."""
        self.remark = Remarks()
        self.tta = ""
        """Test-time augmentation: "flip", factors of size, or both ("flip,0.75,1.25"); probabilities are averaged."""

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
        range: tuple[float, float] = (0.0, 255.0),  # noqa: A002  (the card's word)
        device: str = "auto",
        precision: str = "auto",
    ) -> Segmenter:
        """Make a segmenter of any module from (N, C, H, W) to (N, K, H, W) logits.

        Args:
            network: The module; one of ours, or any other of the same input and output size.
            classes: Names of the K classes.
            mean: Per channel, after ``range`` became 0..1; ImageNet's by default.
            std: Likewise.
            palette: Colours; VOC's by default.
            in_channels: C, where it cannot be read from the first convolution.
            range: Picture values that become 0 and 1.
            device: Where to run.
            precision: "auto", "fp32" or "bf16".

        Raises:
            NetworkError: It is no module, one of ours has another number of classes than there are names, or classes,
                palette, mean and std cannot be.
        """
        if not isinstance(network, nn.Module):
            raise NetworkError(f"the network is to be a torch.nn.Module, not {type(network).__name__}.")
        if isinstance(classes, str):
            raise NetworkError(f"classes is to be a list of names, not the text {classes!r}.")
        if not isinstance(classes, Sequence):
            raise NetworkError(f"classes is to be a list of names, not {classes!r}.")
        channels = in_channels or getattr(network, "in_channels", None) or _first_channels(network)
        spread = single_channel_statistics(IMAGENET_MEAN, IMAGENET_STD, channels)
        ours = isinstance(network, Network)
        if ours and network.num_classes != len(classes):
            raise NetworkError(f"the network has {network.num_classes} classes, {len(classes)} names were given.")
        body = cast(Network, network if ours else ModuleWrapper(network, channels, len(classes)))
        try:
            card = Card(
                variant=getattr(body, "variant", "custom"), backbone=body.settings.get("backbone"),
                network=build_settings(body), in_channels=channels, classes=tuple(classes), palette=tuple(palette),
                mean=tuple(mean) if mean is not None else spread["mean"],
                std=tuple(std) if std is not None else spread["std"], range=range,
                stride=body.stride, receptive_field=body.receptive_field,
            )  # fmt: skip
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise NetworkError(f"{name}{': ' * bool(name)}{first['msg'].removeprefix('Value error, ')}.") from None
        return cls(body, card, device=device, precision=precision)

    @torch.inference_mode()
    def predict(
        self, image: Any, tile: Tile = "auto", probabilities: bool = False, head: str | None = None
    ) -> Prediction:
        """Label every pixel of a picture.

        Args:
            image: Path, PIL image, or array (H, W) or (H, W, C) in the card's bands and value range, any size.
            tile: Side of a tile's core in pixels, rounded up to the stride; the answer does not depend on it.
                "none" computes the whole picture at once, "auto" does so where the memory allows it.
            probabilities: Keep class probabilities (K, H, W) float32.
            head: Only this head of several.

        Returns:
            Label map (H, W) uint8 at the picture's own size, indices into the card's classes.

        Raises:
            InputError: The picture cannot be read, or has other bands than the card.
            NetworkError: Tiles were asked for and cannot be exact.
        """
        pixels = self.read(image)
        return self._prediction(pixels, self._scores(pixels, tile), probabilities, head)

    @torch.inference_mode()
    def predict_many(
        self, images: Sequence[Any], tile: Tile = "auto", probabilities: bool = False, head: str | None = None
    ) -> list[Prediction]:
        """Label several pictures; those that follow each other with one size and kind go through the network together.

        The arguments and errors are those of `predict`, which is this for one picture.

        Returns:
            Predictions in the order of the pictures.
        """
        pixels = [self.read(image) for image in images]
        done: list[Prediction] = []
        for _, group in groupby(pixels, key=lambda picture: (picture.shape, picture.dtype)):
            alike = list(group)
            height, width = alike[0].shape[:2]
            working = working_size(height, width, self.card.scale)
            if len(alike) == 1 or self.tta or not self._together(tile, *working, len(alike)):
                done += [self._prediction(one, self._scores(one, tile), probabilities, head) for one in alike]
                continue
            (seen,) = self._scores(np.stack(alike), "none")
            for index, one in enumerate(alike):
                part = tree_map(seen.scores, itemgetter(slice(index, index + 1)))
                done.append(self._prediction(one, [replace(seen, scores=part)], probabilities, head))
        return done

    def _prediction(
        self, pixels: NDArray[Any], seen: Sequence[Seen], probabilities: bool, head: str | None
    ) -> Prediction:
        """Grow the scores of one picture into labels."""
        size = pixels.shape[0], pixels.shape[1]
        heads = list(seen[0].scores) if isinstance(seen[0].scores, dict) else [""]
        if head is not None:
            self.card.labels(head)
            heads = [head]

        def grown(name: str, rows: tuple[int, int]) -> Tensor:
            return grow(self.network, seen, size, rows, name)

        maps, kept = {}, None
        for index, name in enumerate(heads):
            maps[name], chances = self._labels(partial(grown, name), size, name, probabilities and index == 0)
            kept = chances if index == 0 else kept
        return Prediction(
            label_maps=maps, labels=self.card.labels(heads[0] or None), probabilities=kept, image=pixels,
            logits=partial(grown, heads[0]),
        )  # fmt: skip

    @torch.inference_mode()
    def logits(self, image: Any, tile: Tile = "none", head: str | None = None) -> NDArray[np.float32]:
        """Return the logits of a picture at its own size, (K, H, W) float32; for checks and small pictures."""
        pixels = self.read(image)
        seen = self._scores(pixels, tile)
        if isinstance(seen[0].scores, dict):
            self.card.labels(head)
            head = head or next(iter(seen[0].scores))
        grown = grow(self.network, seen, (pixels.shape[0], pixels.shape[1]), None, head or "")
        return cast("NDArray[np.float32]", grown.float().cpu().numpy())

    def predict_raster(self, source: str | Path, out: str | Path, **options: Any) -> Any:
        """Label a raster of any size in constant memory: `fullconv.rasters.predict_raster` with this segmenter.

        Args:
            source: A GeoTIFF, BigTIFF or VRT.
            out: The label map, a GeoTIFF on the same grid.
            options: ``tile``, ``memory``, ``resume``, ``overviews``, ``polygons``, ``progress``, ``head``, ``probabilities``.

        Returns:
            What was written, with the pixels of each class.

        Raises:
            FullconvError: As `fullconv.rasters.predict_raster` says.
        """
        # by name: rasters is built on this module, and only this method leads to it
        return import_module("fullconv.rasters").predict_raster(self, source, out, **options)

    def save(self, path: str | Path) -> None:
        """Write the model file: weights and card.

        Raises:
            ModelFileError: The network is not one that `load` could build again.
            OutputError: The file cannot be written.
        """
        if self.card.variant not in VARIANTS:
            raise ModelFileError(
                "a network from outside has no row in the variants' table, so no model file can hold it."
            )
        if any(parameter.is_meta for parameter in self.network.parameters()):
            raise ModelFileError("an exported file keeps its weights to itself: copy the model that it was made of.")
        import fullconv

        card = self.card.model_copy(update={"fullconv": fullconv.__version__})
        self.card = modelfile.write_model(path, card, self.network.state_dict())

    def read(self, image: Any, name: str = "") -> NDArray[Any]:
        """Read a picture as `predict` does: (H, W, C) in the card's bands.

        Args:
            image: Path or PIL image, whose bands are chosen by the card; or an array, (H, W) or (H, W, C), which is
                taken to be in the card's bands where it has as many.
            name: The file of an array, for messages.

        Raises:
            InputError: The picture cannot be read, or has other bands than the card.
        """
        name = str(image) if isinstance(image, (str, Path)) else name
        pixels = select_bands(read_image(image), self.card, name, stored=not isinstance(image, np.ndarray))
        self.remark("range", lambda: range_remark(pixels, self.card, name))
        return pixels

    def _scores(self, pixels: NDArray[Any], tile: Tile) -> list[Seen]:
        """Return the stitched scores of a picture in all views, or of several pictures as (N, H, W, C)."""
        views = parse_views(self.tta)
        return [self._seen(pixels[..., ::-1, :] if view.mirrored else pixels, view, tile) for view in views]

    def _seen(self, pixels: NDArray[Any], view: View, tile: Tile) -> Seen:
        with timed(RESIZING):
            images = rescale(as_tensor(pixels), self.card.scale * view.scale)
        working = working_size(pixels.shape[-3], pixels.shape[-2], self.card.scale * view.scale)
        engine = self.engine.at(*working)
        core = self._core(tile, *working)
        with timed(NETWORK):
            scores = self._computed(engine, images, working, core)
            if is_profiling() and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # or its time would be counted where the scores are used
        return Seen(view, working, scores)

    def _computed(self, engine: Engine, images: Tensor, working: tuple[int, int], core: int | None) -> Scores:
        """Compute the scores of pictures (N, H, W, C), at once or by tiles."""
        if core is None:
            return engine.scores(images)
        if self.blend and self.network.halo is None:
            return sliding_window(engine.scores, images, self.network, core)
        return tiled_scores(engine.scores, images, *plan(self.network, *working, core))

    def _together(self, tile: Tile, height: int, width: int, pictures: int) -> bool:
        """Say whether so many pictures of a size go through the network whole and together."""
        if tile != "auto":
            return self._core(tile, height, width) is None
        needed = pictures * estimate_bytes(self.network, height, width, self._item_bytes(height, width))
        return fits(needed, self._allowed())

    def _core(self, tile: Tile, height: int, width: int) -> int | None:
        """Return the side of a tile's core, or None for the whole picture."""
        if tile == "none":
            return None
        if tile == "auto":
            of, item = (self.network, height, width), self._item_bytes(height, width)
            allowed = self._allowed()
            core = (
                None if fits(estimate_bytes(*of, item), allowed) else choose_tile_size(*of, allowed, item, self.blend)
            )
            if self.memory is not None:
                self.remark("memory", lambda: memory_warning(*of, core, allowed, item))
            return core
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise InputError(f'tile is "auto", "none" or a number of pixels from 1, not {tile!r}.')
        return tile

    def _allowed(self) -> int:
        return default_budget() if self.memory is None else self.memory

    def _item_bytes(self, height: int, width: int) -> int:
        return 2 if self.engine.at(height, width).precision == "bf16" else 4

    def _labels(
        self, grown: Callable[[tuple[int, int]], Tensor], size: tuple[int, int], head: str, probabilities: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Turn logits strip by strip into labels, so that (K, H, W) is held only where it is asked for."""
        classes = len(self.card.labels(head or None).classes)
        label_map = np.empty(size, np.uint8)
        kept = np.empty((classes, *size), np.float32) if probabilities else None
        with timed(UPSAMPLING):
            for a, b in row_chunks(*size, classes):
                logits = grown((a, b))
                label_map[a:b] = best_class(logits)
                if kept is not None:
                    kept[:, a:b] = logits.softmax(0).cpu().numpy()
        return label_map, kept


def best_class(logits: Tensor) -> NDArray[np.uint8]:
    """Return the index of the largest of (K, rows, W) as (rows, W) uint8; of equal ones the first."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return cast("NDArray[np.uint8]", logits.max(0).indices.to(torch.uint8).cpu().numpy())
    values = logits.numpy()
    labels = np.zeros(values.shape[1:], np.uint8)
    rows = max(1, AT_ONCE // values.shape[2])
    for start in range(0, values.shape[1], rows):
        _mark_largest(values[:, start : start + rows], labels[start : start + rows])
    return labels


def _mark_largest(values: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
    """Put the index of the largest of (K, rows, W) into (rows, W), which holds zeros."""
    best = values[0].copy()
    for index in range(1, len(values)):
        larger = (values[index] > best).view(np.uint8)
        larger *= np.uint8(index)
        np.maximum(labels, larger, out=labels)  # a class that wins later has the larger index
        np.maximum(best, values[index], out=best)


def build_settings(network: Any) -> dict[str, Any]:
    """Return the keywords of `build` that the card keeps besides variant, backbone and classes."""
    kept = {k: v for k, v in network.settings.items() if k in ("norm", "width", "head")}
    phase = network.settings.get("phase")
    return kept if phase is None else {**kept, "phase": phase}


def _first_channels(network: nn.Module) -> int:
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def choose_device(device: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:i" into a device.

    Raises:
        RecipeError: There is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise RecipeError(f"there is no device '{device}': use auto, cpu, cuda or cuda:0.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"device {device} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices. Use cpu."
        )
    if chosen.type not in ("cpu", "cuda"):
        raise RecipeError(f"device {device} is not served: use auto, cpu, cuda or cuda:0.")
    return chosen


def load(path: str | Path, precision: str = "auto", engine: str = "auto", device: str = "auto") -> Segmenter:
    """Load a model file, or the model of a run folder.

    Args:
        path: A `.safetensors` that this program wrote, a run folder, an exported file (`.onnx`, `.xml`, `.pt2`), or a
            published name ("torchvision:fcn_resnet50").
        precision: "auto", "fp32" or "bf16". "auto" takes a lower one where it is faster and the card allows it.
        engine: "auto", "torch", "openvino" or "onnxruntime". "auto" tries what is installed, once for a class of sizes.
        device: "auto", "cpu", "cuda" or "cuda:i".

    Raises:
        ModelFileError: The file is missing, damaged or foreign.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ModelFileError(f"a model is named by the path of its file or run folder, not by {path!r}.")
    if ":" in str(path) and not Path(path).exists():
        network, card = published_model(str(path))
        return Segmenter(network, card, device=device, precision=precision, engine=engine)
    path = Path(path)
    if path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        raise ModelFileError(f"{path}: holds only the weights of {path.with_suffix('.xml')}. Give that file.")
    if is_exported(path):
        return _load_exported(path, precision, engine, device)
    file = path / "model.safetensors" if path.is_dir() else path
    card, tensors = modelfile.read_model(file)
    return Segmenter(network_of(card, tensors, file), card, device=device, precision=precision, engine=engine)


def network_of(card: Card, tensors: dict[str, Tensor] | None, file: Path) -> Network:
    """Build the network of a card and give it its weights; `file` names where they are from.

    Without weights, its parameters have shapes only: it still knows how tiles and scores are put together.

    Raises:
        ModelFileError: The network is not known here, or the weights do not fit it.
    """
    if card.variant not in VARIANTS:
        raise ModelFileError(f"{file}: its network '{card.variant}' is not known here: update fullconv.")
    settings = set(card.network)
    if not settings <= NETWORK_SETTINGS:  # above all no "weights", which would be fetched
        raise ModelFileError(f"{file}: its card has network settings that are unknown: {settings - NETWORK_SETTINGS}.")
    try:
        parse_recipe({key: card.network[key] for key in ("norm", "width", "head") if key in settings}, "its card")
        return build_meta(card) if tensors is None else build_with_weights(card, tensors)
    except FullconvError as error:
        raise ModelFileError(f"{file}: its network cannot be built: {error}") from error
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        first = (str(error).splitlines() or ["too large"])[-1].strip()[:200]
        raise ModelFileError(f"{file}: damaged: its weights do not fit its network ({first}).") from error


def _load_exported(path: Path, precision: str, engine: str, device: str) -> Segmenter:
    """Load an exported file: it computes the scores, the network without weights tells how they are put together."""
    card, about = read_exported(path)
    if choose_device(device).type != "cpu" and device != "auto":
        raise RecipeError(f"{path}: an exported file computes on the CPU here: use --device cpu.")
    network = network_of(card, None, path)
    made = exported_engine(path, card, about, engine, precision, network.min_size)
    return Segmenter(network, card, device="cpu", engine=made)
