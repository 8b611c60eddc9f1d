"""Learning rates: one that belongs to a sum over pixels is some 100,000 times smaller than one for their mean.

Recipes that come with the package, and those of several stages.

What a run is going to be, decided once before its first step, written down, and used again when it goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fullconv
from fullconv.data import Dataset, Statistics
from fullconv.data.crop_sampling import choose_loss
from fullconv.data.loader import LEAST_STEPS
from fullconv.errors import RecipeError, RunError, nearest
from fullconv.nn import VARIANTS
from fullconv.recipe import Recipe, dump_toml, parse_recipe, read_toml
from fullconv.storage import write_text
from fullconv.training.distributed import SINGLE_PROCESS, Distributed

MAX_EFFECTIVE_LR = 1.0
"""Of lr / (1 - momentum) for a mean loss: lr 0.1 with momentum 0.9, the most that is in use."""
MIN_EFFECTIVE_LR = {"sgd": 5e-8, "adamw": 1e-8}
"""Below it nothing is learned in any time; of lr / (1 - momentum) for SGD (1e-7 in the paper for FCN-8s), of lr for AdamW."""

_DEFAULTS = {"adamw": (2e-3, 5e-4), "sgd": (0.05, 0.01)}
"""From scratch, and from given weights."""


def sum_to_mean_factor(recipe: Recipe, statistics: Statistics) -> float:
    """Return by how much a loss is larger with ``reduction = "sum"``: the valid pixels that a step sees of a picture."""
    if not any(name in recipe.loss for name in ("auto", "cross_entropy", "focal")):
        return 1.0  # dice is a ratio, whatever the number of pixels
    height, width = np.median(np.array(statistics.sizes, dtype=np.float64), axis=0) * recipe.scale
    if isinstance(recipe.crop, tuple):
        height, width = min(height, recipe.crop[0]), min(width, recipe.crop[1])
    valid = int(statistics.pixels.sum())
    return max(1.0, float(height * width) * valid / max(1, valid + statistics.void))


def default_lr(recipe: Recipe, statistics: Statistics) -> float:
    """Return the learning rate of a recipe that has none."""
    rate = _DEFAULTS[recipe.optimizer][0 if recipe.weights == "none" else 1]
    if recipe.optimizer == "sgd" and recipe.reduction == "sum":
        return float(f"{rate / sum_to_mean_factor(recipe, statistics):.2g}")
    return rate


def check_lr(recipe: Recipe, statistics: Statistics) -> None:
    """Raise where the learning rate belongs to the other reduction of the loss.

    Args:
        recipe: Resolved.
        statistics: Of the training split.

    Raises:
        RecipeError: The rate of a mean with a sum, or the other way round; the message has the converted rate.

    Source: the Caffe release's solvers (sum, 1e-10) and Long et al., CVPR 2015 (mean, 1e-4).
    """
    lr = recipe.lr or 0.0
    if recipe.optimizer == "adamw":
        if lr < MIN_EFFECTIVE_LR["adamw"]:
            usual = _DEFAULTS["adamw"][0 if recipe.weights == "none" else 1]
            raise RecipeError(
                f"lr = {lr:g} teaches nothing with adamw, whose steps are as large as lr whatever the size of the loss:"
                f" write --lr {usual:g}; or, for the paper's rates, --set optimizer=sgd --set reduction=sum."
            )
        return
    pixels = sum_to_mean_factor(recipe, statistics)
    memory = 1 - recipe.momentum
    if recipe.reduction == "sum" and lr * pixels / memory > MAX_EFFECTIVE_LR:
        raise RecipeError(
            f"lr = {lr:g} is a rate for the mean over pixels, but reduction = sum adds up the {pixels:.0f} of a picture:"
            f" it would act as {lr * pixels:.2g} with the mean, and the loss would soon be no number. The same step is"
            f" --lr {lr / pixels:.2g} with the sum; or leave reduction = sum away."
        )
    if recipe.reduction == "mean" and lr / memory < MIN_EFFECTIVE_LR["sgd"]:
        raise RecipeError(
            f"lr = {lr:g} is a rate for the sum over pixels, but reduction = mean divides by the {pixels:.0f} of a"
            f" picture, so nothing would be learned. The same step is --lr {lr * pixels:.2g} with the mean; or add"
            f" --set reduction=sum."
        )


FOLDER = Path(fullconv.__file__).parent / "recipes"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as its file says it."""

    path: Path
    about: str
    """One sentence."""
    needs: str | None
    """The recipe whose model it begins from; --weights gives the file."""
    stages: tuple[str, ...]
    """Names or files of recipes to be run in turn, each from the model of the one before; else empty."""
    table: Mapping[str, Any]
    """Everything else in the file."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(recipe: str | Path) -> Path:
    """Return the file of a recipe: a path, or the name of one that comes with the package.

    Raises:
        RecipeError: There is neither.
    """
    if not isinstance(recipe, (str, os.PathLike)):
        raise RecipeError(f"a recipe is a file, or the name of one that comes with fullconv, not {recipe!r}.")
    path = Path(recipe)
    if path.is_file() or str(recipe) not in recipe_names():
        if not path.exists() and path.suffix != ".toml":
            hint = nearest(str(recipe), recipe_names())
            raise RecipeError(
                f"--recipe {recipe}: there is no such file, and no recipe of that name comes with fullconv.{hint}"
                f" `fullconv models` lists them."
            )
        return path
    return FOLDER / f"{recipe}.toml"


def read_recipe(recipe: str | Path) -> RecipeFile:
    """Read a recipe by its name or path.

    Raises:
        RecipeError: It cannot be read, or its stages are none.
    """
    path = find_recipe(recipe)
    table = read_toml(path)
    about, needs, stages = str(table.pop("about", "")), table.pop("needs", None), table.pop("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages) or len(stages) == 1:
        raise RecipeError(
            f"{path}: stages = {stages!r} cannot be: it is a list of two or more names or files of recipes."
        )
    if stages and table:
        raise RecipeError(
            f"{path}: '{next(iter(table))}' does nothing beside stages. Put it into the stages' own recipes."
        )
    return RecipeFile(path, about, None if needs is None else str(needs), tuple(stages), table)


def check_start(recipe: RecipeFile, settings: Mapping[str, Any]) -> None:
    """Raise where a recipe begins from a trained model and none is given.

    Raises:
        RecipeError: The message names the recipe that makes one.
    """
    if recipe.needs is not None and "weights" not in settings:
        raise RecipeError(
            f"the recipe {recipe.path.stem} begins from a model of {recipe.needs}: add --weights RUN/model.safetensors"
            " of such a run, or take a recipe whose name ends in -staged, which trains them in turn."
        )


def describe_recipes() -> list[dict[str, Any]]:
    """Return the recipes that come with the package, as `fullconv models --json` prints them."""
    rows = []
    for name in recipe_names():
        found = read_recipe(name)
        last = read_recipe(found.stages[-1]) if found.stages else found
        rows.append({"name": name, "variant": parse_recipe(last.table).variant, "about": found.about})
    return rows


DEFAULT_EPOCHS = 60
RESUMABLE_KEYS = ("workers", "checkpoint_every", "device")
"""Settings that may differ when a run goes on: they change no number."""
_LONG = ("epochs", "minutes", "steps")
"""Settings that say how long a run is, one instead of the others."""


@dataclass(frozen=True)
class Schedule:
    """Choices that were made by measuring, before the step that they govern."""

    steps: int
    """Of the whole run."""
    steps_per_epoch: int
    precision: str
    threads: int
    """Of PyTorch: fp32 sums in another order with another number."""
    seconds_per_step: float
    validate_every: int
    """Epochs between validations."""
    validation_pictures: int
    """Pictures of val that a validation scores; all of them at the end."""
    processes: int = 1
    """That train together; another number adds up in another order."""

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; fewer than 50 steps at its end belong to the epoch before."""
        whole, rest = divmod(self.steps, self.steps_per_epoch)
        return max(1, whole + (rest >= min(LEAST_STEPS, self.steps_per_epoch)))

    def epoch_ends(self, step: int) -> bool:
        """Say whether an epoch ends after so many steps."""
        return step == self.steps or (step % self.steps_per_epoch == 0 and step < self.epochs * self.steps_per_epoch)

    def epoch(self, step: int) -> int:
        """Return the epoch, from 1, that a number of steps done belongs to."""
        return min(self.epochs, -(-step // self.steps_per_epoch))


def resolve_defaults(
    recipe: Recipe, dataset: Dataset, statistics: Statistics, processes: Distributed = SINGLE_PROCESS
) -> Recipe:
    """Fill in what the recipe leaves open and needs no measuring.

    - Crops are four fifths of the median picture, at most 384 pixels a side, in steps of 32: whole pictures hold few
      surprises, and small maps are quick.
    - The loss is cross-entropy; with Dice beside it where a class is rare, unless the net is a published one, or the loss
      is to be a sum over pixels or the same however a batch is cut: Dice is a ratio over what is computed together.
    - A batch holds 8 crops, or as many more as small crops leave room for, up to 16.
    - AdamW starts at 2e-3 from scratch and at 5e-4 from pretrained weights; SGD at 0.05 and 0.01, divided by the pixels
      of a picture where the loss is their sum.
    """
    changes: dict[str, Any] = {}
    row = VARIANTS.get(recipe.variant)
    own = None if row is None else row.caffe.backbone if row.caffe is not None else row.backbone
    if own is not None and recipe.backbone == Recipe.model_fields["backbone"].default:
        changes["backbone"] = own  # a published net has its own
    if recipe.loss == "auto":
        plain = recipe.reduction == "sum" or recipe.accumulate > 1 or (row is not None and row.caffe is not None)
        heads = (dataset.statistics("train", head) for head in dataset.labels)
        changes["loss"] = "cross_entropy" if plain else choose_loss(heads)
    if recipe.crop is None:
        sizes = np.array(statistics.sizes, dtype=np.float64)
        height, width = np.median(sizes, axis=0) * recipe.scale
        changes["crop"] = (_crop_side(height), _crop_side(width))
    if recipe.batch_size is None:
        crop = recipe.crop or changes["crop"]
        # Whole pictures of several sizes would mostly be padding.
        fitting = 1 if crop == "whole" else int(min(16, max(8, 8 * 288 * 384 // (crop[0] * crop[1]))))
        changes["batch_size"] = max(processes.ranks, fitting)
    if recipe.lr is None:
        changes["lr"] = default_lr(recipe.model_copy(update=changes), statistics)
    if recipe.weight_decay is None:
        changes["weight_decay"] = 0.02 if recipe.optimizer == "adamw" else 5e-4
    if recipe.epochs is None and recipe.minutes is None and recipe.steps is None:
        changes["epochs"] = DEFAULT_EPOCHS
    if recipe.workers is None:
        changes["workers"] = default_workers(processes.local_ranks)
    return recipe.model_copy(update=changes)


def _crop_side(length: float) -> int:
    """Four fifths of a side, in steps of 32, from 32 to 384."""
    return int(min(384, max(32, 32 * round(0.8 * length / 32))))


def default_workers(processes: int = 1) -> int:
    """Return the loader processes of each process here: none on few cores, where a thread takes less from the step."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= processes
    return 0 if cores <= 4 else min(8, cores // 2)


def check_conflicts(recipe: Recipe) -> None:
    """Raise for combinations that cannot be, before anything is read.

    Raises:
        RecipeError: Two settings contradict each other.
    """
    if recipe.backbone == "tiny" and recipe.weights == "imagenet":
        raise RecipeError("the backbone tiny has no ImageNet weights: add --weights none.")
    if recipe.weights == "imagenet" and recipe.width != 1:
        raise RecipeError(f"width = {recipe.width:g} fits no published weights: add --weights none.")
    if recipe.optimizer == "adamw" and recipe.momentum != Recipe.model_fields["momentum"].default:
        raise RecipeError(f"momentum = {recipe.momentum:g} does nothing with adamw: add --set optimizer=sgd.")
    if "focal" not in recipe.loss and recipe.focal_gamma != Recipe.model_fields["focal_gamma"].default:
        raise RecipeError(
            f"focal_gamma = {recipe.focal_gamma:g} does nothing without a focal loss: add --set loss=focal."
        )
    if recipe.sync_batchnorm and recipe.freeze == "norm":
        raise RecipeError("sync_batchnorm = true does nothing with freeze = norm: leave one of them away.")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain nested tables."""
    table: dict[str, Any] = recipe.model_dump(mode="json")
    return table


@dataclass(frozen=True)
class RunConfig:
    """A recipe with everything that was decided."""

    recipe: Recipe
    measured: Schedule | None
    origin: dict[str, Any]
    """Versions, hardware, data fingerprint, git revision."""
    decided: dict[str, Any] = field(default_factory=dict)
    """What "auto" came to, to be read by people: the same data give the same again."""

    def tables(self) -> dict[str, Any]:
        """Return all of it as plain nested tables, as recipe.toml holds them."""
        tables: dict[str, Any] = recipe_to_dict(self.recipe)
        if self.measured is not None:
            tables["measured"] = asdict(self.measured)
        if self.decided:
            tables["decided"] = self.decided
        return {**tables, "origin": self.origin}

    def write(self, path: Path) -> None:
        """Write recipe.toml."""
        write_text(path, HEADING + dump_toml(self.tables()))


HEADING = """# A run of fullconv, as it was decided before its first step.
# fullconv train DATA -o NEW --recipe THIS repeats it; [measured] is used again then, [origin] is compared.
"""


def read_config(path: Path) -> RunConfig:
    """Read a recipe file, with what was measured where it says so.

    Raises:
        RecipeError: It cannot be read, or holds unknown settings.
    """
    return config_from_tables(read_toml(path), str(path))


def config_from_tables(tables: Mapping[str, Any], path: str) -> RunConfig:
    """Return the plan that tables hold; `path` names where they are from.

    Raises:
        RecipeError: A setting is unknown, or [measured] is not what this program writes.
    """
    table = dict(tables)
    measured, origin = table.pop("measured", None), table.pop("origin", {})
    for key in ("decided", "about", "needs", "stages"):
        table.pop(key, None)  # for people, and for fullconv.training.shipped
    recipe = parse_recipe(table, path)
    if measured is None:
        return RunConfig(recipe, None, origin)
    try:
        return RunConfig(recipe, Schedule(**measured), origin)
    except TypeError as error:
        raise RecipeError(f"{path}: [measured] is not what this program writes ({error}). Remove that table.") from None


def merge_overrides(base: RunConfig | None, given: Mapping[str, Any]) -> tuple[Recipe, Schedule | None, list[str]]:
    """Lay the settings given over those of a recipe file.

    Returns:
        The recipe, the measured choices where they still hold, and the names of settings that differ from the file.
    """
    if base is None:
        return parse_recipe(given, "settings"), None, []
    table = recipe_to_dict(base.recipe)
    if any(key in given for key in _LONG):
        table |= dict.fromkeys(_LONG)
    overlay = parse_recipe({**_flat({k: v for k, v in table.items() if v is not None}), **_flat(given)}, "settings")
    changed = [key for key, value in recipe_to_dict(overlay).items() if value != recipe_to_dict(base.recipe).get(key)]
    keeps = set(changed) <= {*RESUMABLE_KEYS, "seed"}
    return overlay, base.measured if keeps else None, changed


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            flat[key] = value
    return flat


def resume_config(stored: RunConfig, given: Mapping[str, Any], where: Path, lengthen: bool = False) -> RunConfig:
    """Return the plan of a run that goes on, with what may change; the number of epochs may grow with ``lengthen``.

    Raises:
        RunError: A setting given contradicts the run's.
    """
    table = _flat(recipe_to_dict(stored.recipe))
    asked = _flat(recipe_to_dict(parse_recipe(given, "settings")))
    for key in _flat(given):
        longer = key == "epochs" and _longer(stored, asked[key])
        if asked[key] != table.get(key) and key not in RESUMABLE_KEYS and not (longer and lengthen):
            raise RunError(
                f"{where}: this run has {key} = {_shown(table.get(key))}, not {_shown(asked[key])}. Leave {_option(key)}"
                f" away to go on with it, {'add --lengthen to train it on, ' if longer else ''}or start another run in a"
                " new folder."
            )
    changes = {key: asked[key] for key in _flat(given) if key in (*RESUMABLE_KEYS, "epochs")}
    measured = stored.measured
    if measured is not None and changes.get("epochs") is not None and _longer(stored, changes["epochs"]):
        steps = changes["epochs"] * measured.steps_per_epoch
        measured = Schedule(**{**asdict(measured), "steps": steps})
    return RunConfig(stored.recipe.model_copy(update=changes), measured, stored.origin)


def check_same_config(stored: RunConfig, file: RunConfig, given: Mapping[str, Any], where: Path, name: str) -> None:
    """Raise where a recipe file that is named again says something else than the run that goes on.

    What the file leaves open ("auto", or not at all) was decided since; what is given beside it is for `resume_config`.

    Raises:
        RunError: A setting of the file is not the run's.
    """
    over = {*_flat(given), *RESUMABLE_KEYS, *(_LONG if any(key in given for key in _LONG) else ())}
    table = _flat(recipe_to_dict(stored.recipe))
    for key, value in _flat(file.recipe.model_dump(mode="json", exclude_unset=True)).items():
        if key not in over and value not in (None, "auto") and value != table.get(key):
            raise RunError(
                f"{where}: this run has {key} = {_shown(table.get(key))}, {name} says {_shown(value)}. Leave --recipe away"
                " to go on with it, or start another run in a new folder."
            )


def _shown(value: Any) -> str:
    """Write a value as one types it: a crop as 288x384."""
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _longer(stored: RunConfig, epochs: Any) -> bool:
    return stored.recipe.epochs is not None and epochs is not None and epochs > stored.recipe.epochs


def _option(key: str) -> str:
    options = {
        "variant", "backbone", "weights", "epochs", "minutes", "batch_size", "crop", "scale", "lr", "seed", "augment",
        "skip_bad", "precision",
    }  # fmt: skip
    return "--" + key.replace("_", "-") if key in options else f"--set {key}"
