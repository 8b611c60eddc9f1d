"""Samples at the working resolution, and the next items while the caller works."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Dataset
from fullconv.data.samples import Sample
from fullconv.errors import DataError
from fullconv.images import resize_mask
from fullconv.preprocess import rescale, working_size

Item = TypeVar("Item")

_POLL_S = 0.1  # how soon the background thread notices that its consumer is gone


def read_sample(
    dataset: Dataset, sample: Sample, scale: float = 1.0, channels: int | None = None
) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]]]:
    """Read an image (H, W, C) with its masks (H, W) by head, at the working resolution.

    A grey image becomes three equal channels where `channels` is 3.
    """
    image = dataset.read_image(sample)
    masks = {head: dataset.read_mask(sample, head) for head in sample.masks}
    for head, mask in masks.items():
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{sample.masks[head].path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its image {sample.image.name}"
                f" {image.shape[1]}x{image.shape[0]}. Export both at one size, or omit the pair."
            )
    if channels == 3 and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)  # grey among colour images
    if scale != 1:
        size = working_size(image.shape[0], image.shape[1], scale)
        image = rescale(image[None], scale)[0]
        masks = {head: resize_mask(mask, size) for head, mask in masks.items()}
    return image, masks


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
