"""Training batches from any step on, the same for any number of workers."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from fullconv.data.augmentation import Augmentation, as_dtype, augment, preset
from fullconv.data.crop_sampling import Crop, center_probabilities, choose_sampling, crops_per_image, sample_center
from fullconv.data.dataset import Dataset
from fullconv.data.samples import Masks, Sample
from fullconv.data.statistics import Statistics
from fullconv.errors import DataError, FullconvError
from fullconv.images import resize_mask
from fullconv.labels import VOID
from fullconv.preprocess import rescale, working_size

MIN_STEPS = 50
"""Steps of an epoch, however few images there are."""

START_METHOD: str | None = None
"""How workers start: "fork", "spawn", "forkserver", or None for the system's default."""

_ORDER, _CROP = 1, 2  # separate streams of random numbers from one seed
_POLL_S = 0.1  # how soon the background thread notices that its consumer is gone

Decoded = tuple[NDArray[Any], Masks]
"""An image (H, W, C) with its masks."""
Item = TypeVar("Item")


def read_sample(
    dataset: Dataset,
    sample: Sample,
    scale: float = 1.0,
    channels: int | None = None,
    augmentation: Augmentation | None = None,
) -> Decoded:
    """Read an image (H, W, C) with its masks (H, W) by head, at the working resolution.

    Masks are void where the image has no data. With an augmentation, values that cannot be data become its mean colour, as
    in prediction. A grey image becomes three equal channels where `channels` is 3.
    """
    pixels, masks = dataset.read_sample(sample, first_look=False)
    if channels == 3 and pixels.values.shape[2] == 1:
        pixels = pixels.select([0, 0, 0])  # grey among colour images
    image = pixels.values
    if augmentation is not None:
        image = pixels.filled(augmentation.fill_value, *augmentation.value_range)
    masks = {head: pixels.with_void(mask) for head, mask in masks.items()}
    if scale != 1:
        size = working_size(image.shape[0], image.shape[1], scale)
        image = rescale(image[None], size)[0]
        masks = {head: resize_mask(mask, size) for head, mask in masks.items()}
    return image, masks


def pad_together(
    images: Sequence[NDArray[Any]], masks: Sequence[Masks], fill: Sequence[float]
) -> tuple[list[NDArray[Any]], list[Masks]]:
    """Pad images (H, W, C) of one type and their masks, right and bottom, to the largest height and width among them.

    Images get the mean colour `fill` (C,), which normalizes to 0; masks get void, which counts in no loss.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))

    def pad(array: NDArray[Any], value: Any) -> NDArray[Any]:
        canvas = np.empty((height, width, *array.shape[2:]), array.dtype)
        canvas[:] = value
        canvas[: array.shape[0], : array.shape[1]] = array
        return canvas

    padded = [pad(image, as_dtype(np.asarray(fill, np.float64), image.dtype)) for image in images]
    return padded, [{head: pad(mask, VOID) for head, mask in by_head.items()} for by_head in masks]


@dataclass
class Batch:
    """What a training step sees."""

    images: Tensor
    """(N, h, w, C) in the images' own values: uint8, uint16 or float32."""
    masks: dict[str, Tensor]
    """By head, (N, h, w) uint8: class indices and 255."""
    stems: list[str]
    """N names."""
    step: int
    """Counted from the start of the run."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Stems of images that could not be read, and why; others took their place."""


@dataclass(eq=False)
class BatchBuilder(TorchDataset[list[Batch]]):
    """Builds the batches of one block: `crops` steps that share their images, so that each is decoded once.

    Its fields are all that determines a batch; it is sent to workers.
    """

    dataset: Dataset
    samples: Sequence[Sample]
    augmentation: Augmentation
    batch_size: int
    steps_per_epoch: int
    crops: int
    """Crops of one image in successive steps."""
    scale: float
    seed: int
    rare: NDArray[np.float64] | None
    """(K,) relative probability of each class as the center of a crop; None for crops anywhere."""
    skip_bad: bool
    cache_bytes: int
    slots: Sequence[int]
    """Places of the whole batch that this process fills."""
    channels: int
    """Of every image."""
    full_images: bool = False
    """Whether images are not cropped; those of a batch are padded to one size."""
    _cache: dict[int, Decoded] = field(default_factory=dict, init=False, repr=False)
    _cached_bytes: int = field(default=0, init=False)
    _order: tuple[int, NDArray[np.int64]] = field(default=(-1, np.empty(0, np.int64)), init=False, repr=False)

    def __getitem__(self, block: tuple[int, int]) -> list[Batch]:
        """Build the steps of a block from (first step, one past the last)."""
        start, stop = block
        visit = start // self.crops * self.batch_size
        chosen = [(slot, self._index(visit + slot)) for slot in self.slots]
        skipped: list[tuple[str, str]] = []
        samples = [(slot, *self._read_or_skip(index, skipped)) for slot, index in chosen]
        batches = [self._batch(step, samples) for step in range(start, stop)]
        batches[0].skipped = skipped
        return batches

    def _index(self, visit: int) -> int:
        """Return the image of the n-th visit: each once per pass, every pass in its own order."""
        count = len(self.samples)
        epoch = visit // count
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, _ORDER, epoch]).permutation(count)
        return int(self._order[1][visit % count])

    def _read_or_skip(self, index: int, skipped: list[tuple[str, str]]) -> tuple[int, NDArray[Any], Masks]:
        """Read an image; one that cannot be read is an error, or with `skip_bad` the next takes its place."""
        count = len(self.samples)
        for shift in range(count):
            place = (index + shift) % count
            try:
                return place, *self._read(place)
            except FullconvError as error:
                sample = self.samples[place]
                if not self.skip_bad:
                    raise DataError(f"{error} (during training; --skip-bad continues without it)") from error
                skipped.append((sample.stem, str(error)))
        raise DataError(f"{self.dataset.root}: none of {count} images can be read. Check the disk.")

    def _read(self, index: int) -> Decoded:
        if index in self._cache:
            return self._cache[index]
        found = read_sample(self.dataset, self.samples[index], self.scale, self.channels, self.augmentation)
        size = found[0].nbytes + sum(mask.nbytes for mask in found[1].values())
        # Nothing is evicted: in random order an LRU cache would hit no more often.
        if self._cached_bytes + size <= self.cache_bytes:
            self._cache[index] = found
            self._cached_bytes += size
        return found

    def _batch(self, step: int, samples: Sequence[tuple[int, int, NDArray[Any], Masks]]) -> Batch:
        images, masks, stems = [], [], []
        epoch, inner = divmod(step, self.steps_per_epoch)
        for slot, index, image, labels in samples:
            position = inner * self.batch_size + slot
            rng = np.random.default_rng([self.seed, _CROP, epoch, position])
            center = None
            if self.rare is not None and position % 2 == 0:
                center = sample_center(next(iter(labels.values())), self.rare, rng)
            settings = replace(self.augmentation, crop=image.shape[:2]) if self.full_images else self.augmentation
            cut, cut_labels = augment(image, labels, rng, settings, center)
            images.append(cut)
            masks.append(cut_labels)
            stems.append(self.samples[index].stem)
        if self.full_images:
            images, masks = pad_together(images, masks, self.augmentation.fill_value)
        heads = masks[0].keys()
        stacked = {head: torch.from_numpy(np.stack([m[head] for m in masks])) for head in heads}
        return Batch(torch.from_numpy(np.stack(images)), stacked, stems, step)


def iterate_blocks(crops: int, start: int, stop: int | None) -> Iterator[tuple[int, int]]:
    """Yield the blocks from a step on, endless or up to one; a run that starts inside a block begins with its rest."""
    while stop is None or start < stop:
        end = (start // crops + 1) * crops
        end = end if stop is None else min(end, stop)
        yield start, end
        start = end


class TrainingBatches:
    """Endless training batches; a step has the same batch from any start and with any number of workers.

    Args:
        dataset: Opened data set.
        split: Which of its splits.
        batch_size: Crops per step, over all ranks.
        crop: Height and width of a crop in pixels, at the working resolution; "whole" does not crop.
        scale: Working resolution; images are resized by it (antialiased), masks by nearest.
        augment: A preset of `fullconv.data.augmentation`, or an Augmentation whose crop, fill and range are set.
        seed: Random seed.
        sampling: "uniform"; "rare" centers every second crop on a class of the image; "auto" chooses.
        steps_per_epoch: None for one crop per image (more from large ones), and at least `MIN_STEPS`.
        workers: Processes that build batches; 0 builds them in a thread of this one, while the step runs.
        statistics: Of the split, if known.
        skip_bad: Continue with the next image where one cannot be read; the data set's by default.
        cache_bytes: Memory for decoded images, divided among the workers.
        rank: Of this process.
        ranks: World size; each rank builds every `ranks`-th crop of a batch.

    Raises:
        DataError: The split is empty or its images differ in kind.
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
        crops = crops_per_image(self.statistics, crop, scale)
        if crops > 1:
            self.explain += f" {crops} crops are taken from each decoded image."
        if steps_per_epoch is None:
            steps_per_epoch = max(MIN_STEPS, math.ceil(len(samples) * crops / batch_size))
        self.steps_per_epoch = steps_per_epoch
        self.workers = workers
        self.skipped: dict[str, str] = {}
        if isinstance(augment, str):
            size = (0, 0) if crop == "whole" else crop
            augment = preset(augment, size, self.statistics.fill, self.statistics.range)
        orders = {head: labels.mirror_order for head, labels in dataset.labels.items() if labels.mirror_pairs}
        augment = replace(augment, mirror_orders=orders)
        self._builder = BatchBuilder(
            dataset=dataset,
            samples=samples,
            augmentation=augment,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            crops=crops,
            scale=scale,
            seed=seed,
            rare=center_probabilities(self.statistics) if self.sampling == "rare" else None,
            skip_bad=dataset.skip_bad if skip_bad is None else skip_bad,
            cache_bytes=cache_bytes // max(1, workers),
            slots=range(rank, batch_size, ranks),
            channels=self.statistics.channels,
            full_images=crop == "whole",
        )

    @property
    def fits_in_cache(self) -> bool:
        """Whether every image, once decoded, stays in memory for later epochs."""
        builder, statistics = self._builder, self.statistics
        pixel_bytes = statistics.channels * np.dtype(statistics.dtype).itemsize + len(builder.dataset.heads)
        pixels = sum(height * width for height, width in statistics.sizes) * builder.scale**2
        return not self.workers and pixel_bytes * pixels <= builder.cache_bytes

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[Batch]:
        """Yield the batches from a step on (counted from the start of the run), endless or up to a step."""
        blocks = iterate_blocks(self._builder.crops, start_step, stop_step)
        built = self._by_workers(blocks) if self.workers else read_ahead(map(self._builder.__getitem__, blocks), 2)
        with contextlib.closing(built):
            for block in built:
                for batch in block:
                    self.skipped.update(batch.skipped)
                    yield batch

    def full_batch(self, step: int) -> Batch:
        """Build the batch of a step with the crops of all ranks."""
        whole = replace(self._builder, slots=range(self._builder.batch_size), cache_bytes=0)
        return whole[step, step + 1][0]

    def _by_workers(self, blocks: Iterator[tuple[int, int]]) -> Generator[list[Batch], None, None]:
        loader = DataLoader(
            _ErrorsAsText(self._builder),
            batch_size=None,
            sampler=blocks,
            num_workers=self.workers,
            prefetch_factor=2,
            persistent_workers=True,
            multiprocessing_context=START_METHOD,
            worker_init_fn=_exit_with_parent,
        )
        for block in loader:
            if isinstance(block, str):
                raise DataError(block)
            yield block


class _ErrorsAsText(TorchDataset[Any]):
    """Returns an error's message instead of raising it: torch would wrap it in the worker's traceback."""

    def __init__(self, builder: BatchBuilder) -> None:
        self.builder = builder

    def __getitem__(self, block: tuple[int, int]) -> list[Batch] | str:
        try:
            return self.builder[block]
        except FullconvError as error:
            return str(error)


def _exit_with_parent(_: int) -> None:
    """End this worker when the training process is gone, even if that was killed.

    torch's own watchdog compares the parent's process id. Under "forkserver", Python's default on Linux from 3.14 on, that is
    the server's: workers of a killed run would stay forever, with some 300 MB each.
    """
    run = multiprocessing.parent_process()

    def wait() -> None:
        if run is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def read_ahead(items: Iterable[Item], ahead: int) -> Generator[Item, None, None]:
    """Take items from an iterable in a background thread, at most `ahead` before they are needed."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def offer(done: bool, item: Any) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((done, item), timeout=_POLL_S)
                return True
        return False

    def fill() -> None:
        try:
            for item in items:
                if not offer(False, item):
                    return
            offer(True, None)
        except BaseException as error:  # raised in the caller's thread
            offer(True, error)

    thread = threading.Thread(target=fill, name="fullconv-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            done, item = ready.get()
            if not done:
                yield item
                continue
            if item is not None:
                raise item
            return
    finally:
        stopped.set()
        thread.join()
