"""The write-ahead log of a raster job, band by band, so that a killed job continues where it stopped.

The first line is the job's description as JSON. One record per band follows: length and checksum, then a line of JSON
with the state, the labels and the rows of scores that the next band needs, compressed; then all scores of the band,
where probabilities are to be written. A truncated last record is dropped.
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

from fullconv.errors import InputError, OutputError, RunError
from fullconv.rasters.labeler import StripState

_RECORD = struct.Struct("<QI")
_PIECE = 4 * 2**20


class StripJournal:
    """Rows of labels on disk, and the state to continue from; a context manager that deletes it after a finished job."""

    def __init__(self, path: Path, job: Mapping[str, Any], resume: bool) -> None:
        self.path, self.state = path, StripState()
        self._labels: list[tuple[int, int]] = []
        self._added: list[tuple[int, int, list[int] | None]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("r+b" if resume and path.exists() else "w+b")
            try:
                self._begin(job)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> StripJournal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError):  # buffered bytes may not fit on the disk
            self._file.close()
        if kind is None or issubclass(kind, InputError):  # of a damaged raster there is nothing to resume
            self.path.unlink(missing_ok=True)

    def append(self, state: StripState, strips: Iterable[NDArray[np.uint8]]) -> None:
        """Append a band and sync it to disk."""
        packer = zlib.compressobj(1)
        parts = [packer.compress(strip.tobytes()) for strip in strips]
        labels = b"".join([*parts, packer.flush()])
        scores = b"" if state.scores is None else zlib.compress(state.scores.tobytes(), 1)
        added = b"" if state.added_scores is None else zlib.compress(state.added_scores.tobytes(), 1)
        meta = {"band": state.band, "row": state.row, "first": state.first, "labels": len(labels),
                "scores": None if state.scores is None else list(state.scores.shape), "scores_bytes": len(scores),
                "found": None if state.added_scores is None else list(state.added_scores.shape)}  # fmt: skip
        payload = json.dumps(meta).encode() + b"\n" + labels + scores + added
        try:
            at = self._file.seek(0, os.SEEK_END)
            self._file.write(_RECORD.pack(len(payload), zlib.crc32(payload)))
            self._file.write(payload)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from error
        self.state = replace(state, added_scores=None)  # it is on disk
        self._add(at + _RECORD.size + payload.index(b"\n") + 1, at + _RECORD.size + len(payload), meta)

    def _add(self, at: int, end: int, meta: Mapping[str, Any]) -> None:
        """Index the parts of a record."""
        self._labels.append((at, meta["labels"]))
        self._added.append((at + meta["labels"] + meta["scores_bytes"], end, meta["found"]))

    def added_scores(self, band: int) -> NDArray[np.float32] | None:
        """Return all scores that a band added, (K, n, w); None where it added none, or they were not kept."""
        at, end, shape = self._added[band]
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

    def _begin(self, job: Mapping[str, Any]) -> None:
        header = self._file.readline()
        if not header.endswith(b"\n"):  # new, or killed within its first line
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(dict(job), sort_keys=True).encode() + b"\n")
            self._file.flush()
            return
        known = _parse_job(header)
        if known is None:
            raise RunError(f"{self.path}: is not the journal of an unfinished raster. Delete it to start over.")
        if known != dict(job):
            other = next((key for key in (*job, *known) if known.get(key) != job.get(key)), "job")
            raise RunError(
                f"{self.path}: belongs to a job with another {other}. Rerun the same command, or omit --resume to start"
                " over."
            )
        self._read_records()

    def _read_records(self) -> None:
        """Read every complete record, and truncate the file after the last one."""
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
            self.state = StripState(meta["band"], meta["row"], meta["first"], kept)
            begin, end = end + _RECORD.size + len(line) + 1, self._file.tell()
            self._add(begin, end, meta)
        self._file.seek(end)
        self._file.truncate()

    def _error(self, error: OSError) -> OutputError:
        more = " With --resume the job continues from what is there." if self._labels else ""
        return OutputError(
            f"{self.path.parent}: cannot be written to ({error.strerror or error}). Free disk space, or choose another"
            f" folder.{more}"
        )


def _parse_job(line: bytes) -> dict[str, Any] | None:
    """Return the job that a journal's first line describes; None for anything else."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_job(path: Path) -> dict[str, Any] | None:
    """Return the job of a journal that a stopped process left; None without one."""
    try:
        with path.open("rb") as file:
            return _parse_job(file.readline(1 << 20))
    except OSError:
        return None
