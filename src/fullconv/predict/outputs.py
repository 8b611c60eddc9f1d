"""What is written for a picture, and the two tables of a whole run."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.card import Card, Labels
from fullconv.errors import FullconvError, InputError, OutputError
from fullconv.images import read_image
from fullconv.labels import colorize, encode_label_map, full_palette, read_label_map
from fullconv.prediction import Prediction, overlay
from fullconv.profiling import COUNTING, ENCODING, WRITING, part
from fullconv.storage import write_bytes

Format = Literal["index", "grey", "color", "original"]
FORMATS: tuple[Format, ...] = ("index", "grey", "color", "original")

Counts = dict[str, NDArray[np.int64]]
"""Pixels by class, (K,), by head."""


@dataclass(frozen=True)
class Writer:
    """Writes the results of pictures.

    Args:
        out: The folder of results.
        labels: By head; one without a name where one label map a picture is written.
        format: What a label map's numbers or colours are.
        overlays: Write the picture painted over, too.
        probabilities: Write the class probabilities, too.
    """

    out: Path
    labels: Mapping[str, Labels]
    format: Format = "index"
    overlays: bool = False
    probabilities: bool = False

    @property
    def endings(self) -> list[str]:
        """What is written for a picture: the endings of its files' names."""
        found = [_ending(head) for head in self.labels]
        found += [_ending(head, ".overlay.png") for head in self.labels] if self.overlays else []
        return [*found, ".npz"] if self.probabilities else found

    def write(self, name: str, prediction: Prediction) -> Counts:
        """Write all files of a picture, each whole or not at all; returns its pixels by class.

        Raises:
            OutputError: One cannot be written.
        """
        counts: Counts = {}
        base = str(self.out / name)
        for head, labels in self.labels.items():
            label_map = prediction.label_maps.get(head, prediction.label_map)
            with part(COUNTING):
                counts[head] = count_pixels(label_map, len(labels.classes))
            with part(ENCODING):
                encoded = {_ending(head): encode(label_map, labels, self.format)}
                if self.overlays:
                    painted = io.BytesIO()
                    overlay(prediction.image, label_map, labels).save(painted, format="PNG", compress_level=1)
                    encoded[_ending(head, ".overlay.png")] = painted.getvalue()
            _write(base, encoded)
        if prediction.probabilities is not None:
            with part(ENCODING):
                buffer = io.BytesIO()
                np.savez_compressed(buffer, probabilities=prediction.probabilities.astype(np.float16))
            _write(base, {".npz": buffer.getvalue()})
        return counts

    def existing(self, name: str) -> Counts | None:
        """Return the pixels by class of a picture whose files are all there, or None."""
        base = str(self.out / name)
        if not all(os.path.isfile(base + ending) for ending in self.endings):  # noqa: PTH113
            return None
        try:
            return {head: count_file(base + _ending(head), self.labels[head], self.format) for head in self.labels}
        except FullconvError:
            return None  # not a label map in this format, so it is written anew

    def path(self, name: str, head: str | None = None, last: str = ".png") -> str:
        """Return the path of a label map, with "/"."""
        return (self.out / f"{name}{_ending(next(iter(self.labels)) if head is None else head, last)}").as_posix()


def _write(base: str, files: Mapping[str, bytes]) -> None:
    with part(WRITING):
        for ending, content in files.items():
            write_bytes(base + ending, [content])


def _ending(head: str, last: str = ".png") -> str:
    return f".{head}{last}" if head else last


def count_pixels(label_map: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return the pixels by class, (classes,), of indices (H, W)."""
    # Pillow counts bytes; bincount would make 64-bit numbers of them first, which takes eight times as long
    return np.array(Image.fromarray(label_map).histogram()[:classes], np.int64)


def written_labels(card: Card, head: str | None) -> dict[str, Labels]:
    """Return the labels of the maps that are written: every head's, or one without a name.

    Raises:
        ModelFileError: There is no such head.
    """
    if head is None and card.heads is not None and len(card.heads) > 1:
        return dict(card.heads)
    return {"": card.labels(head)}


def encode(label_map: NDArray[np.uint8], labels: Labels, kind: Format) -> bytes:
    """Encode a label map (H, W) uint8 as PNG.

    Args:
        label_map: Class indices.
        labels: Classes, palette and the mask values of the data set.
        kind: "index" has the palette, "grey" the same numbers without it, "color" RGB, "original" the mask values of
            the data set that the model was trained on, 16-bit where they exceed 255.
    """
    if kind == "index":
        return encode_label_map(label_map, labels.palette)
    if kind == "grey":
        return encode_label_map(label_map, None)
    pixels = colorize(label_map, labels.palette) if kind == "color" else original(label_map, labels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def original(label_map: NDArray[np.uint8], labels: Labels) -> NDArray[Any]:
    """Return the mask values of the data set for class indices (H, W): uint8, or uint16 where they exceed 255.

    >>> original(np.array([[0, 1]], np.uint8), Labels(classes=("sky", "road"), values={7: 0, 300: 1})).tolist()
    [[7, 300]]
    """
    values = labels.original_values()
    table = np.array(values, np.uint16 if max(values) > 255 else np.uint8)
    return cast("NDArray[Any]", table[label_map])


def count_file(path: str, labels: Labels, kind: Format) -> NDArray[np.int64]:
    """Return the pixels by class (K,) of a label map that was written in a format.

    Raises:
        InputError: The file cannot be read, or is no label map in this format.
    """
    classes = len(labels.classes)
    numbers = read_image(path) if kind == "color" else read_label_map(path)
    if kind == "color":
        colors = np.asarray(full_palette(labels.palette)[:classes], np.uint32) @ [65536, 256, 1]
        packed = numbers.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        counts = np.array([np.count_nonzero(packed == color) for color in colors], np.int64)
    else:
        values = labels.original_values() if kind == "original" else list(range(classes))
        found = np.bincount(numbers.reshape(-1), minlength=max(values) + 1)
        counts = found[values].astype(np.int64)
    if counts.sum() != numbers.shape[0] * numbers.shape[1]:
        raise InputError(f"{path}: is no label map of these classes in the format '{kind}'.")
    return counts


class Table:
    """A text file that grows line by line under a temporary name, and gets its own when it is closed.

    Raises:
        OutputError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = self._part.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise self._error(error) from error

    def write(self, text: str) -> None:
        """Add whole lines."""
        try:
            self._file.write(text)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Bring it to the disc and give it its name."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self.path)
        except OSError as error:
            self.drop()
            raise self._error(error) from error

    def drop(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):  # what it still held may not fit on the disc
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot be written ({error.strerror or error}).")


class Tables:
    """`predictions.jsonl` and `summary.csv` of a run, or of a shard (`summary.2-of-8.csv`)."""

    def __init__(self, writer: Writer, shard: tuple[int, int] | None = None) -> None:
        mark = f".{shard[0]}-of-{shard[1]}" if shard else ""
        self.writer = writer
        self._log = Table(writer.out / f"predictions{mark}.jsonl")
        self._summary = Table(writer.out / f"summary{mark}.csv")
        self._heads = list(writer.labels) != [""]
        self._row(["image", *(["head"] if self._heads else []), "class", "pixels", "share"])

    def add(
        self, path: str, status: str, name: str | None = None, reason: str | None = None, last: str = ".png"
    ) -> None:
        """Add a line to the log: a picture is "done", "skipped" or "failed"."""
        line: dict[str, Any] = {"input": Path(path).as_posix(), "output": None, "status": status, "reason": reason}
        if name is not None:
            line["output"] = self.writer.path(name, None, last)
            if self._heads:
                line["outputs"] = {head: self.writer.path(name, head, last) for head in self.writer.labels}
        text = json.dumps(line, ensure_ascii=False)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):  # a name that is no UTF-8
            text = json.dumps(line)
        self._log.write(text + "\n")

    def count(self, path: str, counts: Counts) -> None:
        """Add a picture's rows to the summary: pixels and share a class."""
        image = Path(path).as_posix()
        for head, pixels in counts.items():
            total = int(pixels.sum())
            for name, number in zip(self.writer.labels[head].classes, pixels.tolist(), strict=True):
                self._row([image, *([head] if self._heads else []), name, number, f"{number / total:.6f}"])

    def close(self) -> None:
        """Give both their names."""
        self._log.close()
        self._summary.close()

    def drop(self) -> None:
        """Leave nothing behind."""
        self._log.drop()
        self._summary.drop()

    def _row(self, values: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._summary.write(text.getvalue())
