"""What several processes make together: the gradient and the statistics of one global batch, and one score of all pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.data import Dataset, Sample
from fullconv.data.choice import check_classes, choose_heads
from fullconv.errors import DataError
from fullconv.evaluation import Report, evaluate_heads
from fullconv.metrics import Counts
from fullconv.segmenter import Segmenter
from fullconv.training.processes import Processes

BUCKET_BYTES = 64 * 2**20
"""Gradients that are added up at a time."""


def sum_gradients(network: nn.Module, processes: Processes) -> None:
    """Add every gradient up over the processes, in an order that depends on nothing but the network.

    DistributedDataParallel regroups gradients after its first step. A run that goes on would then add in another order
    than one that was never stopped, and with three processes or more get other bits.
    """
    if processes.ranks == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in reversed(list(network.parameters())):
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
        if size >= BUCKET_BYTES:
            _sum_together(bucket, processes)
            bucket, size = [], 0
    _sum_together(bucket, processes)


def mean_running_statistics(network: nn.Module, processes: Processes, share: float) -> None:
    """Let the running statistics of batch norms be the mean over the processes.

    Args:
        network: In training mode where its statistics moved.
        processes: All of them.
        share: This process's part of the global batch.
    """
    if processes.ranks == 1:
        return
    moved: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            moved += [value for value in (module.running_mean, module.running_var) if value is not None]
    for value in moved:
        value.mul_(share)
    _sum_together(moved, processes)


def _sum_together(tensors: Sequence[Tensor], processes: Processes) -> None:
    """Add tensors up over the processes, in place and in one go."""
    if not tensors:
        return
    flat = processes.sum(torch.cat([value.flatten() for value in tensors]))
    for value, part in zip(tensors, torch.split(flat, [value.numel() for value in tensors]), strict=True):
        value.copy_(part.view(value.shape))


def evaluate_together(
    processes: Processes,
    segmenter: Segmenter,
    dataset: Dataset,
    split: str,
    samples: Sequence[Sample],
    **options: Any,
) -> dict[str, Report]:
    """Score pictures as `evaluate_heads` does, each in exactly one of the processes; all return the whole.

    Each picture is predicted by itself and counts are whole numbers, so their sums are the same for any number of
    processes.

    Raises:
        DataError, InputError: As `evaluate_heads`; where it fails in one process it fails in all.
    """
    if processes.ranks == 1:
        return evaluate_heads(segmenter, dataset, split, samples=samples, **options)
    start = time.perf_counter()
    shares = _Shares(segmenter, dataset, samples, processes)
    processes.all_do(lambda: shares.score_own(split, options))
    return shares.together(split, start)


class _Shares:
    """What each process counts of its own pictures, every one of which has its place among all."""

    def __init__(self, segmenter: Segmenter, dataset: Dataset, samples: Sequence[Sample], processes: Processes) -> None:
        self.segmenter, self.dataset, self.samples, self.processes = segmenter, dataset, samples, processes
        self.classes: dict[str, tuple[str, ...]] = {}
        for ours, theirs in choose_heads(segmenter.card, dataset, None):
            names = segmenter.card.labels(ours).classes
            check_classes(names, dataset.labels[theirs].classes, str(dataset.root))
            self.classes[ours or ""] = names
        sizes = {head: len(names) for head, names in self.classes.items()}
        self.own = {i: sample for i, sample in enumerate(samples) if i % processes.ranks == processes.rank}
        self.counts = {head: torch.zeros(len(samples), 3, k, dtype=torch.int64) for head, k in sizes.items()}
        self.confusions = {head: torch.zeros(k, k, dtype=torch.int64) for head, k in sizes.items()}
        self.failed: list[list[Any]] = []
        """Each with its place, and input and reason."""

    def score_own(self, split: str, options: dict[str, Any]) -> None:
        """Count this process's pictures."""
        if not self.own:
            return
        try:
            reports = evaluate_heads(self.segmenter, self.dataset, split, samples=list(self.own.values()), **options)
        except DataError as error:  # not one of this process's pictures; the others may have some
            if options.get("on_error") != "record":
                raise
            self.failed += [[i, {"input": s.image.as_posix(), "reason": str(error)}] for i, s in self.own.items()]
            return
        for head, report in reports.items():
            self.confusions[head].add_(torch.from_numpy(report.confusion))
            for index, sample in self.own.items():
                if sample.stem in report.per_image:
                    self.counts[head][index] = torch.from_numpy(np.stack(report.per_image[sample.stem]))
        reasons = {entry["input"]: entry for entry in next(iter(reports.values())).failed}
        self.failed += [[i, reasons[s.image.as_posix()]] for i, s in self.own.items() if s.image.as_posix() in reasons]

    def together(self, split: str, start: float) -> dict[str, Report]:
        """Add up what all processes counted, and return the score of each head.

        Raises:
            DataError: No picture of any process could be scored.
        """
        for head in self.classes:
            self.processes.sum(self.counts[head])
            self.processes.sum(self.confusions[head])
        gathered = [entry for part in self.processes.gathered(self.failed) for entry in part]
        missed = dict(sorted(gathered, key=lambda entry: entry[0]))
        scored = [index for index in range(len(self.samples)) if index not in missed]
        if missed and not scored:
            words = f"{self.dataset.root}: none of {len(self.samples)} pictures could be scored"
            raise self.processes.spoken(DataError(f"{words}: {next(iter(missed.values()))['reason']}"))
        engine = self.segmenter.engine
        return {
            head: Report(
                names, self.confusions[head].numpy(),
                {self.samples[index].stem: Counts(*self.counts[head][index].numpy()) for index in scored},
                engine=engine.name, precision=engine.precision, split=split, failed=list(missed.values()),
                seconds=time.perf_counter() - start,
            )
            for head, names in self.classes.items()
        }  # fmt: skip
