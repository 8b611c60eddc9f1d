"""The artefact in use: network or engine, and card; whole and tiled prediction."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv import modelfile
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card, single_channel_statistics
from fullconv.engines import Engine, TorchEngine
from fullconv.errors import FullconvError, InputError, ModelFileError, NetworkError, RecipeError
from fullconv.images import read_image
from fullconv.importing import published_model
from fullconv.nn import VARIANTS, Network, Scores, WholeNetwork, build, map_scores
from fullconv.prediction import Prediction
from fullconv.preprocess import as_tensor, rescale, select_bands, working_size
from fullconv.tiling import blended_scores, memory_allowed, plan, stitched_scores, strips, tile_core

Tile = int | Literal["auto", "none"]


class Segmenter:
    """A network, what it needs to know about pictures and classes, and where it runs.

    Args:
        network: In two halves, `scores` and `upsample`.
        card: Preprocessing, classes and origin.
        device: "auto", "cpu", "cuda" or "cuda:0".
        precision: "auto", "fp32" or "bf16".
        engine: "auto" or "torch".
    """

    def __init__(
        self, network: Network, card: Card, device: str = "auto", precision: str = "auto", engine: str = "auto"
    ) -> None:
        self.network = network.eval()
        self.card = card
        self.device = choose_device(device)
        if engine not in ("auto", "torch"):
            raise RecipeError(f"there is no engine '{engine}' here: use torch.")
        self.engine: Engine = TorchEngine(self.network, card, self.device, choose_precision(precision))
        self.memory: int | None = None
        """Bytes that a prediction may take; None allows a quarter of what is free."""
        self.blend = False
        """Whether tiles that cannot be exact are averaged instead of refused."""

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
            NetworkError: One of ours has another number of classes than there are names.
        """
        channels = in_channels or getattr(network, "in_channels", None) or _first_channels(network)
        spread = single_channel_statistics(IMAGENET_MEAN, IMAGENET_STD, channels)
        ours = isinstance(network, Network)
        if ours and network.num_classes != len(classes):
            raise NetworkError(f"the network has {network.num_classes} classes, {len(classes)} names were given.")
        body = cast(Network, network if ours else WholeNetwork(network, channels, len(classes)))
        card = Card(
            variant=getattr(body, "variant", "custom"), backbone=body.settings.get("backbone"),
            network=build_settings(body), in_channels=channels, classes=tuple(classes), palette=tuple(palette),
            mean=tuple(mean) if mean is not None else spread["mean"],
            std=tuple(std) if std is not None else spread["std"], range=range,
            stride=body.stride, receptive_field=body.receptive_field,
        )  # fmt: skip
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
            if len(alike) == 1 or self._core(tile, *working) is not None:
                done += [self._prediction(one, self._scores(one, tile), probabilities, head) for one in alike]
                continue
            size, working, scores = self._scores(np.stack(alike), "none")
            for index, one in enumerate(alike):
                part = map_scores(scores, itemgetter(slice(index, index + 1)))
                done.append(self._prediction(one, (size, working, part), probabilities, head))
        return done

    def _prediction(
        self,
        pixels: NDArray[Any],
        scored: tuple[tuple[int, int], tuple[int, int], Scores],
        probabilities: bool,
        head: str | None,
    ) -> Prediction:
        """Grow the scores of one picture into labels."""
        size, working, scores = scored
        heads = scores if isinstance(scores, dict) else {"": scores}
        if head is not None:
            self.card.labels(head)
            heads = {head: heads[head]}
        maps, kept = {}, None
        for index, (name, part) in enumerate(heads.items()):
            maps[name], chances = self._labels(part, size, working, probabilities and index == 0)
            kept = chances if index == 0 else kept
        first = next(iter(heads))
        return Prediction(
            label_maps=maps, labels=self.card.labels(first or None), probabilities=kept, image=pixels,
            logits=lambda rows: cast(Tensor, self.network.upsample(heads[first], size, rows, working))[0],
        )  # fmt: skip

    @torch.inference_mode()
    def logits(self, image: Any, tile: Tile = "none", head: str | None = None) -> NDArray[np.float32]:
        """Return the logits of a picture at its own size, (K, H, W) float32; for checks and small pictures."""
        size, working, scores = self._scores(self.read(image), tile)
        if isinstance(scores, dict):
            self.card.labels(head)
            scores = scores[head or next(iter(scores))]
        grown = cast(Tensor, self.network.upsample(scores, size, None, working))
        return cast("NDArray[np.float32]", grown[0].float().cpu().numpy())

    def predict_raster(self, source: str | Path, out: str | Path, **options: Any) -> Any:
        """Label a raster of any size in constant memory: `fullconv.rasters.predict_raster` with this segmenter.

        Args:
            source: A GeoTIFF, BigTIFF or VRT.
            out: The label map, a GeoTIFF on the same grid.
            options: ``tile``, ``memory``, ``resume``, ``overviews``, ``polygons``, ``progress``, ``head``.

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
        import fullconv

        card = self.card.model_copy(update={"fullconv": fullconv.__version__})
        self.card = modelfile.write_model(path, card, self.network.state_dict())

    def read(self, image: Any) -> NDArray[Any]:
        """Read a picture as `predict` does: (H, W, C) in the card's bands.

        Args:
            image: Path or PIL image, whose bands are chosen by the card; or an array, (H, W) or (H, W, C), which is
                taken to be in the card's bands where it has as many.

        Raises:
            InputError: The picture cannot be read, or has other bands than the card.
        """
        name = str(image) if isinstance(image, (str, Path)) else "picture"
        return select_bands(read_image(image), self.card, name, stored=not isinstance(image, np.ndarray))

    def _scores(self, pixels: NDArray[Any], tile: Tile) -> tuple[tuple[int, int], tuple[int, int], Scores]:
        """Return the size, the working size and the stitched scores of a picture, or of several as (N, H, W, C)."""
        images = rescale(as_tensor(pixels), self.card.scale)
        height, width = pixels.shape[-3:-1]
        working = working_size(height, width, self.card.scale)
        core = self._core(tile, *working)
        if core is None:
            return (height, width), working, self.engine.scores(images)
        if self.blend:
            if self.network.halo is not None:
                raise InputError(
                    "tiles of this network are exact, and averaging them would only blur: leave --blend away."
                )
            return (height, width), working, blended_scores(self.engine.scores, images, self.network, core)
        rows, columns = plan(self.network, *working, core)
        return (height, width), working, stitched_scores(self.engine.scores, images, rows, columns)

    def _core(self, tile: Tile, height: int, width: int) -> int | None:
        """Return the side of a tile's core, or None for the whole picture."""
        if tile == "none":
            return None
        if tile == "auto":
            allowed = memory_allowed() if self.memory is None else self.memory
            return tile_core(self.network, height, width, allowed, 2 if self.engine.precision == "bf16" else 4)
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise InputError(f'tile is "auto", "none" or a number of pixels from 1, not {tile!r}.')
        return tile

    def _labels(
        self, scores: Tensor, size: tuple[int, int], working: tuple[int, int], probabilities: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Grow scores strip by strip into labels, so that (K, H, W) is held only where it is asked for."""
        classes = scores.shape[1]
        label_map = np.empty(size, np.uint8)
        kept = np.empty((classes, *size), np.float32) if probabilities else None
        for a, b in strips(*size, classes):
            logits = cast(Tensor, self.network.upsample(scores, size, (a, b), working))[0]
            label_map[a:b] = best_class(logits)
            if kept is not None:
                kept[:, a:b] = logits.softmax(0).cpu().numpy()
        return label_map, kept


def best_class(logits: Tensor) -> NDArray[np.uint8]:
    """Return the index of the largest of (K, rows, W) as (rows, W) uint8."""
    # max's indices are argmax's, five times faster on a CPU
    return cast("NDArray[np.uint8]", logits.max(0).indices.to(torch.uint8).cpu().numpy())


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


def choose_precision(precision: str) -> str:
    """Turn "auto" into "fp32": the answer that every other precision is measured against.

    Raises:
        RecipeError: There is no such precision here.
    """
    if precision == "auto":
        return "fp32"
    if precision not in ("fp32", "bf16"):
        raise RecipeError(f"there is no precision '{precision}' here: use auto, fp32 or bf16.")
    return precision


def load(path: str | Path, precision: str = "auto", engine: str = "auto", device: str = "auto") -> Segmenter:
    """Load a model file, or the model of a run folder.

    Args:
        path: A `.safetensors` that this program wrote, a run folder, or a published name ("torchvision:fcn_resnet50").
        precision: "auto", "fp32" or "bf16".
        engine: "auto" or "torch".
        device: "auto", "cpu", "cuda" or "cuda:i".

    Raises:
        ModelFileError: The file is missing, damaged or foreign.
    """
    if ":" in str(path) and not Path(path).exists():
        network, card = published_model(str(path))
        return Segmenter(network, card, device=device, precision=precision, engine=engine)
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    card, tensors = modelfile.read_model(file)
    return Segmenter(network_of(card, tensors, file), card, device=device, precision=precision, engine=engine)


def network_of(card: Card, tensors: dict[str, Tensor], file: Path) -> Network:
    """Build the network of a card and give it its weights; `file` names where they are from.

    Raises:
        ModelFileError: The network is not known here, or the weights do not fit it.
    """
    if card.variant not in VARIANTS:
        raise ModelFileError(f"{file}: its network '{card.variant}' is not known here: update fullconv.")
    try:
        network = build(
            card.variant, backbone=card.backbone, num_classes=card.num_classes, in_channels=card.in_channels,
            **card.network,
        )  # fmt: skip
        network.load_state_dict(tensors)
    except FullconvError as error:
        raise ModelFileError(f"{file}: its network cannot be built: {error}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        first = str(error).splitlines()[-1].strip()[:200]
        raise ModelFileError(f"{file}: damaged: its weights do not fit its network ({first}).") from error
    return network
