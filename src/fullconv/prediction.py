"""What a prediction is: label maps, probabilities, pictures of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fullconv.card import Labels
from fullconv.errors import InputError, MissingExtraError, OutputError
from fullconv.labels import VOID, colorize, encode_label_map, read_label_map
from fullconv.storage import write_bytes
from fullconv.tiling import row_chunks


class Prediction:
    """The answer for one picture.

    Args:
        label_maps: By head, (H, W) uint8; one without a name for networks of one head.
        labels: Classes and palette of the first head.
        probabilities: (K, H, W) float32 of the first head, where they were asked for.
        image: The picture (H, W, C), for overlays.
        logits: Rows (a, b) -> logits (K, b - a, W) of the first head.
    """

    def __init__(
        self,
        label_maps: dict[str, NDArray[np.uint8]],
        labels: Labels,
        probabilities: NDArray[np.float32] | None,
        image: NDArray[Any],
        logits: Callable[[tuple[int, int]], Tensor],
    ) -> None:
        self.label_maps, self.labels, self.probabilities, self.image = label_maps, labels, probabilities, image
        self._logits = logits

    @property
    def label_map(self) -> NDArray[np.uint8]:
        """Class index of every pixel, (H, W) uint8; the first head's."""
        return next(iter(self.label_maps.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.labels.classes

    def logit_strips(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield rows a, b and their logits (K, b - a, W) float32 of the first head, strip by strip from the top."""
        height, width = self.label_map.shape
        for a, b in row_chunks(height, width, len(self.classes)):
            yield a, b, self._logits((a, b)).float()

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of the class that was chosen, (H, W) float32 in (0, 1]."""
        height, width = self.label_map.shape
        result = np.empty((height, width), np.float32)
        for a, b, logits in self.logit_strips():
            result[a:b] = logits.softmax(0).amax(0).cpu().numpy()
        return result

    def counts(self) -> dict[str, int]:
        """Return pixels by class name."""
        found = np.bincount(self.label_map.reshape(-1), minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, found, strict=False)}

    def save(self, path: str | Path) -> None:
        """Write the label map as an 8-bit indexed PNG with the palette.

        Raises:
            OutputError: It cannot be written, or the name is another format's: label maps are PNGs.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise OutputError(f"a label map is saved under the path of a file, not {path!r}.")
        if Path(path).suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
            raise OutputError(
                f"{path}: label maps are written as PNG, which keeps every index. End the name with .png."
            )
        write_bytes(path, [encode_label_map(self.label_map, self.labels.palette)])

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Paint the classes over the picture, with a legend below; an RGB PIL image."""
        return overlay(self.image, self.label_map, self.labels, opacity)

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        found = {name: count for name, count in self.counts().items() if count}
        share = ", ".join(f"{name} {100 * count / (height * width):.1f} %" for name, count in found.items())
        return f"Prediction({height}x{width}: {share})"


def display(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn any picture (H, W, C) into RGB (H, W, 3) uint8 to look at: first three bands, or one as grey.

    8-bit values stay; others are stretched from the picture's 1st to its 99th percentile, for the eye only.
    """
    shown = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, :1].repeat(3, axis=2)
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    values = shown[np.isfinite(shown).all(axis=2)] if shown.dtype.kind == "f" else shown.reshape(-1, 3)
    low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 1.0)
    stretched = (np.nan_to_num(shown.astype(np.float32)) - low) * (255 / max(high - low, 1e-12))
    return cast("NDArray[np.uint8]", stretched.clip(0, 255).astype(np.uint8))


def overlay(image: NDArray[Any], label_map: NDArray[np.uint8], labels: Labels, opacity: float = 0.5) -> Image.Image:
    """Paint a label map (H, W) uint8 over a picture (H, W, C) and put a legend of its classes below it."""
    picture = display(image).astype(np.uint16)
    painted = colorize(label_map, labels.palette).astype(np.uint16)
    share = round(opacity * 256)
    mixed = ((picture * (256 - share) + painted * share) >> 8).astype(np.uint8)
    present = np.unique(label_map[label_map != VOID]).tolist()
    entries = [(labels.classes[index], labels.palette[index]) for index in present if index < len(labels.classes)]
    return _with_legend(Image.fromarray(mixed), entries)


def _with_legend(image: Image.Image, entries: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """Put coloured boxes with names below an image, wrapped to its width but at least 160 pixels."""
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
    """Draw picture, mask and prediction side by side.

    Args:
        image: Path, PIL image or array.
        mask: Class indices (H, W) uint8, void 255; or the path of a PNG of them.
        prediction: Of `Segmenter.predict`; its palette paints the mask too.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: The picture or mask cannot be read, or they are of different sizes, or the prediction is none.
        MissingExtraError: matplotlib is not installed.
    """
    from fullconv.images import read_image

    if prediction is not None and not isinstance(prediction, Prediction):
        raise InputError(f"a prediction is what Segmenter.predict gives, not {type(prediction).__name__}.")

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "fullconv.show") from error
    palette = prediction.labels.palette if prediction is not None else ()
    panels = [("picture", display(read_image(image)))]
    maps: dict[str, NDArray[Any]] = {}
    if mask is not None:
        maps["mask"] = read_label_map(mask) if isinstance(mask, (str, Path)) else np.asarray(mask)
    if prediction is not None:
        maps["prediction"] = prediction.label_map
    for name, labels in maps.items():
        if labels.shape != panels[0][1].shape[:2]:
            size = "x".join(map(str, panels[0][1].shape[:2]))
            raise InputError(
                f"{name} is {'x'.join(map(str, labels.shape))}, the picture {size}: they must be of one size."
            )
        panels.append((name, colorize(labels.astype(np.uint8), palette)))
    figure = Figure(figsize=(5 * len(panels), 5 * panels[0][1].shape[0] / max(1, panels[0][1].shape[1]) + 0.5))
    for axis, (title, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.tight_layout()
    # A notebook draws figures by itself only after pyplot was imported, and else prints their name.
    figure._repr_png_ = lambda: _png_of(figure)  # type: ignore[attr-defined]
    return figure


def _png_of(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
