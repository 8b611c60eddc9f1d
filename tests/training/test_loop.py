"""The loop: when checkpoints are written, by a simulated clock; observers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SMALL, lines

from fullconv.training import RunRequest, run
from fullconv.training.console import Console
from fullconv.training.loop import DISK_BYTES_PER_S, CheckpointTimer, evenly_spaced


@dataclass
class Written:
    """One checkpoint of a simulated run."""

    at: float
    """Seconds of training before it; the time of writing does not count."""
    cost: float
    ended: bool
    """Whether an epoch had just ended."""
    early: bool
    """Whether it came before its interval."""


def simulate_run(
    steps: int, per_epoch: int, step: float, costs: list[float], every: float, size: float
) -> list[Written]:
    """Train by a simulated clock; the n-th checkpoint takes the n-th of the costs, over and over."""
    now, trained = 1000.0, 0.0
    timer = CheckpointTimer(every, lambda: int(size), clock=lambda: now)
    written: list[Written] = []
    for number in range(1, steps + 1):
        now, trained = now + step, trained + step
        ended = number % per_epoch == 0
        if timer.should_save(ended):
            cost = costs[len(written) % len(costs)]
            since = written[-1].at if written else 0.0
            written.append(Written(trained, cost, ended, trained - since < every - 1e-9))
            begun, now = now, now + cost
            timer.saved(began=begun)
    return written


runs = {
    "steps": st.integers(1, 200), "per_epoch": st.integers(1, 60), "step": st.floats(0.01, 5),
    "every": st.floats(1, 400), "size": st.floats(0, 5e9),
}  # fmt: skip


@settings(max_examples=30)
@given(**runs, costs=st.lists(st.floats(0, 30), min_size=1, max_size=6))
def test_a_kill_loses_at_most_the_interval_and_a_step(steps, per_epoch, step, every, size, costs):
    written = simulate_run(steps, per_epoch, step, costs, every, size)
    moments = [0.0, *(w.at for w in written), steps * step]
    assert all(b - a <= every + step + 1e-6 for a, b in itertools.pairwise(moments))
    assert all(w.ended for w in written if w.early)  # before its interval only where an epoch ends


@settings(max_examples=30)
@given(**runs, cost=st.floats(0, 30))
def test_epoch_checkpoints_take_at_most_two_percent(steps, per_epoch, step, every, size, cost):
    written = simulate_run(steps, per_epoch, step, [cost], every, size)
    early = [w for w in written if w.early]
    if not early:
        return
    first = early[0] is written[0]  # what that one costs is a guess by its size
    assert sum(w.cost for w in early[first:]) <= 0.02 * early[-1].at + 1e-6


@settings(max_examples=30)
@given(**runs, costs=st.lists(st.floats(0, 30), min_size=1, max_size=6))
def test_epoch_checkpoints_of_varying_cost_take_at_most_two_percent(steps, per_epoch, step, every, size, costs):
    written = simulate_run(steps, per_epoch, step, costs, every, size)
    before = [a.cost for a, b in itertools.pairwise(written) if b.early]
    assert sum(before) <= 0.02 * steps * step + 1e-6


@settings(max_examples=30)
@given(per_epoch=st.integers(1, 20), step=st.floats(0.1, 5), share=st.floats(0, 0.0199))
def test_cheap_checkpoints_follow_every_epoch(per_epoch, step, share):
    written = simulate_run(10 * per_epoch, per_epoch, step, [share * per_epoch * step], every=1e9, size=0)
    assert [round(w.at / (per_epoch * step), 6) for w in written] == list(range(1, 11))


@settings(max_examples=30)
@given(per_epoch=st.integers(1, 20), step=st.floats(1, 5))
def test_expensive_checkpoints_keep_to_the_interval(per_epoch, step):
    """VGG with Adam: 1.6 GB, 8 s on a slow disk, which 2 % of 300 s do not pay."""
    written = simulate_run(int(2000 / step), per_epoch, step, [8.0], every=300.0, size=1.6e9)
    assert not any(w.early for w in written)
    assert len(written) == pytest.approx(2000 / 300, abs=1 + 7 * step / 300 * 2)


def test_first_checkpoint_is_estimated_by_its_size():
    now = 0.0
    timer = CheckpointTimer(1e9, lambda: int(DISK_BYTES_PER_S), clock=lambda: now)  # a second
    now = 49.0
    assert not timer.should_save(True)
    now = 50.0
    assert timer.should_save(True)
    assert not timer.should_save(False)
    now = 50.5
    timer.saved(began=50.0)
    now = 75.4
    assert not timer.should_save(True)
    now = 75.6
    assert timer.should_save(True)


@given(st.integers(0, 50), st.integers(1, 60))
def test_evenly_spaced_subset_has_no_duplicates(total, count):
    chosen = evenly_spaced(list(range(total)), count)  # type: ignore[type-var]
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen))


class Recorder(Console):
    """A console that notes what it observes."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.calls: list[tuple[str, int, object]] = []

    def on_validation(self, validation) -> None:
        self.calls.append(("validation", validation.step, list(validation.reports)))

    def on_epoch(self, record) -> None:
        self.calls.append(("epoch", record.line["step"], record.best))


def test_observers_see_each_validation_before_its_epoch(shapes, tmp_path):
    console = Recorder()
    run(RunRequest(shapes, tmp_path / "run", {**SMALL, "epochs": 2, "validate_every": 2}, console=console))
    (line,) = (line for line in lines(tmp_path / "run") if line["val"])
    best = line["val"]["mean_iou"]
    assert console.calls == [("epoch", 50, None), ("validation", 100, [""]), ("epoch", 100, best)]
