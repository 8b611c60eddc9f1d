"""The end of a run: the model file, its scores, its precision_agreement across precisions, the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fullconv.card import Card
from fullconv.checkpoint import read_best
from fullconv.data import Dataset, Sample, Statistics
from fullconv.errors import FullconvError
from fullconv.evaluation import Report
from fullconv.metrics import confusion_matrix, mean_iou
from fullconv.report import ReportImage, choose_images, summarize_data, write_report
from fullconv.segmenter import Segmenter
from fullconv.training.autotune import AGREEMENT_IMAGES
from fullconv.training.config import RunConfig, recipe_to_dict
from fullconv.training.console import Console
from fullconv.training.distributed import SINGLE_PROCESS, Distributed, evaluate_distributed
from fullconv.training.environment import machine_info, package_versions
from fullconv.training.loop import evenly_spaced
from fullconv.training.run_dir import RunDir
from fullconv.training.state import TrainState

AGREEMENT_SECONDS = 30.0
"""Measuring a lower precision stops after this long."""


def best_weights(state: TrainState, folder: RunDir) -> dict[str, Any]:
    """Return the weights that the run is for: the best on val, or the last where there was no validation."""
    if state.best_step is None:
        return state.weights()
    return read_best(folder.checkpoints, state.best_step)


def write_model(
    state: TrainState, card: Card, folder: RunDir, device: str, processes: Distributed = SINGLE_PROCESS
) -> Segmenter:
    """Write model.safetensors with what is known so far, and return it as a segmenter."""
    state.network.load_state_dict(processes.share(best_weights(state, folder) if processes.first else None))
    segmenter = Segmenter(state.network, card, device)
    if processes.first:
        segmenter.save(folder.model)
    return segmenter


def score_model(
    segmenter: Segmenter, dataset: Dataset, console: Console, processes: Distributed = SINGLE_PROCESS
) -> dict[str, dict[str, Report]]:
    """Score every head of the model on all of val and test, by the call that users make."""
    reports = {}
    for split in ("val", "test"):
        if dataset.splits.get(split):
            console.say(f"Scoring all of {split} ...")
            reports[split] = evaluate_distributed(
                processes,
                segmenter,
                dataset,
                split,
                dataset.splits[split],
                progress=console.validating,
                on_error="record",
            )
    return reports


def precision_agreement(segmenter: Segmenter, dataset: Dataset, val: Sequence[Sample]) -> dict[str, Any]:
    """Measure how bf16 answers agree with fp32's on validation pictures.

    Returns:
        ``{"bf16": {"labels": share equal, "mean_iou_difference": bf16 - fp32, "pictures": count}}``; empty without
        pictures.
    """
    if not val:
        return {}
    exact, lower = (
        Segmenter(segmenter.network, segmenter.card, str(segmenter.device), precision, "torch")
        for precision in ("fp32", "bf16")
    )
    classes = len(segmenter.card.classes)
    both = {"fp32": np.zeros((classes, classes), np.int64), "bf16": np.zeros((classes, classes), np.int64)}
    equal = total = pictures = 0
    start = time.monotonic()
    head = next(iter(dataset.labels))
    for sample in evenly_spaced(val, AGREEMENT_IMAGES):
        try:
            image, truth = dataset.read_image(sample), dataset.read_mask(sample, head)
        except FullconvError:
            continue
        maps = {"fp32": exact.predict(image).label_map, "bf16": lower.predict(image).label_map}
        for precision, label_map in maps.items():
            both[precision] += confusion_matrix(truth, label_map, classes)
        equal += int((maps["fp32"] == maps["bf16"]).sum())
        total += truth.size
        pictures += 1
        if time.monotonic() - start > AGREEMENT_SECONDS:
            break
    if not total:
        return {}
    difference = mean_iou(both["bf16"]) - mean_iou(both["fp32"])
    return {"bf16": {"labels": equal / total, "mean_iou_difference": difference, "pictures": pictures}}


def add_scores(
    card: Card, reports: Mapping[str, Mapping[str, Report]], agreed: Mapping[str, Any], state: TrainState
) -> Card:
    """Return the card with the scores of the run: those of the first head, and of all in `heads` where there are several."""
    scores: dict[str, Any] = {}
    for split, by_head in reports.items():
        numbers = {
            head: {
                key: value for key, value in report.to_dict().items() if key not in ("confusion", "failed", "seconds")
            }
            for head, report in by_head.items()
        }
        scores[split] = next(iter(numbers.values())) | ({"heads": numbers} if len(numbers) > 1 else {})
    if state.best_step is not None:
        scores["chosen"] = (
            f"the best of {sum(1 for line in state.history if line['val'])} validations on val, step {state.best_step}"
        )
    return card.model_copy(update={"scores": scores, "agreement": dict(agreed)})


def report_images(segmenter: Segmenter, dataset: Dataset, report: Report, split: str) -> Iterator[ReportImage]:
    """Yield the worst and some typical pictures, one at a time."""
    scores = report.scores_by_image()
    present = {sample.stem: sample for sample in dataset.splits[split]}
    head = next(iter(dataset.labels))
    for stem in choose_images(report):
        sample = present[stem]
        image = dataset.read_image(sample)
        label_map = segmenter.predict(image).label_map
        yield ReportImage(stem, image, dataset.read_mask(sample, head), label_map, scores[stem])


def finalize(
    state: TrainState,
    card: Card,
    plan: RunConfig,
    dataset: Dataset,
    statistics: Statistics,
    folder: RunDir,
    console: Console,
    notes: Sequence[str],
    device: str,
    processes: Distributed = SINGLE_PROCESS,
) -> Segmenter:
    """Write the model with its scores, and the report; all processes score, the first one writes."""
    written = write_model(state, card, folder, device, processes)
    val = dataset.splits.get("val", [])
    agreed = processes.told(lambda: precision_agreement(written, dataset, val))
    # Scored as users will score it; the default precision depends on the agreement. On several machines the choice
    # may differ.
    chosen = "auto" if processes.ranks == 1 else "torch"
    known = written.card.model_copy(update={"agreement": agreed})
    segmenter = Segmenter(state.network, known, device, "auto" if processes.ranks == 1 else "fp32", chosen)
    reports = score_model(segmenter, dataset, console, processes)
    if not processes.first:
        return segmenter
    segmenter.card = add_scores(card, reports, agreed, state)
    segmenter.save(folder.model)
    if reports:
        split = "val" if "val" in reports else next(iter(reports))
        firsts = {name: next(iter(by_head.values())) for name, by_head in reports.items()}
        write_report(
            folder.report, card=segmenter.card, history=state.history, reports=firsts, heads=reports,
            images=report_images(segmenter, dataset, firsts[split], split), recipe=recipe_to_dict(plan.recipe),
            data=summarize_data(dataset), notes=notes, machine={**machine_info(), **package_versions()},
        )  # fmt: skip
    return segmenter
