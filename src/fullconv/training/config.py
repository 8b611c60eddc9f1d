"""The configuration of a run: recipe files, defaults, learning rates, origin; fixed before step 1, and reused on resume."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullconv._version import __version__
from fullconv.data import MIN_STEPS, Dataset, Statistics, choose_loss
from fullconv.errors import RecipeError, RunError, nearest
from fullconv.nn import VARIANTS
from fullconv.recipe import Recipe, dump_toml, parse_recipe, read_toml
from fullconv.runs import flatten
from fullconv.storage import write_text
from fullconv.training.distributed import SINGLE_PROCESS, Distributed

# --- recipe files -----------------------------------------------------------------------------------------------------

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class RecipeFile:
    """The content of a recipe file."""

    path: Path
    about: str
    """One sentence."""
    needs: str | None
    """The recipe that trains the starting checkpoint; --weights gives the file."""
    stages: tuple[str, ...]
    """Recipes (names or files) to run in turn, each from the model of the one before; else empty."""
    table: Mapping[str, Any]
    """Everything else in the file."""


def recipe_names() -> list[str]:
    """Return the names of the recipes of the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(recipe: str | Path) -> RecipeFile:
    """Read a recipe file, or a recipe of the package by its name."""
    if not isinstance(recipe, (str, os.PathLike)):
        raise RecipeError(f"recipe is a file, or the name of a recipe of fullconv, not {recipe!r}.")
    path = Path(recipe)
    if not path.is_file() and str(recipe) in recipe_names():
        path = RECIPES / f"{recipe}.toml"
    elif not path.exists() and path.suffix != ".toml":
        raise RecipeError(
            f"--recipe {recipe}: there is no such file, and fullconv has no recipe of that name."
            f"{nearest(str(recipe), recipe_names())} `fullconv models` lists them."
        )
    table = read_toml(path)
    about, needs, stages = str(table.pop("about", "")), table.pop("needs", None), table.pop("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages) or len(stages) == 1:
        raise RecipeError(f"{path}: stages = {stages!r} is invalid: list two or more names or files of recipes.")
    if stages and table:
        raise RecipeError(
            f"{path}: '{next(iter(table))}' does nothing beside stages. Move it into the stages' recipes."
        )
    return RecipeFile(path, about, None if needs is None else str(needs), tuple(stages), table)


def describe_recipes() -> list[dict[str, Any]]:
    """Return the recipes of the package, as `fullconv models --json` prints them."""
    rows = []
    for name in recipe_names():
        recipe = read_recipe(name)
        last = read_recipe(recipe.stages[-1]) if recipe.stages else recipe
        rows.append({"name": name, "variant": parse_recipe(last.table).variant, "about": recipe.about})
    return rows


# --- learning rates ---------------------------------------------------------------------------------------------------

MAX_EFFECTIVE_LR = 1.0
"""Of lr / (1 - momentum) for a mean loss: lr 0.1 with momentum 0.9, the largest in use."""
MIN_EFFECTIVE_LR = {"sgd": 5e-8, "adamw": 1e-8}
"""Nothing is learned below; of lr / (1 - momentum) for SGD (1e-7 in the paper for FCN-8s), of lr for AdamW."""
_DEFAULT_LR = {"adamw": (2e-3, 5e-4), "sgd": (0.05, 0.01)}
"""From scratch, and from pretrained weights."""


def sum_to_mean_factor(recipe: Recipe, statistics: Statistics) -> float:
    """Return by how much ``reduction = "sum"`` makes a loss larger: the valid pixels per image that a step sees."""
    if not any(name in recipe.loss for name in ("auto", "cross_entropy", "focal")):
        return 1.0  # dice is a ratio, whatever the number of pixels
    height, width = np.median(np.array(statistics.sizes, dtype=np.float64), axis=0) * recipe.scale
    if isinstance(recipe.crop, tuple):
        height, width = min(height, recipe.crop[0]), min(width, recipe.crop[1])
    valid = int(statistics.pixels.sum())
    return max(1.0, float(height * width) * valid / max(1, valid + statistics.void))


def default_lr(recipe: Recipe, statistics: Statistics) -> float:
    """Return the learning rate of a recipe that has none."""
    lr = _DEFAULT_LR[recipe.optimizer][0 if recipe.weights == "none" else 1]
    if recipe.optimizer == "sgd" and recipe.reduction == "sum":
        return float(f"{lr / sum_to_mean_factor(recipe, statistics):.2g}")
    return lr


def check_lr(recipe: Recipe, statistics: Statistics) -> None:
    """Raise if the learning rate is one for the other reduction of the loss."""
    lr = recipe.lr or 0.0
    if recipe.optimizer == "adamw":
        if lr < MIN_EFFECTIVE_LR["adamw"]:
            usual = _DEFAULT_LR["adamw"][0 if recipe.weights == "none" else 1]
            raise RecipeError(
                f"lr = {lr:g} is too small for adamw, whose steps are as large as lr whatever the size of the loss:"
                f" use --lr {usual:g}; or, for the paper's rates, --set optimizer=sgd --set reduction=sum."
            )
        return
    pixels = sum_to_mean_factor(recipe, statistics)
    one_minus_momentum = 1 - recipe.momentum
    if recipe.reduction == "sum" and lr * pixels / one_minus_momentum > MAX_EFFECTIVE_LR:
        raise RecipeError(
            f"lr = {lr:g} is a rate for the mean over pixels, but reduction = sum adds up the {pixels:.0f} of an image:"
            f" it would act as {lr * pixels:.2g} with the mean, and the loss would soon not be finite. The same step is"
            f" --lr {lr / pixels:.2g} with the sum; or remove reduction = sum."
        )
    if recipe.reduction == "mean" and lr / one_minus_momentum < MIN_EFFECTIVE_LR["sgd"]:
        raise RecipeError(
            f"lr = {lr:g} is a rate for the sum over pixels, but reduction = mean divides by the {pixels:.0f} of an"
            f" image, so nothing would be learned. The same step is --lr {lr * pixels:.2g} with the mean; or add"
            f" --set reduction=sum."
        )


# --- defaults ---------------------------------------------------------------------------------------------------------

DEFAULT_EPOCHS = 60


def check_conflicts(recipe: Recipe) -> None:
    """Raise for settings that contradict each other, before anything is read."""
    defaults = Recipe.model_fields
    if recipe.backbone == "tiny" and recipe.weights == "imagenet":
        raise RecipeError("the backbone tiny has no ImageNet weights: add --weights none.")
    if recipe.weights == "imagenet" and recipe.width != 1:
        raise RecipeError(f"width = {recipe.width:g} fits no pretrained weights: add --weights none.")
    if recipe.optimizer == "adamw" and recipe.momentum != defaults["momentum"].default:
        raise RecipeError(f"momentum = {recipe.momentum:g} does nothing with adamw: add --set optimizer=sgd.")
    if "focal" not in recipe.loss and recipe.focal_gamma != defaults["focal_gamma"].default:
        raise RecipeError(
            f"focal_gamma = {recipe.focal_gamma:g} does nothing without a focal loss: add --set loss=focal."
        )
    if recipe.sync_batchnorm and recipe.freeze == "norm":
        raise RecipeError("sync_batchnorm = true does nothing with freeze = norm: remove one of them.")


def resolve_defaults(
    recipe: Recipe, dataset: Dataset, statistics: Statistics, dist: Distributed = SINGLE_PROCESS
) -> Recipe:
    """Fill in what the recipe leaves open and needs no benchmark.

    - Crops are four fifths of the median image, at most 384 pixels a side, in steps of 32.
    - The loss is cross-entropy, with Dice added where a class is rare; not for published networks, a sum over pixels or
      accumulation: Dice is a ratio over what is computed together.
    - A batch holds 8 crops, or more small ones, up to 16.
    - AdamW starts at 2e-3 from scratch and at 5e-4 from pretrained weights; SGD at 0.05 and 0.01, divided by the pixels
      of an image where the loss is their sum.
    """
    changes: dict[str, Any] = {}
    spec = VARIANTS.get(recipe.variant)
    published = spec is not None and spec.caffe is not None
    own = None if spec is None else spec.caffe.backbone if spec.caffe is not None else spec.backbone
    if own is not None and recipe.backbone == Recipe.model_fields["backbone"].default:
        changes["backbone"] = own
    if recipe.loss == "auto":
        plain = recipe.reduction == "sum" or recipe.accumulate > 1 or published
        heads = (dataset.statistics("train", head) for head in dataset.labels)
        changes["loss"] = "cross_entropy" if plain else choose_loss(heads)
    if recipe.crop is None:
        median = np.median(np.array(statistics.sizes, dtype=np.float64), axis=0) * recipe.scale
        changes["crop"] = tuple(int(min(384, max(32, 32 * round(0.8 * side / 32)))) for side in median)
    if recipe.batch_size is None:
        crop = recipe.crop or changes["crop"]
        # Full images of several sizes would mostly be padding.
        crops = 1 if crop == "whole" else int(min(16, max(8, 8 * 288 * 384 // (crop[0] * crop[1]))))
        changes["batch_size"] = max(dist.world_size, crops)
    if recipe.lr is None:
        changes["lr"] = default_lr(recipe.model_copy(update=changes), statistics)
    if recipe.weight_decay is None:
        changes["weight_decay"] = 0.02 if recipe.optimizer == "adamw" else 5e-4
    if recipe.epochs is None and recipe.minutes is None and recipe.steps is None:
        changes["epochs"] = DEFAULT_EPOCHS
    if recipe.workers is None:
        changes["workers"] = default_workers(dist.local_world_size)
    return recipe.model_copy(update=changes)


def default_workers(local_world_size: int = 1) -> int:
    """Return the loader workers of each process: none on few cores, where a thread takes less from the step."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= local_world_size
    return 0 if cores <= 4 else min(8, cores // 2)


# --- the origin of a run -----------------------------------------------------------------------------------------------


def machine_info() -> dict[str, str]:
    """Return system, processor, Python version and GPU."""
    processor = platform.processor() or "unknown"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        processor = next(models, processor)
    info = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name(0)
    return info


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that change what a run computes."""
    versions = {"fullconv": __version__, "torch": torch.__version__}
    for name in ("torchvision", "timm", "numpy", "pillow"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def collect_env(data: Path, fingerprint: str) -> dict[str, Any]:
    """Return the table ``[origin]`` of recipe.toml: data, git revision of the working directory, versions, machine."""
    env: dict[str, Any] = {"data": data.as_posix(), "fingerprint": fingerprint}
    with suppress(OSError, subprocess.SubprocessError):
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        if git.returncode == 0 and git.stdout.strip():
            env["git"] = git.stdout.strip()
    return {**env, "versions": package_versions(), "machine": machine_info()}


def diff_env(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each fact that was different in another run."""
    changes = []
    for key, value in before.items():
        current = now.get(key)
        if isinstance(value, Mapping):
            inner = current if isinstance(current, Mapping) else {}
            changes += [f"{k} was {v}, is {inner.get(k, 'absent')}" for k, v in value.items() if inner.get(k) != v]
        elif key == "fingerprint" and current != value:
            changes.append(f"the data differ (fingerprint {str(value)[:12]}, here {str(current)[:12]})")
        elif key != "data" and current != value:
            changes.append(f"{key} was {value}, is {'absent' if current is None else current}")
    return changes


# --- the configuration of a run ---------------------------------------------------------------------------------------

RESUMABLE_KEYS = ("workers", "checkpoint_every", "device")
"""Settings that may change on resume: they do not change the result."""
_LENGTH_KEYS = ("epochs", "minutes", "steps")
"""Mutually exclusive."""
_OPTIONS = {
    "variant", "backbone", "weights", "epochs", "minutes", "batch_size", "crop", "scale", "lr", "seed", "augment",
    "skip_bad", "precision",
}  # fmt: skip
"""Settings with an option of their own."""
HEADING = """# A run of fullconv, as it was decided before its first step.
# fullconv train DATA -o NEW --recipe THIS repeats it; [measured] is used again then, [origin] is compared.
"""


@dataclass(frozen=True)
class Schedule:
    """Measured choices: the table ``[measured]`` of recipe.toml."""

    steps: int
    """Of the whole run."""
    steps_per_epoch: int
    precision: str
    threads: int
    """Of PyTorch: another number sums fp32 in another order."""
    seconds_per_step: float
    validate_every: int
    """Epochs between validations."""
    validation_pictures: int
    """Val images that a validation scores; all of them at the end."""
    processes: int = 1
    """Another number sums in another order."""

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; fewer than 50 steps at its end belong to the epoch before."""
        full, rest = divmod(self.steps, self.steps_per_epoch)
        return max(1, full + (rest >= min(MIN_STEPS, self.steps_per_epoch)))

    def epoch_ends(self, step: int) -> bool:
        """Return whether an epoch ends after that many steps."""
        return step == self.steps or (step % self.steps_per_epoch == 0 and step < self.epochs * self.steps_per_epoch)

    def epoch(self, step: int) -> int:
        """Return the epoch, from 1, of the last of that many steps."""
        return min(self.epochs, -(-step // self.steps_per_epoch))


@dataclass(frozen=True)
class RunConfig:
    """A recipe with everything that was decided: the content of recipe.toml."""

    recipe: Recipe
    measured: Schedule | None
    origin: dict[str, Any]
    """Versions, hardware, data fingerprint, git revision."""
    decided: dict[str, Any] = field(default_factory=dict)
    """The values of "auto" settings, for the reader: the same data give them again."""

    def tables(self) -> dict[str, Any]:
        """Return plain nested tables."""
        tables: dict[str, Any] = self.recipe.model_dump(mode="json")
        if self.measured is not None:
            tables["measured"] = asdict(self.measured)
        if self.decided:
            tables["decided"] = self.decided
        return {**tables, "origin": self.origin}

    def write(self, path: Path) -> None:
        """Write recipe.toml."""
        write_text(path, HEADING + dump_toml(self.tables()))


def read_config(path: Path) -> RunConfig:
    """Read a recipe file, with its measured choices."""
    return config_from_tables(read_toml(path), str(path))


def config_from_tables(tables: Mapping[str, Any], path: str) -> RunConfig:
    """Parse the tables of a recipe file."""
    table = dict(tables)
    measured, origin = table.pop("measured", None), table.pop("origin", {})
    for key in ("decided", "about", "needs", "stages"):
        table.pop(key, None)
    recipe = parse_recipe(table, path)
    try:
        return RunConfig(recipe, None if measured is None else Schedule(**measured), origin)
    except TypeError as error:
        raise RecipeError(f"{path}: [measured] is invalid ({error}). Remove that table.") from None


def merge_overrides(base: RunConfig | None, given: Mapping[str, Any]) -> tuple[Recipe, Schedule | None]:
    """Put settings over a recipe file; return the recipe, and measured choices if they still hold."""
    if base is None:
        return parse_recipe(given, "settings"), None
    stored = base.recipe.model_dump(mode="json")
    table = stored | dict.fromkeys(_LENGTH_KEYS) if any(key in given for key in _LENGTH_KEYS) else stored
    merged = {**flatten({k: v for k, v in table.items() if v is not None}), **flatten(given)}
    recipe = parse_recipe(merged, "settings")
    changed = {key for key, value in recipe.model_dump(mode="json").items() if value != stored.get(key)}
    return recipe, base.measured if changed <= {*RESUMABLE_KEYS, "seed"} else None


def resume_config(stored: RunConfig, given: Mapping[str, Any], where: Path, lengthen: bool = False) -> RunConfig:
    """Return the configuration of a resumed run with the settings that may change."""
    table = flatten(stored.recipe.model_dump(mode="json"))
    requested = flatten(parse_recipe(given, "settings").model_dump(mode="json"))
    given = flatten(given)
    epochs = requested["epochs"] if "epochs" in given else None
    longer = stored.recipe.epochs is not None and epochs is not None and epochs > stored.recipe.epochs
    for key in given:
        allowed = key in RESUMABLE_KEYS or (key == "epochs" and longer and lengthen)
        if requested[key] != table.get(key) and not allowed:
            option = "--" + key.replace("_", "-") if key in _OPTIONS else f"--set {key}"
            raise RunError(
                f"{where}: this run has {key} = {_format(table.get(key))}, not {_format(requested[key])}. Omit {option}"
                f" to resume it, {'add --lengthen to extend it, ' if key == 'epochs' and longer else ''}or start another"
                " run in a new folder."
            )
    changes = {key: requested[key] for key in given if key in (*RESUMABLE_KEYS, "epochs")}
    measured = stored.measured
    if measured is not None and epochs is not None and longer:
        measured = replace(measured, steps=epochs * measured.steps_per_epoch)
    return RunConfig(stored.recipe.model_copy(update=changes), measured, stored.origin)


def check_same_config(stored: RunConfig, file: RunConfig, given: Mapping[str, Any], where: Path, name: str) -> None:
    """Raise if a recipe file given on resume contradicts the run.

    What the file leaves open ("auto", or not set) was decided since; `resume_config` checks the settings of the command line.
    """
    ignored = {*flatten(given), *RESUMABLE_KEYS, *(_LENGTH_KEYS if any(key in given for key in _LENGTH_KEYS) else ())}
    table = flatten(stored.recipe.model_dump(mode="json"))
    for key, value in flatten(file.recipe.model_dump(mode="json", exclude_unset=True)).items():
        if key not in ignored and value not in (None, "auto") and value != table.get(key):
            raise RunError(
                f"{where}: this run has {key} = {_format(table.get(key))}, but {name} has {_format(value)}. Omit --recipe"
                " to resume it, or start another run in a new folder."
            )


def _format(value: Any) -> str:
    """Write a value as the user types it: a crop as 288x384."""
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
