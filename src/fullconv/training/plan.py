"""What a run is going to be, decided once before its first step, written down, and used again when it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.data import Dataset, Statistics
from fullconv.data.imbalance import choose_loss
from fullconv.data.loader import LEAST_STEPS
from fullconv.errors import RecipeError, RunError
from fullconv.nn import VARIANTS
from fullconv.recipe import Recipe, dump_toml, parse_recipe, read_toml
from fullconv.storage import write_text
from fullconv.training.processes import ALONE, Processes
from fullconv.training.rates import default_rate

DEFAULT_EPOCHS = 60
FREE_TO_CHANGE = ("workers", "checkpoint_every", "device")
"""Settings that may differ when a run goes on: they change no number."""
_LONG = ("epochs", "minutes", "steps")
"""Settings that say how long a run is, one instead of the others."""


@dataclass(frozen=True)
class Measured:
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


def resolve(recipe: Recipe, dataset: Dataset, statistics: Statistics, processes: Processes = ALONE) -> Recipe:
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
    own = None if row is None else row.release.trunk if row.release is not None else row.backbone
    if own is not None and recipe.backbone == Recipe.model_fields["backbone"].default:
        changes["backbone"] = own  # a published net has its own
    if recipe.loss == "auto":
        plain = recipe.reduction == "sum" or recipe.accumulate > 1 or (row is not None and row.release is not None)
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
        changes["lr"] = default_rate(recipe.model_copy(update=changes), statistics)
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


def check_names(recipe: Recipe) -> None:
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


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain nested tables."""
    table: dict[str, Any] = recipe.model_dump(mode="json")
    return table


@dataclass(frozen=True)
class Plan:
    """A recipe with everything that was decided."""

    recipe: Recipe
    measured: Measured | None
    origin: dict[str, Any]
    """Versions, hardware, data fingerprint, git revision."""
    decided: dict[str, Any] = field(default_factory=dict)
    """What "auto" came to, to be read by people: the same data give the same again."""

    def tables(self) -> dict[str, Any]:
        """Return all of it as plain nested tables, as recipe.toml holds them."""
        tables: dict[str, Any] = settings_of(self.recipe)
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


def read_plan(path: Path) -> Plan:
    """Read a recipe file, with what was measured where it says so.

    Raises:
        RecipeError: It cannot be read, or holds unknown settings.
    """
    return plan_of(read_toml(path), str(path))


def plan_of(tables: Mapping[str, Any], path: str) -> Plan:
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
        return Plan(recipe, None, origin)
    try:
        return Plan(recipe, Measured(**measured), origin)
    except TypeError as error:
        raise RecipeError(f"{path}: [measured] is not what this program writes ({error}). Remove that table.") from None


def combine(base: Plan | None, given: Mapping[str, Any]) -> tuple[Recipe, Measured | None, list[str]]:
    """Lay the settings given over those of a recipe file.

    Returns:
        The recipe, the measured choices where they still hold, and the names of settings that differ from the file.
    """
    if base is None:
        return parse_recipe(given, "settings"), None, []
    table = settings_of(base.recipe)
    if any(key in given for key in _LONG):
        table |= dict.fromkeys(_LONG)
    overlay = parse_recipe({**_flat({k: v for k, v in table.items() if v is not None}), **_flat(given)}, "settings")
    changed = [key for key, value in settings_of(overlay).items() if value != settings_of(base.recipe).get(key)]
    keeps = set(changed) <= {*FREE_TO_CHANGE, "seed"}
    return overlay, base.measured if keeps else None, changed


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            flat[key] = value
    return flat


def continued(stored: Plan, given: Mapping[str, Any], where: Path, lengthen: bool = False) -> Plan:
    """Return the plan of a run that goes on, with what may change; the number of epochs may grow with ``lengthen``.

    Raises:
        RunError: A setting given contradicts the run's.
    """
    table = _flat(settings_of(stored.recipe))
    asked = _flat(settings_of(parse_recipe(given, "settings")))
    for key in _flat(given):
        longer = key == "epochs" and _longer(stored, asked[key])
        if asked[key] != table.get(key) and key not in FREE_TO_CHANGE and not (longer and lengthen):
            raise RunError(
                f"{where}: this run has {key} = {_shown(table.get(key))}, not {_shown(asked[key])}. Leave {_option(key)}"
                f" away to go on with it, {'add --lengthen to train it on, ' if longer else ''}or start another run in a"
                " new folder."
            )
    changes = {key: asked[key] for key in _flat(given) if key in (*FREE_TO_CHANGE, "epochs")}
    measured = stored.measured
    if measured is not None and changes.get("epochs") is not None and _longer(stored, changes["epochs"]):
        steps = changes["epochs"] * measured.steps_per_epoch
        measured = Measured(**{**asdict(measured), "steps": steps})
    return Plan(stored.recipe.model_copy(update=changes), measured, stored.origin)


def require_same(stored: Plan, file: Plan, given: Mapping[str, Any], where: Path, name: str) -> None:
    """Raise where a recipe file that is named again says something else than the run that goes on.

    What the file leaves open ("auto", or not at all) was decided since; what is given beside it is for `continued`.

    Raises:
        RunError: A setting of the file is not the run's.
    """
    over = {*_flat(given), *FREE_TO_CHANGE, *(_LONG if any(key in given for key in _LONG) else ())}
    table = _flat(settings_of(stored.recipe))
    for key, value in _flat(file.recipe.model_dump(mode="json", exclude_unset=True)).items():
        if key not in over and value not in (None, "auto") and value != table.get(key):
            raise RunError(
                f"{where}: this run has {key} = {_shown(table.get(key))}, {name} says {_shown(value)}. Leave --recipe away"
                " to go on with it, or start another run in a new folder."
            )


def _shown(value: Any) -> str:
    """Write a value as one types it: a crop as 288x384."""
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _longer(stored: Plan, epochs: Any) -> bool:
    return stored.recipe.epochs is not None and epochs is not None and epochs > stored.recipe.epochs


def _option(key: str) -> str:
    options = {
        "variant", "backbone", "weights", "epochs", "minutes", "batch_size", "crop", "scale", "lr", "seed", "augment",
        "skip_bad", "precision",
    }  # fmt: skip
    return "--" + key.replace("_", "-") if key in options else f"--set {key}"
