"""The result for one image: label maps, probabilities, and how they are shown."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fullconv.card import Labels
from fullconv.errors import InputError, MissingExtraError, OutputError
from fullconv.images import read_image
from fullconv.interpolation import ScoreLayout, hflip, mean_logits, softmax, to_numpy
from fullconv.labels import VOID, colorize, encode_label_map, read_label_map
from fullconv.notices import Notice
from fullconv.storage import write_bytes
from fullconv.tiling import row_chunks
from fullconv.tta import ViewScores

SHOWN_CLASSES = 6
"""Classes of the most pixels that a prediction's repr lists."""


@dataclass(frozen=True)
class ImageLogits:
    """The logits of one image (H, W) and head, computed from the scores of each view and engine when they are asked for.

    The network is a `Network`, which upsamples in torch, or a `ScoreLayout`, which does so in numpy.
    """

    network: Any
    views: tuple[ViewScores, ...]
    size: tuple[int, int]
    head: str
    device: Any
    mirror_order: Sequence[int] = ()
    """Class of the mirror image of each class; empty where they stay."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network's weights, which upsampling does not need."""
        kept = {key: value for key, value in self.__dict__.items() if key != "_scores"}
        return {**kept, "network": ScoreLayout.of(self.network), "device": None}

    def rows(self, a: int, b: int) -> Any:
        """Return rows of the logits, (K, b - a, W) float32: a tensor or an array, by the network.

        Of several views they are the logarithms of the mean probabilities.
        """
        found = []
        for each, scores in zip(self.views, self._scores, strict=True):
            logits = self.network.upsample(scores, self.size, (a, b), each.working)[0]
            found.append(hflip(logits, self.mirror_order) if each.view.hflip else logits)
        return found[0] if len(found) == 1 else mean_logits(found)

    def strips(self) -> Iterator[tuple[int, int, Any]]:
        """Yield rows a, b and their logits, strip by strip from the top, of a few megabytes each."""
        for a, b in row_chunks(*self.size, self.views[0].scores[self.head].shape[1]):
            yield a, b, self.rows(a, b)

    @cached_property
    def _scores(self) -> list[Any]:
        """Return the scores of each view as the network's `upsample` takes them."""
        found: list[Any] = [view.scores[self.head] for view in self.views]
        if isinstance(self.network, ScoreLayout):
            return found
        import torch

        return [torch.from_numpy(scores).to(self.device) for scores in found]


class Prediction:
    """The result for one image.

    Args:
        label_maps: By head, (H, W) uint8; networks with one unnamed head have the key "".
        labels: Classes and palette of the first head.
        probabilities: (K, H, W) float32 of the first head, where they were asked for.
        image: The image (H, W, C), for overlays.
        logits: Of the first head.
        notices: Warnings about this image.
    """

    def __init__(
        self,
        label_maps: dict[str, NDArray[np.uint8]],
        labels: Labels,
        probabilities: NDArray[np.float32] | None,
        image: NDArray[Any],
        logits: ImageLogits,
        notices: tuple[Notice, ...] = (),
    ) -> None:
        self.label_maps, self.labels, self.probabilities, self.image = label_maps, labels, probabilities, image
        self.logits, self.notices = logits, notices

    @property
    def label_map(self) -> NDArray[np.uint8]:
        """Class index of every pixel, (H, W) uint8; the first head's."""
        return next(iter(self.label_maps.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.labels.classes

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of the predicted class, (H, W) float32 in (0, 1]."""
        result = np.empty(self.label_map.shape, np.float32)
        for a, b, logits in self.logits.strips():
            chances = softmax(logits)
            result[a:b] = chances.max(0) if isinstance(chances, np.ndarray) else to_numpy(chances.amax(0))
        return result

    def counts(self) -> dict[str, int]:
        """Return the number of pixels by class name."""
        found = np.bincount(self.label_map.reshape(-1), minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, found, strict=False)}

    def save(self, path: str | Path) -> None:
        """Write the label map as an 8-bit indexed PNG with the palette.

        Raises:
            OutputError: It cannot be written, or the name has the suffix of another format.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise OutputError(f"a label map is saved to the path of a file, not {path!r}.")
        if Path(path).suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
            raise OutputError(
                f"{path}: label maps are written as PNG, which keeps every index. End the name with .png."
            )
        write_bytes(path, [encode_label_map(self.label_map, self.labels.palette)])

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Blend the class colours over the image, with a legend below; returns an RGB PIL image."""
        return overlay(self.image, self.label_map, self.labels, opacity)

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook."""
        return _png(self.overlay().save)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        found = {name: count for name, count in self.counts().items() if count}
        largest = sorted(found, key=lambda name: found[name], reverse=True)[:SHOWN_CLASSES]
        shares = [f"{name} {100 * found[name] / (height * width):.1f} %" for name in found if name in largest]
        shares += [f"{len(found) - len(largest)} more"] if len(found) > len(largest) else []
        return f"Prediction({height}x{width}: {', '.join(shares)})"


def to_rgb8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert an image (H, W, C) to RGB (H, W, 3) uint8 for display: its first three bands, or one as grey.

    8-bit values stay; others are stretched from the image's 1st to its 99th percentile.
    """
    shown = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, :1].repeat(3, axis=2)
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    values = shown[np.isfinite(shown).all(axis=2)] if shown.dtype.kind == "f" else shown.reshape(-1, 3)
    low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 1.0)
    stretched = (np.nan_to_num(shown.astype(np.float32)) - low) * (255 / max(high - low, 1e-12))
    return cast("NDArray[np.uint8]", stretched.clip(0, 255).astype(np.uint8))


def overlay(image: NDArray[Any], label_map: NDArray[np.uint8], labels: Labels, opacity: float = 0.5) -> Image.Image:
    """Blend the colours of a label map (H, W) uint8 over an image (H, W, C), with a legend of its classes below."""
    base = to_rgb8(image).astype(np.uint16)
    painted = colorize(label_map, labels.palette).astype(np.uint16)
    share = round(opacity * 256)
    mixed = ((base * (256 - share) + painted * share) >> 8).astype(np.uint8)
    present = np.unique(label_map[label_map != VOID]).tolist()
    entries = [(labels.classes[index], labels.palette[index]) for index in present if index < len(labels.classes)]
    return _add_legend(Image.fromarray(mixed), entries)


def _add_legend(image: Image.Image, entries: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """Add coloured boxes with names below an image, wrapped to its width but at least 160 pixels."""
    font = ImageFont.load_default(size=14)
    width, gap, height = max(image.width, 160), 8, 22
    places, x, y = [], gap, image.height + gap
    for name, color in entries:
        need = 14 + 6 + int(font.getlength(name)) + 14
        if x > gap and x + need > width:
            x, y = gap, y + height
        places.append((x, y, name, color))
        x += need
    sheet = Image.new("RGB", (width, y + height + gap // 2), "white")
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for x, y, name, color in places:
        draw.rectangle((x, y + 2, x + 13, y + 15), fill=color, outline="#444444")
        draw.text((x + 20, y), name, fill="black", font=font)
    return sheet


def show(image: Any, mask: NDArray[np.uint8] | str | Path | None = None, prediction: Prediction | None = None) -> Any:
    """Show image, mask and prediction side by side.

    Args:
        image: Path, PIL image or array.
        mask: Class indices (H, W) uint8, void 255; or the path of a PNG of them.
        prediction: Of `Segmenter.predict`; its palette paints the mask too.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: Image or mask cannot be read, their sizes differ, or ``prediction`` is something else.
        MissingExtraError: matplotlib is not installed.
    """
    if prediction is not None and not isinstance(prediction, Prediction):
        raise InputError(f"expected the prediction of Segmenter.predict, not {type(prediction).__name__}.")

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "fullconv.show") from error
    palette = prediction.labels.palette if prediction is not None else ()
    panels = [("image", to_rgb8(read_image(image)))]
    maps: dict[str, NDArray[Any]] = {}
    if mask is not None:
        maps["mask"] = read_label_map(mask) if isinstance(mask, (str, Path)) else np.asarray(mask)
    if prediction is not None:
        maps["prediction"] = prediction.label_map
    for name, labels in maps.items():
        if labels.shape != panels[0][1].shape[:2]:
            size = "x".join(map(str, panels[0][1].shape[:2]))
            raise InputError(
                f"{name} is {'x'.join(map(str, labels.shape))}, the image {size}: use a {name} of the same size."
            )
        panels.append((name, colorize(labels.astype(np.uint8), palette)))
    figure = Figure(figsize=(5 * len(panels), 5 * panels[0][1].shape[0] / max(1, panels[0][1].shape[1]) + 0.5))
    for axis, (title, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.tight_layout()
    # Without pyplot a notebook prints a figure's name instead of drawing it.
    figure._repr_png_ = lambda: _png(figure.savefig)  # type: ignore[attr-defined]
    return figure


def _png(save: Callable[..., object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, format="png")
    return buffer.getvalue()
