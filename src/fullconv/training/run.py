"""A run from data to model: settings, checked data, network, loop, end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import fullconv
from fullconv.card import Card
from fullconv.checkpoint import read_checkpoint
from fullconv.data import Dataset, Statistics, open_dataset
from fullconv.data.doctor import require_usable
from fullconv.data.imbalance import class_weights
from fullconv.data.loader import TrainingBatches
from fullconv.errors import RunError
from fullconv.losses import PixelLoss
from fullconv.nn import Network, build
from fullconv.nn.weights import published_weights
from fullconv.recipe import Recipe
from fullconv.segmenter import Segmenter, build_settings, choose_device, load
from fullconv.training.console import Console, amount, duration
from fullconv.training.finish import finish, write_model
from fullconv.training.folder import RunFolder
from fullconv.training.loop import Loop, Stepper
from fullconv.training.origin import describe_origin, differences
from fullconv.training.plan import Plan, check_names, combine, continued, read_plan, resolve
from fullconv.training.state import new_state
from fullconv.training.trial import measure


@dataclass
class Outcome:
    """How a run ended."""

    status: str
    """"done", "sigint" or "sigterm"."""
    segmenter: Segmenter
    skipped: list[str] = field(default_factory=list)
    """Pictures that --skip-bad left out."""


def train(data: str | Path, out: str | Path, *, resume: bool = False, recipe: str | Path | None = None, **settings: Any) -> Segmenter:
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
    return run(Path(data), Path(out), settings, resume=resume, recipe=recipe).segmenter


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
    folder_check = _Preparation(folder, resume)
    folder_check.refuse()
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
        raise RunError(f"{out}: the data in {data} are not those that this run began with. Put them back, or begin a new run.")
    folder.prepare(resume)
    with folder.locked():
        session = _Session(plan, stored is not None, origin, dataset, statistics, folder, console, notes, started)
        return session.go()


@dataclass
class _Preparation:
    """Refuses a folder before minutes are spent on the data, and touches nothing."""

    folder: RunFolder
    resume: bool

    def refuse(self) -> None:
        path = self.folder.path
        if path.is_dir() and any(p.name != ".lock" for p in path.iterdir()) and not self.resume:
            raise RunError(f"{path}: is not empty. Go on with that run by --resume, or give another -o.")


def _finished(folder: RunFolder, plan: Plan) -> bool:
    status = folder.read_status()
    done = status.get("status") == "finished" and folder.model.exists()
    return done and plan.measured is not None and int(status.get("step", 0)) >= plan.measured.steps or (
        done and status.get("early") is True
    )


def _open(data: Path, recipe: Recipe, format: str | None, console: Console) -> tuple[Dataset, list[str]]:  # noqa: A002
    """Open and look at everything before the first step."""
    dataset = open_dataset(
        data, format=format, skip_bad=recipe.skip_bad, folds=recipe.folds, fold=recipe.fold if recipe.folds is None else recipe.fold or 0
    )
    dataset, problems = require_usable(dataset)
    for found in problems:
        console.say(str(found))
    notes = [str(found) for found in problems]
    counts = ", ".join(f"{len(members)} {split}" for split, members in dataset.splits.items() if members)
    console.say(f"{data}: {dataset.format}, {len(dataset.classes)} classes, {counts} pictures.")
    return dataset, notes


@dataclass
class _Session:
    """One process's part of a run."""

    plan: Plan
    going_on: bool
    origin: dict[str, Any]
    dataset: Dataset
    statistics: Statistics
    folder: RunFolder
    console: Console
    notes: list[str]
    started: float

    def go(self) -> Outcome:
        """Build, measure or take up, train, end."""
        recipe = resolve(self.plan.recipe, self.dataset, self.statistics)
        device = choose_device(recipe.device)
        if recipe.deterministic:
            _be_deterministic()
        if self.plan.measured is not None:
            torch.set_num_threads(self.plan.measured.threads)
        torch.manual_seed(recipe.seed)
        network, card = self._network(recipe, device)
        stepper = self._stepper(recipe, card, device)
        batches = self._batches(recipe)
        val = self.dataset.splits.get("val", [])
        measured = self.plan.measured or measure(network, stepper, batches, self.dataset, val, self.started)
        stepper.precision = measured.precision
        self.plan = Plan(recipe, measured, self.plan.origin if self.going_on else self.origin)
        self.plan.write(self.folder.recipe)
        state = new_state(network, recipe)
        if self.going_on and (found := read_checkpoint(self.folder.checkpoints)):
            tensors, numbers, note = found
            state.restore(tensors, numbers)
            if note:
                self.console.say(note)
            self.folder.write_metrics(state.history)
            self.console.say(f"Going on at step {state.step + 1} of {measured.steps}.")
        self._forecast(network, recipe, stepper)
        with _signals() as stop:
            loop = Loop(state, stepper, batches, measured, self.dataset, val, self.folder, self.console, stop)
            self.console.batch_size = (recipe.batch_size or 1) * recipe.accumulate
            self.console.start(state.step, measured.steps)
            try:
                status = loop.run()
            finally:
                self.console.stop()
        return self._end(status, loop, card, str(device))

    def _network(self, recipe: Recipe, device: torch.device) -> tuple[Network, Card]:
        """Build the network and its card, and put it where it will be trained."""
        heads = self.dataset.labels
        single = len(heads) == 1
        counts: int | dict[str, int] = (
            len(self.dataset.classes) if single else {name: len(labels.classes) for name, labels in heads.items()}
        )
        network = build(
            recipe.variant, backbone=recipe.backbone, num_classes=counts, in_channels=self.statistics.channels,
            weights=recipe.weights, norm=recipe.norm, width=recipe.width, head=recipe.head,
        )  # fmt: skip
        if network.started_anew:
            parts = sorted({name.rsplit(".", 1)[0] for name in network.started_anew})
            self.console.say(f"Starting anew, not from {recipe.weights}: {', '.join(parts)}.")
        if network.halo is None:
            from fullconv.tiling import why_not

            self.console.say(f"Tiles will not be exact with this network: {why_not(network)}")
        if recipe.freeze == "backbone":
            network.backbone.requires_grad_(False)
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network, self._card(recipe, network)

    def _card(self, recipe: Recipe, network: Network) -> Card:
        labels = self.dataset.labels
        first = next(iter(labels.values()))
        mean, std, value_range = self._normalization(recipe)
        origin, license_name = _weights_origin(recipe)
        return Card(
            variant=recipe.variant, backbone=network.settings["backbone"], network=build_settings(network),
            in_channels=network.in_channels, classes=first.classes, palette=first.palette,
            ignore_index=first.ignore_index, values=first.values, heads=labels if len(labels) > 1 else None,
            bands=self.dataset.bands, mean=mean, std=std, range=value_range, scale=recipe.scale, stride=network.stride,
            receptive_field=network.receptive_field, recipe=recipe.model_dump(mode="json", exclude_none=True),
            data={
                "fingerprint": self.origin["fingerprint"],
                "splits": {split: [s.stem for s in members] for split, members in self.dataset.splits.items()},
            },
            weights_origin=origin, weights_license=license_name, fullconv=fullconv.__version__,
        )  # fmt: skip

    def _normalization(self, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]:
        """Return mean, std and range: those of the starting weights, else those of the training set."""
        s = self.statistics
        if recipe.weights == "imagenet" and s.channels == 3 and s.dtype == "uint8":
            mean, std = _pretrained_statistics(recipe.backbone)
            return mean, std, s.range
        if recipe.weights.endswith(".safetensors") and Path(recipe.weights).is_file():
            from fullconv.modelfile import CARD_KEY, read_header

            text = read_header(recipe.weights)[1].get(CARD_KEY)
            card = Card.from_json(text, recipe.weights) if text else None
            if card is not None and card.in_channels == s.channels:
                return card.mean, card.std, card.range
        return tuple(s.mean), tuple(max(value, 1e-6) for value in s.std), s.range

    def _stepper(self, recipe: Recipe, card: Card, device: torch.device) -> Stepper:
        losses = {}
        for head in self.dataset.labels:
            numbers = self.dataset.statistics("train", head) if head else self.statistics
            weights, sentence = class_weights(numbers, recipe.class_weights)
            self.console.say(sentence)
            self.notes.append(sentence)
            plain = bool((weights == 1).all())
            losses[head] = PixelLoss(
                recipe.loss, None if plain else [float(w) for w in weights], recipe.focal_gamma, recipe.reduction
            )
        return Stepper(recipe, card, losses, device, "fp32")

    def _batches(self, recipe: Recipe) -> TrainingBatches:
        assert recipe.batch_size is not None and recipe.crop is not None
        batches = TrainingBatches(
            self.dataset, "train", batch_size=recipe.batch_size, crop=recipe.crop, scale=recipe.scale,
            augment=recipe.augment, seed=recipe.seed, sampling=recipe.sampling, workers=recipe.workers or 0,
            statistics=self.statistics,
        )  # fmt: skip
        self.console.say(batches.explain)
        self.notes.append(batches.explain)
        return batches

    def _forecast(self, network: Network, recipe: Recipe, stepper: Stepper) -> None:
        """Print the resolved settings and what the run will take, before step 1."""
        m = self.plan.measured
        assert m is not None and recipe.crop is not None
        size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        moments = 2 if recipe.optimizer == "adamw" else 1
        disk = 2 * size * (1 + moments + (recipe.ema > 0)) + 2 * size
        self.console.say(
            f"{recipe.variant} on {network.settings['backbone']}, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"
            f" parameters; {recipe.batch_size} crops of {recipe.crop[0]}x{recipe.crop[1]}"
            f"{'' if recipe.scale == 1 else f' at scale {recipe.scale:g}'}, {recipe.optimizer}, lr {recipe.lr:g},"
            f" {recipe.schedule}; {m.precision} on {stepper.device}, {m.threads} threads, {recipe.workers} workers."
        )
        self.console.say(
            f"{m.steps} steps in {m.epochs} epochs, {m.seconds_per_step:.2f} s a step: about"
            f" {duration(m.steps * m.seconds_per_step * 1.1)}; memory about {amount(peak_memory())}, disk about {amount(disk)}."
            f" Validation every {m.validate_every} epoch{'s' * (m.validate_every > 1)} on {m.validation_pictures} pictures."
        )

    def _end(self, status: str, loop: Loop, card: Card, device: str) -> Outcome:
        """Write what the run came to."""
        state, steps = loop.state, loop.measured.steps
        skipped = [*self.dataset.skipped, *state.skipped]
        if status != "done":
            segmenter = write_model(state, card, self.folder, device)
            self.folder.write_status("stopped", state.step, steps)
            self.console.say(
                f"Stopped after step {state.step} of {steps}. The model so far is {self.folder.model};"
                f" go on by the same command with --resume."
            )
            return Outcome(status, segmenter, skipped)
        segmenter = finish(
            state, card, self.plan, self.dataset, self.statistics, self.folder, self.console, self.notes, device
        )
        self.folder.write_status("finished", steps, steps)
        scores = segmenter.card.scores.get("val") or {}
        interval = scores.get("mean_iou_interval")
        if scores.get("mean_iou") is not None:
            spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
            self.console.say(f"val mean IU {scores['mean_iou']:.4f}{spread} at the best step, {state.best_step}.")
        self.console.say(f"Model {self.folder.model}, report {self.folder.report}.")
        return Outcome(status, segmenter, skipped)


def _weights_origin(recipe: Recipe) -> tuple[str | None, str | None]:
    if recipe.weights == "none":
        return None, None
    if recipe.weights == "imagenet":
        published = published_weights(recipe.backbone)
        return published.url, published.license
    return Path(recipe.weights).name, None


def _pretrained_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std that a backbone's published weights were trained with."""
    import timm

    from fullconv.card import IMAGENET_MEAN, IMAGENET_STD

    config = None if backbone in ("alexnet", "googlenet") else timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if config is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(config.mean), tuple(config.std)


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _be_deterministic() -> None:
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=False)
    torch.backends.cudnn.benchmark = False


@contextmanager
def _signals() -> Iterator[Any]:
    """Turn the first Ctrl-C or SIGTERM into an orderly end after the step; a second one ends at once."""
    asked: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append("sigint" if number == signal.SIGINT else "sigterm")

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handle)
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__: Sequence[str] = ["Outcome", "run", "train"]
