"""The recipe: what a training run is to be, as one strict table of settings, read from and written to TOML."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fullconv.errors import RecipeError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Augmentation = Literal["street", "aerial", "microscopy", "none"]
LARGEST_CROP = 1 << 16
"""Pixels a side; what is larger is a slip, and overflows what counts bytes."""


class HeadSettings(BaseModel):
    """How features become scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fc: bool = True
    """On VGG and AlexNet: fc6 and fc7 follow pool5 as convolutions; false scores pool5 itself."""
    upsampling: Literal["fixed", "learned"] = "fixed"
    """"learned" trains the upsampling between skips, starting from bilinear; the last one stays fixed as in the paper."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout after fc6 and fc7, where there are any."""


class Recipe(BaseModel):
    """Settings of a run. None means: chosen from the data and the machine, said, and written to RUN/recipe.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    # the network
    variant: str = "fcn8s"
    backbone: str = "resnet18"
    weights: str = "imagenet"
    """Starting weights: "imagenet", "none", or a file (also a model of ours with other classes)."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation of the backbone `tiny`; others have their own."""
    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of the backbone's channels; other than 1 only without pretrained weights."""
    head: HeadSettings = HeadSettings()

    # how long
    epochs: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    """Wall time from start to report; instead of epochs."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of the optimiser; instead of epochs."""
    early_stop: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better mean IU."""
    validate_every: int | None = Field(default=None, ge=1)
    """Epochs between validations; None keeps validation under a fifth of the time."""

    # what a step sees
    batch_size: int | None = Field(default=None, ge=1)
    crop: tuple[int, int] | Literal["whole"] | None = None
    """Height and width in pixels of the working resolution; "whole" takes pictures as they are."""
    scale: float = Field(default=1.0, gt=0, le=8)
    """Working resolution: 1 is as stored; applied everywhere, results are at the picture's own size."""
    augment: Augmentation = "street"
    sampling: Literal["auto", "uniform", "rare"] = "auto"
    """"rare" centres every second crop on a class drawn at random among those in the picture, the rare ones more often."""
    folds: int | None = Field(default=None, ge=2)
    fold: int | None = Field(default=None, ge=0)
    """With folds: train and val are put together and split anew; this part is val."""
    skip_bad: bool = False

    # the loss
    loss: str = "auto"
    """A sum of cross_entropy, focal and dice, each with an optional factor: "cross_entropy + 0.5 * dice"; "auto" is
    cross_entropy, with dice where a class is rare."""
    class_weights: Literal["auto", "none", "inverse_log", "median_frequency"] | tuple[float, ...] = "auto"
    focal_gamma: float = Field(default=2.0, ge=0)
    reduction: Literal["mean", "sum"] = "mean"
    """"mean": over the valid pixels of the whole batch; "sum": over pixels, divided by pictures, as Caffe does."""

    # the optimiser
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float | None = Field(default=None, ge=0)
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from 0."""
    clip: float | None = Field(default=None, gt=0)
    """Largest L2 norm of the gradient."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients make one step; the loss is that of all their valid pixels."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay a step of an exponential moving average of the weights, which is what is validated and kept; 0 for none."""
    backbone_lr: float | None = Field(default=None, ge=0)
    """Multiplier of the backbone's learning rate."""
    bias_lr: float = Field(default=1.0, gt=0)
    """Multiplier for biases; 2 with `bias_decay = false` is the paper's."""
    bias_decay: bool = False
    """Whether biases and normalisation weights decay."""
    freeze: Literal["none", "backbone", "norm"] = "none"
    """"backbone" trains the head only; "norm" keeps the statistics of batch norms."""
    sync_batchnorm: bool = False
    """Let batch norms see the batch of all processes, not each its own part."""

    # the machine
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int | None = Field(default=None, ge=0)
    deterministic: bool = False
    seed: int = Field(default=0, ge=0)
    checkpoint_every: float = Field(default=300.0, ge=0)
    """Seconds between checkpoints."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Who else shows the run, with commas between several; each writes into the run folder."""

    @field_validator("track", mode="before")
    @classmethod
    def _split_track(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("crop", mode="before")
    @classmethod
    def _parse_crop(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "whole":
            height, cross, width = value.lower().partition("x")
            if not (cross and height.isdigit() and width.isdigit()):
                raise ValueError(f"'{value}' is not HEIGHTxWIDTH, for example 288x384, nor whole")
            return int(height), int(width)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        long = [key for key in ("epochs", "minutes", "steps") if getattr(self, key) is not None]
        if len(long) > 1:
            raise ValueError(f"give {long[0]} or {long[1]}, not both")
        if self.crop == "whole" and self.sampling == "rare":
            raise ValueError("sampling = rare does nothing with crop = whole: every picture is seen as it is")
        if isinstance(self.crop, tuple) and min(self.crop) < 1:
            raise ValueError(f"crop must be at least 1x1, not {self.crop[0]}x{self.crop[1]}")
        if isinstance(self.crop, tuple) and max(self.crop) > LARGEST_CROP:
            raise ValueError(f"crop is at most {LARGEST_CROP} a side, not {self.crop[0]}x{self.crop[1]}")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(
                f"fold {self.fold} does not exist: with folds = {self.folds} they are 0 to {self.folds - 1}"
            )
        return self


def parse_recipe(settings: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check settings and make a Recipe of them.

    Args:
        settings: By name; nested tables as mappings, or dotted ("head.fc").
        where: What the settings came from, for the message.

    Raises:
        RecipeError: A name is unknown (the nearest is named) or a value is not allowed.
    """
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        outer, dot, inner = key.partition(".")
        part = {inner: value} if dot else value
        both = isinstance(part, Mapping) and isinstance(nested.get(outer, {}), Mapping)
        nested[outer] = {**nested.get(outer, {}), **part} if both else part
    try:
        return Recipe.model_validate(nested)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    """Put pydantic's first complaint into one sentence, with the nearest name for an unknown key."""
    found = error.errors()
    # Of several forms that a value may have, the complaint that got furthest into it is about the one that was meant.
    first = max((e for e in found if e["loc"][:1] == found[0]["loc"][:1]), key=lambda e: len(e["loc"]))
    # Names of forms ("literal['auto', ...]", "tuple[float, ...]") stand among the names of settings.
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    if first["type"] == "extra_forbidden":
        known = list(Recipe.model_fields) + [f"head.{name}" for name in HeadSettings.model_fields]
        return f"there is no setting '{key}'.{nearest(key, known) or ' docs/training.md lists them.'}"
    reason = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error" and not key:
        return f"{reason}."
    known = re.findall(r"'([^']+)'", reason) if first["type"] == "literal_error" else []
    return (
        f"{key} = {first['input']!r} cannot be: {reason[:1].lower()}{reason[1:]}.{nearest(str(first['input']), known)}"
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """Read one ``key=value`` of ``--set``; the value is TOML where it can be read as such, else a string.

    Raises:
        RecipeError: There is no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text}: write it as key=value, for example --set optimizer=sgd.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RecipeError: It is missing or not TOML; the message has the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}.") from error


def dump_toml(table: Mapping[str, Any]) -> str:
    """Write nested tables as TOML; None is left out, tuples become arrays.

    >>> print(dump_toml({"a": 1, "b": {"c": "x"}}), end="")
    a = 1
    <BLANKLINE>
    [b]
    c = "x"
    """
    return "".join(_lines(table, ()))


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {k: v for k, v in table.items() if v is not None and not isinstance(v, Mapping)}
    nested = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    lines = [f"{_key(k)} = {_value(v)}\n" for k, v in plain.items()]
    for key, inner in nested.items():
        name = ".".join(_key(part) for part in (*path, key))
        lines += [f"\n[{name}]\n", *_lines(inner, (*path, key))]
    return lines


def _key(key: str) -> str:
    bare = key and all((c.isalnum() and c.isascii()) or c in "-_" for c in key)
    return key if bare else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else _escape(c) for c in text) + '"'


def _escape(character: str) -> str:
    """Write a character that cannot be printed as TOML does; half a surrogate pair is no character there."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        return "\ufffd"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
