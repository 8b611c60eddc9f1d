"""A run of several stages, each from the model of the one before: 32s, 16s, 8s."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullconv.errors import OutputError, RecipeError, RunError
from fullconv.recipe import dump_toml, read_toml
from fullconv.storage import write_text
from fullconv.training.config import RESUMABLE_KEYS, RecipeFile, merge_overrides, read_config, read_recipe
from fullconv.training.finalize import TrainResult
from fullconv.training.run_dir import RunDir
from fullconv.training.setup import RunRequest

STAGE_KEYS = ("variant", "lr")
"""Settings that each stage has for itself."""


def stages_file(out: Path) -> Path:
    """Return the file in which a run folder keeps its stages."""
    return RunDir(out).stages / "stages.toml"


def run_stages(
    run_once: Callable[[RunRequest], TrainResult], recipe: RecipeFile | None, request: RunRequest
) -> TrainResult:
    """Run the stages of a recipe in turn; the last is the run itself, those before it are in RUN/stages."""
    out, dist = request.out, request.dist
    names, settings, resuming = dist.broadcast(lambda: load_stages(recipe, request))
    model: Path | None = None
    for number, name in enumerate(names, 1):
        last = number == len(names)
        place = out if last else RunDir(out).stages / f"{number}-{Path(name).stem}"
        started = dist.broadcast((place / "recipe.toml").exists)
        if started:
            own = {key: value for key, value in settings.items() if key in RESUMABLE_KEYS}
        else:
            own = dict(settings) if model is None else {**settings, "weights": model.as_posix()}
        if "minutes" in own:  # shared by all stages; after a stop it is unknown how many are left
            own["minutes"] *= (1 if resuming else number) / len(names)
        request.console.info(f"Stage {number} of {len(names)}: {name}.")
        stage = replace(
            request, out=place, settings=own, resume=True, recipe=None if started else name, staged=last,
            started=time.monotonic() if resuming else request.started,
        )  # fmt: skip
        try:
            result = run_once(stage)
        except BaseException:
            if number == 1 and dist.is_main and not (place / "recipe.toml").exists():  # it never started
                with suppress(OSError):
                    stages_file(out).unlink()
                    stages_file(out).parent.rmdir()
                    out.rmdir()
            raise
        if result.status != "done" or last:
            return result
        model = place / "model.safetensors"
    raise AssertionError("a staged recipe has stages")


def load_stages(recipe: RecipeFile | None, request: RunRequest) -> tuple[list[str], Mapping[str, Any], bool]:
    """Return the stages, the settings for all of them, and whether they resume; write them down where they start."""
    out, settings = request.out, request.settings
    RunDir(out, staged=True).check_empty(request.resume)
    path = stages_file(out)
    if request.resume and path.exists():
        table = read_toml(path)
        stored: dict[str, Any] = table.get("settings", {})
        if recipe is not None and list(recipe.stages) != table["stages"]:
            raise RunError(
                f"{out}: this run has the recipe {table['recipe']}, not {recipe.path.stem}. Omit --recipe to resume it, or"
                " start another run in a new folder."
            )
        for key, value in settings.items():
            if key not in RESUMABLE_KEYS and stored.get(key) != value:
                raise RunError(
                    f"{out}: this run has {key} = {stored.get(key, 'that of each stage')}, not {value}. Omit it to resume,"
                    " or start another run in a new folder."
                )
        changed = {key: settings[key] for key in settings if key in RESUMABLE_KEYS}
        return list(table["stages"]), {**stored, **changed}, True
    assert recipe is not None
    for key in STAGE_KEYS:
        if key in settings:
            raise RecipeError(
                f"{key} = {settings[key]} cannot hold for every stage of {recipe.path.stem}; they are"
                f" {', '.join(recipe.stages)}. Omit it, or train the stages one by one."
            )
    for stage in recipe.stages:
        file = read_recipe(stage)
        if file.stages:
            raise RecipeError(f"{recipe.path}: its stage {stage} has stages of its own. List these instead.")
        merge_overrides(read_config(file.path), settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be created ({error.strerror or error}). Choose another -o.") from error
    table = {"recipe": recipe.path.stem, "stages": list(recipe.stages), "settings": dict(settings)}
    write_text(path, "# The stages of this run; the last one lies in the folder above.\n" + dump_toml(table))
    return list(recipe.stages), settings, False
