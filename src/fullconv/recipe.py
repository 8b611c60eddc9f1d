"""The recipe: the settings of a training run as one strict table, read from and written to TOML."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fullconv.errors import RecipeError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Augmentation = Literal["street", "aerial", "microscopy", "none"]
MAX_CROP = 1 << 16
"""Pixels a side; anything larger is a typo and overflows byte counts."""


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
    """Settings of a run; one that is None is chosen from the data and the machine, printed, and written to RUN/recipe.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    # the network
    variant: str = "fcn8s"
    backbone: str = "resnet18"
    weights: str = "imagenet"
    """Pretrained weights: "imagenet", "none", or a file (also a fullconv model with other classes)."""
    norm: Literal["batch", "none"] = "batch"
    """Normalization of the backbone `tiny`; others have their own."""
    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of the backbone's channels; values other than 1 need `weights = "none"`."""
    head: HeadSettings = HeadSettings()

    # how long
    epochs: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    """Wall time from start to report, instead of epochs."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, instead of epochs."""
    early_stop: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a better mIoU."""
    validate_every: int | None = Field(default=None, ge=1)
    """Epochs between validations; None keeps validation under a tenth of the time."""

    # what a step sees
    batch_size: int | None = Field(default=None, ge=1)
    crop: tuple[int, int] | Literal["whole"] | None = None
    """Height and width in pixels of the working resolution; "whole" uses full images."""
    scale: float = Field(default=1.0, gt=0, le=8)
    """Working resolution, 1 = as stored; applied everywhere, results are at the image's own size."""
    augment: Augmentation = "street"
    sampling: Literal["auto", "uniform", "rare"] = "auto"
    """"rare" centers every second crop on a class drawn among those in the image, rare ones more often."""
    folds: int | None = Field(default=None, ge=2)
    fold: int | None = Field(default=None, ge=0)
    """With folds: train and val are merged and split again; this fold is val."""
    skip_bad: bool = False

    # the loss
    loss: str = "auto"
    """A sum of cross_entropy, focal and dice, each with an optional factor: "cross_entropy + 0.5 * dice"; "auto" is
    cross_entropy, plus dice where a class is rare."""
    class_weights: Literal["auto", "none", "inverse_log", "median_frequency"] | tuple[float, ...] = "auto"
    focal_gamma: float = Field(default=2.0, ge=0)
    reduction: Literal["mean", "sum"] = "mean"
    """"mean" divides by the (class-weighted) valid pixels of the global batch, "sum" by its images, as Caffe does."""

    # the optimizer
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float | None = Field(default=None, ge=0)
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of all steps over which the learning rate rises linearly to `lr`."""
    clip: float | None = Field(default=None, gt=0)
    """Maximum L2 norm of the gradient."""
    accumulate: int = Field(default=1, ge=1)
    """Batches accumulated for one step; the loss is over all their valid pixels."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay per step of the moving average of the weights, which is validated and saved; 0 disables it."""
    backbone_lr: float | None = Field(default=None, ge=0)
    """Multiplier of the backbone's learning rate."""
    bias_lr: float = Field(default=1.0, gt=0)
    """Multiplier for biases; 2 with `bias_decay = false` is the paper's."""
    bias_decay: bool = False
    """Whether biases and normalization weights decay."""
    bias_scope: Literal["all", "head"] = "all"
    """Where `bias_lr` and `bias_decay` apply; with "head" the backbone's biases learn and decay as its weights do."""
    freeze: Literal["none", "backbone", "norm"] = "none"
    """"backbone" trains the head only; "norm" freezes the statistics of batch norms."""
    sync_batchnorm: bool = False
    """Let batch norms see the batch of all processes instead of their own part."""

    # the machine
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int | None = Field(default=None, ge=0)
    deterministic: bool = False
    seed: int = Field(default=0, ge=0)
    checkpoint_every: float = Field(default=300.0, ge=0)
    """Seconds between checkpoints."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Trackers, comma-separated; each writes into the run folder."""

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
                raise ValueError(f"'{value}' is neither HEIGHTxWIDTH, for example 288x384, nor whole")
            return int(height), int(width)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        lengths = [key for key in ("epochs", "minutes", "steps") if getattr(self, key) is not None]
        if len(lengths) > 1:
            raise ValueError(f"set {lengths[0]} or {lengths[1]}, not both")
        if self.crop == "whole" and self.sampling == "rare":
            raise ValueError("sampling = rare does nothing with crop = whole, which uses full images")
        if isinstance(self.crop, tuple) and min(self.crop) < 1:
            raise ValueError(f"crop must be at least 1x1, not {self.crop[0]}x{self.crop[1]}")
        if isinstance(self.crop, tuple) and max(self.crop) > MAX_CROP:
            raise ValueError(f"crop is at most {MAX_CROP} per side, not {self.crop[0]}x{self.crop[1]}")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(
                f"fold {self.fold} does not exist: with folds = {self.folds} they are 0 to {self.folds - 1}"
            )
        return self


def parse_recipe(settings: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validate settings and return them as a Recipe."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        outer, dot, inner = key.partition(".")
        part = {inner: value} if dot else value
        both = isinstance(part, Mapping) and isinstance(nested.get(outer, {}), Mapping)
        nested[outer] = {**nested.get(outer, {}), **part} if both else part
    try:
        return Recipe.model_validate(nested)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_describe(error)}") from None


def _describe(error: ValidationError) -> str:
    """Return pydantic's first error as one sentence, with the nearest name for an unknown key."""
    found = error.errors()
    # Of a union's errors, the one that got deepest into the value is about the intended type.
    first = max((e for e in found if e["loc"][:1] == found[0]["loc"][:1]), key=lambda e: len(e["loc"]))
    # Names of union members ("literal['auto', ...]", "tuple[float, ...]") are in the path of settings' names.
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    if first["type"] == "extra_forbidden":
        known = list(Recipe.model_fields) + [f"head.{name}" for name in HeadSettings.model_fields]
        return f"there is no setting '{key}'.{nearest(key, known) or ' docs/how-to/training.md lists them.'}"
    reason = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error" and not key:
        return f"{reason}."
    known = re.findall(r"'([^']+)'", reason) if first["type"] == "literal_error" else []
    return (
        f"{key} = {first['input']!r} is invalid: {reason[:1].lower()}{reason[1:]}.{nearest(str(first['input']), known)}"
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse one ``key=value`` of ``--set``; the value is TOML where it parses as such, else a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text}: write it as key=value, for example --set optimizer=sgd.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}.") from error


def dump_toml(table: Mapping[str, Any]) -> str:
    """Write nested tables as TOML; None is omitted, tuples become arrays.

    tomli-w would break arrays over several lines; recipe.toml keeps one setting a line.

    >>> print(dump_toml({"a": 1, "b": {"c": "x"}}), end="")
    a = 1
    <BLANKLINE>
    [b]
    c = "x"
    """
    return "".join(_toml_lines(table, ()))


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    nested = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    yield from (f"{toml_key(k)} = {toml_value(v)}\n" for k, v in table.items() if v is not None and k not in nested)
    for key, inner in nested.items():
        yield f"\n[{'.'.join(map(toml_key, (*path, key)))}]\n"
        yield from _toml_lines(inner, (*path, key))


def toml_key(key: Any) -> str:
    """Write a key, quoted where it is not bare."""
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else toml_value(str(key))


def toml_value(value: Any, *, literal: bool = False) -> str:
    """Write a value on one line; a mapping becomes an inline table.

    >>> toml_value({"a": [1, True]})
    '{ a = [1, true] }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{toml_key(key)} = {toml_value(item, literal=literal)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item, literal=literal) for item in value if item is not None) + "]"
    text = str(value)
    if literal and "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else _escape(ord(c)) for c in escaped) + '"'


def _escape(code: int) -> str:
    """Write an unprintable character as TOML does, which has no surrogates."""
    if 0xD800 <= code < 0xE000:
        return "\ufffd"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
