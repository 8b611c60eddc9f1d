"""A picture with its masks at the working resolution, and the next ones while the caller works."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Dataset
from fullconv.data.samples import Sample
from fullconv.errors import DataError, FullconvError
from fullconv.images import resize_mask
from fullconv.preprocess import rescale, working_size

Item = TypeVar("Item")


def read_sample(
    dataset: Dataset, sample: Sample, scale: float = 1.0, channels: int | None = None
) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]]]:
    """Read a picture (H, W, C) with its masks (H, W) by head, at the working resolution.

    A grey picture is given three equal channels where `channels` is 3.

    Raises:
        DataError, InputError: A file cannot be read, or the sizes differ.
    """
    image = dataset.read_image(sample)
    masks = {head: dataset.read_mask(sample, head) for head in sample.masks}
    for head, mask in masks.items():
        if mask.shape != image.shape[:2]:
            raise DataError(size_words(sample, image.shape[:2], mask.shape, head))
    if channels == 3 and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)  # grey among colour pictures
    if scale != 1:
        size = working_size(image.shape[0], image.shape[1], scale)
        image = rescale(image[None], scale)[0]
        masks = {head: resize_mask(mask, size) for head, mask in masks.items()}
    return image, masks


def size_words(sample: Sample, image: Sequence[int], mask: Sequence[int], head: str = "") -> str:
    """Say that a mask has another size than its picture."""
    return (
        f"{sample.masks[head].path}: the mask is {mask[1]}x{mask[0]}, its picture {sample.image.name}"
        f" {image[1]}x{image[0]}. Export both at one size, or leave the pair out."
    )


def read_ahead(items: Iterable[Item], ahead: int) -> Generator[Item, None, None]:
    """Take items from an iterable in a background thread, at most `ahead` before they are asked for."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def offer(done: bool, item: Any) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((done, item), timeout=0.1)
                return True
        return False

    def fill() -> None:
        try:
            for item in items:
                if not offer(False, item):
                    return
            offer(True, None)
        except BaseException as error:  # goes to the thread that waits
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


def pictures(
    dataset: Dataset,
    samples: Iterable[Sample],
    *,
    scale: float = 1.0,
    threads: int = 2,
    on_error: Callable[[Sample, FullconvError], None] | None = None,
) -> Iterator[tuple[Sample, NDArray[Any], Mapping[str, NDArray[np.uint8]]]]:
    """Read whole pictures with their masks in order, the next ones while the caller works.

    Args:
        dataset: Opened data set.
        samples: Which pictures.
        scale: Working resolution; 1 as stored.
        threads: How many are read at a time.
        on_error: Called with a sample that cannot be read, which is then left out; None raises instead.

    Yields:
        Sample, image (H, W, C), masks (H, W) uint8 by head.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="fullconv-pictures") as pool:
        waiting: deque[tuple[Sample, Future[Any]]] = deque()
        left = iter(samples)
        try:
            while True:
                while len(waiting) < 2 * threads and (sample := next(left, None)) is not None:
                    waiting.append((sample, pool.submit(read_sample, dataset, sample, scale)))
                if not waiting:
                    return
                sample, future = waiting.popleft()
                try:
                    image, masks = future.result()
                except FullconvError as error:
                    if on_error is None:
                        raise
                    on_error(sample, error)
                    continue
                yield sample, image, masks
        finally:
            for _, future in waiting:
                future.cancel()
