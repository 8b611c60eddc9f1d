"""Choices by measuring, before the first step: precision, and how many steps fit into the time."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import torch

from fullconv.data import Dataset, Sample
from fullconv.data.loader import Batch, TrainingBatches
from fullconv.engines import AutoEngine
from fullconv.evaluation import evaluate
from fullconv.losses import ratio
from fullconv.nn import Network
from fullconv.segmenter import Segmenter
from fullconv.training.config import Schedule
from fullconv.training.errors import NonFiniteError
from fullconv.training.loop import evenly_spaced
from fullconv.training.oom import catch_oom, next_batch
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import TrainStep

VALIDATION_SHARE = 0.1
"""Largest share of the time that validation takes; the interface allows a fifth."""
AGREEMENT_IMAGES = 32
"""Pictures on which the agreement of lower precisions is measured at the end."""


def pick_amp_dtype(network: Network, stepper: TrainStep, batch: Batch) -> str:
    """Return "bf16" where a trial says that it is faster, else "fp32".

    One crop goes forward and back in each, twice, the first time to warm up.
    """
    asked = stepper.recipe.precision
    if asked != "auto":
        return asked
    if stepper.device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    images, masks = batch.images[:1], {head: mask[:1] for head, mask in batch.masks.items()}
    trial = copy.deepcopy(network).train()
    for module in trial.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # one crop may leave a map with one cell a channel
    seconds = {}
    for precision in ("fp32", "bf16"):
        stepper.precision = precision
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            with catch_oom():
                shares = [ratio(*sums) for sums in stepper.sums(trial, images, masks).values()]
                torch.stack(shares).sum().backward()  # type: ignore[no-untyped-call]
            best = min(best, time.perf_counter() - start)
        seconds[precision] = best
    return "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"


def time_step(network: Network, stepper: TrainStep, batches: TrainingBatches, budget: float) -> tuple[float, float]:
    """Measure the time of a step, loading included, on a copy of the network that is then forgotten.

    Args:
        network: Not changed.
        stepper: With its precision chosen.
        batches: The run's.
        budget: Seconds to spend at most; at least four steps are made.

    Returns:
        Seconds of a step, and how much longer one takes in the first epoch: where decoded pictures stay in memory, that
        one alone decodes them.
    """
    state = new_state(copy.deepcopy(network), stepper.recipe)
    keeps = batches.keeps
    first = _timed_steps(state, stepper, batches, budget / 2 if keeps else budget, 40)
    # The first steps pay for warming up (kernels, memory, the loader's start).
    cold = trimmed_mean(first[3:] or first[1:])
    if not keeps:
        return cold, 0.0
    again = trimmed_mean(_timed_steps(state, stepper, batches, budget / 2, len(first))[1:])
    return again, max(0.0, cold - again)


def _timed_steps(
    state: TrainState, stepper: TrainStep, batches: TrainingBatches, budget: float, most: int
) -> list[float]:
    """Make the first steps of a run until the budget is spent, at least four and at most so many; return their seconds."""
    accumulate = stepper.recipe.accumulate
    times: list[float] = []
    begin = mark = time.perf_counter()
    group: list[Batch] = []
    made = batches.batches(0)
    while (batch := next_batch(made)) is not None:
        group.append(batch)
        if len(group) < accumulate:
            continue
        with suppress(NonFiniteError):  # the run itself will say so, at its own step
            stepper.step(state, group, 10**6)
        group = []
        now = time.perf_counter()
        times.append(now - mark)
        mark = now
        enough = len(times) >= 4 and now - begin > budget
        if stepper.processes.told(lambda enough=enough: enough):  # type: ignore[misc]
            break
        if len(times) >= most:
            break
    return times


def trimmed_mean(times: Sequence[float]) -> float:
    """Return the mean without the longest tenth, which may be hiccups."""
    kept = sorted(times)[: max(1, math.ceil(0.9 * len(times)))]
    return sum(kept) / len(kept)


def time_eval(segmenter: Segmenter, dataset: Dataset, samples: Sequence[Sample]) -> float:
    """Return the time that scoring a validation picture takes."""
    if not samples:
        return 0.0
    chosen = evenly_spaced(samples, 3)
    evaluate(segmenter, dataset, "val", samples=chosen[:1])
    start = time.perf_counter()
    evaluate(segmenter, dataset, "val", samples=chosen)
    return (time.perf_counter() - start) / len(chosen)


def plan_schedule(
    *,
    epochs: int | None,
    left: float | None,
    steps: int | None = None,
    steps_per_epoch: int,
    step_seconds: float,
    picture_seconds: float,
    pictures: int,
    validate_every: int | None,
) -> tuple[int, int, int]:
    """Fix the steps of a run, and how often and on how many pictures it validates.

    Args:
        epochs: Of the run, or None for a run by time.
        left: Seconds for steps and validations, for a run by time.
        steps: Of the run, for one whose steps are given.
        steps_per_epoch: Steps an epoch.
        step_seconds: Of one step.
        picture_seconds: Of validating one picture.
        pictures: In val.
        validate_every: Epochs between validations, where the user says so.

    Returns:
        Steps, epochs between validations, pictures a validation.

    >>> plan_schedule(epochs=10, left=None, steps_per_epoch=50, step_seconds=0.5, picture_seconds=0.05, pictures=100,
    ...            validate_every=None)
    (500, 1, 55)
    """
    epoch_seconds = steps_per_epoch * step_seconds
    allowed = VALIDATION_SHARE / (1 - VALIDATION_SHARE) * epoch_seconds  # a validation every epoch may take this
    if steps is not None:
        expected: float = max(1.0, steps / steps_per_epoch)
    else:
        expected = epochs if epochs is not None else max(1.0, (left or 0.0) / epoch_seconds)
    most_every = max(1, math.floor(expected / 20))  # at least 20 validations a run, where it has 20 epochs
    needed = math.ceil(pictures * picture_seconds / allowed) if allowed > 0 else 1
    every = validate_every or min(max(1, needed), most_every)
    count = pictures
    if pictures * picture_seconds > allowed * every and picture_seconds > 0:
        count = max(1, min(pictures, math.floor(allowed * every / picture_seconds)))
    if steps is not None:
        return steps, every, count
    if epochs is not None:
        return epochs * steps_per_epoch, every, count
    per_step = step_seconds + count * picture_seconds / (every * steps_per_epoch)
    return max(1, math.floor((left or 0.0) / per_step)), every, count


def autotune(
    network: Network,
    stepper: TrainStep,
    batches: TrainingBatches,
    dataset: Dataset,
    val: Sequence[Sample],
    started: float,
) -> Schedule:
    """Make all measured choices of a run.

    Args:
        network: At its start.
        stepper: Its precision is set here.
        batches: Training batches.
        dataset: The data.
        val: Samples of val.
        started: `time.monotonic` at the start of the run, from which minutes count.
    """
    recipe = stepper.recipe
    processes = stepper.processes
    first = processes.all_do(lambda: next_batch(batches.batches(0, 1)))
    assert first is not None  # a batch is asked for
    precision = pick_amp_dtype(network, stepper, first)  # in all at once, as they will compute
    stepper.precision = processes.told(lambda: precision)
    total = None if recipe.minutes is None else 60 * recipe.minutes
    step_seconds, first_epoch = time_step(network, stepper, batches, 3.0 if total is None else min(20.0, 0.02 * total))
    quick = Segmenter(network, stepper.card, str(stepper.device), stepper.precision, "torch")
    exact = Segmenter(network, stepper.card, str(stepper.device), "fp32", "torch")
    picture = processes.all_do(lambda: time_eval(quick, dataset, val)) / processes.ranks
    full = processes.all_do(lambda: time_eval(exact, dataset, val)) / processes.ranks
    chooser = Segmenter(network, stepper.card, str(stepper.device)).engine
    choosing = chooser.seconds_to_choose(full) if isinstance(chooser, AutoEngine) else 0.0
    network.train()
    left = None
    if total is not None:
        # The end: every picture once in the precision of the answer, some in both, the report's pictures again.
        # The pictures of the first are shared out, those of the others are not.
        alone = processes.ranks * ((picture + full) * min(AGREEMENT_IMAGES, len(val)) + full * 24)
        end = full * len(val) + alone + choosing + 3.0
        left = total - (time.monotonic() - started) - end - first_epoch * batches.steps_per_epoch / recipe.accumulate
    steps, every, count = plan_schedule(
        epochs=recipe.epochs, left=left, steps=recipe.steps, steps_per_epoch=-(-batches.steps_per_epoch // recipe.accumulate),
        step_seconds=step_seconds, picture_seconds=picture, pictures=len(val), validate_every=recipe.validate_every,
    )  # fmt: skip
    made = Schedule(
        steps=steps, steps_per_epoch=-(-batches.steps_per_epoch // recipe.accumulate), precision=stepper.precision,
        threads=torch.get_num_threads(), seconds_per_step=round(step_seconds, 4), validate_every=every,
        validation_pictures=count, processes=processes.ranks,
    )  # fmt: skip
    return Schedule(**processes.told(lambda: asdict(made)))
