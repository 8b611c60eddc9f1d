"""From the labels or colours of a mask file to class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Labels
from fullconv.data.config import VOID_NAME, LabelSettings
from fullconv.errors import DataError
from fullconv.labels import VOID, format_color, parse_color


@dataclass(frozen=True)
class LabelMapping:
    """What a mask's labels or colours mean."""

    labels: Labels
    colors: Mapping[int, int] = field(default_factory=dict)
    """0xrrggbb -> class index or VOID."""
    by_color: bool = False
    """Whether colours count in masks of labels and palettes, too."""
    threshold: int | None = None
    """The first mask value of the second class; None where each value has its own meaning."""
    defined: Labels | None = None
    """The labels as the data define them, where `labels` are in the order of a model."""

    def in_order_of(self, model: Labels) -> LabelMapping:
        """Return the mapping to the class indices of a model that has the same class names in any order."""
        own = self.labels
        if own.classes == model.classes:
            return self
        index = {i: model.classes.index(name) for i, name in enumerate(own.classes)} | {VOID: VOID}
        values = {value: index[i] for value, i in self.class_values.items()}
        new = {"classes": model.classes, "palette": model.palette, "values": values}
        labels = own.model_copy(update=new)
        return replace(self, labels=labels, colors={c: index[i] for c, i in self.colors.items()}, defined=own)

    @property
    def class_values(self) -> dict[int, int]:
        """Mask values and their class indices (or VOID)."""
        labels = self.labels
        if labels.values is not None:
            return dict(labels.values)
        return {value: value for value in range(len(labels.classes)) if value not in labels.void_values}

    def class_of(self, value: int) -> int | None:
        """Return the class index (or VOID) of a mask value; None where it has none."""
        labels = self.labels
        if self.threshold is not None:
            value = 0 if value < self.threshold else _white(self.threshold)
        if labels.values is not None and value in labels.values:
            return labels.values[value]
        if value in labels.void_values:
            return VOID
        if labels.values is None and 0 <= value < len(labels.classes):
            return value
        return VOID if value == VOID else None

    @property
    def named_colors(self) -> dict[int, str]:
        """Names of colours 0xrrggbb: a class, or "void"."""
        return {c: VOID_NAME if i == VOID else self.labels.classes[i] for c, i in self.colors.items()}

    @cached_property
    def _table(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        table = np.full(65536, VOID, dtype=np.uint8)
        unknown = np.ones(65536, dtype=np.bool_)
        known = range(256) if self.threshold is None else range(65536)
        for value in {*known, *self.labels.void_values, *(self.labels.values or ())}:
            if 0 <= value < 65536 and (index := self.class_of(value)) is not None:
                table[value], unknown[value] = index, False
        return table, unknown

    @cached_property
    def _color_table(self) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        keys = np.array(sorted(self.colors), dtype=np.uint32)
        return keys, np.array([self.colors[int(key)] for key in keys], dtype=np.uint8)

    @cached_property
    def _is_identity(self) -> bool:
        return self.labels.values is None and min(self.labels.void_values, default=VOID) >= len(self.labels.classes)

    def decode(self, raw: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Return class indices and VOID, (H, W) uint8, of labels (H, W) uint8 or uint16, or of colours (H, W, 3) uint8.

        Errors name the file by `where`.
        """
        if raw.ndim == 3:
            return self._decode_colors(raw, where)
        if self._is_identity and raw.dtype == np.uint8 and int(raw.max()) < len(self.labels.classes):
            return np.ascontiguousarray(raw) if raw.flags.writeable else raw.copy()
        table, unknown = self._table
        if unknown[: int(raw.max()) + 1].any() and (wrong := unknown[raw]).any():
            raise DataError(f"{where}: {self.error(*map(int, np.unique(raw[wrong])))}")
        decoded: NDArray[np.uint8] = np.take(table, raw)
        return decoded

    def _decode_colors(self, raw: NDArray[Any], where: str) -> NDArray[np.uint8]:
        if self.threshold is not None:
            fix = "Save it in grey, or replace threshold in data.toml by colors."
            raise DataError(f"{where}: the mask is in colour, and threshold is for grey masks. {fix}")
        if not self.colors:
            fix = f'Add to data.toml: colors = {{ "{format_color(raw[0, 0])}" = "{self.labels.classes[0]}", ... }}'
            raise DataError(f"{where}: the mask is in colour, and no colour has a class. {fix}")
        keys, classes = self._color_table
        codes = pack_colors(raw)
        place = np.searchsorted(keys, codes).clip(max=len(keys) - 1)
        wrong = keys[place] != codes
        if wrong.any():
            color = int(codes[wrong].min())
            raise DataError(f"{where}: colour #{color:06x} has no class. Add it to colors in data.toml.")
        decoded: NDArray[np.uint8] = classes[place]
        return decoded

    def error(self, value: int, *more: int) -> str:
        """Return the message for a mask's values without a meaning, with the fix."""
        labels = self.defined or self.labels
        if labels.values is not None:
            named = ", ".join(str(v) for v in sorted(labels.values))
            return f'label {value} is not in values ({named}). Add it there, as a class or "void".'
        last = len(labels.classes) - 1
        fix = f"In data.toml, add it to classes, or set ignore_index = {value}."
        if more:  # may number objects, which are not void
            listed = ", ".join(map(str, (value, *more[:8]))) + (", ..." if len(more) > 8 else "")
            fix = "To see what they may be, run: fullconv check"
            return f"labels {listed} are neither classes (0 to {last}) nor void. {fix}"
        return f"label {value} is neither a class (0 to {last}) nor void. {fix}"


def _white(threshold: int) -> int:
    """Return what masks hold for the second class where nothing blurs them, of 8 or 16 bits."""
    return VOID if threshold <= VOID else 65535


def pack_colors(raw: NDArray[Any]) -> NDArray[np.uint32]:
    """Pack (..., 3) uint8 RGB into (...) uint32 0xrrggbb."""
    wide = raw.astype(np.uint32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], dtype=np.uint32)


def pack_color(color: Sequence[int]) -> int:
    """Pack one RGB colour into 0xrrggbb."""
    return color[0] << 16 | color[1] << 8 | color[2]


def is_grey_color(color: int) -> bool:
    """Whether a colour 0xrrggbb has equal channels."""
    return color >> 16 == color & 255 == (color >> 8) & 255


def make_mapping(settings: LabelSettings, classes: tuple[str, ...]) -> LabelMapping:
    """Make the mapping that `data.toml` and `classes.txt` define."""
    index = {name: i for i, name in enumerate(classes)} | {VOID_NAME: VOID}
    ignore = settings.ignore_index
    values = None if settings.values is None else {value: index[name] for value, name in settings.values.items()}
    if settings.threshold is not None:
        values = {0: 0, _white(settings.threshold): 1}
    colors: dict[int, int] = {}
    if settings.colors is not None:
        colors = {pack_color(parse_color(text)): index[name] for text, name in settings.colors.items()}
    elif settings.class_colors is not None and settings.threshold is None:
        colors = {pack_color(color): i for i, color in reversed(list(enumerate(settings.class_colors)))}
    palette = settings.palette
    if palette is None and settings.colors is not None:  # paint as the masks are painted
        first = {i: color for color, i in reversed(colors.items())}
        palette = [(first[i] >> 16, (first[i] >> 8) & 255, first[i] & 255) for i in range(len(classes)) if i in first]
        palette = palette if len(palette) == len(classes) else None
    labels = Labels(
        classes=classes,
        palette=tuple(palette or ()),
        ignore_index=VOID if ignore is None else ignore if isinstance(ignore, int) else tuple(ignore),
        values=values,
        mirror_pairs=None if settings.mirror_pairs is None else tuple(settings.mirror_pairs),
    )
    return LabelMapping(labels, colors, by_color=settings.colors is not None, threshold=settings.threshold)
