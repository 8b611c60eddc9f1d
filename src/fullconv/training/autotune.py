"""Benchmarks before the first step: the precision, and the number of steps that fit into the time."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import torch

from fullconv.data import Batch, Dataset, Sample, TrainingBatches
from fullconv.engines import AutoEngine
from fullconv.evaluation import evaluate
from fullconv.losses import ratio
from fullconv.nn import Network
from fullconv.segmenter import Segmenter
from fullconv.training.config import Schedule
from fullconv.training.errors import NonFiniteError, catch_oom, next_batch
from fullconv.training.loop import evenly_spaced
from fullconv.training.setup import RunContext
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep

VALIDATION_SHARE = 0.1
"""Largest fraction of the time for validation."""
AGREEMENT_IMAGES = 32
"""Images on which the agreement of lower precisions is measured at the end."""


def pick_amp_dtype(network: Network, train_step: TrainStep, batch: Batch) -> str:
    """Return "bf16" where it is measured to be faster, else "fp32"."""
    requested = train_step.recipe.precision
    if requested != "auto":
        return requested
    if train_step.device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    images, masks = batch.images[:1], {head: mask[:1] for head, mask in batch.masks.items()}
    trial = copy.deepcopy(network).train()
    for module in trial.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # one crop may leave a map with one cell per channel
    seconds = {}
    for precision in ("fp32", "bf16"):
        train_step.precision = precision
        seconds[precision] = math.inf
        for _ in range(3):
            start = time.perf_counter()
            with catch_oom():
                losses = [ratio(*sums) for sums in train_step.loss_sums(trial, images, masks).values()]
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            seconds[precision] = min(seconds[precision], time.perf_counter() - start)
    return "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"


def time_step(network: Network, train_step: TrainStep, loader: TrainingBatches, budget: float) -> tuple[float, float]:
    """Time a step, loading included; return its seconds, and how many more one takes in the first epoch, which decodes images."""
    state = new_state(copy.deepcopy(network), train_step.recipe)
    accumulate = train_step.recipe.accumulate
    rounds: list[list[float]] = []
    for _ in range(2 if loader.fits_in_cache else 1):
        times: list[float] = []
        begin = last = time.perf_counter()
        micro_batches: list[Batch] = []
        batches = loader.batches(0)
        while (batch := next_batch(batches)) is not None:
            micro_batches.append(batch)
            if len(micro_batches) < accumulate:
                continue
            with suppress(NonFiniteError):  # the run itself will report it, at its own step
                train_step.step(state, micro_batches, 10**6)
            micro_batches = []
            now = time.perf_counter()
            times.append(now - last)
            last = now
            enough = len(times) >= 4 and now - begin > (budget / 2 if loader.fits_in_cache else budget)
            if train_step.dist.broadcast(lambda enough=enough: enough):  # type: ignore[misc]
                break
            if len(times) >= (len(rounds[0]) if rounds else 40):
                break
        rounds.append(times)
    cold = trimmed_mean(rounds[0][3:] or rounds[0][1:])  # the first steps warm up kernels, memory and the loader
    if len(rounds) == 1:
        return cold, 0.0
    warm = trimmed_mean(rounds[1][1:])
    return warm, max(0.0, cold - warm)


def trimmed_mean(times: Sequence[float]) -> float:
    """Return the mean without the longest tenth."""
    shortest = sorted(times)[: max(1, math.ceil(0.9 * len(times)))]
    return sum(shortest) / len(shortest)


def time_eval(segmenter: Segmenter, dataset: Dataset, samples: Sequence[Sample]) -> float:
    """Return the seconds for scoring a validation image."""
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
    seconds_left: float | None,
    steps: int | None = None,
    steps_per_epoch: int,
    step_seconds: float,
    image_seconds: float,
    images: int,
    validate_every: int | None,
) -> tuple[int, int, int]:
    """Fix the steps of a run, the epochs between its validations, and the images of each.

    >>> plan_schedule(epochs=10, seconds_left=None, steps_per_epoch=50, step_seconds=0.5, image_seconds=0.05, images=100,
    ...               validate_every=None)
    (500, 1, 55)
    """
    epoch_seconds = steps_per_epoch * step_seconds
    allowed = VALIDATION_SHARE / (1 - VALIDATION_SHARE) * epoch_seconds  # for a validation every epoch
    if steps is not None:
        expected_epochs: float = max(1.0, steps / steps_per_epoch)
    else:
        expected_epochs = epochs if epochs is not None else max(1.0, (seconds_left or 0.0) / epoch_seconds)
    max_every = max(1, math.floor(expected_epochs / 20))  # at least 20 validations per run, where it has 20 epochs
    needed = math.ceil(images * image_seconds / allowed) if allowed > 0 else 1
    every = validate_every or min(max(1, needed), max_every)
    count = images
    if images * image_seconds > allowed * every and image_seconds > 0:
        count = max(1, min(images, math.floor(allowed * every / image_seconds)))
    if steps is None and epochs is not None:
        steps = epochs * steps_per_epoch
    if steps is None:
        per_step = step_seconds + count * image_seconds / (every * steps_per_epoch)
        steps = max(1, math.floor((seconds_left or 0.0) / per_step))
    return steps, every, count


def autotune(
    context: RunContext, network: Network, train_step: TrainStep, loader: TrainingBatches, started: float
) -> Schedule:
    """Measure, and fix the schedule of a run."""
    recipe, dist, val = context.recipe, context.dist, context.val
    first = dist.run_synced(lambda: next_batch(loader.batches(0, 1)))
    assert first is not None
    precision = pick_amp_dtype(network, train_step, first)  # in all processes at once, as they will compute
    train_step.precision = dist.broadcast(lambda: precision)
    total = None if recipe.minutes is None else 60 * recipe.minutes
    step_seconds, first_epoch_extra = time_step(
        network, train_step, loader, 3.0 if total is None else min(20.0, 0.02 * total)
    )
    card, device = context.card, str(context.device)
    own = Segmenter(network, card, device, train_step.precision, "torch")
    fp32 = Segmenter(network, card, device, "fp32", "torch")
    own_seconds = dist.run_synced(lambda: time_eval(own, context.dataset, val)) / dist.world_size
    fp32_seconds = dist.run_synced(lambda: time_eval(fp32, context.dataset, val)) / dist.world_size
    engine = Segmenter(network, card, device).engine
    tuning = engine.estimate_seconds(fp32_seconds) if isinstance(engine, AutoEngine) else 0.0
    network.train()
    seconds_left = None
    if total is not None:
        # The end: every image once in the precision of the answer, some in both, the report's images again. Only the
        # first is divided among the processes.
        undivided = dist.world_size * (
            (own_seconds + fp32_seconds) * min(AGREEMENT_IMAGES, len(val)) + fp32_seconds * 24
        )
        end = fp32_seconds * len(val) + undivided + tuning + 3.0
        cold = first_epoch_extra * loader.steps_per_epoch / recipe.accumulate
        seconds_left = total - (time.monotonic() - started) - end - cold
    steps_per_epoch = -(-loader.steps_per_epoch // recipe.accumulate)
    steps, every, count = plan_schedule(
        epochs=recipe.epochs, seconds_left=seconds_left, steps=recipe.steps, steps_per_epoch=steps_per_epoch,
        step_seconds=step_seconds, image_seconds=own_seconds, images=len(val), validate_every=recipe.validate_every,
    )  # fmt: skip
    schedule = Schedule(
        steps=steps, steps_per_epoch=steps_per_epoch, precision=train_step.precision,
        threads=torch.get_num_threads(), seconds_per_step=round(step_seconds, 4), validate_every=every,
        validation_pictures=count, processes=dist.world_size,
    )  # fmt: skip
    return Schedule(**dist.broadcast(lambda: asdict(schedule)))
