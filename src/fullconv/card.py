"""The model card: everything about a model except its weights, as JSON in the header of its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fullconv.errors import ModelFileError, nearest, plural
from fullconv.labels import MAX_CLASSES, VOID, voc_palette

CARD_FORMAT = 1
"""Version of the card; newer ones are refused."""

MAX_ENTRIES = 2**17
"""Limit of all entries of a card's tables and lists except `FREE`; otherwise pydantic would collect an error for each."""

FREE = ("network", "recipe", "scores", "agreement", "data")
"""Keys whose contents are not validated one by one."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _with_palette(data: Any) -> Any:
    """Fill in VOC's colours where a table of labels has none; pydantic refuses one without a list of classes."""
    if not isinstance(data, dict) or data.get("palette") or not isinstance(data.get("classes"), (list, tuple)):
        return data
    return {**data, "palette": voc_palette(min(len(data["classes"]), MAX_CLASSES))}


def _entries(data: dict[str, Any]) -> int:
    """Count the entries of a card's tables and lists except `FREE`, until there are more than `MAX_ENTRIES`."""
    count, queue = len(data), [value for key, value in data.items() if key not in FREE]
    while queue and count <= MAX_ENTRIES:
        value = queue.pop()
        if isinstance(value, (list, tuple, dict)):
            count += len(value)
            queue.extend(value.values() if isinstance(value, dict) else value)
    return count


def check_mirror_pairs(pairs: Sequence[tuple[str, str]], classes: Sequence[str]) -> None:
    """Raise ValueError unless the pairs are of different classes, each in one pair."""
    names = [name for pair in pairs for name in pair]
    for name in names:
        if name not in classes:
            raise ValueError(f"mirror_pairs: '{name}' is not among the classes.{nearest(name, classes)}")
        if names.count(name) > 1:
            raise ValueError(f"mirror_pairs: '{name}' is listed twice. A class has one mirror image")


class Labels(BaseModel):
    """The meaning of the K outputs of one head, and how its masks are stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[str, ...]
    """Names by class index."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """RGB 0..255 by class index; VOC's by default."""
    ignore_index: int | tuple[int, ...] = VOID
    """Mask values that are void."""
    values: dict[int, int] | None = None
    """Mask value -> class index (255 = void); None where masks hold class indices."""
    mirror_pairs: tuple[tuple[str, str], ...] | None = None
    """Classes that a mirror image exchanges, such as left and right hand; None where the data do not say."""

    @model_validator(mode="before")
    @classmethod
    def _fill_palette(cls, data: Any) -> Any:
        return _with_palette(data)

    @model_validator(mode="after")
    def _check(self) -> Labels:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"a head has 1 to {MAX_CLASSES} classes, not {len(self.classes)}")
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"class '{twice}' is listed twice")
        if len(self.palette) != len(self.classes):
            raise ValueError(f"the palette has {len(self.palette)} colours for {len(self.classes)} classes")
        if any(not 0 <= channel <= 255 for color in self.palette for channel in color):
            raise ValueError("palette colours are three numbers from 0 to 255")
        check_mirror_pairs(self.mirror_pairs or (), self.classes)
        return self

    @property
    def mirror_order(self) -> list[int]:
        """Index of the class that each class is in the mirror image."""
        exchanged = {name: pair[1 - side] for pair in self.mirror_pairs or () for side, name in enumerate(pair)}
        return [self.classes.index(exchanged.get(name, name)) for name in self.classes]

    @property
    def void_values(self) -> tuple[int, ...]:
        """Mask values that are void, as a tuple."""
        return (self.ignore_index,) if isinstance(self.ignore_index, int) else self.ignore_index

    def original_values(self) -> list[int]:
        """Return the mask value of each class index: the smallest that maps to it, or the index itself."""
        if self.values is None:
            return list(range(len(self.classes)))
        back = {index: value for value, index in sorted(self.values.items(), reverse=True) if index != VOID}
        return [back.get(index, index) for index in range(len(self.classes))]


class Card(BaseModel):
    """Everything about a model except its weights; `fullconv info MODEL --json` prints it."""

    model_config = ConfigDict(extra="forbid")

    format: int = CARD_FORMAT
    variant: str
    """Name of the network, a row of the variants' table, or "custom"."""
    backbone: str | None = None
    network: dict[str, Any] = Field(default_factory=dict)
    """Further keywords of `fullconv.build` for this network."""
    in_channels: int = Field(default=3, ge=1)
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int | tuple[int, ...] = VOID
    values: dict[int, int] | None = None
    mirror_pairs: tuple[tuple[str, str], ...] | None = None
    heads: dict[str, Labels] | None = None
    """Labels by head for networks of several heads; `classes` and the rest are then the first head's."""
    bands: tuple[int, ...] | None = None
    """1-based bands of an image that are the network's input, in this order; None for all as stored."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order in which the first three channels enter the network; mean and std are in the image's (RGB) order."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    range: tuple[float, float] = (0.0, 255.0)
    """Image values that become 0 and 1 before mean and std apply."""
    scale: float = Field(default=1.0, gt=0)
    """Working resolution: images are resized by this factor before the network; results are at their own size."""
    short_side: int | None = Field(default=None, ge=1)
    """Images are resized so that their shorter side has this many pixels, instead of by `scale`: torchvision's transforms."""
    stride: int | None = None
    receptive_field: int | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    scores: dict[str, Any] = Field(default_factory=dict)
    """`evaluate`'s numbers by split, without the confusion matrix."""
    agreement: dict[str, Any] = Field(default_factory=dict)
    """By precision: share of labels equal to fp32's and difference of mIoU on validation images."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Fingerprint of the data and the stems of its splits."""
    weights_origin: str | None = None
    weights_license: str | None = None
    fullconv: str = ""
    """Version of the program that wrote the file."""
    weights_sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if isinstance(data, dict) and _entries(data) > MAX_ENTRIES:
            raise ValueError(f"it has more than {MAX_ENTRIES} entries")
        return _with_palette(data)

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if not 1 <= value <= CARD_FORMAT:
            raise ValueError(
                f"this file has card format {value}, this program reads up to {CARD_FORMAT}: update fullconv"
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> Card:
        self._own_labels()
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.in_channels:
                raise ValueError(f"{name} has {len(values)} numbers for {self.in_channels} channels")
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} is to be finite in every channel, not {', '.join(map(str, values))}")
        if any(not value > 0 for value in self.std):
            raise ValueError("std must be above 0 in every channel")
        if self.short_side is not None and self.scale != 1:
            raise ValueError(f"short_side = {self.short_side} and scale = {self.scale:g} exclude each other")
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range must rise, not go from {self.range[0]} to {self.range[1]}")
        return self

    @property
    def num_classes(self) -> int | dict[str, int]:
        """K, or K by head."""
        if self.heads is None:
            return len(self.classes)
        return {name: len(labels.classes) for name, labels in self.heads.items()}

    @property
    def image_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of the images that the model is for; None where channels differ in their unit.

        That is `range`, but for networks in Caffe's convention: they take 0 to 255 minus the mean, undivided, so their range
        is internal and 0 to 1. Log depth has its own unit.
        """
        if self.range != (0.0, 1.0) or set(self.std) != {1.0} or max(self.mean) <= 1:
            return self.range
        return None if self.variant == "nyud-fcn32s-color-d" else (0.0, 255.0)

    def labels(self, head: str | None = None) -> Labels:
        """Return the labels of a head (None: the only or first one).

        Raises:
            ModelFileError: There is no such head.
        """
        if self.heads is None:
            if head is not None:
                raise ModelFileError(f"this model has one head without a name, no head '{head}'. Omit --head.")
            return self._own_labels()
        name = next(iter(self.heads)) if head is None else head
        if name not in self.heads:
            raise ModelFileError(f"this model has no head '{name}', it has {', '.join(self.heads)}.")
        return self.heads[name]

    def _own_labels(self) -> Labels:
        return Labels(**{key: getattr(self, key) for key in Labels.model_fields})

    def describe(self) -> str:
        """Return the network and the number of classes in a few words."""
        network = f"{self.variant} on {self.backbone}" if self.backbone else self.variant
        heads = [f"{head} {len(labels.classes)}" for head, labels in (self.heads or {}).items()]
        return f"{network}, {plural(len(self.classes), 'class', 'classes') if not heads else ', '.join(heads) + ' classes'}"

    def __repr__(self) -> str:
        return f"Card({self.describe()}, {plural(self.in_channels, 'channel')})"

    def to_json(self) -> str:
        """Return the card as JSON with sorted keys; inner tables keep their order, which matters for heads."""
        import json

        return json.dumps(dict(sorted(self.model_dump(mode="json").items())), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "model card") -> Card:
        """Read a card.

        Raises:
            ModelFileError: The text is not a card; the message names the key.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ModelFileError(f"{where}: not a valid model card: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Format pydantic's first error as one sentence: key and reason."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key + ': ' if key else ''}{str(first['msg']).removeprefix('Value error, ')}{more}."


def adapt_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> Mapping[str, tuple[float, ...]]:
    """Adapt three-channel statistics to another number of channels: each channel gets their averages."""
    if channels == len(mean):
        return {"mean": tuple(mean), "std": tuple(std)}
    average = (sum(mean) / len(mean), sum(std) / len(std))
    return {"mean": (average[0],) * channels, "std": (average[1],) * channels}
