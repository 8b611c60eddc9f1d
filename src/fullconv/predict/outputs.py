"""The files of an image, and the two tables of a run."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Card, Labels
from fullconv.errors import FullconvError, InputError
from fullconv.images import read_image
from fullconv.labels import colorize, encode_label_map, encode_png, full_palette, read_label_map
from fullconv.notices import Notice
from fullconv.prediction import Prediction, overlay
from fullconv.profiling import COUNTING, ENCODING, WRITING, timed
from fullconv.storage import AtomicTextFile, write_bytes

Format = Literal["index", "grey", "color", "original"]
FORMATS: tuple[Format, ...] = ("index", "grey", "color", "original")

Counts = dict[str, NDArray[np.int64]]
"""Pixels by class, (K,), by head."""


@dataclass(frozen=True)
class Writer:
    """Writes the results of images; labels are by head, "" for the only label map of an image."""

    out: Path
    labels: Mapping[str, Labels]
    format: Format = "index"
    overlays: bool = False
    probabilities: bool = False

    @property
    def endings(self) -> list[str]:
        """Endings of the files written for an image."""
        found = [_ending(head) for head in self.labels]
        found += [_ending(head, ".overlay.png") for head in self.labels] if self.overlays else []
        return [*found, ".npz"] if self.probabilities else found

    def write(self, name: str, prediction: Prediction) -> Counts:
        """Write all files of an image atomically; returns its pixels by class."""
        counts: Counts = {}
        base = str(self.out / name)
        for head, labels in self.labels.items():
            label_map = prediction.label_maps.get(head, prediction.label_map)
            with timed(COUNTING):
                counts[head] = count_pixels(label_map, len(labels.classes))
            with timed(ENCODING):
                encoded = {_ending(head): encode(label_map, labels, self.format)}
                if self.overlays:
                    painted = overlay(prediction.image, label_map, labels)
                    encoded[_ending(head, ".overlay.png")] = encode_png(painted)
            _write(base, encoded)
        if prediction.probabilities is not None:
            with timed(ENCODING):
                encoded = {".npz": encode_probabilities(prediction.probabilities)}
            _write(base, encoded)
        return counts

    def existing(self, name: str) -> Counts | None:
        """Return the pixels by class of an image whose files all exist, or None."""
        base = str(self.out / name)
        if not all(os.path.isfile(base + ending) for ending in self.endings):  # noqa: PTH113
            return None
        try:
            return {head: count_file(base + _ending(head), self.labels[head], self.format) for head in self.labels}
        except FullconvError:
            return None  # not a label map in this format: write it again

    def path(self, name: str, head: str | None = None, last: str = ".png") -> str:
        """Return the path of a label map, with "/"."""
        return (self.out / f"{name}{_ending(next(iter(self.labels)) if head is None else head, last)}").as_posix()


def _write(base: str, files: Mapping[str, bytes]) -> None:
    with timed(WRITING):
        for ending, content in files.items():
            write_bytes(base + ending, [content])


def _ending(head: str, last: str = ".png") -> str:
    return f".{head}{last}" if head else last


def count_pixels(label_map: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return the pixels by class, (classes,), of indices (H, W)."""
    # Pillow counts bytes; bincount converts them to 64 bits first, which takes eight times as long
    return np.array(Image.fromarray(label_map).histogram()[:classes], np.int64)


def written_labels(card: Card, head: str | None) -> dict[str, Labels]:
    """Return the labels of the maps to write: of every head, or "" for one."""
    if head is None and card.heads is not None and len(card.heads) > 1:
        return dict(card.heads)
    return {"": card.labels(head)}


def encode(label_map: NDArray[np.uint8], labels: Labels, encoding: Format) -> bytes:
    """Encode a label map (H, W) uint8 as PNG.

    "index" has the palette, "grey" the same numbers without it, "color" RGB, "original" the mask values of the training
    data set, 16-bit where they exceed 255.
    """
    if encoding == "index":
        return encode_label_map(label_map, labels.palette)
    if encoding == "grey":
        return encode_label_map(label_map, None)
    pixels = colorize(label_map, labels.palette) if encoding == "color" else original(label_map, labels)
    return encode_png(Image.fromarray(pixels))


def encode_probabilities(probabilities: NDArray[np.float32]) -> bytes:
    """Encode probabilities (K, H, W) as npz in float16."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, probabilities=probabilities.astype(np.float16))
    return buffer.getvalue()


def original(label_map: NDArray[np.uint8], labels: Labels) -> NDArray[Any]:
    """Return the mask values of the data set for class indices (H, W): uint8, or uint16 where they exceed 255.

    >>> original(np.array([[0, 1]], np.uint8), Labels(classes=("sky", "road"), values={7: 0, 300: 1})).tolist()
    [[7, 300]]
    """
    values = labels.original_values()
    table = np.array(values, np.uint16 if max(values) > 255 else np.uint8)
    return cast("NDArray[Any]", table[label_map])


def count_file(path: str, labels: Labels, encoding: Format) -> NDArray[np.int64]:
    """Count the pixels by class (K,) of a label map file."""
    classes = len(labels.classes)
    numbers = read_image(path) if encoding == "color" else read_label_map(path)
    if encoding == "color":
        colors = np.asarray(full_palette(labels.palette)[:classes], np.uint32) @ [65536, 256, 1]
        packed = numbers.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        counts = np.array([np.count_nonzero(packed == color) for color in colors], np.int64)
    else:
        values = labels.original_values() if encoding == "original" else list(range(classes))
        found = np.bincount(numbers.reshape(-1), minlength=max(values) + 1)
        counts = found[values].astype(np.int64)
    if counts.sum() != numbers.shape[0] * numbers.shape[1]:
        raise InputError(f"{path}: is not a label map of these classes in the format '{encoding}'.")
    return counts


class Tables:
    """`predictions.jsonl` and `summary.csv` of a run, or of a shard (`summary.2-of-8.csv`).

    What an earlier run into the same folder has recorded of other images follows, so that no result is without its record.
    """

    def __init__(self, writer: Writer, shard: tuple[int, int] | None = None) -> None:
        mark = f".{shard[0]}-of-{shard[1]}" if shard else ""
        self.writer = writer
        self._log = AtomicTextFile(writer.out / f"predictions{mark}.jsonl")
        self._summary = AtomicTextFile(writer.out / f"summary{mark}.csv")
        self._rows = csv.writer(self._summary, lineterminator="\n")
        self._heads = list(writer.labels) != [""]
        self._header = ["image", *(["head"] if self._heads else []), "class", "pixels", "share"]
        self._rows.writerow(self._header)
        self._recorded: set[str] | None = set() if self._log.path.exists() else None

    def add(
        self,
        path: str,
        status: str,
        name: str | None = None,
        reason: str | None = None,
        last: str = ".png",
        notices: Iterable[Notice] = (),
    ) -> None:
        """Append an image to the log; its status is "done", "skipped" or "failed"."""
        line: dict[str, Any] = {"input": Path(path).as_posix(), "output": None, "status": status, "reason": reason}
        line["warnings"] = [{"code": notice.code, "message": notice.message} for notice in notices]
        if name is not None:
            line["output"] = self.writer.path(name, None, last)
            if self._recorded is not None:
                self._recorded.add(line["output"])
            if self._heads:
                line["outputs"] = {head: self.writer.path(name, head, last) for head in self.writer.labels}
        if self._recorded is not None:
            self._recorded.add(line["input"])
        text = json.dumps(line, ensure_ascii=False)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):  # a name that is not UTF-8
            text = json.dumps(line)
        self._log.write(text + "\n")

    def count(self, path: str, counts: Counts) -> None:
        """Append an image's rows to the summary: pixels and share of each class."""
        image = Path(path).as_posix()
        for head, pixels in counts.items():
            total = int(pixels.sum())
            for name, number in zip(self.writer.labels[head].classes, pixels.tolist(), strict=True):
                self._rows.writerow([image, *([head] if self._heads else []), name, number, f"{number / total:.6f}"])

    def close(self) -> None:
        """Give both their names."""
        if self._recorded is not None:
            self._keep_earlier(self._recorded)
        self._log.close()
        self._summary.close()

    def _keep_earlier(self, recorded: set[str]) -> None:
        """Append the records of earlier runs, except those of inputs and outputs of this one."""
        kept = set()
        with self._log.path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                with suppress(ValueError, TypeError, KeyError):  # a line that this program did not write
                    line = json.loads(text)
                    if not recorded & {line["input"], line["output"]}:
                        kept.add(line["input"])
                        self._log.write(text)
        if kept and self._summary.path.exists():
            with self._summary.path.open(encoding="utf-8", errors="replace", newline="") as file:
                rows = csv.reader(file)
                if next(rows, None) == self._header:
                    self._rows.writerows(row for row in rows if row and row[0] in kept)

    def discard(self) -> None:
        """Remove those that are not closed."""
        self._log.discard()
        self._summary.discard()
