"""Images of several sizes in one batch.

Training batches from any step on, the same whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from fullconv.data.augmentation import Augmentation, as_dtype, augment_all, preset
from fullconv.data.crop_sampling import Crop, choose_focus, choose_sampling, crops_a_picture, likely_centres
from fullconv.data.dataset import Dataset
from fullconv.data.prefetch import pictures, read_ahead, read_sample
from fullconv.data.samples import Sample
from fullconv.data.statistics import Statistics
from fullconv.errors import DataError, FullconvError
from fullconv.labels import VOID


def pad_together(
    images: Sequence[NDArray[Any]], masks: Sequence[Mapping[str, NDArray[np.uint8]]], fill: Sequence[float]
) -> tuple[list[NDArray[Any]], list[dict[str, NDArray[np.uint8]]]]:
    """Pad pictures with their masks, right and bottom, to the largest height and width among them.

    Args:
        images: Each (H, W, C), of one type.
        masks: Of each picture, (H, W) uint8 by head.
        fill: (C,) the mean colour, which normalised pictures have as 0.

    Returns:
        Images of one size, the mean colour where there was nothing; masks, void there. So nothing that was added
        counts in a loss. What the network says near it is not what it says of the picture alone.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded: list[NDArray[Any]] = []
    labels: list[dict[str, NDArray[np.uint8]]] = []
    for image, by_head in zip(images, masks, strict=True):
        h, w = image.shape[:2]
        whole = np.empty((height, width, image.shape[2]), image.dtype)
        whole[:] = as_dtype(np.asarray(fill, np.float64), image.dtype)
        whole[:h, :w] = image
        padded.append(whole)
        labels.append({head: np.full((height, width), VOID, np.uint8) for head in by_head})
        for head, mask in by_head.items():
            labels[-1][head][:h, :w] = mask
    return padded, labels


LEAST_STEPS = 50
"""Steps of an epoch, however few pictures there are."""

Item = TypeVar("Item")

START_METHOD: str | None = None
"""How workers start: "fork", "spawn", "forkserver", or None for the system's own way."""

_ORDER, _CROP = 1, 2  # separate streams of random numbers from one seed


@dataclass
class Batch:
    """What a training step sees."""

    images: Tensor
    """(N, h, w, C) in the pictures' own numbers: uint8, uint16 or float32."""
    masks: dict[str, Tensor]
    """By head, (N, h, w) uint8: class indices and 255."""
    stems: list[str]
    """N names."""
    step: int
    """Counted from the start of the run."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Images that could not be read, and why; others took their place."""


@dataclass(frozen=True)
class _Plan:
    """All that decides what a batch holds; sent to workers."""

    dataset: Dataset
    samples: Sequence[Sample]
    augmentation: Augmentation
    batch_size: int
    steps_per_epoch: int
    crops: int
    """Crops of one picture in successive steps."""
    scale: float
    seed: int
    rare: NDArray[np.float64] | None
    """(K,) how likely a class is to be the centre of a crop; None for crops anywhere."""
    skip_bad: bool
    cache_bytes: int
    slots: Sequence[int]
    """Places of the whole batch that this process fills."""
    channels: int
    """That every picture must have."""
    whole: bool = False
    """Whether pictures are seen as they are; those of a batch are padded to one size."""


class _Maker(TorchDataset[list[Batch]]):
    """Makes the batches of one block: `crops` steps that share their pictures, so that each is decoded once."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self._kept: dict[int, tuple[NDArray[Any], dict[str, NDArray[np.uint8]]]] = {}
        self._kept_bytes = 0
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, block: tuple[int, int]) -> list[Batch]:
        """Make the steps of a block from (first step, one past the last)."""
        plan = self.plan
        start, stop = block
        visit = start // plan.crops * plan.batch_size
        chosen = [(slot, self._index(visit + slot)) for slot in plan.slots]
        skipped: list[tuple[str, str]] = []
        pictures = [(slot, *self._picture(index, skipped)) for slot, index in chosen]
        batches = [self._batch(step, pictures) for step in range(start, stop)]
        batches[0].skipped = skipped
        return batches

    def _index(self, visit: int) -> int:
        """Which picture the n-th visit goes to: each once a pass, in an order of its own."""
        count = len(self.plan.samples)
        turn = visit // count
        if self._order[0] != turn:
            self._order = turn, np.random.default_rng([self.plan.seed, _ORDER, turn]).permutation(count)
        return int(self._order[1][visit % count])

    def _picture(
        self, index: int, skipped: list[tuple[str, str]]
    ) -> tuple[int, NDArray[Any], dict[str, NDArray[np.uint8]]]:
        """Read a picture; one that cannot be read is an error, or the next takes its place."""
        count = len(self.plan.samples)
        for shift in range(count):
            place = (index + shift) % count
            try:
                return place, *self._read(place)
            except FullconvError as error:
                sample = self.plan.samples[place]
                if not self.plan.skip_bad:
                    raise DataError(f"{error} (in the middle of the run; --skip-bad goes on without it)") from error
                skipped.append((sample.stem, str(error)))
        raise DataError(f"{self.plan.dataset.root}: not one of {count} pictures can be read. Check the disk.")

    def _read(self, index: int) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]]]:
        if index in self._kept:
            return self._kept[index]
        plan, sample = self.plan, self.plan.samples[index]
        found = read_sample(plan.dataset, sample, plan.scale, plan.channels)
        size = found[0].nbytes + sum(mask.nbytes for mask in found[1].values())
        # Nothing is thrown out again: in a random order a cache of the latest would hit no more often.
        if self._kept_bytes + size <= plan.cache_bytes:
            self._kept[index] = found
            self._kept_bytes += size
        return found

    def _batch(
        self, step: int, pictures: Sequence[tuple[int, int, NDArray[Any], dict[str, NDArray[np.uint8]]]]
    ) -> Batch:
        plan = self.plan
        images, masks, stems = [], [], []
        epoch, inner = divmod(step, plan.steps_per_epoch)
        for slot, index, image, labels in pictures:
            position = inner * plan.batch_size + slot
            rng = np.random.default_rng([plan.seed, _CROP, epoch, position])
            focus = None
            if plan.rare is not None and position % 2 == 0:
                focus = choose_focus(next(iter(labels.values())), plan.rare, rng)
            settings = replace(plan.augmentation, crop=image.shape[:2]) if plan.whole else plan.augmentation
            cut, cut_labels = augment_all(image, labels, rng, settings, focus)
            images.append(cut)
            masks.append(cut_labels)
            stems.append(plan.samples[index].stem)
        if plan.whole:
            images, masks = pad_together(images, masks, plan.augmentation.fill)
        heads = masks[0].keys()
        stacked = {head: torch.from_numpy(np.stack([m[head] for m in masks])) for head in heads}
        return Batch(torch.from_numpy(np.stack(images)), stacked, stems, step)


class _Blocks(Sampler[tuple[int, int]]):
    """Yields the blocks from a step on, without end or up to one; a block is cut where the run starts inside it."""

    def __init__(self, crops: int, start: int, stop: int | None) -> None:
        self.crops, self.start, self.stop = crops, start, stop

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.start
        while self.stop is None or step < self.stop:
            end = (step // self.crops + 1) * self.crops
            end = end if self.stop is None else min(end, self.stop)
            yield step, end
            step = end


class TrainingBatches:
    """Endless training batches; step n is the same whenever it is asked for, and by however many workers.

    Args:
        dataset: Opened data set.
        split: Which of its splits.
        batch_size: Crops a step, over all ranks.
        crop: Height and width of a crop, at the working resolution; "whole" takes pictures as they are.
        scale: Working resolution; pictures are resized by it (antialiased), masks by nearest.
        augment: A preset of `fullconv.data.augmentation`, or an Augmentation whose crop, fill and range are set.
        seed: Decides everything that is random, with the epoch and the position in it.
        sampling: "uniform"; "rare" centres every second crop on a class of the picture; "auto" chooses.
        steps_per_epoch: None for one crop from each picture (more from large ones), and at least 50 steps.
        workers: Processes that make batches; 0 makes them in a thread of this one, while the step runs.
        statistics: Of the split, where they are known.
        skip_bad: Go on with the next picture where one cannot be read in the middle of the run.
        cache_bytes: Memory for decoded pictures, shared out among the workers.
        rank, ranks: This process and how many there are; each makes every `ranks`-th crop of a batch.

    Raises:
        DataError: The split is empty or its pictures differ in kind.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        batch_size: int,
        crop: Crop,
        scale: float = 1.0,
        augment: str | Augmentation = "street",
        seed: int = 0,
        sampling: str = "auto",
        steps_per_epoch: int | None = None,
        workers: int = 0,
        statistics: Statistics | None = None,
        skip_bad: bool | None = None,
        cache_bytes: int = 1 << 30,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        samples = dataset.samples(split)
        self.statistics = dataset.statistics(split) if statistics is None else statistics
        self.sampling, self.explain = choose_sampling(self.statistics, sampling, crop, scale)
        crops = crops_a_picture(self.statistics, crop, scale)
        if crops > 1:
            self.explain += f" {crops} crops are taken from each decoded picture."
        if steps_per_epoch is None:
            steps_per_epoch = max(LEAST_STEPS, math.ceil(len(samples) * crops / batch_size))
        self.steps_per_epoch = steps_per_epoch
        self.workers = workers
        self.skipped: dict[str, str] = {}
        if isinstance(augment, str):
            size = (0, 0) if crop == "whole" else crop
            augment = preset(augment, size, self.statistics.fill, self.statistics.range)
        self._plan = _Plan(
            dataset=dataset,
            samples=samples,
            augmentation=augment,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            crops=crops,
            scale=scale,
            seed=seed,
            rare=likely_centres(self.statistics) if self.sampling == "rare" else None,
            skip_bad=dataset.skip_bad if skip_bad is None else skip_bad,
            cache_bytes=cache_bytes // max(1, workers),
            slots=range(rank, batch_size, ranks),
            channels=self.statistics.channels,
            whole=crop == "whole",
        )
        self._maker = _Maker(self._plan)

    @property
    def keeps(self) -> bool:
        """Whether every picture, once decoded, stays in memory for the later epochs and for those who ask again."""
        plan, statistics = self._plan, self.statistics
        pixel = statistics.channels * np.dtype(statistics.dtype).itemsize + len(plan.dataset.heads)
        pixels = sum(height * width for height, width in statistics.sizes) * plan.scale**2
        return not self.workers and pixel * pixels <= plan.cache_bytes

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[Batch]:
        """Yield the batches from a step on (counted from the start of the run), without end or up to a step.

        Raises:
            DataError: A picture cannot be read; names it.
        """
        blocks = _Blocks(self._plan.crops, start_step, stop_step)
        made = self._by_workers(blocks) if self.workers else self._by_thread(blocks)
        with contextlib.closing(made):
            for block in made:
                for batch in block:
                    self.skipped.update(batch.skipped)
                    yield batch

    def whole(self, step: int) -> Batch:
        """Make the batch of a step with the crops of all ranks."""
        return _Maker(replace(self._plan, slots=range(self._plan.batch_size), cache_bytes=0))[step, step + 1][0]

    def _by_workers(self, blocks: _Blocks) -> Generator[list[Batch], None, None]:
        loader = DataLoader(
            _Guarded(self._maker),
            batch_size=None,
            sampler=blocks,
            num_workers=self.workers,
            prefetch_factor=2,
            persistent_workers=True,
            multiprocessing_context=START_METHOD,
            collate_fn=_same,
            worker_init_fn=_end_with_the_run,
        )
        for block in loader:
            if isinstance(block, str):
                raise DataError(block)
            yield block

    def _by_thread(self, blocks: _Blocks) -> Generator[list[Batch], None, None]:
        return read_ahead(map(self._maker.__getitem__, blocks), 2)


class _Guarded(TorchDataset[Any]):
    """Returns an error's words instead of raising it: torch would wrap it in the worker's traceback."""

    def __init__(self, maker: _Maker) -> None:
        self.maker = maker

    def __getitem__(self, block: tuple[int, int]) -> list[Batch] | str:
        try:
            return self.maker[block]
        except FullconvError as error:
            return str(error)


def _same(block: Any) -> Any:
    return block


def _end_with_the_run(_: int) -> None:
    """Have this worker end when the process that makes the steps is gone, however that ended.

    torch's own watch asks for the parent's number. Under "forkserver", Python's way on Linux from 3.14 on, that is the
    server's: workers of a run that was killed would stay for ever, with some 300 MB each.
    """
    run = multiprocessing.parent_process()

    def wait() -> None:
        if run is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


__all__ = ["Batch", "TrainingBatches", "pictures"]
