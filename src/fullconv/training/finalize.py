"""The end of a run: model file, scores, agreement of lower precisions, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fullconv.card import Card
from fullconv.checkpoint import read_best
from fullconv.data import Dataset, Sample
from fullconv.errors import FullconvError
from fullconv.evaluation import Report
from fullconv.metrics import confusion_matrix, mean_iou
from fullconv.report import ReportImage, choose_images, summarize_data, write_report
from fullconv.segmenter import Segmenter
from fullconv.training.autotune import AGREEMENT_IMAGES
from fullconv.training.config import machine_info, package_versions
from fullconv.training.distributed import evaluate_distributed
from fullconv.training.loop import evenly_spaced
from fullconv.training.setup import RunContext
from fullconv.training.state import TrainState

AGREEMENT_TIME_S = 30.0
"""Measuring a lower precision stops after this long."""


@dataclass
class TrainResult:
    """How a run ended."""

    status: str
    """"done", "sigint" or "sigterm"."""
    segmenter: Segmenter
    skipped: list[str] = field(default_factory=list)
    """Images that --skip-bad skipped."""


def write_model(context: RunContext, state: TrainState) -> Segmenter:
    """Write model.safetensors without scores: the best weights on val, or the last ones without val."""
    weights = None
    if context.dist.is_main:
        best = state.best_step
        weights = state.weights() if best is None else read_best(context.run_dir.checkpoints, best)
    state.network.load_state_dict(context.dist.broadcast_tensors(weights))
    segmenter = Segmenter(state.network, context.card, str(context.device))
    if context.dist.is_main:
        segmenter.save(context.run_dir.model)
    return segmenter


def precision_agreement(segmenter: Segmenter, dataset: Dataset, val: Sequence[Sample]) -> dict[str, Any]:
    """Measure how bf16 predictions agree with fp32 on validation images: the card's ``agreement``; empty without images."""
    card, device = segmenter.card, str(segmenter.device)
    models = {p: Segmenter(segmenter.network, card, device, p, "torch") for p in ("fp32", "bf16")} if val else {}
    classes = len(card.classes)
    confusions = {precision: np.zeros((classes, classes), np.int64) for precision in models}
    equal = total = images = 0
    start = time.monotonic()
    head = next(iter(dataset.labels))
    for sample in evenly_spaced(val, AGREEMENT_IMAGES):
        try:
            image = dataset.read_pixels(sample)
            mask = image.with_void(dataset.read_mask(sample, head))
        except FullconvError:
            continue
        maps = {precision: model.predict(image).label_map for precision, model in models.items()}
        for precision, label_map in maps.items():
            confusions[precision] += confusion_matrix(mask, label_map, classes)
        equal += int((maps["fp32"] == maps["bf16"]).sum())
        total += mask.size
        images += 1
        if time.monotonic() - start > AGREEMENT_TIME_S:
            break
    if not total:
        return {}
    difference = mean_iou(confusions["bf16"]) - mean_iou(confusions["fp32"])
    return {"bf16": {"labels": equal / total, "mean_iou_difference": difference, "pictures": images}}


def add_scores(
    card: Card, reports: Mapping[str, Mapping[str, Report]], agreement: Mapping[str, Any], state: TrainState
) -> Card:
    """Return the card with the scores of the first head, and of all in `heads` where there are several."""
    scores: dict[str, Any] = {}
    for split, by_head in reports.items():
        numbers = {
            head: {k: v for k, v in report.to_dict().items() if k not in ("confusion", "warnings", "failed", "seconds")}
            for head, report in by_head.items()
        }
        scores[split] = next(iter(numbers.values())) | ({"heads": numbers} if len(numbers) > 1 else {})
    if state.best_step is not None:
        validations = sum(1 for line in state.history if line["val"])
        scores["chosen"] = f"the best of {validations} validations on val, step {state.best_step}"
    return card.model_copy(update={"scores": scores, "agreement": dict(agreement)})


def report_images(segmenter: Segmenter, dataset: Dataset, report: Report, split: str) -> Iterator[ReportImage]:
    """Yield the worst and some typical images, one at a time."""
    scores = report.scores_by_image()
    samples = {sample.stem: sample for sample in dataset.splits[split]}
    head = next(iter(dataset.labels))
    for stem in choose_images(report):
        image = dataset.read_pixels(samples[stem])
        prediction = segmenter.predict(image)
        mask = image.with_void(dataset.read_mask(samples[stem], head))
        yield ReportImage(stem, prediction.image, mask, prediction.label_map, scores[stem])


def finalize(context: RunContext, state: TrainState) -> Segmenter:
    """Write the model with its scores, and the report; all processes score, the main one writes."""
    dataset, dist, run_dir = context.dataset, context.dist, context.run_dir
    model = write_model(context, state)
    agreement = dist.broadcast(lambda: precision_agreement(model, dataset, context.val))
    # Scored as users will score it; the default precision depends on the agreement. On several machines the choice
    # could differ.
    precision, engine = ("auto", "auto") if dist.world_size == 1 else ("fp32", "torch")
    card = model.card.model_copy(update={"agreement": agreement})
    segmenter = Segmenter(state.network, card, str(context.device), precision, engine)
    reports: dict[str, dict[str, Report]] = {}
    for split in ("val", "test"):
        if samples := dataset.splits.get(split):
            context.console.info(f"Scoring all of {split} ...")
            reports[split] = evaluate_distributed(
                dist, segmenter, dataset, split, samples, progress=context.console.validation_progress,
                on_error="record",
            )  # fmt: skip
    if not dist.is_main:
        return segmenter
    segmenter.card = add_scores(context.card, reports, agreement, state)
    segmenter.save(run_dir.model)
    if reports:
        split = "val" if "val" in reports else next(iter(reports))
        firsts = {name: next(iter(by_head.values())) for name, by_head in reports.items()}
        write_report(
            run_dir.report, card=segmenter.card, history=state.history, reports=firsts, heads=reports,
            images=report_images(segmenter, dataset, firsts[split], split), recipe=context.recipe.model_dump(mode="json"),
            data=summarize_data(dataset), notes=context.notes, machine={**machine_info(), **package_versions()},
        )  # fmt: skip
    return segmenter
