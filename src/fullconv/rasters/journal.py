"""The file that a job grows band by band, so that a killed one goes on where it stopped.

A line of JSON says which job it is. A record a band follows: length and checksum, then a line of JSON with the state,
the labels and the rows of scores that the next band needs, compressed; behind them all scores of the band, where
probabilities are to be written. A record that a kill cut short is dropped.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import OutputError, RunError
from fullconv.rasters.labeler import State

_RECORD = struct.Struct("<QI")
_PIECE = 4 * 2**20


class Spool:
    """Rows of labels on disc, with what it takes to go on.

    Args:
        path: The file; it is made where there is none.
        job: What the rows depend on.
        resume: Go on with what the file holds; else it is begun anew.

    Raises:
        RunError: The file is of another job.
        OutputError: It cannot be written.
    """

    def __init__(self, path: Path, job: Mapping[str, Any], resume: bool) -> None:
        self.path, self.state = path, State()
        self._labels: list[tuple[int, int]] = []
        self._found: list[tuple[int, int, list[int] | None]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("r+b" if resume and path.exists() else "w+b")
        except OSError as error:
            raise self._error(error) from error
        try:
            self._begin(job)
        except BaseException:
            self._file.close()
            raise

    def append(self, state: State, strips: Iterable[NDArray[np.uint8]]) -> None:
        """Add a band and bring it to the disc.

        Args:
            state: What the band leaves.
            strips: Its rows of labels, (rows, W).

        Raises:
            OutputError: It cannot be written, as on a full disc.
        """
        packer = zlib.compressobj(1)
        parts = [packer.compress(strip.tobytes()) for strip in strips]
        labels = b"".join([*parts, packer.flush()])
        scores = b"" if state.scores is None else zlib.compress(state.scores.tobytes(), 1)
        found = b"" if state.found is None else zlib.compress(state.found.tobytes(), 1)
        meta = {"band": state.band, "row": state.row, "first": state.first, "labels": len(labels),
                "scores": None if state.scores is None else list(state.scores.shape), "scores_bytes": len(scores),
                "found": None if state.found is None else list(state.found.shape)}  # fmt: skip
        payload = json.dumps(meta).encode() + b"\n" + labels + scores + found
        try:
            at = self._file.seek(0, os.SEEK_END)
            self._file.write(_RECORD.pack(len(payload), zlib.crc32(payload)))
            self._file.write(payload)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from error
        self.state = replace(state, found=None)  # it is on disc
        self._add(at + _RECORD.size + payload.index(b"\n") + 1, at + _RECORD.size + len(payload), meta)

    def _add(self, at: int, end: int, meta: Mapping[str, Any]) -> None:
        """Note where the parts of a record lie."""
        self._labels.append((at, meta["labels"]))
        self._found.append((at + meta["labels"] + meta["scores_bytes"], end, meta["found"]))

    def found(self, band: int) -> NDArray[np.float32] | None:
        """Return all scores that a band added, (K, n, w); None where it added none, or they were not kept."""
        at, end, shape = self._found[band]
        if shape is None:
            return None
        self._file.seek(at)
        return np.frombuffer(zlib.decompress(self._file.read(end - at)), np.float32).reshape(shape).copy()

    def rows(self) -> Iterator[bytes]:
        """Yield the labels of all bands in order, in pieces of any length."""
        for at, length in self._labels:
            unpacker = zlib.decompressobj()
            self._file.seek(at)
            packed = self._file.read(length)
            while packed and not unpacker.eof:
                yield unpacker.decompress(packed, _PIECE)
                packed = unpacker.unconsumed_tail
            yield unpacker.flush()

    def close(self) -> None:
        """Keep it for the next time."""
        with suppress(OSError):  # what it still held may not fit on the disc
            self._file.close()

    def drop(self) -> None:
        """Close it and leave nothing behind."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _begin(self, job: Mapping[str, Any]) -> None:
        header = self._file.readline()
        if not header.endswith(b"\n"):  # new, or killed within its first line
            self._write_header(job)
            return
        known = read_header(header)
        if known is None:
            raise RunError(f"{self.path}: is no unfinished raster of this program. Delete it to begin anew.")
        if known != dict(job):
            other = next((key for key in (*job, *known) if known.get(key) != job.get(key)), "job")
            raise RunError(
                f"{self.path}: was begun with another {other}. Repeat it as it was begun, or leave --resume away to"
                " begin anew."
            )
        self._read_records()

    def _write_header(self, job: Mapping[str, Any]) -> None:
        try:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(dict(job), sort_keys=True).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def _read_records(self) -> None:
        """Take in every whole record, and cut off what follows."""
        end = self._file.tell()
        while len(lead := self._file.read(_RECORD.size)) == _RECORD.size:
            length, checksum = _RECORD.unpack(lead)
            payload = self._file.read(min(length, max(0, os.fstat(self._file.fileno()).st_size - end)))
            if not length or len(payload) != length or zlib.crc32(payload) != checksum:
                break
            line, _, rest = payload.partition(b"\n")
            meta = json.loads(line)
            kept = None
            if meta["scores"] is not None:
                raw = zlib.decompress(rest[meta["labels"] :][: meta["scores_bytes"]])
                kept = np.frombuffer(raw, np.float32).reshape(meta["scores"]).copy()
            self.state = State(meta["band"], meta["row"], meta["first"], kept)
            begin, end = end + _RECORD.size + len(line) + 1, self._file.tell()
            self._add(begin, end, meta)
        self._file.seek(end)
        self._file.truncate()

    def _error(self, error: OSError) -> OutputError:
        more = " With --resume the job goes on from what is there." if self._labels else ""
        return OutputError(
            f"{self.path.parent}: cannot be written to ({error.strerror or error}). Make room, or choose another place."
            f"{more}"
        )


def read_header(line: bytes) -> dict[str, Any] | None:
    """Return the job that a spool's first line names, or None."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def spooled_job(path: Path) -> dict[str, Any] | None:
    """Return the job of a spool that a killed process left, or None."""
    try:
        with path.open("rb") as file:
            return read_header(file.readline(1 << 20))
    except OSError:
        return None
