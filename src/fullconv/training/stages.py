"""A run of several stages, each from the model of the one before: 32s, 16s, 8s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from fullconv.errors import OutputError, RecipeError, RunError
from fullconv.recipe import dump_toml, read_toml
from fullconv.storage import write_text
from fullconv.training.config import RESUMABLE_KEYS, RecipeFile, merge_overrides, read_config, read_recipe
from fullconv.training.console import Console
from fullconv.training.distributed import Distributed
from fullconv.training.run_dir import RunDir
from fullconv.training.session import TrainResult

OF_A_STAGE = ("variant", "lr")
"""Settings that each stage has its own of."""


def stages_file(out: Path) -> Path:
    """Return the file in which a run folder keeps what its stages are."""
    return RunDir(out).stages / "stages.toml"


def run_stages(
    run: Callable[..., TrainResult],
    recipe: RecipeFile | None,
    data: Path,
    out: Path,
    settings: Mapping[str, Any],
    processes: Distributed,
    *,
    resume: bool,
    console: Console,
    started: float,
    **options: Any,
) -> TrainResult:
    """Run the stages of a recipe in turn; the last is the run itself, those before it lie in RUN/stages.

    Args:
        run: Makes one run, which is done in all processes or in none.
        recipe: With stages; None takes those that the run folder has begun.
        data: The data set.
        out: The run folder.
        settings: Those that the user gave; they hold for every stage, `weights` for the first and `minutes` for all
            together.
        processes: That train together. The first writes; what it wrote the others read, so that on several machines the
            run folder has to be one that all of them see.
        resume: Go on where the run stopped, at whichever stage.
        console: Where to say what happens.
        started: When the program started.
        options: Further ones of `run`.

    Raises:
        RecipeError: A setting is each stage's own.
        RunError: The folder is not empty, or the run that goes on was another one.
    """
    names, settings, going_on = processes.told(lambda: _stages(recipe, out, settings, resume))
    model: Path | None = None
    for number, name in enumerate(names, 1):
        last = number == len(names)
        place = out if last else RunDir(out).stages / f"{number}-{Path(name).stem}"
        begun = processes.told((place / "recipe.toml").exists)  # once the stage before is all written
        own = _of_stage(settings, model, begun)
        if "minutes" in own:  # all stages share them; after a stop nobody knows how many are left
            own["minutes"] *= (1 if going_on else number) / len(names)
        console.say(f"Stage {number} of {len(names)}: {name}.")
        with cleanup_on_failure(out, place) if number == 1 and processes.first else nullcontext():
            outcome = run(
                data, place, own, processes, resume=True, recipe=None if begun else name, console=console, staged=last,
                started=time.monotonic() if going_on else started, **options,
            )  # fmt: skip
        if outcome.status != "done" or last:
            return outcome
        model = place / "model.safetensors"
    raise AssertionError("a staged recipe has stages")


def _stages(
    recipe: RecipeFile | None, out: Path, settings: Mapping[str, Any], resume: bool
) -> tuple[list[str], Mapping[str, Any], bool]:
    """Return the stages, the settings for all of them, and whether they go on; those that begin are written down."""
    RunDir(out, staged=True).refuse_filled(resume)
    if resume and stages_file(out).exists():
        return (*_recorded(out, recipe, settings), True)
    assert recipe is not None
    _check(recipe, settings)
    _record(out, recipe, settings)
    return list(recipe.stages), settings, False


def _of_stage(settings: Mapping[str, Any], model: Path | None, begun: bool) -> dict[str, Any]:
    """Return the settings of a stage that begins from a model; one that goes on has its own already."""
    if begun:
        return {key: value for key, value in settings.items() if key in RESUMABLE_KEYS}
    return dict(settings) if model is None else {**settings, "weights": model.as_posix()}


def _check(recipe: RecipeFile, settings: Mapping[str, Any]) -> None:
    """Name what is wrong with any stage before the first one begins."""
    for key in OF_A_STAGE:
        if key in settings:
            raise RecipeError(
                f"{key} = {settings[key]} cannot hold for every stage of {recipe.path.stem}; they are"
                f" {', '.join(recipe.stages)}. Leave it away, or train the stages one by one."
            )
    for stage in recipe.stages:
        found = read_recipe(stage)
        if found.stages:
            raise RecipeError(f"{recipe.path}: its stage {stage} has stages of its own. Name these instead.")
        merge_overrides(read_config(found.path), settings)


def _record(out: Path, recipe: RecipeFile, settings: Mapping[str, Any]) -> None:
    """Write down what the stages are, so that the run can go on.

    Raises:
        OutputError: The folder cannot be made.
    """
    path = stages_file(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error.strerror or error}). Give another -o.") from error
    table = {"recipe": recipe.path.stem, "stages": list(recipe.stages), "settings": dict(settings)}
    write_text(path, "# The stages of this run; the last one lies in the folder above.\n" + dump_toml(table))


def _recorded(out: Path, recipe: RecipeFile | None, given: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the stages and settings that a run began with, with what may change."""
    table = read_toml(stages_file(out))
    stored: dict[str, Any] = table.get("settings", {})
    if recipe is not None and list(recipe.stages) != table["stages"]:
        raise RunError(
            f"{out}: this run has the recipe {table['recipe']}, not {recipe.path.stem}. Leave --recipe away to go on with"
            " it, or start another run in a new folder."
        )
    for key, value in given.items():
        if key not in RESUMABLE_KEYS and stored.get(key) != value:
            raise RunError(
                f"{out}: this run has {key} = {stored.get(key, 'that of each stage')}, not {value}. Leave it away to go"
                " on with it, or start another run in a new folder."
            )
    return list(table["stages"]), {**stored, **{key: given[key] for key in given if key in RESUMABLE_KEYS}}


@contextmanager
def cleanup_on_failure(out: Path, first: Path) -> Iterator[None]:
    """Take away what was written down, where the first stage ends without having begun."""
    try:
        yield
    except BaseException:
        if not (first / "recipe.toml").exists():
            with suppress(OSError):
                stages_file(out).unlink()
                stages_file(out).parent.rmdir()
                out.rmdir()
        raise
