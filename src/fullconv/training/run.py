"""A run from data to model: settings, checked data, network, loop, end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullconv.data import Dataset, open_dataset
from fullconv.data.doctor import require_usable
from fullconv.errors import RunError
from fullconv.recipe import HeadSettings, Recipe
from fullconv.segmenter import Segmenter, load
from fullconv.training.console import Console
from fullconv.training.folder import RunFolder
from fullconv.training.origin import describe_origin, differences
from fullconv.training.plan import Plan, check_names, combine, continued, read_plan
from fullconv.training.session import Outcome, Session


def train(
    data: str | Path, out: str | Path, *, resume: bool = False, recipe: str | Path | None = None, **settings: Any
) -> Segmenter:
    """Train a network on a data set.

    Args:
        data: Folder or `.zip` of pictures and masks.
        out: Run folder; new, or one that goes on with ``resume=True``.
        resume: Go on where the run stopped; begin where there is nothing yet.
        recipe: A recipe file whose settings hold where no keyword says otherwise.
        settings: The recipe's names, for example ``variant="fcn8s", epochs=50``.

    Returns:
        The trained segmenter; `out` holds model, recipe, log, report and checkpoints.

    Raises:
        DataError: The data cannot be used; everything that is wrong is named at once.
        RecipeError: A setting is unknown or cannot be.
        RunError: The folder is in use or not empty, or the loss is not a number any more.
    """
    plain = {key: value.model_dump() if isinstance(value, HeadSettings) else value for key, value in settings.items()}
    return run(Path(data), Path(out), plain, resume=resume, recipe=recipe).segmenter


def run(
    data: Path,
    out: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    recipe: Path | str | None = None,
    format: str | None = None,  # noqa: A002  (the name of the option)
    console: Console | None = None,
    started: float | None = None,
) -> Outcome:
    """Train as `train` does, and say how it ended.

    Args:
        data: The data set.
        out: The run folder.
        settings: Those that the user gave, by the recipe's names.
        resume: Go on.
        recipe: A recipe file.
        format: Layout of the data where several fit.
        console: Where to say what happens.
        started: `time.monotonic` when the program started; minutes count from there.
    """
    started = time.monotonic() if started is None else started
    console = console or Console()
    folder = RunFolder(out)
    base = read_plan(Path(recipe)) if recipe is not None else None
    wanted, measured, _ = combine(base, settings)
    check_names(wanted)
    stored = read_plan(folder.recipe) if resume and folder.recipe.exists() else None
    plan = continued(stored, settings, out) if stored is not None else Plan(wanted, measured, {})
    folder.refuse_filled(resume)
    if stored is not None and _finished(folder, plan):
        console.say(f"{out}: this run is finished; its model is {folder.model}.")
        return Outcome("done", load(folder.model, device=plan.recipe.device))
    dataset, notes = _open(data, plan.recipe, format, console)
    statistics = dataset.statistics("train")
    fingerprint = dataset.fingerprint()
    origin = describe_origin(data, fingerprint)
    if base is not None:
        for sentence in differences(base.origin, origin):
            console.say(f"Differs from {recipe}: {sentence}.")
    if stored is not None and stored.origin.get("fingerprint") != fingerprint:
        raise RunError(
            f"{out}: the data in {data} are not those that this run began with. Put them back, or begin a new run."
        )
    session = Session(plan, stored is not None, origin, dataset, statistics, folder, console, notes, started)
    session.build()
    folder.prepare(resume)
    try:
        with folder.locked():
            return session.go()
    finally:
        folder.forget()


def _finished(folder: RunFolder, plan: Plan) -> bool:
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
