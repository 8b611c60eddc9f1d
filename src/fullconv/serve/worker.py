"""The worker process: loads a model, receives images as frames, sends back results.

Threads decode and encode while the main thread computes, as in `fullconv predict`. The process exits when its input closes,
so that no worker outlives the service.
"""

from __future__ import annotations

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
from PIL import Image

from fullconv.engines import AutoEngine
from fullconv.errors import FullconvError, InputError
from fullconv.images import image_size
from fullconv.preprocess import NetworkInput
from fullconv.segmenter import Segmenter, load
from fullconv.serve.errors import ApiError, to_api_error
from fullconv.serve.ipc import read_frame, write_frame
from fullconv.serve.responses import encode_response
from fullconv.system import lazy_packages, retain_freed

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may open. Its reader of EPS starts another program."""
MIN_SIDE = 64
"""Networks pad a shorter side to this, so a thin image costs more than its pixels."""
MAX_PROBABILITIES = 2**28
"""Values in one response: 1 GiB while it is computed."""
MAX_SCALED = 4
"""Segmenters with another working resolution in the cache."""


@dataclass
class Request:
    """A decoded image and what is asked of it."""

    number: int
    params: dict[str, Any]
    """answer, tile, head, scale, include."""
    image: NetworkInput
    segmenter: Segmenter

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """What requests of one batch have in common."""
        params = (self.params[name] for name in ("tile", "head", "scale"))
        return (self.image.values.shape, self.image.values.dtype, self.wants_probabilities, *params)

    @property
    def wants_probabilities(self) -> bool:
        """Whether the probabilities of all classes are kept."""
        return bool(self.params["answer"] == "npz")


class InferenceLoop:
    """The loop of a worker process."""

    def __init__(self, segmenter: Segmenter, limits: dict[str, Any], out: IO[bytes]) -> None:
        self.segmenter, self.out = segmenter, out
        self.batch_size, self.max_pixels = int(limits["batch_size"]), int(limits["max_pixels"])
        self.threads = ThreadPoolExecutor(min(4, (os.cpu_count() or 1) + 1), thread_name_prefix="fullconv")
        self._scaled: OrderedDict[float, Segmenter] = OrderedDict()
        self._ready: list[Request] = []
        self._decoded_pixels = 0
        """Pixels that are decoded and not yet computed."""
        self._dropped: set[int] = set()
        self._changed = threading.Condition()
        self._write_lock = threading.Lock()

    def listen(self, source: IO[bytes]) -> None:
        """Receive frames until the service closes the pipe, then exit the process."""
        while (frame := read_frame(source)) is not None:
            header, body = frame
            if header.get("drop"):
                with self._changed:
                    self._dropped.add(int(header["id"]))
                    self._changed.notify_all()
            else:
                self.threads.submit(self._decode, header, body)
        os._exit(0)  # there is no receiver of what is being computed

    def run(self) -> None:
        """Compute batches for ever."""
        while True:
            batch = self._next_batch()
            start = time.perf_counter()
            try:
                self._compute(batch, start)
            except Exception as error:
                if len(batch) == 1:
                    self._send_error(batch[0].number, error)
                    continue
                for request in batch:  # to find the one that fails
                    try:
                        self._compute([request], start)
                    except Exception as own:
                        self._send_error(request.number, own)

    def _next_batch(self) -> list[Request]:
        """Wait for a request, and return it with the ready requests that fit into its batch, in order of arrival."""
        with self._changed:
            while True:
                for request in [request for request in self._ready if request.number in self._dropped]:
                    self._release(request)
                    self._send({"id": request.number, "error": [408, "dropped", "the client has disconnected."]})
                if self._ready:
                    break
                self._changed.wait()
            first = self._ready[0]
            batch = [request for request in self._ready if request.batch_key == first.batch_key][: self.batch_size]
            for request in batch:
                self._release(request)
            return batch

    def _release(self, request: Request) -> None:
        self._ready.remove(request)
        self._decoded_pixels -= request.image.values.shape[0] * request.image.values.shape[1]
        self._changed.notify_all()

    @torch.inference_mode()
    def _compute(self, batch: list[Request], start: float) -> None:
        first = batch[0]
        height, width = first.image.values.shape[:2]
        engine = first.segmenter.engine.for_size(*first.segmenter.working_size(height, width))
        predictions = first.segmenter.predict_many(
            [request.image for request in batch], first.params["tile"], first.wants_probabilities, first.params["head"]
        )
        for request, prediction in zip(batch, predictions, strict=True):
            if "confidence" in request.params["include"]:
                _ = prediction.confidence  # cached; it runs the network's second half, which belongs into this thread
            seconds = time.perf_counter() - start
            fields = {"batch": len(batch), "seconds": seconds, "engine": engine.name, "precision": engine.precision}
            self.threads.submit(self._encode, request, prediction, fields)

    def _decode(self, params: dict[str, Any], body: bytes) -> None:
        """Decode an image and queue its request."""
        number = int(params["id"])
        try:
            segmenter = self._segmenter(params["scale"])
            height, width = self._check_size(params, body, segmenter)
            with self._changed:  # as many pixels as one image may have, or one image
                while self._decoded_pixels and self._decoded_pixels + height * width > self.max_pixels:
                    self._changed.wait()
                self._decoded_pixels += height * width
            try:
                image = segmenter.read(body)
                if image.values.shape[:2] != (height, width):
                    raise InputError("the image: its header states another size. Export it again.")
            except BaseException:
                with self._changed:
                    self._decoded_pixels -= height * width
                    self._changed.notify_all()
                raise
            with self._changed:
                self._ready.append(Request(number, params, image, segmenter))
                self._ready.sort(key=lambda request: request.number)
                self._changed.notify_all()
        except Exception as error:
            self._send_error(number, error)

    def _check_size(self, params: dict[str, Any], body: bytes, segmenter: Segmenter) -> tuple[int, int]:
        """Return an image's size (H, W) as its header states it, before anything is decoded."""
        height, width = image_size(body)  # refuses too many pixels by itself
        working = [max(MIN_SIDE, side) for side in segmenter.working_size(height, width)]
        if working[0] * working[1] > self.max_pixels:
            raise ApiError(
                413, "too-many-pixels", f"the network's input would have {working[1]}x{working[0]} pixels; the limit of this"
                f" service is {self.max_pixels:,}. Crop the image, or send a smaller scale.",
            )  # fmt: skip
        classes = len(segmenter.card.labels(params["head"]).classes)
        if params["answer"] == "npz" and height * width * classes > MAX_PROBABILITIES:
            raise ApiError(
                413, "too-many-probabilities", f"{classes} classes of {width}x{height} pixels are more than"
                f" {MAX_PROBABILITIES:,} probabilities. Crop the image, or request labels.",
            )  # fmt: skip
        return height, width

    def _segmenter(self, scale: float | None) -> Segmenter:
        """Return the model at a working resolution, sharing its network."""
        if scale is None or (scale == self.segmenter.card.scale and self.segmenter.card.short_side is None):
            return self.segmenter
        with self._changed:
            if scale not in self._scaled:
                self._scaled[scale] = self.segmenter.with_options(scale=scale)
                if len(self._scaled) > MAX_SCALED:
                    self._scaled.popitem(last=False)
            self._scaled.move_to_end(scale)
            return self._scaled[scale]

    def _encode(self, request: Request, prediction: Any, fields: dict[str, Any]) -> None:
        try:
            card, segmenter = request.segmenter.card, request.segmenter
            height, width = prediction.label_map.shape
            scale = segmenter.scale if segmenter.short_side is None else segmenter.short_side / min(height, width)
            json_fields = {
                "head": request.params["head"] or next(iter(card.heads or ()), None), "scale": scale,
                "engine": fields["engine"], "precision": fields["precision"],
                "warnings": [{"code": notice.code, "message": notice.message} for notice in prediction.notices],
            }  # fmt: skip
            payload = encode_response(prediction, request.params, json_fields)
            codes = sorted({notice.code for notice in prediction.notices})
            self._send({"id": request.number, "pixels": height * width, "warnings": codes, **fields}, payload)
        except Exception as error:
            self._send_error(request.number, error)

    def _send_error(self, number: int, error: Exception) -> None:
        converted = to_api_error(error)
        header = {"id": number, "error": [converted.status, converted.code, converted.message]}
        if converted.status == 500:  # a bug, whose traceback goes to the log
            header["traceback"] = "".join(traceback.format_exception(error))
        self._send(header)

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._write_lock:
            write_frame(self.out, header, payload)
        self._dropped.discard(header["id"])


def choose_engines(segmenter: Segmenter, before: dict[str, Any] | None) -> dict[int, tuple[str, str]]:
    """Choose the engine for each class of image sizes, and compute a first image with each.

    An earlier choice ("engines", "weights_sha256") for the same weights is taken over. The result has engine and precision
    by the side of the largest square image of each class; it is empty where one engine computes all.
    """
    engine, chosen = segmenter.engine, {}
    if isinstance(engine, AutoEngine):
        if before is not None and before["weights_sha256"] == segmenter.card.weights_sha256:
            engine.pin({int(side): (name, precision) for side, (name, precision) in before["engines"].items()})
        chosen = engine.resolve_all()
    for side in chosen or [MIN_SIDE]:  # so that no client waits for what is prepared with the first image
        segmenter.predict(np.zeros((side, side, segmenter.card.in_channels), np.uint8))
    return chosen


@lazy_packages()
@retain_freed()
def main() -> None:
    """Load the model of the first frame, and handle the frames that follow."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the service decides when to end
        signal.signal(number, signal.SIG_IGN)
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the frames
    frame = read_frame(source)
    if frame is None:
        return
    options = frame[0]
    os.environ["FULLCONV_MAX_PIXELS"] = str(options["max_pixels"])
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
    try:
        if options["copies"] > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // options["copies"]))
        segmenter = load(
            options["model"], precision=options["precision"], engine=options["engine"], device=options["device"]
        )
        chosen = choose_engines(segmenter, options["chosen"])
    except FullconvError as error:
        write_frame(out, {"failed": str(error)})
        return
    engine = segmenter.engine
    running = {"engine": engine.name, "precision": engine.precision, "device": str(segmenter.device)}
    write_frame(out, {"ready": running, "chosen": chosen}, segmenter.card.to_json().encode())
    loop = InferenceLoop(segmenter, options, cast("IO[bytes]", out))
    threading.Thread(target=loop.listen, args=(source,), name="listen", daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
