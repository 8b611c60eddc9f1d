"""A run from data to model: settings, checked data, network, loop, end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fullconv.data import Dataset, open_dataset
from fullconv.data.checks.run import require_usable
from fullconv.errors import DataError, RecipeError, RunError
from fullconv.losses import parse_loss
from fullconv.nn import check_build_args
from fullconv.recipe import HeadSettings, Recipe
from fullconv.segmenter import Segmenter, choose_device, load
from fullconv.tracking import require_trackers
from fullconv.training.config import (
    RecipeFile,
    RunConfig,
    check_conflicts,
    check_same_config,
    check_start,
    config_from_tables,
    merge_overrides,
    read_config,
    read_recipe,
    resume_config,
)
from fullconv.training.console import Console, NullConsole
from fullconv.training.distributed import Distributed, init_distributed, is_elastic_restart, rank_device
from fullconv.training.environment import collect_env, diff_env
from fullconv.training.errors import suggest_settings
from fullconv.training.run_dir import RunDir
from fullconv.training.session import Run, TrainResult
from fullconv.training.stages import run_stages, stages_file


def train(
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    lengthen: bool = False,
    recipe: str | Path | None = None,
    **settings: Any,
) -> Segmenter:
    """Train a network on a data set.

    Args:
        data: Folder or `.zip` of pictures and masks.
        out: Run folder; new, or one that goes on with ``resume=True``.
        resume: Go on where the run stopped; begin where there is nothing yet.
        lengthen: With ``resume=True``: let `epochs` be more than the run has, and train it on.
        recipe: A recipe file, or the name of one that comes with the package ("voc-fcn8s-staged"), whose settings hold
            where no keyword says otherwise.
        settings: The recipe's names, for example ``variant="fcn8s", epochs=50``.

    Returns:
        The trained segmenter; `out` holds model, recipe, log, report and checkpoints.

    Raises:
        DataError: The data cannot be used; everything that is wrong is named at once.
        RecipeError: A setting is unknown or cannot be.
        RunError: The folder is in use or not empty, or the loss is not a number any more.
    """
    plain = {key: value.model_dump() if isinstance(value, HeadSettings) else value for key, value in settings.items()}
    if plain.get("weights", "") is None:  # as `build` calls it
        plain["weights"] = "none"
    for name, path in (("data", data), ("out", out)):
        if not isinstance(path, (str, os.PathLike)):
            raise (DataError if name == "data" else RunError)(f"{name} is the path of a folder, not {path!r}.")
    return run(Path(data), Path(out), plain, resume=resume, lengthen=lengthen, recipe=recipe).segmenter


def run(
    data: Path,
    out: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    lengthen: bool = False,
    recipe: Path | str | None = None,
    format: str | None = None,  # noqa: A002  (the name of the option)
    console: Console | None = None,
    started: float | None = None,
) -> TrainResult:
    """Train as `train` does, and say how it ended.

    Args:
        data: The data set.
        out: The run folder.
        settings: Those that the user gave, by the recipe's names.
        resume: Go on.
        lengthen: With `resume`: let the epochs be more than the run has.
        recipe: A recipe file, or the name of one that comes with the package.
        format: Layout of the data where several fit.
        console: Where to say what happens.
        started: `time.monotonic` when the program started; minutes count from there.
    """
    started = time.monotonic() if started is None else started
    if lengthen and not resume:
        raise RecipeError("--lengthen is for a run that goes on: add --resume.")
    named = read_recipe(recipe) if recipe is not None else None
    with init_distributed(str(settings.get("device", "auto"))) as processes:
        console = NullConsole() if not processes.first else console or Console()
        resume = resume or is_elastic_restart()
        if (named is not None and named.stages) or processes.told(lambda: resume and stages_file(out).exists()):
            return run_stages(
                _one, named, data, out, settings, processes, resume=resume, console=console, started=started,
                format=format, lengthen=lengthen,
            )  # fmt: skip
        return _one(
            data, out, settings, processes, resume=resume, lengthen=lengthen, recipe=recipe, format=format,
            console=console, started=started,
        )  # fmt: skip


def _one(
    data: Path,
    out: Path,
    settings: Mapping[str, Any],
    processes: Distributed,
    *,
    resume: bool,
    lengthen: bool,
    recipe: Path | str | None,
    format: str | None,  # noqa: A002
    console: Console,
    started: float,
    staged: bool = False,
) -> TrainResult:
    """Make one run, or one stage of several; `staged` is the last of them, which has the others in its folder."""
    named = read_recipe(recipe) if recipe is not None else None
    decided = processes.told(lambda: _decide(out, settings, resume, lengthen, recipe, named, staged))
    plan = config_from_tables(decided["plan"], str(out))
    if decided["finished"]:
        model = RunDir(out).model
        console.say(f"{out}: this run is finished; its model is {model}.")
        return TrainResult("done", load(model, device=rank_device(plan.recipe.device, processes)))
    return _begin(data, RunDir(out, staged), plan, decided, format, console, started, processes)


def _decide(
    out: Path,
    settings: Mapping[str, Any],
    resume: bool,
    lengthen: bool,
    recipe: Path | str | None,
    named: RecipeFile | None,
    staged: bool,
) -> dict[str, Any]:
    """Return what the run folder, a recipe file and the settings given come to, before any data are read."""
    folder = RunDir(out, staged)
    base = read_config(named.path) if named is not None else None
    wanted, measured, _ = merge_overrides(base, settings)
    check_conflicts(wanted)
    stored = read_config(folder.recipe) if resume and folder.recipe.exists() else None
    if named is not None and stored is None:
        check_start(named, settings)
    plan = resume_config(stored, settings, out, lengthen) if stored is not None else RunConfig(wanted, measured, {})
    if stored is not None and base is not None:
        check_same_config(stored, base, settings, out, str(recipe))
    folder.refuse_filled(resume)
    if stored is not None:
        _refuse_failed(folder, plan.recipe)
    finished = stored is not None and _finished(folder, plan)
    if not finished:
        _require_startable(plan.recipe)
    return {
        "plan": plan.tables(), "resume": resume, "going_on": stored is not None, "finished": finished,
        "recipe": str(recipe), "origin": None if base is None else base.origin,
    }  # fmt: skip


def _require_startable(recipe: Recipe) -> None:
    """Raise for what a run would stop at later: a slip is told before hours of looking at data."""
    check_build_args(recipe.variant, recipe.backbone, recipe.weights)
    if recipe.loss != "auto":
        parse_loss(recipe.loss)
    require_trackers(recipe.track)
    choose_device(recipe.device)


def _begin(
    data: Path,
    folder: RunDir,
    plan: RunConfig,
    decided: Mapping[str, Any],
    format: str | None,  # noqa: A002
    console: Console,
    started: float,
    processes: Distributed,
) -> TrainResult:
    """Open the data, build everything, and go."""
    dataset, notes = processes.one_by_one(lambda: _open(data, plan.recipe, format, console))
    statistics = processes.one_by_one(lambda: dataset.statistics("train"))
    fingerprint = dataset.fingerprint()
    _require_same_data(processes, data, fingerprint)
    origin = collect_env(data, fingerprint)
    if decided["origin"] is not None:
        for sentence in diff_env(decided["origin"], origin):
            console.say(f"Differs from {decided['recipe']}: {sentence}.")
    if decided["going_on"] and plan.origin.get("fingerprint") != fingerprint:
        raise processes.spoken(
            RunError(
                f"{folder.path}: the data in {data} are not those that this run began with. Put them back, or begin a new run."
            )
        )
    session = Run(plan, decided["going_on"], origin, dataset, statistics, folder, console, notes, started, processes)
    processes.one_by_one(session.build)
    with _held(folder, processes, decided["resume"]):
        return session.go()


@contextmanager
def _held(folder: RunDir, processes: Distributed, resume: bool) -> Iterator[None]:
    """Let the first process have the run folder for itself, while all go."""
    with ExitStack() as stack:

        def take() -> None:
            folder.prepare(resume)
            stack.callback(folder.forget)
            stack.enter_context(folder.locked())

        processes.told(take)
        yield


def _require_same_data(processes: Distributed, data: Path, fingerprint: str) -> None:
    """Raise where another process, on another machine, sees other data."""
    prints = processes.gathered(fingerprint)
    others = [rank for rank, found in enumerate(prints) if found != prints[0]]
    if others:
        words = f"{data}: process {others[0]} sees other data there than process 0. Copy the same to every machine."
        raise processes.spoken(DataError(words))


def _refuse_failed(folder: RunDir, recipe: Recipe) -> None:
    """Refuse to go on into a loss that is not a number."""
    status = folder.read_status()
    if status.get("status") == "failed":
        raise RunError(
            f"{folder.path}: this run ended because {status.get('reason', 'its loss was no number')} Going on would come"
            f" to the same: start again, in a new folder, with {suggest_settings(recipe)}."
        )


def _finished(folder: RunDir, plan: RunConfig) -> bool:
    status = folder.read_status()
    done = status.get("status") == "finished" and folder.model.exists()
    return done and plan.measured is not None and int(status.get("steps", 0)) >= plan.measured.steps


def _open(data: Path, recipe: Recipe, format: str | None, console: Console) -> tuple[Dataset, list[str]]:  # noqa: A002
    """Open and look at everything before the first step."""
    fold = recipe.fold if recipe.folds is None else recipe.fold or 0
    dataset = open_dataset(data, format=format, skip_bad=recipe.skip_bad, folds=recipe.folds, fold=fold)
    try:
        dataset, problems = require_usable(dataset, console.looking)
    finally:
        console.stop()
    for found in problems:
        console.say(str(found))
    notes = [str(found) for found in problems]
    counts = ", ".join(f"{len(members)} {split}" for split, members in dataset.splits.items() if members)
    console.say(f"{data}: {dataset.format}, {len(dataset.classes)} classes, {counts} pictures.")
    return dataset, notes
