"""A run from data to model: configuration, checked data, network, loop, end."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullconv.checkpoint import read_checkpoint
from fullconv.data import Dataset, Statistics, TrainingBatches, leak, open_dataset, require_usable
from fullconv.errors import DataError, RecipeError, RunError, plural
from fullconv.losses import parse_loss, ratio
from fullconv.nn import Network, check_build_args
from fullconv.recipe import HeadSettings
from fullconv.runs import read_status
from fullconv.segmenter import Segmenter, choose_device, load
from fullconv.system import malloc_trim
from fullconv.tracking import Observer, TrackingObserver, open_trackers, require_trackers
from fullconv.training.autotune import autotune
from fullconv.training.config import (
    RunConfig,
    Schedule,
    check_conflicts,
    check_lr,
    check_same_config,
    collect_env,
    config_from_tables,
    diff_env,
    merge_overrides,
    read_config,
    read_recipe,
    resolve_defaults,
    resume_config,
)
from fullconv.training.console import Console
from fullconv.training.distributed import SINGLE_PROCESS, convert_sync_batchnorm, init_distributed, rank_device
from fullconv.training.errors import NonFiniteError, TrainOOMError, catch_oom, suggest_settings, suggest_smaller_batch
from fullconv.training.finalize import TrainResult, finalize, write_model
from fullconv.training.loop import TrainLoop, evenly_spaced, graceful_stop
from fullconv.training.run_dir import RunDir
from fullconv.training.setup import (
    RunContext,
    RunRequest,
    build_card,
    build_criteria,
    build_model,
    build_train_loader,
    describe_run,
    start_card,
)
from fullconv.training.stages import run_stages, stages_file
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import TrainStep

TRACKED_IMAGES = 4
"""Val images that trackers show."""


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
        data: Folder or `.zip` of images and masks.
        out: Run folder; empty, or one to resume.
        resume: Resume the run in `out`, or start where there is none.
        lengthen: With ``resume=True``, let `epochs` be more than the run has.
        recipe: A recipe file, or the name of one that comes with the package ("voc-fcn8s-staged"); keywords override its
            settings.
        settings: The recipe's names, for example ``variant="fcn8s", epochs=50``.

    Returns:
        The trained segmenter; `out` holds model, recipe, log, report and checkpoints.

    Raises:
        DataError: The data cannot be used; the message lists every problem.
        RecipeError: A setting is unknown or invalid.
        RunError: The folder is in use or not empty, or the loss is not finite.
    """
    plain = {key: value.model_dump() if isinstance(value, HeadSettings) else value for key, value in settings.items()}
    if plain.get("weights", "") is None:  # as in `build`
        plain["weights"] = "none"
    for name, path in (("data", data), ("out", out)):
        if not isinstance(path, (str, os.PathLike)):
            raise (DataError if name == "data" else RunError)(f"{name} is the path of a folder, not {path!r}.")
    return run(RunRequest(Path(data), Path(out), plain, resume, lengthen, recipe)).segmenter


def run(request: RunRequest) -> TrainResult:
    """Train as `train` does, in each process that torchrun started, and return how the run ended."""
    if request.lengthen and not request.resume:
        raise RecipeError("--lengthen extends a run: add --resume.")
    recipe_file = read_recipe(request.recipe) if request.recipe is not None else None
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # by torchrun, after a process had died
    with init_distributed(str(request.settings.get("device", "auto"))) as dist:
        console = request.console if dist.is_main else Console(quiet=True)
        request = replace(request, resume=request.resume or restarted, console=console, dist=dist)
        staged = recipe_file is not None and recipe_file.stages
        if staged or dist.broadcast(lambda: request.resume and stages_file(request.out).exists()):
            return run_stages(run_once, recipe_file, request)
        return run_once(request)


def run_once(request: RunRequest) -> TrainResult:
    """Make one run, or one stage of several."""
    dist, console = request.dist, request.console
    decision = dist.broadcast(lambda: load_config(request))
    config = config_from_tables(decision["plan"], str(request.out))
    run_dir = RunDir(request.out, request.staged)
    if decision["finished"]:
        console.info(f"{request.out}: this run is finished; its model is {run_dir.model}.")
        return TrainResult("done", load(run_dir.model, device=rank_device(config.recipe.device, dist)))
    dataset, notes = dist.local_main_first(lambda: _open_checked(request, config))
    statistics = dist.local_main_first(lambda: dataset.statistics("train"))
    fingerprint = dataset.fingerprint()
    fingerprints = dist.all_gather_object(fingerprint)
    if different := [rank for rank, other in enumerate(fingerprints) if other != fingerprints[0]]:
        raise dist.main_raises(
            DataError(f"{request.data}: differs in process {different[0]}. Copy the same data to every machine.")
        )
    env = collect_env(request.data, fingerprint)
    if decision["origin"] is not None:
        for sentence in diff_env(decision["origin"], env):
            console.info(f"Differs from {request.recipe}: {sentence}.")
    if decision["resuming"] and config.origin.get("fingerprint") != fingerprint:
        raise dist.main_raises(
            RunError(
                f"{request.out}: the data in {request.data} are not those that this run was started with. Restore them, or"
                " start a new run."
            )
        )
    config = config if decision["resuming"] else replace(config, origin=env)
    own = dist.local_main_first(lambda: build_run(request, config, decision["resuming"], dataset, statistics, notes))
    with ExitStack() as stack:

        def lock() -> None:
            run_dir.prepare(request.resume)
            stack.callback(run_dir.remove_if_unused)
            stack.enter_context(run_dir.locked())

        dist.broadcast(lock)  # the main process locks the run folder for all
        return own.execute()


def load_config(request: RunRequest) -> dict[str, Any]:
    """Return what the run folder, the recipe file and the settings come to, before any data are read."""
    run_dir, settings = RunDir(request.out, request.staged), request.settings
    recipe_file = read_recipe(request.recipe) if request.recipe is not None else None
    base = read_config(recipe_file.path) if recipe_file is not None else None
    recipe, measured = merge_overrides(base, settings)
    check_conflicts(recipe)
    stored = read_config(run_dir.recipe) if request.resume and run_dir.recipe.exists() else None
    if recipe_file is not None and stored is None and recipe_file.needs is not None and "weights" not in settings:
        raise RecipeError(
            f"the recipe {recipe_file.path.stem} starts from a model of {recipe_file.needs}: add --weights"
            " RUN/model.safetensors of such a run, or use a recipe whose name ends in -staged, which trains them in turn."
        )
    config = RunConfig(recipe, measured, {})
    if stored is not None:
        config = resume_config(stored, settings, request.out, request.lengthen)
        if base is not None:
            check_same_config(stored, base, settings, request.out, str(request.recipe))
    run_dir.check_empty(request.resume)
    finished = False
    if stored is not None:
        status = read_status(run_dir.status)
        if status.get("status") == "failed":
            raise RunError(
                f"{request.out}: this run failed: {status.get('reason', 'its loss was not finite.')} Resuming would fail"
                f" again: start a new run with {suggest_settings(config.recipe)}."
            )
        if status.get("status") == "finished" and run_dir.model.exists() and config.measured is not None:
            finished = int(status.get("steps", 0)) >= config.measured.steps
    if not finished:  # preflight: a typo is reported before the data are scanned
        recipe = config.recipe
        check_build_args(recipe.variant, recipe.backbone, recipe.weights)
        if recipe.loss != "auto":
            parse_loss(recipe.loss)
        require_trackers(recipe.track)
        choose_device(recipe.device)
    return {
        "plan": config.tables(), "resuming": stored is not None, "finished": finished,
        "origin": None if base is None else base.origin,
    }  # fmt: skip


def _open_checked(request: RunRequest, config: RunConfig) -> tuple[Dataset, list[str]]:
    """Open the data and scan all of them; return notes for the report as well."""
    recipe, console = config.recipe, request.console
    fold = recipe.fold if recipe.folds is None else recipe.fold or 0
    dataset = open_dataset(request.data, format=request.format, skip_bad=recipe.skip_bad, folds=recipe.folds, fold=fold)
    try:
        dataset, problems = require_usable(dataset, console.scan_progress)
    finally:
        console.stop()
    notes = [str(problem) for problem in problems]
    for note in notes:
        console.info(note)
    splits = ", ".join(plural(len(members), f"{name} image") for name, members in dataset.splits.items() if members)
    classes = plural(len(dataset.classes), "class", "classes")
    console.info(f"{request.data}: {dataset.format}, {classes}, {splits}.")
    return dataset, notes


def build_run(
    request: RunRequest, config: RunConfig, resuming: bool, dataset: Dataset, statistics: Statistics, notes: list[str]
) -> Run:
    """Build everything that a run needs; the run folder is not touched."""
    console, dist = request.console, request.dist
    recipe = resolve_defaults(config.recipe, dataset, statistics, dist)
    check_lr(recipe, statistics)
    device = choose_device(rank_device(recipe.device, dist))
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
        torch.backends.cudnn.benchmark = False
    if config.measured is not None:
        torch.set_num_threads(config.measured.threads)
    torch.manual_seed(recipe.seed)
    network, sentences = build_model(recipe, dataset, statistics.channels, device, console)
    notes += sentences
    start = start_card(recipe)
    card = build_card(recipe, network, dataset, statistics, config.origin["fingerprint"], start)
    found = (
        [leak(start, dataset, split, dataset.splits.get(split, []), str(recipe.weights)) for split in ("val", "test")]
        if start
        else []
    )
    for notice in found:
        if notice is not None:
            notes.append(f"Warning: {notice.message}")
            console.info(notes[-1])
    criteria, class_notes = build_criteria(recipe, dataset)
    loader = build_train_loader(recipe, dataset, statistics, dist)
    if recipe.sync_batchnorm:
        convert_sync_batchnorm(network, dist)
    for sentence in (*class_notes, loader.explain):
        console.info(sentence)
        notes.append(sentence)
    run_dir = RunDir(request.out, request.staged)
    context = RunContext(recipe, card, dataset, statistics, run_dir, console, device, dist, notes)
    train_step = TrainStep(recipe, card, criteria, device, "fp32", dist)
    return Run(context, replace(config, recipe=recipe), resuming, network, train_step, loader, request.started)


@dataclass
class Run:
    """One process's part of a run."""

    context: RunContext
    config: RunConfig
    resuming: bool
    network: Network
    train_step: TrainStep
    loader: TrainingBatches
    started: float

    def execute(self) -> TrainResult:
        """Measure or resume, train, and write the results."""
        context = self.context
        recipe, console, dist = context.recipe, context.console, context.dist
        try:
            schedule = self.config.measured or autotune(
                context, self.network, self.train_step, self.loader, self.started
            )
            schedule = self.apply_schedule(schedule)
            with graceful_stop() as stop_requested, ExitStack() as stack:
                if dist.is_main:
                    self.config.write(context.run_dir.recipe)
                if dist.world_size > 1:
                    self.network.load_state_dict(dist.broadcast_tensors(self.network.state_dict()))
                state = new_state(self.network, recipe)
                if self.resuming:
                    self.load_checkpoint(state, schedule)
                for sentence in describe_run(self.network, recipe, schedule, context.device):
                    console.info(sentence)
                observers: list[Observer] = []
                names = recipe.track if dist.is_main else ()
                if trackers := open_trackers(names, context.run_dir.path, recipe.model_dump(), state.step):
                    samples = evenly_spaced(context.val, TRACKED_IMAGES)
                    observers.append(TrackingObserver(trackers, context.dataset, samples))
                    for tracker in trackers:
                        stack.callback(tracker.close)
                stack.callback(console.stop)
                console.start(state.step, schedule.steps, (recipe.batch_size or 1) * recipe.accumulate)
                observers.append(console)
                loop = TrainLoop(context, state, self.train_step, self.loader, schedule, stop_requested, observers)
                try:
                    status = loop.run()
                except NonFiniteError:
                    if dist.is_main and state.best_step is not None:
                        write_model(replace(context, dist=SINGLE_PROCESS), state)
                        console.info(f"The model of the best step, {state.best_step}, is {context.run_dir.model}.")
                    raise
            return self.finish(status, state, schedule.steps)
        except TrainOOMError as error:
            raise suggest_smaller_batch(recipe, error, self.try_batch, dist.world_size) from None

    def try_batch(self, crops: int, size: tuple[int, int]) -> bool:
        """Return whether that many crops go through the network and back."""
        step = replace(self.train_step, dist=SINGLE_PROCESS)  # the other processes do not try
        self.network.eval().zero_grad(set_to_none=True)
        malloc_trim()
        if step.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            with catch_oom():
                images = torch.zeros(crops, *size, self.context.statistics.channels, dtype=torch.uint8)
                mask = torch.zeros(crops, *size, dtype=torch.uint8, device=step.device)
                sums = step.loss_sums(self.network, images, dict.fromkeys(step.criteria, mask))
                torch.stack([ratio(*part) for part in sums.values()]).sum().backward()  # type: ignore[no-untyped-call]
        except TrainOOMError:
            return False
        return True

    def apply_schedule(self, schedule: Schedule) -> Schedule:
        """Apply measured choices to this process, and complete the configuration."""
        self.train_step.precision = schedule.precision
        if torch.get_num_threads() != schedule.threads:
            torch.set_num_threads(schedule.threads)
        world_size = self.context.dist.world_size
        if schedule.processes != world_size:
            self.context.console.info(
                f"This run had {plural(schedule.processes, 'process', 'processes')} and resumes with {world_size}: sums"
                " round differently, so it will not end with the same bits."
            )
            schedule = replace(schedule, processes=world_size)
        weights = {head: loss.class_weights for head, loss in self.train_step.criteria.items() if loss.class_weights}
        decided = {
            "sampling": self.loader.sampling,
            "class_weights": {head or "only": values for head, values in weights.items()},
        }
        self.config = replace(self.config, measured=schedule, decided=decided)
        return schedule

    def load_checkpoint(self, state: TrainState, schedule: Schedule) -> None:
        """Load the newest intact checkpoint, if there is one."""
        context, tensors = self.context, dict[str, Tensor]()

        def read() -> Any:
            found = read_checkpoint(context.run_dir.checkpoints)
            if found is None:
                return None
            tensors.update(found[0])
            return found[1:]

        found = context.dist.broadcast(read)
        if found is None:
            return
        scalars, note = found
        state.restore(context.dist.broadcast_tensors(tensors), scalars)
        if note:
            context.console.info(note)
        if context.dist.is_main:
            context.run_dir.write_metrics(state.history)
        context.console.info(f"Resuming at step {state.step + 1} of {schedule.steps}.")

    def finish(self, status: str, state: TrainState, steps: int) -> TrainResult:
        """Write the model, and the scores and the report of a run that is done."""
        context = self.context
        console, run_dir = context.console, context.run_dir
        skipped = [*context.dataset.skipped, *state.skipped]
        if status != "done":
            segmenter = write_model(context, state)
            if context.dist.is_main:
                run_dir.write_status("stopped", state.step, steps)
            console.info(
                f"Stopped after step {state.step} of {steps}. The model so far is {run_dir.model};"
                " rerun the same command with --resume."
            )
            return TrainResult(status, segmenter, skipped)
        segmenter = finalize(context, state)
        if context.dist.is_main:
            run_dir.write_status("finished", state.step, steps)
            val = segmenter.card.scores.get("val") or {}
            for head, scores in (val.get("heads") or {"": val}).items():
                if scores.get("mean_iou") is not None:
                    interval = scores.get("mean_iou_interval")
                    spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
                    of_head = f" of {head}" if head else ""
                    constant = scores["baseline"]["mean_iou"]
                    beside = f"; {constant:.4f} by labelling all '{scores['baseline']['class']}'" if constant else ""
                    console.info(
                        f"val mIoU{of_head} {scores['mean_iou']:.4f}{spread} at the best step, {state.best_step}{beside}."
                    )
                    if constant and scores["mean_iou"] <= constant:
                        console.info("Warning: the model is no better than a constant prediction.")
            console.info(f"Model {run_dir.model}, report {run_dir.report}.")
        return TrainResult(status, segmenter, skipped)
