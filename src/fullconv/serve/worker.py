"""One copy of a model in a process of its own: frames with pictures in, frames with answers out.

Threads decode and encode while the main thread computes, as in `fullconv predict`. The process ends when its input does,
so that none outlives the service.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fullconv.engines import AutoEngine
from fullconv.engines.autotune import Choice
from fullconv.errors import FullconvError, InputError
from fullconv.images import image_size, read_image
from fullconv.preprocess import select_bands, working_size
from fullconv.segmenter import Segmenter, load
from fullconv.serve.errors import Refusal, as_refusal
from fullconv.serve.ipc import read_frame, write_frame
from fullconv.serve.responses import encode
from fullconv.system import retain_freed

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may open here. Its reader of EPS starts another program."""
LEAST_SIDE = 64
"""Networks pad a shorter side to this, so that a thin picture costs more than its pixels."""
MAX_PROBABILITIES = 2**28
"""Numbers of one answer: 1 GiB while it is computed."""
SCALED_KEPT = 4
"""Segmenters with another working resolution that are kept."""


@dataclass
class Order:
    """One picture on its way."""

    number: int
    head: dict[str, Any]
    """What was asked: answer, tile, head, scale, include."""
    pixels: NDArray[Any]
    segmenter: Segmenter

    @property
    def key(self) -> tuple[Any, ...]:
        """What pictures that go through the network together have in common."""
        fields = ("tile", "head", "scale")
        return (self.pixels.shape, self.pixels.dtype, self.wants_probabilities, *map(self.head.get, fields))

    @property
    def wants_probabilities(self) -> bool:
        """Whether the probabilities of all classes are kept."""
        return bool(self.head["answer"] == "npz")


class Copy:
    """The loop of one process.

    Args:
        segmenter: The model.
        limits: "batch_size", "max_pixels".
        out: Where answers go.
    """

    def __init__(self, segmenter: Segmenter, limits: dict[str, Any], out: IO[bytes]) -> None:
        self.segmenter, self.out = segmenter, out
        self.batch_size, self.max_pixels = int(limits["batch_size"]), int(limits["max_pixels"])
        self.pool = ThreadPoolExecutor(min(4, (os.cpu_count() or 1) + 1), thread_name_prefix="fullconv")
        self._scaled: OrderedDict[float, Segmenter] = OrderedDict()
        self._ready: list[Order] = []
        self._decoded = 0
        """Pixels that are decoded and not yet computed."""
        self._dropped: set[int] = set()
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._ended = False

    def listen(self, source: IO[bytes]) -> None:
        """Take frames until the other side is gone, then end the process."""
        while (frame := read_frame(source)) is not None:
            head, body = frame
            if head.get("drop"):
                with self._changed:
                    self._dropped.add(int(head["id"]))
                    self._changed.notify_all()
                continue
            self.pool.submit(self._take, head, body)
        os._exit(0)  # what is being computed has nobody to go to

    def run(self) -> None:
        """Compute what is ready, batch by batch, for ever."""
        while True:
            batch = self._next()
            start = time.perf_counter()
            try:
                self._compute(batch, start)
            except Exception as error:
                if len(batch) == 1:
                    self._fail(batch[0].number, error)
                    continue
                for order in batch:  # one of them; each by itself tells which
                    try:
                        self._compute([order], start)
                    except Exception as own:
                        self._fail(order.number, own)

    def _next(self) -> list[Order]:
        """Wait for a picture; it and those like it that are ready, in the order in which they came, are a batch."""
        with self._changed:
            while True:
                gone = [order for order in self._ready if order.number in self._dropped]
                for order in gone:
                    self._release(order)
                    self._send({"id": order.number, "refused": [408, "dropped", "nobody waits for it any more."]})
                if self._ready:
                    break
                self._changed.wait()
            first = self._ready[0]
            batch = [order for order in self._ready if order.key == first.key][: self.batch_size]
            for order in batch:
                self._release(order)
            return batch

    def _release(self, order: Order) -> None:
        self._ready.remove(order)
        self._decoded -= order.pixels.shape[0] * order.pixels.shape[1]
        self._changed.notify_all()

    @torch.inference_mode()
    def _compute(self, batch: list[Order], start: float) -> None:
        first = batch[0]
        height, width = first.pixels.shape[:2]
        engine = first.segmenter.engine.at(*working_size(height, width, first.segmenter.card.scale))
        predictions = first.segmenter.predict_many(
            [order.pixels for order in batch], first.head["tile"], first.wants_probabilities, first.head["head"]
        )
        for order, prediction in zip(batch, predictions, strict=True):
            if "confidence" in order.head["include"]:
                _ = prediction.confidence  # cached; it runs the network's second half, which belongs into this thread
            seconds = time.perf_counter() - start
            told = {"batch": len(batch), "seconds": seconds, "engine": engine.name, "precision": engine.precision}
            self.pool.submit(self._answer, order, prediction, told)

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        """Decode a picture and put it among those that are ready."""
        number = int(head["id"])
        try:
            segmenter = self._segmenter(head["scale"])
            height, width = self._check(head, body, segmenter)
            with self._changed:  # as many pixels as one picture may have, or one picture
                while self._decoded and self._decoded + height * width > self.max_pixels:
                    self._changed.wait()
                self._decoded += height * width
            try:
                pixels = select_bands(read_image(body), segmenter.card, stored=True)
                if pixels.shape[:2] != (height, width):
                    raise InputError("the picture: its header does not tell its size. Export it again.")
            except BaseException:
                with self._changed:
                    self._decoded -= height * width
                    self._changed.notify_all()
                raise
            with self._changed:
                self._ready.append(Order(number, head, pixels, segmenter))
                self._ready.sort(key=lambda order: order.number)
                self._changed.notify_all()
        except Exception as error:
            self._fail(number, error)

    def _check(self, head: dict[str, Any], body: bytes, segmenter: Segmenter) -> tuple[int, int]:
        """Return the size that a picture's header tells, before anything is decoded.

        Raises:
            Refusal: It has too many pixels, or so many that its answer would not fit.
            PictureError: It is no picture.
        """
        height, width = image_size(body)  # refuses too many pixels by itself
        working = [max(LEAST_SIDE, side) for side in working_size(height, width, segmenter.card.scale)]
        if working[0] * working[1] > self.max_pixels:
            raise Refusal(
                413, "too-many-pixels", f"the network would see {working[1]}x{working[0]} pixels of this picture, this"
                f" service computes up to {self.max_pixels:,}. Cut it, or send a smaller scale.",
            )  # fmt: skip
        classes = len(segmenter.card.labels(head["head"]).classes)
        if head["answer"] == "npz" and height * width * classes > MAX_PROBABILITIES:
            raise Refusal(
                413, "too-many-probabilities", f"{classes} classes of {width}x{height} pixels are more than"
                f" {MAX_PROBABILITIES:,} probabilities. Cut the picture, or ask for labels.",
            )  # fmt: skip
        return height, width

    def _segmenter(self, scale: float | None) -> Segmenter:
        """Return the model at a working resolution, sharing its network."""
        if scale is None or scale == self.segmenter.card.scale:
            return self.segmenter
        with self._changed:
            if scale not in self._scaled:
                other = copy.copy(self.segmenter)
                other.card = self.segmenter.card.model_copy(update={"scale": scale})
                self._scaled[scale] = other
                if len(self._scaled) > SCALED_KEPT:
                    self._scaled.popitem(last=False)
            self._scaled.move_to_end(scale)
            return self._scaled[scale]

    def _answer(self, order: Order, prediction: Any, told: dict[str, Any]) -> None:
        try:
            card = order.segmenter.card
            heads = list(card.heads) if card.heads else []
            facts = {
                "head": order.head["head"] or (heads[0] if heads else None), "scale": card.scale,
                "engine": told["engine"], "precision": told["precision"],
            }  # fmt: skip
            payload = encode(prediction, order.head, facts)
            height, width = prediction.label_map.shape
            self._send({"id": order.number, "pixels": height * width, **told}, payload)
        except Exception as error:
            self._fail(order.number, error)

    def _fail(self, number: int, error: Exception) -> None:
        refusal = as_refusal(error)
        head = {"id": number, "refused": [refusal.status, refusal.code, refusal.message]}
        if refusal.status == 500:  # a bug: its traceback belongs into the log
            head["traceback"] = "".join(traceback.format_exception(error))
        self._send(head)

    def _send(self, head: dict[str, Any], payload: bytes = b"") -> None:
        with self._writing:
            write_frame(self.out, head, payload)
        self._dropped.discard(head["id"])


def choose_engines(segmenter: Segmenter, before: dict[str, Any] | None) -> dict[int, Choice]:
    """Choose the engine for each class of picture sizes, or take what was chosen before, and compute a first picture.

    Args:
        segmenter: The model.
        before: "engines" by class, and the "weights_sha256" for which they were chosen; None for the first copy.

    Returns:
        Engine and precision by class; empty where one engine computes all.
    """
    engine, chosen = segmenter.engine, {}
    if isinstance(engine, AutoEngine):
        if before is not None and before["weights_sha256"] == segmenter.card.weights_sha256:
            engine.hold({int(side): (name, precision) for side, (name, precision) in before["engines"].items()})
        chosen = engine.decided()
    for side in chosen or [LEAST_SIDE]:  # so that no client waits for what is prepared at the first picture
        segmenter.predict(np.zeros((side, side, segmenter.card.in_channels), np.uint8))
    return chosen


@retain_freed()
def main() -> None:
    """Load the model that the first frame names, and serve the frames that follow."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the service says when to end
        signal.signal(number, signal.SIG_IGN)
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the frames
    frame = read_frame(source)
    if frame is None:
        return
    told = frame[0]
    os.environ["FULLCONV_MAX_PIXELS"] = str(told["max_pixels"])
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
    try:
        if told["copies"] > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // told["copies"]))
        segmenter = load(told["model"], precision=told["precision"], engine=told["engine"], device=told["device"])
        chosen = choose_engines(segmenter, told["chosen"])
    except FullconvError as error:
        write_frame(out, {"failed": str(error)})
        return
    engine = segmenter.engine
    running = {"engine": engine.name, "precision": engine.precision, "device": str(segmenter.device)}
    write_frame(out, {"ready": running, "chosen": chosen}, segmenter.card.to_json().encode())
    this = Copy(segmenter, told, cast("IO[bytes]", out))
    threading.Thread(target=this.listen, args=(source,), name="listen", daemon=True).start()
    this.run()


if __name__ == "__main__":
    main()
